//! A leader that says what a script says, and keeps what it was told.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{sync::mpsc, task::JoinSet};
use troupe_runtime::{
    error::{ErrorKind, PublicError},
    id::Digest,
    transport::{Connection, Conversation, Link, LinkError, LocalLink, PeerAddr, Stream},
    wire::{
        adapter::{AdaptDown, AdaptUp, AdapterInfo, AdapterStatus},
        generate::{
            Chunk, Finish, FinishReason, Finished, Generate, GenerateDown, GenerateUp,
            TokenLogprobs, Usage,
        },
        status::{EndpointInfo, Load, StatusDown, StatusUp},
    },
};

use super::{PATIENCE, card};

/// What a leader does with a request.
pub(crate) type Script = Arc<dyn Fn(&Generate) -> Vec<Act> + Send + Sync>;

/// One thing that a leader does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Say(GenerateDown),
    /// Wait until the test goes on.
    Wait(Arc<tokio::sync::Notify>),
    /// Wait until the test opens the gate for all.
    Gate(tokio::sync::watch::Receiver<bool>),
    /// Drop the conversation.
    Reset,
    /// Drop the connection.
    Crash,
}

/// More than any test lets a leader see without looking.
const MOST_SEEN: usize = 1024;

/// What a leader noticed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    Started(Box<Generate>),
    Finish(Finish),
    /// The gateway ended the conversation in order.
    Ended,
    /// The gateway dropped it.
    Aborted,
}

pub(crate) struct Leader {
    pub(crate) info: EndpointInfo,
    pub(crate) address: PeerAddr,
    seen: tokio::sync::Mutex<mpsc::Receiver<Seen>>,
    pub(crate) load: tokio::sync::watch::Sender<Load>,
    pub(crate) adapters: tokio::sync::watch::Sender<AdapterStatus>,
    said: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    info: EndpointInfo,
    script: Script,
    seen: mpsc::Sender<Seen>,
    load: tokio::sync::watch::Receiver<Load>,
    adapters: tokio::sync::watch::Sender<AdapterStatus>,
    said: Arc<AtomicUsize>,
}

impl Leader {
    pub(crate) fn start(link: Arc<LocalLink>, info: EndpointInfo, script: Script) -> Self {
        let (seen, receiver) = mpsc::channel(MOST_SEEN);
        let (load, loads) = tokio::sync::watch::channel(Load::default());
        let said = Arc::new(AtomicUsize::new(0));
        let adapters = tokio::sync::watch::Sender::new(AdapterStatus::default());
        let shared = Shared {
            info: info.clone(),
            script,
            seen,
            load: loads,
            adapters: adapters.clone(),
            said: Arc::clone(&said),
        };
        let address = link.address();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(connection) = link.accept().await {
                connections.spawn(serve(connection, shared.clone()));
            }
        });
        let seen = tokio::sync::Mutex::new(receiver);
        Self { info, address, seen, load, adapters, said, tasks }
    }

    /// The next thing that it noticed.
    pub(crate) async fn saw(&self) -> Seen {
        let mut seen = self.seen.lock().await;
        let next = tokio::time::timeout(PATIENCE, seen.recv()).await;
        next.expect("the leader notices something").expect("the leader lives")
    }

    /// The next thing that it has noticed by now.
    pub(crate) fn seen_now(&self) -> Option<Seen> {
        self.seen.try_lock().ok()?.try_recv().ok()
    }

    /// How many chunks it could hand over.
    pub(crate) fn said(&self) -> usize {
        self.said.load(Ordering::Relaxed)
    }

    /// How its next conversation ended.
    pub(crate) async fn saw_end(&self) -> Seen {
        loop {
            if let end @ (Seen::Ended | Seen::Aborted) = self.saw().await {
                return end;
            }
        }
    }

    /// The next request.
    pub(crate) async fn started(&self) -> Generate {
        loop {
            if let Seen::Started(generate) = self.saw().await {
                return *generate;
            }
        }
    }

    /// Its process is gone.
    pub(crate) async fn crash(&mut self) {
        self.tasks.shutdown().await;
    }
}

async fn serve(connection: Arc<dyn Connection>, shared: Shared) {
    let mut conversations = JoinSet::new();
    while let Ok((what, stream)) = connection.accept().await {
        let shared = shared.clone();
        match what {
            Conversation::Status => conversations.spawn(status(stream, shared)),
            Conversation::Generate => {
                conversations.spawn(generate(stream, shared, Arc::clone(&connection)))
            }
            Conversation::Adapt => conversations.spawn(adapt(stream, shared)),
            // A leader that tells nothing of its cache: the stream is dropped.
            Conversation::Cache => continue,
            other => panic!("a gateway does not open {other:?}"),
        };
    }
}

async fn status(mut stream: Stream, mut shared: Shared) {
    match stream.receiver.expect(PATIENCE).await {
        Ok(StatusUp::Watch) => {}
        Ok(StatusUp::Metrics) => {
            let running = shared.load.borrow().running;
            let text = format!(
                "# TYPE vllm:num_requests_running gauge\n\
                 vllm:num_requests_running{{engine=\"here\"}} {running}\n"
            );
            let sent = stream.sender.send(&StatusDown::Metrics(text), PATIENCE).await;
            let _ = sent.and_then(|()| stream.sender.finish());
            return;
        }
        Err(_) => return,
    }
    let info = StatusDown::Info(Box::new(shared.info.clone()));
    if stream.sender.send(&info, PATIENCE).await.is_err() {
        return;
    }
    let mut adapters = shared.adapters.subscribe();
    let mut next = StatusDown::Adapters(adapters.borrow_and_update().clone());
    while stream.sender.send(&next, PATIENCE).await.is_ok() {
        next = tokio::select! {
            changed = shared.load.changed() => {
                if changed.is_err() {
                    return;
                }
                StatusDown::Load(*shared.load.borrow_and_update())
            }
            _ = adapters.changed() => StatusDown::Adapters(adapters.borrow_and_update().clone()),
        };
    }
}

/// Loads whatever is not said to be bad.
async fn adapt(mut stream: Stream, shared: Shared) {
    let Ok(up) = stream.receiver.expect::<AdaptUp>(PATIENCE).await else { return };
    let refused = match up {
        AdaptUp::Load(load)
            if load.path.contains(&format!("bad-{}", shared.info.endpoint.group.index)) =>
        {
            Some(PublicError::new(ErrorKind::BadRequest, format!("{} is bad", load.path)))
        }
        AdaptUp::Load(load) => {
            let digest = Digest::of(load.path.as_bytes());
            let info = AdapterInfo { name: load.name, path: load.path, digest };
            shared.adapters.send_modify(|status| {
                status.max_loras = 2;
                status.served.retain(|own| own.name != info.name);
                status.served.push(info);
            });
            None
        }
        AdaptUp::Unload(name) => {
            shared.adapters.send_modify(|status| status.served.retain(|own| own.name != name));
            None
        }
    };
    let down = refused.map_or(AdaptDown::Done, AdaptDown::Refused);
    let sent = stream.sender.send(&down, PATIENCE).await;
    let _ = sent.and_then(|()| stream.sender.finish());
}

async fn generate(mut stream: Stream, shared: Shared, connection: Arc<dyn Connection>) {
    let first = stream.receiver.expect::<GenerateUp>(PATIENCE).await;
    let Ok(GenerateUp::Start(start)) = first else { panic!("a request comes first") };
    let _ = shared.seen.try_send(Seen::Started(start.clone()));
    for act in (shared.script)(&start) {
        match act {
            Act::Say(down) => {
                if stream.sender.send(&down, PATIENCE).await.is_err() {
                    break;
                }
                shared.said.fetch_add(1, Ordering::Relaxed);
            }
            Act::Wait(go) => go.notified().await,
            Act::Gate(mut open) => drop(open.wait_for(|open| *open).await),
            Act::Reset => return,
            Act::Crash => return connection.close("crash"),
        }
    }
    loop {
        let seen = match stream.receiver.next::<GenerateUp>().await {
            Ok(Some(GenerateUp::Finish(finish))) => Seen::Finish(finish),
            Ok(Some(GenerateUp::Start(_))) => panic!("a second start"),
            Ok(None) => Seen::Ended,
            Err(LinkError::Reset | LinkError::Closed { .. }) => Seen::Aborted,
            Err(error) => panic!("{error}"),
        };
        let over = matches!(seen, Seen::Ended | Seen::Aborted);
        let _ = shared.seen.try_send(seen);
        if over {
            return;
        }
    }
}

// === scripts ===

/// Says a text, one token per chunk, and ends as an engine does: at the limit, at an end token that
/// counts, or at the text's end with the model's own.
pub(crate) fn says(text: &str) -> Script {
    let card = card();
    let special = troupe_runtime::model::tokenizer::SpecialTokens::Exclude;
    let mut tokens = card.tokenizer.encode(text, special).expect("it encodes");
    tokens.push(card.stop_ids[card.stop_ids.len() - 1]);
    Arc::new(move |generate| {
        let mut acts = Vec::new();
        for choice in &generate.choices {
            acts.extend(speak(generate, choice.index, &tokens));
        }
        acts
    })
}

/// One choice that says these tokens, but those that an earlier attempt delivered.
pub(crate) fn speak(generate: &Generate, choice: u32, tokens: &[u32]) -> Vec<Act> {
    let options = &generate.options;
    let mut acts = Vec::new();
    if options.max_tokens == 0 {
        let usage = Usage { prompt_tokens: generate.prompt.len() as u32, ..Usage::default() };
        let mut only = chunk(generate, choice, 0, vec![]);
        only.finish = Some(Finished { reason: FinishReason::Length, stop_token: None, usage });
        return vec![Act::Say(GenerateDown::Chunk(only))];
    }
    let of_choice = generate.choices.iter().find(|of| of.index == choice);
    let delivered = of_choice.map_or(0, |of| of.output.len());
    for (position, token) in (0..).zip(tokens.iter().copied()).skip(delivered) {
        let count = position + 1;
        let ends = |ids: &[u32]| ids.contains(&token) && count >= options.min_tokens;
        let stop_token = ends(&options.stop_token_ids).then_some(token);
        let at_end = stop_token.is_some() || ends(&options.eos_token_ids) && !options.ignore_eos;
        let reason = match (at_end, count >= options.max_tokens) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        let prompt_tokens = generate.prompt.len() as u32;
        let usage = Usage { prompt_tokens, cached_tokens: 0, completion_tokens: count };
        let finish = reason.map(|reason| Finished { reason, stop_token, usage });
        let over = finish.is_some();
        let mut chunk = chunk(generate, choice, position, vec![token]);
        chunk.finish = finish;
        acts.push(Act::Say(GenerateDown::Chunk(chunk)));
        if over {
            break;
        }
    }
    acts
}

/// A chunk with the log-probabilities that were asked for: the n-th alternative is the token plus
/// n.
pub(crate) fn chunk(generate: &Generate, choice: u32, position: u32, tokens: Vec<u32>) -> Chunk {
    let of = |token: u32, top: u32| TokenLogprobs {
        token,
        logprob: -0.5,
        rank: 1,
        top: (0..top).map(|n| (token + n, -0.5 - n as f32)).collect(),
    };
    let options = &generate.options;
    let logprobs = options.logprobs.map(|top| tokens.iter().map(|token| of(*token, top)).collect());
    let of_prompt = options
        .prompt_logprobs
        .filter(|_| position == 0)
        .map(|top| generate.prompt.iter().skip(1).map(|token| of(*token, top)).collect());
    Chunk {
        request: generate.request,
        attempt: generate.attempt,
        choice,
        position,
        tokens: tokens.into(),
        logprobs: logprobs.unwrap_or_default(),
        prompt_logprobs: of_prompt.unwrap_or_default(),
        cached_tokens: 0,
        embedding: vec![],
        finish: None,
    }
}

/// Refuses every request.
pub(crate) fn refuses(kind: ErrorKind) -> Script {
    Arc::new(move |_| {
        let error = PublicError::new(kind, "refused by the script");
        vec![Act::Say(GenerateDown::Refused(error))]
    })
}
