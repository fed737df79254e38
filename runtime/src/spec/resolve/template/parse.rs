//! From a text with actions to their tree. Errors are sentences about the action.

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    /// As it is.
    Text(String),
    /// What an expression says.
    Value(Expression),
    /// Branches with their conditions, and what else.
    If(Vec<(Expression, Vec<Self>)>, Vec<Self>),
}

/// What stands in an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    /// `.Spec.Model.Name`, without the first dot.
    Field(Vec<String>),
    /// `"text"` or a backquoted one.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `true` or `false`.
    Flag(bool),
    /// `nil`.
    Nothing,
    /// A function and what it is given.
    Call(String, Vec<Self>),
}

/// The tree of a text.
pub(super) fn parse(text: &str) -> Result<Vec<Part>, String> {
    let mut tokens = tokens(text)?;
    tokens.reverse();
    let (parts, end) = block(&mut tokens, 0)?;
    match end {
        None => Ok(parts),
        Some(word) => Err(format!("has `{{{{ {word} }}}}` without an `{{{{ if }}}}` before it")),
    }
}

/// The deepest that conditions and parentheses may be nested: both are read by recursion.
const MAX_DEPTH: usize = 32;

enum Token {
    Text(String),
    Action(String),
}

/// Texts and actions, trimmed where an action says so.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some(start) = rest.find("{{") {
        let (mut before, after) = (&rest[..start], &rest[start + 2..]);
        let end = end_of_action(after).ok_or("has `{{` without `}}`")?;
        let mut action = &after[..end];
        rest = &after[end + 2..];
        if trim_next {
            before = before.trim_start();
        }
        if let Some(trimmed) = action.strip_prefix("- ") {
            before = before.trim_end();
            action = trimmed;
        }
        trim_next = false;
        if let Some(trimmed) = action.strip_suffix(" -") {
            trim_next = true;
            action = trimmed;
        }
        tokens.push(Token::Text(before.to_owned()));
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            tokens.push(Token::Action(action.to_owned()));
        }
    }
    tokens.push(Token::Text(if trim_next { rest.trim_start() } else { rest }.to_owned()));
    Ok(tokens)
}

/// Where `}}` is that is not inside a text.
fn end_of_action(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

/// Parts up to an action that ends the block, and that action. Tokens are taken from the end.
fn block(tokens: &mut Vec<Token>, depth: usize) -> Result<(Vec<Part>, Option<String>), String> {
    if depth > MAX_DEPTH {
        return Err(format!("is nested more than {MAX_DEPTH} deep"));
    }
    let mut parts = Vec::new();
    while let Some(token) = tokens.pop() {
        match token {
            Token::Text(text) if text.is_empty() => {}
            Token::Text(text) => parts.push(Part::Text(text)),
            Token::Action(action) => match action.split_whitespace().next() {
                Some("end" | "else") => return Ok((parts, Some(action))),
                Some("if") => parts.push(condition(&action[2..], tokens, depth)?),
                Some(word @ ("range" | "with" | "define" | "template" | "block" | "break")) => {
                    return Err(format!("has `{{{{ {word} }}}}`, which is not known here"));
                }
                _ => parts.push(Part::Value(expression(&action)?)),
            },
        }
    }
    Ok((parts, None))
}

fn condition(text: &str, tokens: &mut Vec<Token>, depth: usize) -> Result<Part, String> {
    let mut branches = Vec::new();
    let mut condition = expression(text)?;
    loop {
        let (parts, end) = block(tokens, depth + 1)?;
        branches.push((condition, parts));
        let end = end.ok_or("has `{{ if }}` without `{{ end }}`")?;
        let words: Vec<&str> = end.split_whitespace().collect();
        match words.as_slice() {
            ["end"] => return Ok(Part::If(branches, Vec::new())),
            ["else"] => {
                let (parts, end) = block(tokens, depth + 1)?;
                return match end.as_deref() {
                    Some("end") => Ok(Part::If(branches, parts)),
                    _ => Err("has `{{ else }}` without `{{ end }}`".to_owned()),
                };
            }
            ["else", "if", ..] => {
                let at = end.find("if").unwrap_or_default();
                condition = expression(&end[at + 2..])?;
            }
            _ => return Err(format!("has `{{{{ {end} }}}}`, which is not known here")),
        }
    }
}

fn expression(text: &str) -> Result<Expression, String> {
    let words = words(text)?;
    let mut rest = words.as_slice();
    let whole = pipeline(&mut rest, 0).map_err(|why| format!("in `{}`: {why}", text.trim()))?;
    match rest {
        [] => Ok(whole),
        _ => Err(format!("in `{}`: there is a `)` too many", text.trim())),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Open,
    Close,
    Pipe,
    Operand(Expression),
    Name(String),
}

fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, length) = match first {
            '(' => (Word::Open, 1),
            ')' => (Word::Close, 1),
            '|' => (Word::Pipe, 1),
            '"' | '`' => quoted(rest, first)?,
            _ => {
                let ends = |c: char| c.is_whitespace() || "()|\"`".contains(c);
                let length = rest.find(ends).unwrap_or(rest.len());
                (bare(&rest[..length])?, length)
            }
        };
        words.push(word);
        rest = rest[length..].trim_start();
    }
    Ok(words)
}

fn quoted(text: &str, quote: char) -> Result<(Word, usize), String> {
    let mut inside = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => {
                return Ok((Word::Operand(Expression::Text(inside)), at + quote.len_utf8()));
            }
            '\\' if quote == '"' => match chars.next() {
                Some((_, 'n')) => inside.push('\n'),
                Some((_, 't')) => inside.push('\t'),
                Some((_, c)) => inside.push(c),
                None => break,
            },
            c => inside.push(c),
        }
    }
    Err(format!("has a text that does not end: {text}"))
}

fn bare(word: &str) -> Result<Word, String> {
    if let Some(path) = word.strip_prefix('.') {
        let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
        if parts.iter().any(String::is_empty) {
            return Err(format!("has `{word}`, which names no field"));
        }
        return Ok(Word::Operand(Expression::Field(parts)));
    }
    if let Ok(number) = word.parse() {
        return Ok(Word::Operand(Expression::Number(number)));
    }
    match word {
        "true" => Ok(Word::Operand(Expression::Flag(true))),
        "false" => Ok(Word::Operand(Expression::Flag(false))),
        "nil" => Ok(Word::Operand(Expression::Nothing)),
        name if name.chars().all(|c| c.is_ascii_alphanumeric()) => Ok(Word::Name(name.to_owned())),
        other => Err(format!("has `{other}`, which is not known here")),
    }
}

/// Commands with `|` between, each given what came before as its last argument.
fn pipeline(words: &mut &[Word], depth: usize) -> Result<Expression, String> {
    if depth > MAX_DEPTH {
        return Err(format!("is nested more than {MAX_DEPTH} deep"));
    }
    let mut value = command(words, None, depth)?;
    while let [Word::Pipe, rest @ ..] = *words {
        *words = rest;
        value = command(words, Some(value), depth)?;
    }
    Ok(value)
}

fn command(
    words: &mut &[Word],
    piped: Option<Expression>,
    depth: usize,
) -> Result<Expression, String> {
    let function = match *words {
        [Word::Name(name), rest @ ..] => {
            *words = rest;
            Some(name.clone())
        }
        _ => None,
    };
    let mut arguments = Vec::new();
    loop {
        match *words {
            [Word::Operand(operand), rest @ ..] => {
                *words = rest;
                arguments.push(operand.clone());
            }
            [Word::Open, rest @ ..] => {
                *words = rest;
                arguments.push(pipeline(words, depth + 1)?);
                let [Word::Close, rest @ ..] = *words else {
                    return Err("a `)` is missing".to_owned());
                };
                *words = rest;
            }
            [Word::Name(name), rest @ ..] => {
                *words = rest;
                arguments.push(Expression::Call(name.clone(), Vec::new()));
            }
            _ => break,
        }
    }
    arguments.extend(piped);
    match function {
        Some(name) => Ok(Expression::Call(name, arguments)),
        None if arguments.len() == 1 => Ok(arguments.remove(0)),
        None if arguments.is_empty() => Err("nothing is there".to_owned()),
        None => Err("a value is no function: give one value, or a function first".to_owned()),
    }
}
