//! `/v1/chat/completions`: a conversation becomes one prompt, and the new style's fields their
//! meaning.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    context::RequestContext,
    grammar, messages, options,
    prepared::{Prepared, PreparedPrompt},
    reply::{self, Wanted},
    sizing::Sizing,
    thinking::Thinking,
    tools,
};
use crate::{
    egress::{message::MessageRules, parse::family::ToolTypes},
    error::ApiError,
    model::{Conversation, Served},
    openai::{chat::ChatRequest, common::Sampling},
};

/// A chat request after every check.
pub(crate) struct PreparedChat {
    pub(crate) shared: Prepared,
    pub(crate) prompt: PreparedPrompt,
    /// Whose message the answer is.
    pub(crate) role: String,
    /// Text of the last message, if it is to stand before the output.
    pub(crate) echo: String,
    /// Alternatives to tell per output token.
    pub(crate) logprobs: Option<u32>,
    /// Alternatives to tell per prompt token.
    pub(crate) prompt_logprobs: Option<u32>,
    /// How the answer is read and told.
    pub(crate) rules: Arc<MessageRules>,
}

/// Checks everything, renders and tokenizes.
pub(crate) async fn prepare(
    served: Served,
    asked: &Sampling,
    mut request: ChatRequest,
    context: &RequestContext,
) -> Result<PreparedChat, ApiError> {
    options::check_supported(asked)?;
    let choice = tools::choice(&request)?;
    let one_call = request.parallel_tool_calls == Some(false);
    let model = Arc::clone(&served.model);
    let mut options = options::sampling(asked, model.side())?;
    options.logprobs = top_logprobs(&request, model.side())?;
    let given = request.tools.as_deref().unwrap_or_default();
    let forced = tools::grammar(&choice, given, one_call)?;
    options.grammar = grammar::settle(&served, asked, forced).await?;
    let types = Arc::new(ToolTypes::of(given));
    let include_reasoning = request.include_reasoning.unwrap_or(true);
    options.bad_words = model.bad_words(asked.bad_words.as_deref().unwrap_or_default())?;
    let (logprobs, prompt_logprobs) = (options.logprobs, options.prompt_logprobs);
    let n = options::choices(asked, options.temperature)?;
    let stop = options::stop_rules(asked)?;
    let max_tokens = request.max_completion_tokens.or(asked.max_tokens);
    let echo = request.echo.unwrap_or(false);

    let conversation = conversation(&mut request)?;
    let (role, last) = speaker(&conversation);
    let begun = last.clone().filter(|_| conversation.continue_final_message);
    let wanted = Wanted { choice, types, one_call, include_reasoning };
    let special = asked.add_special_tokens.unwrap_or(false);
    let tokens = served.render(conversation, special).await?;
    let (default_max_tokens, prompt_only) = (None, false);
    let sizing = Sizing {
        served: &served,
        asked,
        seeds: &context.seeds,
        max_tokens,
        default_max_tokens,
        options,
        prompt_only,
    };
    let mut prompt = sizing.prompt(tokens)?;
    let thinking = Thinking::of(&model, &prompt, begun.as_deref());
    if prompt.options.grammar.is_some() {
        prompt.options.reasoning = thinking.and_then(Thinking::before_grammar);
    }
    let rules = Arc::new(wanted.rules(&model, thinking));
    let mut shared =
        Prepared::new(served, asked, (n, stop), context, std::slice::from_ref(&prompt));
    shared.text.skip_special &= !reply::needs_special(&model, &rules);
    let echo = last.filter(|_| echo).unwrap_or_default();
    Ok(PreparedChat { shared, prompt, role, echo, logprobs, prompt_logprobs, rules })
}

/// What the template is given.
pub(crate) fn conversation(request: &mut ChatRequest) -> Result<Conversation, ApiError> {
    if request.chat_template.is_some() {
        let message = "Chat template is passed with request, but --trust-request-chat-template is \
                       not set. Refused request with untrusted chat template.";
        return Err(ApiError::bad_request(message).at("chat_template"));
    }
    let continue_final_message = request.continue_final_message.unwrap_or(false);
    if continue_final_message && request.add_generation_prompt == Some(true) {
        let message =
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.";
        return Err(ApiError::bad_request(message).at("continue_final_message"));
    }
    let Some(messages) = request.messages.take() else {
        return Err(ApiError::validation("body.messages", "field required"));
    };
    let mut variables = request.chat_template_kwargs.take().unwrap_or_default();
    if let Some(effort) = request.reasoning_effort.take() {
        variables.entry("reasoning_effort").or_insert(effort.into());
    }
    Ok(Conversation {
        messages: messages::normalize(messages)?,
        tools: request.tools.take(),
        documents: request.documents.take(),
        add_generation_prompt: request.add_generation_prompt.unwrap_or(!continue_final_message),
        continue_final_message,
        variables,
    })
}

/// Who speaks in the answer, and what the last message says if it is the same one's.
fn speaker(conversation: &Conversation) -> (String, Option<String>) {
    let last = conversation.messages.last().and_then(Value::as_object);
    let text = |field: &str| {
        let value = last.and_then(|message: &Map<String, Value>| message.get(field));
        value.and_then(Value::as_str).map(str::to_owned)
    };
    let last_role = text("role").unwrap_or_default();
    let role = match conversation.add_generation_prompt {
        true => "assistant".to_owned(),
        false => last_role.clone(),
    };
    let last = text("content").filter(|_| role == last_role);
    (role, last)
}

/// Alternatives per output token.
fn top_logprobs(
    request: &ChatRequest,
    model: options::ModelSide<'_>,
) -> Result<Option<u32>, ApiError> {
    let top = request.top_logprobs.unwrap_or(0);
    match (request.logprobs.unwrap_or(false), top) {
        (true, top) => options::logprobs(top, model, "top_logprobs").map(Some),
        (false, 0) => Ok(None),
        (false, _) => {
            let message = "when using `top_logprobs`, `logprobs` must be set to true.";
            Err(ApiError::bad_request(message).at("top_logprobs"))
        }
    }
}
