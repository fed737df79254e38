//! Llama 3.2 and 4, some Gemma 3: an answer that is a Python list of calls,
//! `[f(city="Paris", days=2), g()]`.
//!
//! Nothing marks it, so it is one only at the beginning of the answer and only while it looks like
//! one. Python's literals become JSON.

use super::{
    draft::{Draft, Reader, Step},
    json::{Scan, quoted},
};

pub(super) const OPEN: &str = "[";

/// One list.
pub(super) struct Pythonic {
    at: At,
    /// Arguments of the call that is being read.
    arguments: u32,
}

enum At {
    Call,
    Name(String),
    Argument,
    Key(String),
    Value(Literal),
    EndOfArgument,
    EndOfCall,
}

impl Pythonic {
    /// Behind the bracket.
    pub(super) fn new() -> Self {
        Self { at: At::Call, arguments: 0 }
    }

    fn go(&mut self, at: At) -> Step {
        self.at = at;
        Step::More
    }

    fn end_call(&mut self, call: &mut Draft) -> Step {
        call.arguments.push_str(if self.arguments == 0 { "{}" } else { "}" });
        call.complete = true;
        self.arguments = 0;
        self.go(At::EndOfCall)
    }

    fn keyed(&mut self, key: &str, call: &mut Draft) -> Step {
        call.arguments.push_str(if self.arguments == 0 { "{" } else { ", " });
        call.arguments.push_str(&quoted(key));
        call.arguments.push_str(": ");
        self.arguments += 1;
        self.go(At::Value(Literal::default()))
    }
}

impl Reader for Pythonic {
    fn read(&mut self, c: char, call: &mut Draft) -> Step {
        match &mut self.at {
            At::Value(literal) => match literal.push(c, &mut call.arguments) {
                Scan::More => Step::More,
                Scan::Done => self.go(At::EndOfArgument),
                Scan::Before => {
                    self.at = At::EndOfArgument;
                    self.read(c, call)
                }
                Scan::Invalid => Step::Invalid,
            },
            At::Name(name) if in_word(c) || c == '.' => {
                name.push(c);
                Step::More
            }
            At::Name(name) if c == '(' => {
                call.name = Some(std::mem::take(name));
                self.go(At::Argument)
            }
            At::Key(key) if in_word(c) => {
                key.push(c);
                Step::More
            }
            At::Key(key) if c == '=' => {
                let key = std::mem::take(key);
                self.keyed(&key, call)
            }
            At::Name(_) | At::Key(_) => Step::Invalid,
            _ if c.is_whitespace() => Step::More,
            At::Call if begins_word(c) => self.go(At::Name(c.into())),
            At::Argument if begins_word(c) => self.go(At::Key(c.into())),
            At::Argument | At::EndOfArgument if c == ')' => self.end_call(call),
            At::EndOfArgument if c == ',' => self.go(At::Argument),
            At::EndOfCall if c == ',' => self.go(At::Call),
            At::EndOfCall if c == ']' => Step::Over,
            _ => Step::Invalid,
        }
    }

    fn finish(&mut self, _: &mut Draft) -> bool {
        matches!(self.at, At::EndOfCall)
    }
}

fn begins_word(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A Python literal on its way to JSON.
#[derive(Debug, Default)]
struct Literal {
    /// The brackets that are open.
    open: Vec<char>,
    at: Within,
    /// A comma was read. It is written when something follows it: Python allows one before the
    /// closing bracket, JSON does not.
    comma: bool,
}

#[derive(Debug, Default)]
enum Within {
    /// A value is to come; in a list that may end here, too.
    #[default]
    Value,
    /// A key is to come, or the dictionary's end.
    Key,
    /// Behind a value inside something, or behind a key.
    After {
        key: bool,
    },
    Text {
        quote: char,
        key: bool,
    },
    Escape {
        quote: char,
        key: bool,
        code: Option<(String, usize)>,
    },
    Word(String),
}

impl Literal {
    fn push(&mut self, c: char, out: &mut String) -> Scan {
        match &mut self.at {
            Within::Text { quote, key } => {
                let (quote, key) = (*quote, *key);
                if c == quote {
                    out.push('"');
                    return self.end_text(key);
                }
                if c == '\\' {
                    return self.go(Within::Escape { quote, key, code: None });
                }
                write_char(c, out);
                Scan::More
            }
            Within::Escape { .. } => self.escape(c, out),
            Within::Word(word) if in_word(c) || matches!(c, '+' | '-' | '.') => {
                word.push(c);
                if word.len() > WORD_MAX { Scan::Invalid } else { Scan::More }
            }
            Within::Word(word) => {
                let Some(json) = word_as_json(word) else { return Scan::Invalid };
                out.push_str(&json);
                self.at = Within::After { key: false };
                if self.open.is_empty() { Scan::Before } else { self.push(c, out) }
            }
            _ if c.is_whitespace() => Scan::More,
            Within::Value => self.value(c, out),
            Within::Key => match c {
                '"' | '\'' => {
                    self.separate(out);
                    out.push('"');
                    self.go(Within::Text { quote: c, key: true })
                }
                _ => self.close(c, out),
            },
            Within::After { key: true } if c == ':' => {
                out.push_str(": ");
                self.go(Within::Value)
            }
            Within::After { key: true } => Scan::Invalid,
            Within::After { key: false } => self.after(c, out),
        }
    }

    fn go(&mut self, at: Within) -> Scan {
        self.at = at;
        Scan::More
    }

    fn separate(&mut self, out: &mut String) {
        out.push_str(if std::mem::take(&mut self.comma) { ", " } else { "" });
    }

    fn value(&mut self, c: char, out: &mut String) -> Scan {
        if c != ']' {
            self.separate(out);
        }
        match c {
            '"' | '\'' => {
                out.push('"');
                self.go(Within::Text { quote: c, key: false })
            }
            '[' | '{' if self.open.len() < DEPTH_MAX => {
                self.open.push(c);
                out.push(c);
                self.go(if c == '[' { Within::Value } else { Within::Key })
            }
            ']' => self.close(c, out),
            c if in_word(c) || matches!(c, '+' | '-' | '.') => self.go(Within::Word(c.into())),
            _ => Scan::Invalid,
        }
    }

    fn after(&mut self, c: char, out: &mut String) -> Scan {
        match self.open.last() {
            Some(open) if c == ',' => {
                self.at = if *open == '[' { Within::Value } else { Within::Key };
                self.comma = true;
                Scan::More
            }
            _ => self.close(c, out),
        }
    }

    fn close(&mut self, c: char, out: &mut String) -> Scan {
        let wanted = match self.open.pop() {
            Some('[') => ']',
            Some(_) => '}',
            None => return Scan::Invalid,
        };
        if c != wanted {
            return Scan::Invalid;
        }
        self.comma = false;
        out.push(c);
        self.ended()
    }

    fn end_text(&mut self, key: bool) -> Scan {
        if key { self.go(Within::After { key }) } else { self.ended() }
    }

    fn ended(&mut self) -> Scan {
        self.at = Within::After { key: false };
        if self.open.is_empty() { Scan::Done } else { Scan::More }
    }

    fn escape(&mut self, c: char, out: &mut String) -> Scan {
        let Within::Escape { quote, key, code } = &mut self.at else { return Scan::Invalid };
        let (quote, key) = (*quote, *key);
        if let Some((digits, wanted)) = code {
            digits.push(c);
            if digits.len() < *wanted {
                return Scan::More;
            }
            let number = u32::from_str_radix(digits, 16).ok();
            let Some(c) = number.and_then(char::from_u32) else { return Scan::Invalid };
            write_char(c, out);
            return self.go(Within::Text { quote, key });
        }
        let wanted = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if wanted > 0 {
            return self.go(Within::Escape { quote, key, code: Some((String::new(), wanted)) });
        }
        match c {
            'n' => write_char('\n', out),
            't' => write_char('\t', out),
            'r' => write_char('\r', out),
            '\\' | '\'' | '"' => write_char(c, out),
            // Python leaves an escape that it does not know as it is.
            _ => {
                write_char('\\', out);
                write_char(c, out);
            }
        }
        self.go(Within::Text { quote, key })
    }
}

fn write_char(c: char, out: &mut String) {
    let text = quoted(c.encode_utf8(&mut [0; 4]));
    out.push_str(&text[1..text.len() - 1]);
}

fn word_as_json(word: &str) -> Option<String> {
    match word {
        "True" | "true" => Some("true".to_owned()),
        "False" | "false" => Some("false".to_owned()),
        "None" | "null" => Some("null".to_owned()),
        _ => serde_json::from_str::<serde_json::Number>(word).ok().map(|_| word.to_owned()),
    }
}

/// The longest number that anybody writes.
const WORD_MAX: usize = 64;
/// As deep as a request may be nested.
const DEPTH_MAX: usize = 100;
