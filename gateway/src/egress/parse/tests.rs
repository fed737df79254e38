//! Laws of the parser, for every family: however a text is cut, the answer is the same; nothing is
//! lost; what is held back is bounded. And what each family's calls look like.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    draft::GIVEN_UP_AFTER,
    family::{ParserChoice, ReasoningFamily, Syntax, ToolFamily, ToolTypes},
    piece::Piece,
    reply::{ReplyParser, ReplySyntax},
};

/// What an answer adds up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Message {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
}

impl Message {
    fn add(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => self.reasoning.push_str(&text),
                Piece::Content(text) => self.content.push_str(&text),
                Piece::ToolCall { index, name } => {
                    assert_eq!(index as usize, self.calls.len(), "calls come in order");
                    self.calls.push((name, String::new()));
                }
                Piece::ToolArguments { index, fragment } => {
                    assert_eq!(index as usize + 1, self.calls.len(), "of the call under way");
                    self.calls[index as usize].1.push_str(&fragment);
                }
            }
        }
    }

    fn told(&self) -> usize {
        self.reasoning.len() + self.content.len()
    }
}

fn fold<'a>(syntax: &ReplySyntax, parts: impl IntoIterator<Item = &'a str>) -> Message {
    let (mut parser, mut message) = (ReplyParser::new(syntax), Message::default());
    parts.into_iter().for_each(|part| message.add(parser.push(part)));
    message.add(parser.finish());
    message
}

fn whole(syntax: &ReplySyntax, text: &str) -> Message {
    fold(syntax, [text])
}

const FAMILIES: [ToolFamily; 5] = [
    ToolFamily::Hermes,
    ToolFamily::Llama3Json,
    ToolFamily::Mistral,
    ToolFamily::Pythonic,
    ToolFamily::Qwen3Coder,
];

fn types() -> Arc<ToolTypes> {
    Arc::new(ToolTypes::of(&[json!({"type": "function", "function": {
        "name": "f",
        "parameters": {"properties": {
            "city": {"type": "string"}, "days": {"type": "integer"}, "deep": {"type": "object"},
        }},
    }})]))
}

fn tools(family: ToolFamily) -> ReplySyntax {
    ReplySyntax { reasoning: None, tools: Some(Syntax::Family(family, types())) }
}

/// Every way in which an answer may be read.
fn syntaxes() -> Vec<ReplySyntax> {
    let markers = ReasoningFamily::Qwen3.markers();
    let forced = [Syntax::Required, Syntax::Named("f".into())];
    let families = FAMILIES.map(|family| Syntax::Family(family, types()));
    let tools = forced.into_iter().chain(families).map(Some).chain([None]);
    let reasoning = [None, Some((markers, false)), Some((markers, true))];
    tools
        .flat_map(|tools| {
            reasoning.map(|reasoning| ReplySyntax { reasoning, tools: tools.clone() })
        })
        .collect()
}

/// What is in answers, and what breaks them.
const BITS: [&str; 46] = [
    "<tool_call>",
    "</tool_call>",
    "<tool_",
    "call>",
    "</",
    "<think>",
    "</think>",
    "<thi",
    "<function=",
    "f>",
    "<parameter=",
    "city>",
    "days>",
    "</parameter>",
    "</function>",
    "[TOOL_CALLS]",
    "[CALL_ID]",
    "[ARGS]",
    "<|python_tag|>",
    "[f(",
    "city=",
    "'a'",
    ")",
    "),",
    "{\"name\": \"f\", ",
    "\"arguments\": ",
    "\"parameters\": ",
    "{\"city\": \"a}\\\"{[\"}",
    "}",
    "]",
    "[",
    "{",
    "\"",
    "\\",
    ",",
    ";",
    ":",
    " ",
    "\n",
    "12",
    "-1e",
    "true",
    "Grüß 👋",
    "x",
    "\u{a0}",
    "{\"deep\": {\"a\": [1, {}]}}",
];

/// Well-formed answers, with the syntax that they are of.
fn samples() -> Vec<(ReplySyntax, &'static str)> {
    vec![
        (tools(ToolFamily::Hermes), HERMES),
        (tools(ToolFamily::Llama3Json), LLAMA),
        (tools(ToolFamily::Mistral), MISTRAL_ARRAY),
        (tools(ToolFamily::Mistral), MISTRAL_NAMED),
        (tools(ToolFamily::Pythonic), PYTHONIC),
        (tools(ToolFamily::Qwen3Coder), QWEN_CODER),
    ]
}

const HERMES: &str = "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \
                      \"a</tool_call>}\", \"days\": 2}}\n</tool_call>\n<tool_call>\n\
                      {\"arguments\": {}, \"name\": \"g\"}\n</tool_call>\n";
const LLAMA: &str = " {\"name\": \"f\", \"parameters\": {\"city\": \"a;}\"}}; {\"name\": \"g\", \
                     \"parameters\": {}}";
const MISTRAL_ARRAY: &str = "Sure.[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"city\": \
                             \"]\"}, \"id\": \"abcdefghi\"}, {\"name\": \"g\", \"arguments\": {}}]";
const MISTRAL_NAMED: &str = "[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{\"city\": \"{\"}[TOOL_CALLS]g{}";
const PYTHONIC: &str =
    "[f(city='a\"]), \\'é', days=-2, deep={'a': [True, None,], \"b\": 1.5}), g()]";
const QWEN_CODER: &str = "On it.\n<tool_call>\n<function=f>\n<parameter=city>\nRome,\n\"<b>\"\
                          \n</parameter>\n<parameter=days>\n3\n</parameter>\n\
                          \
                          <parameter=deep>\n{\"a\": [1]}\n</parameter>\n</function>\n\
                          </tool_call>\n<tool_call>\n<function=g>\n\
                          </function>\n</tool_call>";

fn cut<'a>(text: &'a str, marks: &[usize]) -> Vec<&'a str> {
    let mut marks: Vec<usize> = marks.iter().map(|mark| mark % (text.len() + 1)).collect();
    marks.retain(|mark| text.is_char_boundary(*mark));
    marks.extend([0, text.len()]);
    marks.sort_unstable();
    marks.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn check_laws(text: &str, marks: &[usize]) {
    let characters: Vec<String> = text.chars().map(String::from).collect();
    for syntax in syntaxes() {
        let message = whole(&syntax, text);
        assert_eq!(fold(&syntax, cut(text, marks)), message, "{syntax:?} {text:?}");
        let singly = characters.iter().map(String::as_str);
        assert_eq!(fold(&syntax, singly), message, "{syntax:?} {text:?}");
        if syntax.reasoning.is_none() && message.calls.is_empty() {
            assert_eq!(message.content, text, "{syntax:?}");
        }
    }
}

proptest! {
    #[test]
    fn however_it_is_cut_the_answer_is_the_same(
        bits in prop::collection::vec(prop::sample::select(&BITS[..]), 0..24),
        marks in prop::collection::vec(0_usize..400, 0..12),
    ) {
        check_laws(&bits.concat(), &marks);
    }

    #[test]
    fn a_broken_answer_is_the_same_too(
        sample in 0_usize..6,
        thought in prop::sample::select(&["", "<think>\nhm\n</think>\n\n", "<think>hm"][..]),
        from in 0_usize..400,
        length in 0_usize..40,
        put in prop::sample::select(&BITS[..]),
        marks in prop::collection::vec(0_usize..400, 0..12),
    ) {
        let mut text = thought.to_owned() + samples()[sample].1;
        let boundary = |mut at: usize| {
            at = at.min(text.len());
            while !text.is_char_boundary(at) { at -= 1; }
            at
        };
        let (from, to) = (boundary(from), boundary(from + length));
        text.replace_range(from..to, put);
        check_laws(&text, &marks);
    }
}

#[test]
fn golden_answers_are_the_same_however_they_are_cut() {
    let golden = include_str!("../../../../tests/golden/models/tiny-chat/golden_chat.json");
    let golden: Value = serde_json::from_str(golden).expect("it is JSON");
    for case in golden["chats"].as_array().expect("chats") {
        check_laws(case["completion_text"].as_str().expect("text"), &[7, 31, 44, 101]);
    }
}

#[test]
fn every_family_reads_its_calls() {
    for (syntax, text) in samples() {
        let message = whole(&syntax, text);
        let names: Vec<&str> = message.calls.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["f", "g"], "{text}");
        let arguments = |index: usize| {
            serde_json::from_str::<Value>(&message.calls[index].1).expect("arguments are JSON")
        };
        assert_eq!(arguments(1), json!({}), "{text}");
        let wanted = match text {
            HERMES => ("I look.", json!({"city": "a</tool_call>}", "days": 2})),
            LLAMA => ("", json!({"city": "a;}"})),
            MISTRAL_ARRAY => ("Sure.", json!({"city": "]"})),
            MISTRAL_NAMED => ("", json!({"city": "{"})),
            PYTHONIC => {
                let deep = json!({"a": [true, null], "b": 1.5});
                ("", json!({"city": "a\"]), 'é", "days": -2, "deep": deep}))
            }
            _ => {
                let city = "Rome,\n\"<b>\"";
                ("On it.", json!({"city": city, "days": 3, "deep": {"a": [1]}}))
            }
        };
        assert_eq!((message.content.as_str(), arguments(0)), wanted, "{text}");
    }
}

#[test]
fn what_is_no_call_is_content() {
    let cases = [
        (
            ToolFamily::Hermes,
            "a <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": }}\n</tool_call>",
        ),
        (ToolFamily::Hermes, "<tool_call>\n{\"name\": \"f\", \"arg"),
        (ToolFamily::Hermes, "<tool_call>{\"arguments\": {}}</tool_call>"),
        (ToolFamily::Hermes, "2 <tool_ 3\n\n"),
        (ToolFamily::Llama3Json, "{\"name\": \"Ada\", \"age\": 36}"),
        (ToolFamily::Llama3Json, "{\"name\": \"Ada\"}"),
        (ToolFamily::Llama3Json, "see {\"name\": \"f\", \"parameters\": {}}"),
        (ToolFamily::Llama3Json, "<|python_tag|>print(1)"),
        (ToolFamily::Mistral, "[TOOL_CALLS][\"f\"]"),
        (ToolFamily::Mistral, "[TOOL_CALLS]f(1)"),
        (ToolFamily::Pythonic, "[1, 2]"),
        (ToolFamily::Pythonic, "[f(1)]"),
        (ToolFamily::Qwen3Coder, "<tool_call>\n<function=f>\n<parameter=city>\nRome"),
    ];
    for (family, text) in cases {
        let message = whole(&tools(family), text);
        assert_eq!(message, Message { content: text.into(), ..Message::default() });
    }
}

#[test]
fn a_call_behind_a_broken_one_is_found() {
    let text = "<tool_call>{\"a\" <tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call> ok";
    let message = whole(&tools(ToolFamily::Hermes), text);
    assert_eq!(message.calls, [("f".to_owned(), "{}".to_owned())]);
    assert_eq!(message.content, "<tool_call>{\"a\"  ok");
}

#[test]
fn long_arguments_are_told_as_they_come() {
    let long = "x".repeat(5000);
    let start = format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"city\": \"{long}");
    let syntax = tools(ToolFamily::Hermes);
    let (mut parser, mut message) = (ReplyParser::new(&syntax), Message::default());
    message.add(parser.push(&start));
    assert!(message.calls[0].1.len() > 5000, "told before it ends");
    // What breaks now is told as it was written.
    message.add(parser.push("\" oops}</tool_call> and <tool_call>"));
    message.add(parser.push("{\"name\": \"g\"}"));
    message.add(parser.finish());
    assert!(message.calls[0].1.ends_with("x\" oops}"), "{message:?}");
    assert_eq!(message.calls[1], ("g".to_owned(), "{}".to_owned()));
    assert_eq!(message.content, "and");
}

#[test]
fn what_is_held_back_is_bounded() {
    let starts = [
        "<tool_call>{\"arguments\": {\"a\": \"",
        "<tool_call>{\"name\": \"",
        "[TOOL_CALLS]",
        "[TOOL_CALLS]f[",
        "{\"name\": \"f\", \"parameters\": \"",
        "[f",
        "<function=",
        "\n",
        "<think>\n",
    ];
    for syntax in syntaxes() {
        for start in starts {
            for filler in ["a", " "] {
                let (mut parser, mut message) = (ReplyParser::new(&syntax), Message::default());
                let text = start.to_owned() + &filler.repeat(3 * GIVEN_UP_AFTER);
                message.add(parser.push(&text));
                let arguments: usize = message.calls.iter().map(|call| call.1.len()).sum();
                let layout = filler == " " && text.trim_start().len() < text.len();
                let told = message.told() + arguments;
                let inside = syntax.reasoning.is_some() && filler == " ";
                assert!(
                    layout || inside || told + GIVEN_UP_AFTER + 128 >= text.len(),
                    "{syntax:?} {start:?} tells {told} of {}",
                    text.len()
                );
            }
        }
    }
}

#[test]
fn reasoning_is_split_off() {
    let markers = ReasoningFamily::Qwen3.markers();
    let cases = [
        (false, "<think>\nhm\n</think>\n\nyes", "hm", "yes"),
        (false, " \n<think>hm</think>yes", "hm", "yes"),
        (false, "no <think>x</think>", "", "no <think>x</think>"),
        (false, "<think>\n\n</think>\n\nyes", "", "yes"),
        (false, "<think>cut", "cut", ""),
        (false, "<thin", "", "<thin"),
        (true, "hm </thin </think>yes", "hm </thin", "yes"),
        (true, "<think>\nhm</think>yes <think>", "hm", "yes <think>"),
        (true, "</think>yes", "", "yes"),
    ];
    for (inside, text, reasoning, content) in cases {
        let syntax = ReplySyntax { reasoning: Some((markers, inside)), tools: None };
        let message = whole(&syntax, text);
        assert_eq!((message.reasoning.as_str(), message.content.as_str()), (reasoning, content));
    }
}

#[test]
fn calls_in_thought_are_thought() {
    let reasoning = Some((ReasoningFamily::Qwen3.markers(), false));
    let syntax = ReplySyntax { reasoning, ..tools(ToolFamily::Hermes) };
    let call = "<tool_call>{\"name\": \"f\"}</tool_call>";
    let message = whole(&syntax, &format!("<think>{call}</think>\n{call}"));
    assert_eq!(message.calls.len(), 1);
    assert_eq!((message.reasoning.as_str(), message.content.as_str()), (call, ""));
}

#[test]
fn forced_calls_are_read() {
    let required = ReplySyntax { tools: Some(Syntax::Required), ..ReplySyntax::default() };
    let message =
        whole(&required, "[{\"name\": \"f\", \"parameters\": {\"a\": 1}}, {\"name\": \"g\"");
    assert_eq!(message.calls, [("f".to_owned(), "{\"a\": 1}".to_owned())]);
    assert_eq!(message.content, ", {\"name\": \"g\"");
    let named = ReplySyntax { tools: Some(Syntax::Named("f".into())), ..ReplySyntax::default() };
    let message = whole(&named, "{\"a\": ");
    assert_eq!(message.calls, [("f".to_owned(), "{\"a\": ".to_owned())]);
}

#[test]
fn parsers_have_names() {
    assert_eq!("auto".parse(), Ok(ParserChoice::<ToolFamily>::Auto));
    assert_eq!("none".parse(), Ok(ParserChoice::<ToolFamily>::Off));
    assert_eq!("qwen3_xml".parse(), Ok(ParserChoice::Is(ToolFamily::Qwen3Coder)));
    let unknown =
        "deepseek_r2".parse::<ParserChoice<ReasoningFamily>>().expect_err("no such parser");
    let wanted =
        "`deepseek_r2` is no parser here; there are auto, none, deepseek_r1, mistral, qwen3";
    assert_eq!(unknown.to_string(), wanted);
}
