//! What is changed in a template's source before minijinja compiles it, tag by tag.
//!
//! - `{% generation %}` marks what an assistant said, for training; here it is a block that is
//!   always taken.
//! - What a `for` goes through is handed to the filter [`COUNTED`], as if the template itself had
//!   written it there: minijinja knows how long a list is but not how long a text is, so that
//!   `loop.last` would stay false where Python has reached the last character.
//! - What is given a name by `set`, or comes into a macro or a recursive loop, is handed to the
//!   filter [`HELD`], which bounds it: step by step, a name could otherwise come to stand for
//!   anything.
//! - `include` and what is like it has nothing to include but the template itself, and is refused,
//!   as it fails in transformers; so is a tag that joins more values than anybody writes by hand.
//!
//! Texts, comments and `{% raw %}` are left as they are, no line moves, and what is not well-formed
//! is passed on for minijinja to refuse. A recursive loop's inner rounds (`loop(...)`) are not
//! tags, and a text that they go through stays uncounted.

use std::str::Chars;

use minijinja::{Error, ErrorKind, Value};

use super::budget;

/// The name of [`counted`] in a template.
pub(super) const COUNTED: &str = "__counted";
/// The name of [`held`] in a template.
pub(super) const HELD: &str = "__held";

/// Most operators that join or multiply in one tag or expression; published templates have up to
/// 11.
const MAX_JOINS: usize = 64;

/// The template as minijinja is to compile it.
pub(super) fn rewrite(source: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = next_tag(rest) {
        out.push_str(before);
        let (name, _) = name_of(words(tag));
        if matches!(name, "include" | "import" | "from" | "extends") {
            let message = format!("`{name}` is not for chat templates, which stand alone");
            return Err(Error::new(ErrorKind::SyntaxError, message));
        }
        out.push_str(&rewrite_tag(tag).unwrap_or_else(|| tag.to_owned()));
        rest = &rest[before.len() + tag.len()..];
    }
    out.push_str(rest);
    let joins = most_joins(source);
    if joins > MAX_JOINS {
        let message =
            format!("an expression joins {joins} values, at most {MAX_JOINS} are allowed");
        return Err(Error::new(ErrorKind::SyntaxError, message));
    }
    Ok(out)
}

/// Of the tags and expressions the most signs that join or multiply in one, texts aside.
fn most_joins(source: &str) -> usize {
    let mut most = 0;
    let mut rest = source;
    // What does not end is refused by minijinja.
    while let Some(at) = rest.find('{') {
        let opened = &rest[at..];
        let length = match opened.as_bytes().get(1) {
            Some(b'#') => opened[2..].find("#}").map(|end| 2 + end + 2),
            Some(b'{') => code_until(opened, "}}"),
            Some(b'%') => code_until(opened, "%}"),
            _ => Some(1),
        };
        let Some(length) = length else { break };
        let code = &opened[..length];
        rest = &opened[length..];
        if code.starts_with("{%") && words(code).trim() == "raw" {
            rest = raw_text(rest).map_or("", |raw| &rest[raw..]);
        } else if !code.starts_with("{#") {
            most = most.max(joins(code));
        }
    }
    most
}

fn joins(code: &str) -> usize {
    let mut quote = None;
    let mut is_escaped = false;
    let mut is_join = |c: char| match quote {
        Some(end) => {
            quote = Some(end).filter(|end| is_escaped || *end != c);
            is_escaped = !is_escaped && c == '\\';
            false
        }
        None => {
            quote = Some(c).filter(|c| ['"', '\''].contains(c));
            ['~', '+', '*'].contains(&c)
        }
    };
    code.chars().filter(|c| is_join(*c)).count()
}

/// Bytes of a template that stand in no tag: the most of them that one round of a loop can write.
pub(super) fn raw_bytes(source: &str) -> usize {
    let mut raw = 0;
    let mut rest = source;
    while let Some((before, tag)) = next_tag(rest) {
        raw += before.len();
        rest = &rest[before.len() + tag.len()..];
    }
    raw + rest.len()
}

/// What a loop goes through: of a text its characters and how many they are, all else as it is.
/// Each round is paid for with the text that it may write.
pub(super) fn counted(value: &Value, around: usize) -> Result<Value, Error> {
    budget::weigh(value)?;
    let Some(text) = value.as_str() else {
        budget::charge(value.len().unwrap_or(0).saturating_mul(around))?;
        return Ok(value.clone());
    };
    budget::charge(text.len().saturating_mul(around))?;
    Ok(Value::make_object_iterable(value.clone(), |value| {
        let text = value.as_str().unwrap_or_default();
        Box::new(Characters { left: text.chars().count(), chars: text.chars() })
    }))
}

/// A value as it is, once it was paid for.
pub(super) fn held(value: &Value, around: usize) -> Result<Value, Error> {
    budget::charge(around)?;
    budget::weigh(value)?;
    Ok(value.clone())
}

struct Characters<'a> {
    chars: Chars<'a>,
    left: usize,
}

impl Iterator for Characters<'_> {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let character = self.chars.next()?;
        self.left -= 1;
        Some(Value::from(character))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// The next `{% ... %}` and all before it, if there is one more.
fn next_tag(source: &str) -> Option<(&str, &str)> {
    let mut at = 0;
    loop {
        at += source[at..].find('{')?;
        let opened = &source[at..];
        at += match opened.as_bytes().get(1) {
            Some(b'#') => 2 + opened[2..].find("#}")? + 2,
            Some(b'{') => code_until(opened, "}}")?,
            Some(b'%') => {
                let tag = &opened[..code_until(opened, "%}")?];
                if words(tag).trim() != "raw" {
                    return Some((&source[..at], tag));
                }
                tag.len() + raw_text(&opened[tag.len()..])?
            }
            _ => 1,
        };
    }
}

/// The length of an expression or a tag, its delimiters included.
fn code_until(opened: &str, end: &str) -> Option<usize> {
    let (start, code) = opened.split_at(2);
    let at = outermost(code).find(|at| code[*at..].starts_with(end))?;
    Some(start.len() + at + end.len())
}

/// The length of what stands between `{% raw %}` and the tag that ends it.
fn raw_text(source: &str) -> Option<usize> {
    source.match_indices("{%").map(|(at, _)| at).find(|at| {
        let tag = source[at + "{%".len()..].trim_start_matches(['-', '+']).trim_start();
        let end =
            tag.strip_prefix("endraw").map(|end| end.trim_start().trim_start_matches(['-', '+']));
        end.is_some_and(|end| end.starts_with("%}"))
    })
}

/// What a tag says, without its delimiters and the signs that trim what is around it.
fn words(tag: &str) -> &str {
    let inner = &tag["{%".len()..tag.len() - "%}".len()];
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    inner.strip_suffix(['-', '+']).unwrap_or(inner)
}

fn rewrite_tag(tag: &str) -> Option<String> {
    let words = words(tag);
    let (name, rest) = name_of(words);
    let replaced = match name {
        "generation" => words.replace("generation", "if true"),
        "endgeneration" => words.replace("endgeneration", "endif"),
        "set" => hold_set(words)?,
        "for" => count_loop(words)?,
        "macro" => return Some(hold_after(tag, &rest[rest.find('(')?..])),
        "with" => return Some(hold_after(tag, rest)),
        _ => return None,
    };
    let tag = tag.replacen(words, &replaced, 1);
    let is_recursive = name == "for" && word(words, &["recursive"]).is_some();
    Some(if is_recursive { hold_after(&tag, &rest[..word(rest, &["in"])?]) } else { tag })
}

/// A tag's name and what follows it.
fn name_of(words: &str) -> (&str, &str) {
    let words = words.trim_start();
    words.split_at(words.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(words.len()))
}

/// `set x = (y)|__held` of `set x = y`; none if it is a block whose text is set.
fn hold_set(words: &str) -> Option<String> {
    let at = outermost(words).find(|at| words[*at..].starts_with('='))?;
    let (target, value) = words.split_at(at + 1);
    Some(format!("{target} ({value})|{HELD} "))
}

/// The tag, and behind it one that holds each of the names that it gives values.
fn hold_after(tag: &str, named: &str) -> String {
    let mut held = String::new();
    let named = named.trim().trim_start_matches('(').trim_end_matches(')');
    let mut starts = vec![0];
    starts.extend(outermost(named).filter(|at| named[*at..].starts_with(',')).map(|at| at + 1));
    for start in starts {
        let name = named[start..].trim_start();
        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
        if end > 0 {
            let name = &name[..end];
            held.push_str(&format!("{{% set {name} = {name}|{HELD} %}}"));
        }
    }
    // What follows is trimmed as it was.
    let (open, close) = tag.split_at(tag.len() - "%}".len());
    let sign = open.chars().last().filter(|sign| ['-', '+'].contains(sign));
    match (held.strip_suffix("%}"), sign) {
        (None, _) => tag.to_owned(),
        (Some(_), None) => format!("{tag}{held}"),
        (Some(held), Some(sign)) => {
            format!("{}{close}{held}{sign}{close}", &open[..open.len() - 1])
        }
    }
}

/// `for x in (y)|__counted if z` of `for x in y if z`; none if this is no loop.
fn count_loop(words: &str) -> Option<String> {
    let target_end = word(words, &["in"])? + "in".len();
    let (target, rest) = words.split_at(target_end);
    let (iterable, rest) = rest.split_at(word(rest, &["if", "recursive"]).unwrap_or(rest.len()));
    Some(format!("{target} ({iterable})|{COUNTED} {rest}"))
}

/// Where the first of these words stands in code, by itself and in no brackets.
fn word(code: &str, wanted: &[&str]) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    outermost(code).find(|at| {
        let (before, after) = code.split_at(*at);
        let mut found = wanted.iter().filter_map(|word| after.strip_prefix(word));
        found.any(|after| !after.starts_with(is_part))
            && !before.ends_with(|c| is_part(c) || c == '.')
    })
}

/// The places in code that are in no text and no brackets, the opening ones among them.
fn outermost(code: &str) -> impl Iterator<Item = usize> {
    let mut depth = 0;
    let mut quote = None;
    let mut is_escaped = false;
    code.char_indices().filter_map(move |(at, c)| {
        if let Some(end) = quote {
            if !is_escaped && c == end {
                quote = None;
            }
            is_escaped = !is_escaped && c == '\\';
            return None;
        }
        let is_outermost = depth == 0;
        match c {
            '"' | '\'' => quote = Some(c),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        is_outermost.then_some(at)
    })
}
