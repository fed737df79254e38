//! What is changed in a template's source before minijinja compiles it, tag by tag.
//!
//! - `{% generation %}` marks what an assistant said, for training; here it is a block that is
//!   always taken.
//! - What a `for` goes through is handed to the filter [`COUNTED`], as if the template itself had
//!   written it there: minijinja knows how long a list is but not how long a text is, so that
//!   `loop.last` would stay false where Python has reached the last character.
//!
//! Texts, comments and `{% raw %}` are left as they are, no line moves, and what is not well-formed
//! is passed on for minijinja to refuse. A recursive loop's inner rounds (`loop(...)`) are not
//! tags, and a text that they go through stays uncounted.

use std::str::Chars;

use minijinja::Value;

/// The name of [`counted`] in a template.
pub(super) const COUNTED: &str = "__counted";

/// The template as minijinja is to compile it.
pub(super) fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = next_tag(rest) {
        out.push_str(before);
        out.push_str(&rewrite_tag(tag).unwrap_or_else(|| tag.to_owned()));
        rest = &rest[before.len() + tag.len()..];
    }
    out.push_str(rest);
    out
}

/// What a loop goes through: of a text its characters and how many they are, all else as it is.
pub(super) fn counted(value: &Value) -> Value {
    if value.as_str().is_none() {
        return value.clone();
    }
    Value::make_object_iterable(value.clone(), |value| {
        let text = value.as_str().unwrap_or_default();
        Box::new(Characters { left: text.chars().count(), chars: text.chars() })
    })
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
    let replaced = match words.trim() {
        "generation" => words.replace("generation", "if true"),
        "endgeneration" => words.replace("endgeneration", "endif"),
        _ => count_loop(words)?,
    };
    Some(tag.replacen(words, &replaced, 1))
}

/// `for x in (y)|__counted if z` of `for x in y if z`; none if this is no loop.
fn count_loop(words: &str) -> Option<String> {
    let is_loop = word(words, &["for"])? == words.len() - words.trim_start().len();
    let target_end = is_loop.then(|| word(words, &["in"]))?? + "in".len();
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
