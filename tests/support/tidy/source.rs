//! Reading Rust well enough for the rules: blanking what is not code, finding words.

/// The text with comments, strings and character literals replaced by spaces; line breaks stay, so
/// that line numbers do too. Macros and attributes are code.
pub(crate) fn code_only(text: &str) -> String {
    blank(text, Blank::CommentsAndLiterals)
}

/// The text with comments only replaced.
pub(crate) fn without_comments(text: &str) -> String {
    blank(text, Blank::Comments)
}

/// Whether `word` stands in `code` by itself, not as a part of a longer name.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

/// The names and other characters of `code`, in order, without white space.
pub(crate) fn tokens(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if is_name(first) {
            rest.find(|c| !is_name(c)).unwrap_or(rest.len())
        } else if rest.starts_with("=>") {
            2
        } else {
            first.len_utf8()
        };
        found.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[derive(Clone, Copy, PartialEq)]
enum Blank {
    Comments,
    CommentsAndLiterals,
}

fn blank(text: &str, what: Blank) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut after_name = false;
    while let Some(first) = rest.chars().next() {
        let comment = comment_len(rest);
        // `r"` and `b"` open a literal, but not at the end of a name such as `for`.
        let inside_name = after_name && is_name(first);
        let literal = if inside_name { None } else { literal_len(rest) };
        let (len, blanked) = match (comment, literal) {
            (Some(len), _) => (len, true),
            (None, Some(len)) => (len, what == Blank::CommentsAndLiterals),
            (None, None) => (first.len_utf8(), false),
        };
        let (part, others) = rest.split_at(len);
        after_name = !blanked && part.len() == first.len_utf8() && is_name(first);
        if blanked {
            out.extend(part.chars().map(|c| if c == '\n' { c } else { ' ' }));
        } else {
            out.push_str(part);
        }
        rest = others;
    }
    out
}

fn comment_len(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(text.len())
}

fn literal_len(text: &str) -> Option<usize> {
    let unprefixed = text.trim_start_matches(['b', 'c']);
    // At most the two letters of `br` or `cr` belong to a literal.
    let prefix = text.len() - unprefixed.len();
    if prefix > 1 {
        return None;
    }
    let raw = unprefixed.strip_prefix('r').unwrap_or(unprefixed);
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if raw.len() < unprefixed.len() && raw[hashes..].starts_with('"') {
        let close = format!("\"{}", "#".repeat(hashes));
        let start = text.len() - raw.len() + hashes + 1;
        return Some(text[start..].find(&close).map_or(text.len(), |at| start + at + close.len()));
    }
    if unprefixed.starts_with('"') {
        return Some(quoted_len(text, prefix, '"'));
    }
    // A lifetime has a quote too, but no second one right behind its first character.
    let mut characters = unprefixed.strip_prefix('\'')?.chars();
    let escaped = characters.next()? == '\\';
    (escaped || characters.next() == Some('\'')).then(|| quoted_len(text, prefix, '\''))
}

/// Up to and with the quote that closes the one at `open`.
fn quoted_len(text: &str, open: usize, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip_while(|&(at, _)| at <= open) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + c.len_utf8();
        }
    }
    text.len()
}

#[test]
fn comments_and_literals_are_blanked() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"f("x // \" y") + 1"#, "f(           ) + 1"),
        ("r#\"a\" b\"# c", "          c"),
        ("for\"x\"", "for   "),
        ("b'x' '\\'' 'a: &'a str", "          'a: &'a str"),
        ("\"ä\nb\" c", "  \n   c"),
    ];
    for (text, code) in cases {
        let blanked = code_only(text);
        assert_eq!(blanked.trim_end(), code.trim_end(), "{text}");
        assert_eq!(blanked.lines().count(), text.lines().count(), "{text}");
    }
    assert_eq!(without_comments("\"a//b\" // c").trim_end(), "\"a//b\"");
}

#[test]
fn words_stand_alone() {
    assert!(has_word("use rand::Rng;", "rand"));
    assert!(!has_word("let operand = brand_new;", "rand"));
    assert_eq!(tokens("if x{a=>b}"), ["if", "x", "{", "a", "=>", "b", "}"]);
}
