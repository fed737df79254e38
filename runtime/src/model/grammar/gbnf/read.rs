//! GBNF's text as rules.
//!
//! White space and comments separate and mean nothing else, so a rule goes on until the next name
//! with `::=` behind it, as in xgrammar; llama.cpp ends it with its line unless a bracket is open,
//! and what it reads is read in the same way here.

use std::{collections::BTreeMap, fmt, str::Chars};

use super::super::weigh::MAX_RULES;

/// A grammar's rules; they refer to each other by their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) bodies: Vec<Item>,
    /// Which of them is the whole output.
    pub(super) root: usize,
}

/// What a rule is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// These characters in this order.
    Text(String),
    /// One character, as a regular expression.
    Character(String),
    /// Another rule.
    Rule(usize),
    Sequence(Vec<Self>),
    Choice(Vec<Self>),
    Repeat(Box<Self>, Times),
}

/// How often something is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) least: u32,
    /// Without it, as often as one likes.
    pub(super) most: Option<u32>,
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    place: Option<Place>,
    what: String,
}

/// Both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
}

/// A text on the way to its end.
#[derive(Clone)]
struct Reader<'a> {
    rest: Chars<'a>,
    place: Place,
    depth: usize,
}

/// The rules that are known by name.
#[derive(Default)]
struct Names<'a> {
    indexes: BTreeMap<&'a str, usize>,
    /// By index; nothing yet for one that was only referred to, there.
    bodies: Vec<Result<Item, Place>>,
}

type Read<T> = Result<T, Mistake>;

/// The rules of a text.
pub(super) fn rules(text: &str) -> Read<Rules> {
    let mut names = Names::default();
    let start = Place { line: 1, column: 1 };
    let mut reader = Reader { rest: text.chars(), place: start, depth: 0 };
    reader.skip();
    while reader.peek().is_some() {
        reader.rule(&mut names)?;
        if reader.peek() == Some(')') {
            return Err(reader.place.wrong("`)` closes nothing; take it out"));
        }
    }
    names.finish()
}

/// Whether a character can be part of a rule's name.
pub(super) fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn rule(&mut self, names: &mut Names<'a>) -> Read<()> {
        let place = self.place;
        let Some(name) = self.name() else {
            return Err(place.wrong(match self.rest.as_str().starts_with("::=") {
                true => "`::=` has no name before it; a rule is `name ::= ...`",
                false => "a rule is needed here: `name ::= ...`",
            }));
        };
        self.skip();
        if !self.rest.as_str().starts_with("::=") {
            let what = format!("`::=` is needed behind the name `{name}`");
            return Err(self.place.wrong(&what));
        }
        self.pass(3);
        let index = names.index(name, place)?;
        let body = self.choice(names)?;
        names.define(index, name, body).map_err(|what| place.wrong(&what))
    }

    fn choice(&mut self, names: &mut Names<'a>) -> Read<Item> {
        let mut options = vec![self.sequence(names)?];
        while self.peek() == Some('|') {
            self.next();
            options.push(self.sequence(names)?);
        }
        Ok(if options.len() == 1 { options.remove(0) } else { Item::Choice(options) })
    }

    /// Up to an alternative, a bracket's end, another rule or the text's end.
    fn sequence(&mut self, names: &mut Names<'a>) -> Read<Item> {
        let mut items = Vec::new();
        self.skip();
        while self.peek().is_some_and(|c| !matches!(c, '|' | ')')) && !self.is_at_rule() {
            let mut item = self.item(names)?;
            self.skip();
            while let Some(times) = self.times()? {
                item = Item::Repeat(Box::new(item), times);
                self.skip();
            }
            items.push(item);
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Item::Sequence(items) })
    }

    fn item(&mut self, names: &mut Names<'a>) -> Read<Item> {
        let place = self.place;
        if let Some(name) = self.name() {
            return names.index(name, place).map(Item::Rule);
        }
        match self.next() {
            Some('"') => self.text(place),
            Some('[') => self.class(place),
            Some('(') => self.group(place, names),
            Some('.') => Ok(Item::Character("(?s:.)".into())),
            Some(c @ ('*' | '+' | '?' | '{')) => {
                let what = format!("`{c}` repeats nothing; put it behind what it repeats");
                Err(place.wrong(&what))
            }
            Some('/') => {
                Err(place.wrong("regular expressions are not GBNF; write classes, as in `[a-z]+`"))
            }
            Some(':') if self.rest.as_str().starts_with(":=") => {
                Err(place.wrong("`::=` has no name before it; a rule is `name ::= ...`"))
            }
            c => {
                let c = c.map(String::from).unwrap_or_default();
                let what = format!(
                    "`{c}` means nothing here; there are names, texts in `\"`, classes in `[]`, \
                     groups in `()`, `.` and `|`"
                );
                Err(place.wrong(&what))
            }
        }
    }

    fn group(&mut self, place: Place, names: &mut Names<'a>) -> Read<Item> {
        if self.peek() == Some('=') {
            return Err(place.wrong("lookahead is not supported; say what may follow instead"));
        }
        if self.depth == MAX_DEPTH {
            let what = format!("more than {MAX_DEPTH} groups are nested; make rules of them");
            return Err(place.wrong(&what));
        }
        self.depth += 1;
        let inner = self.choice(names)?;
        self.depth -= 1;
        match self.next() {
            Some(')') => Ok(inner),
            _ => Err(place.wrong("`(` is not closed; a `)` is missing")),
        }
    }

    fn text(&mut self, place: Place) -> Read<Item> {
        let mut text = String::new();
        loop {
            let at = self.place;
            match self.next() {
                Some('"') => return Ok(Item::Text(text)),
                Some('\\') => text.push(self.escaped(at)?),
                Some(c) if c != '\n' => text.push(c),
                _ => {
                    let what = "a text begins that its line does not end; put a `\"` behind it, \
                                and write a line's end as `\\n`";
                    return Err(place.wrong(what));
                }
            }
        }
    }

    fn class(&mut self, place: Place) -> Read<Item> {
        let mut class = String::from("[");
        if self.peek() == Some('^') {
            self.next();
            class.push('^');
        }
        let empty = class.len();
        while self.peek() != Some(']') {
            let at = self.place;
            let first = self.in_class(place)?;
            push_in_class(&mut class, first);
            // A dash at the end is one.
            let rest = self.rest.as_str();
            if rest.starts_with('-') && !rest.starts_with("-]") {
                self.next();
                let last = self.in_class(place)?;
                if last < first {
                    let what = format!("the range `{first}-{last}` has its ends the wrong way");
                    return Err(at.wrong(&what));
                }
                class.push('-');
                push_in_class(&mut class, last);
            }
        }
        self.next();
        if class.len() == empty {
            let what = "a class of no characters is of no use; a `]` in it is written `\\]`";
            return Err(place.wrong(what));
        }
        class.push(']');
        Ok(Item::Character(class))
    }

    fn in_class(&mut self, class: Place) -> Read<char> {
        let at = self.place;
        match self.next() {
            Some('\\') => self.escaped(at),
            Some(c) if c != '\n' => Ok(c),
            _ => Err(class.wrong("a class begins that its line does not end; put a `]` behind it")),
        }
    }

    /// What stands behind a backslash.
    fn escaped(&mut self, at: Place) -> Read<char> {
        match self.next() {
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('v') => Ok('\u{b}'),
            Some('a') => Ok('\u{7}'),
            Some('e') => Ok('\u{1b}'),
            Some('0') => Ok('\0'),
            Some('x') => self.hexadecimal(at, 'x', 2),
            Some('u') => self.hexadecimal(at, 'u', 4),
            Some('U') => self.hexadecimal(at, 'U', 8),
            Some(c) if c.is_ascii_punctuation() => Ok(c),
            c => {
                let c = c.filter(|c| !c.is_control()).map(String::from).unwrap_or_default();
                let what = format!(
                    "`\\{c}` is no escape; there are \\n, \\r, \\t, \\\\, \\\", \\], \\xHH, \
                     \\uHHHH and \\UHHHHHHHH"
                );
                Err(at.wrong(&what))
            }
        }
    }

    fn hexadecimal(&mut self, at: Place, kind: char, digits: usize) -> Read<char> {
        let rest = self.rest.as_str();
        let number = rest.get(..digits).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(number) = number else {
            let what = format!("`\\{kind}` needs {digits} hexadecimal digits");
            return Err(at.wrong(&what));
        };
        self.pass(digits);
        let character = u32::from_str_radix(number, 16).ok().and_then(char::from_u32);
        character.ok_or_else(|| at.wrong(&format!("`\\{kind}{number}` is no character")))
    }

    /// How often what was just read is repeated, if that is said here.
    fn times(&mut self) -> Read<Option<Times>> {
        let place = self.place;
        let times = match self.peek() {
            Some('*') => Times { least: 0, most: None },
            Some('+') => Times { least: 1, most: None },
            Some('?') => Times { least: 0, most: Some(1) },
            Some('{') => return self.counted(place).map(Some),
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(times))
    }

    fn counted(&mut self, place: Place) -> Read<Times> {
        let unclear =
            || place.wrong("a repetition is `{n}`, `{m,n}`, `{m,}` or `{,n}`, with numbers");
        let inner: String = self.rest.clone().skip(1).take_while(|c| *c != '}').collect();
        let closed = self.rest.as_str()[1 + inner.len()..].starts_with('}');
        let number = |text: &str| match text.trim() {
            "" => Ok(None),
            text => text.parse::<u32>().map(Some).map_err(|_| unclear()),
        };
        let (least, most) = match inner.split_once(',') {
            Some((least, most)) => (number(least)?, number(most)?),
            None => (number(&inner)?, number(&inner)?),
        };
        if !closed || least.is_none() && most.is_none() {
            return Err(unclear());
        }
        let wrong = |what: String| Err(place.wrong(&format!("{{{inner}}} {what}")));
        if least.max(most) > Some(MAX_TIMES) {
            return wrong(format!("is more than {MAX_TIMES} times, which is as far as it goes"));
        }
        let least = least.unwrap_or(0);
        if most.is_some_and(|most| most < least) {
            return wrong("ends before it begins; the smaller number stands first".into());
        }
        self.pass(inner.chars().count() + 2);
        Ok(Times { least, most })
    }

    /// A name that begins here. A dot ends it unless it goes on behind it.
    fn name(&mut self) -> Option<&'a str> {
        let text = self.rest.as_str();
        if !self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        let mut len = text.find(|c| !is_in_name(c)).unwrap_or(text.len());
        len = text[..len].trim_end_matches('.').len();
        self.pass(len);
        Some(&text[..len])
    }

    fn is_at_rule(&self) -> bool {
        let mut ahead = self.clone();
        ahead.name().is_some() && {
            ahead.skip();
            ahead.rest.as_str().starts_with("::=")
        }
    }

    /// Passes white space and comments.
    fn skip(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                '#' => {
                    let comment = self.rest.clone().take_while(|c| *c != '\n').count();
                    self.pass(comment);
                }
                c if c.is_whitespace() => self.pass(1),
                _ => return,
            }
        }
    }

    fn pass(&mut self, characters: usize) {
        for _ in 0..characters {
            self.next();
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        match c {
            '\n' => self.place = Place { line: self.place.line + 1, column: 1 },
            _ => self.place.column += 1,
        }
        Some(c)
    }
}

// === impl Names ===

impl<'a> Names<'a> {
    fn index(&mut self, name: &'a str, place: Place) -> Read<usize> {
        if let Some(index) = self.indexes.get(name) {
            return Ok(*index);
        }
        if self.bodies.len() == MAX_RULES {
            return Err(place.wrong(&format!("more than {MAX_RULES} rules are not possible")));
        }
        self.bodies.push(Err(place));
        self.indexes.insert(name, self.bodies.len() - 1);
        Ok(self.bodies.len() - 1)
    }

    fn define(&mut self, index: usize, name: &str, body: Item) -> Result<(), String> {
        if self.bodies[index].is_ok() {
            return Err(format!(
                "the rule `{name}` is defined a second time; separate alternatives by `|`"
            ));
        }
        self.bodies[index] = Ok(body);
        Ok(())
    }

    fn finish(self) -> Read<Rules> {
        for (name, index) in &self.indexes {
            if let Err(place) = self.bodies[*index] {
                let what = format!("the rule `{name}` is not defined; write `{name} ::= ...`");
                return Err(place.wrong(&what));
            }
        }
        let Some(root) = self.indexes.get("root").copied() else {
            let what = "no rule is named `root`, where an output begins; write `root ::= ...`";
            return Err(Mistake { place: None, what: what.into() });
        };
        Ok(Rules { bodies: self.bodies.into_iter().flatten().collect(), root })
    }
}

// === impl Mistake ===

impl Place {
    fn wrong(self, what: &str) -> Mistake {
        Mistake { place: Some(self), what: what.to_owned() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// A character of a class as every dialect of regular expressions reads it.
fn push_in_class(class: &mut String, c: char) {
    match c {
        c if c.is_ascii_alphanumeric() => class.push(c),
        c if c.is_ascii() => class.push_str(&format!("\\x{:02X}", u32::from(c))),
        c => class.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
    }
}

/// Deepest nesting of groups: Lark's compiler goes to 30.
const MAX_DEPTH: usize = 24;
/// Highest number of a repetition.
const MAX_TIMES: u32 = 1_000_000;
