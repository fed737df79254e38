//! One JSON value, checked as its characters come.
//!
//! It says where the value ends, and the first character with which it cannot go on. Control
//! characters in strings are let pass: models write line breaks there, and what they mean is clear.

/// How far a value is.
#[derive(Clone, Debug)]
pub(super) struct JsonScanner {
    /// What is open; true for an object.
    open: Vec<bool>,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Value,
    /// Behind `[`.
    FirstElement,
    /// Behind `{`.
    FirstKey,
    Key,
    Colon,
    /// Behind a value inside something.
    Comma,
    Text {
        key: bool,
    },
    Escape {
        key: bool,
    },
    Hex {
        key: bool,
        left: u8,
    },
    Word(&'static str),
    Number(Digits),
}

/// Where in a number; JSON's grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

/// What a character was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// Part of the value, which may go on.
    More,
    /// The value's last.
    Done,
    /// Not part of the value, which has ended before it.
    Before,
    /// Not possible here.
    Invalid,
}

impl Default for JsonScanner {
    fn default() -> Self {
        Self { open: Vec::new(), at: At::Value }
    }
}

impl JsonScanner {
    pub(super) fn push(&mut self, c: char) -> Scan {
        match self.at {
            At::Text { key } => self.text(c, key),
            At::Escape { key } => match c {
                'u' => self.go(At::Hex { key, left: 4 }),
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => self.go(At::Text { key }),
                _ => Scan::Invalid,
            },
            At::Hex { key, left } if c.is_ascii_hexdigit() => match left {
                1 => self.go(At::Text { key }),
                _ => self.go(At::Hex { key, left: left - 1 }),
            },
            At::Hex { .. } => Scan::Invalid,
            At::Word(rest) => match rest.strip_prefix(c) {
                Some("") => self.end_value(),
                Some(rest) => self.go(At::Word(rest)),
                None => Scan::Invalid,
            },
            At::Number(digits) => self.number(c, digits),
            _ if matches!(c, ' ' | '\t' | '\n' | '\r') => Scan::More,
            At::Value => self.value(c),
            At::FirstElement if c == ']' => self.close(false),
            At::FirstElement => self.value(c),
            At::FirstKey if c == '}' => self.close(true),
            At::FirstKey | At::Key if c == '"' => self.go(At::Text { key: true }),
            At::Colon if c == ':' => self.go(At::Value),
            At::Comma => self.comma(c),
            At::FirstKey | At::Key | At::Colon => Scan::Invalid,
        }
    }

    fn go(&mut self, at: At) -> Scan {
        self.at = at;
        Scan::More
    }

    fn value(&mut self, c: char) -> Scan {
        match c {
            '{' | '[' if self.open.len() >= DEPTH_MAX => Scan::Invalid,
            '{' => {
                self.open.push(true);
                self.go(At::FirstKey)
            }
            '[' => {
                self.open.push(false);
                self.go(At::FirstElement)
            }
            '"' => self.go(At::Text { key: false }),
            't' => self.go(At::Word("rue")),
            'f' => self.go(At::Word("alse")),
            'n' => self.go(At::Word("ull")),
            '-' => self.go(At::Number(Digits::Minus)),
            '0' => self.go(At::Number(Digits::Zero)),
            '1'..='9' => self.go(At::Number(Digits::Whole)),
            _ => Scan::Invalid,
        }
    }

    fn text(&mut self, c: char, key: bool) -> Scan {
        match (c, key) {
            ('\\', _) => self.go(At::Escape { key }),
            ('"', true) => self.go(At::Colon),
            ('"', false) => self.end_value(),
            _ => Scan::More,
        }
    }

    fn comma(&mut self, c: char) -> Scan {
        match (c, self.open.last()) {
            (',', Some(true)) => self.go(At::Key),
            (',', Some(false)) => self.go(At::Value),
            ('}', _) => self.close(true),
            (']', _) => self.close(false),
            _ => Scan::Invalid,
        }
    }

    fn close(&mut self, object: bool) -> Scan {
        match self.open.pop() == Some(object) {
            true => self.end_value(),
            false => Scan::Invalid,
        }
    }

    fn end_value(&mut self) -> Scan {
        self.at = At::Comma;
        if self.open.is_empty() { Scan::Done } else { Scan::More }
    }

    fn number(&mut self, c: char, digits: Digits) -> Scan {
        use Digits::{E, Exponent, Fraction, Minus, Point, Sign, Whole, Zero};
        let next = match (digits, c) {
            (Minus, '0') => Zero,
            (Minus, '1'..='9') | (Whole, '0'..='9') => Whole,
            (Zero | Whole, '.') => Point,
            (Point | Fraction, '0'..='9') => Fraction,
            (Zero | Whole | Fraction, 'e' | 'E') => E,
            (E, '+' | '-') => Sign,
            (E | Sign | Exponent, '0'..='9') => Exponent,
            (Zero | Whole | Fraction | Exponent, _) if self.open.is_empty() => return Scan::Before,
            (Zero | Whole | Fraction | Exponent, _) => {
                self.at = At::Comma;
                return self.push(c);
            }
            _ => return Scan::Invalid,
        };
        self.go(At::Number(next))
    }
}

/// As deep as a request may be nested.
const DEPTH_MAX: usize = 100;

/// A text as JSON writes it.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
