//! What each kernel declares, read from its source: the file that it is in, the threads that it was
//! compiled for, and the kinds of its parameters.
//!
//! So the host side is held against the kernels themselves, and not against a copy of their
//! declarations. The sources keep to a form that this reads: `KERNEL(threads, name, (parameters))`,
//! perhaps by way of macros that paste names, and `struct Name { fields };` for what is passed by
//! value.

use std::collections::BTreeMap;

use crate::cuda::{
    driver::Arg,
    sources::{HEADERS, KERNELS, Source},
};

/// One kernel's declaration.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The source that it is in.
    pub source: Source,
    /// The most threads of a block.
    pub threads: u32,
    /// Its parameters.
    pub kinds: Vec<Kind>,
}

/// What a parameter, or a field of one, is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pointer to what is only read.
    In,
    /// A pointer to what may be written.
    Out,
    /// An unsigned number of 32 bits.
    U32,
    /// One of 64 bits.
    U64,
    /// A float.
    F32,
    /// A structure of these fields.
    Struct(Vec<Self>),
    /// Something that the host has no word for.
    Unknown(String),
}

impl Kind {
    /// Whether an argument can be passed for this parameter.
    pub fn takes(&self, arg: &Arg) -> bool {
        match (self, arg) {
            (Self::In, Arg::In(_) | Arg::Null)
            | (Self::Out, Arg::Out(_) | Arg::Null)
            | (Self::U32, Arg::U32(_))
            | (Self::U64, Arg::U64(_))
            | (Self::F32, Arg::F32(_)) => true,
            (Self::Struct(kinds), Arg::Struct(fields)) => {
                kinds.len() == fields.len()
                    && kinds.iter().zip(fields).all(|(kind, field)| kind.takes(field))
            }
            _ => false,
        }
    }
}

/// Every kernel by its name.
pub fn signatures() -> BTreeMap<String, Signature> {
    let headers: Vec<String> = HEADERS.iter().map(|header| plain(header.text)).collect();
    let mut found = BTreeMap::new();
    for source in KERNELS {
        let text = plain(source.text);
        let texts = headers.iter().chain([&text]);
        let structs = Structs::of(texts.map(String::as_str).collect::<Vec<_>>().join("\n"));
        let (macros, rest) = macros(&text);
        for call in calls(&expanded(&rest, &macros, 0), "KERNEL") {
            let [threads, name, parameters] = &call[..] else { continue };
            let list = parameters.trim().trim_start_matches('(').trim_end_matches(')');
            let kinds = arguments(list).iter().map(|one| structs.kind(one)).collect();
            let threads = threads.trim().parse().unwrap_or(0);
            found.insert(name.trim().to_owned(), Signature { source: *source, threads, kinds });
        }
    }
    found
}

/// The text without comments and with continued lines in one.
fn plain(text: &str) -> String {
    let joined = text.replace("\\\n", " ");
    let mut out = String::with_capacity(joined.len());
    let mut rest = joined.as_str();
    while let Some(at) = rest.find('/') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = match from.as_bytes().get(1) {
            Some(b'/') => from.find('\n').unwrap_or(from.len()),
            Some(b'*') => from.find("*/").map_or(from.len(), |end| end + 2),
            _ => {
                out.push('/');
                1
            }
        };
        rest = &from[end..];
    }
    out.push_str(rest);
    out
}

/// A macro's parameters and body.
type Macro<'a> = (Vec<String>, &'a str);

/// The macros that have parameters, and the text without any directive.
fn macros(text: &str) -> (BTreeMap<&str, Macro<'_>>, String) {
    let mut found = BTreeMap::new();
    let mut rest = String::new();
    for line in text.lines() {
        let Some(directive) = line.trim_start().strip_prefix('#') else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        let Some(define) = directive.trim_start().strip_prefix("define ") else { continue };
        if let Some((name, behind)) = define.trim_start().split_once('(')
            && is_word(name)
            && let Some((parameters, body)) = behind.split_once(')')
        {
            found.insert(name, (arguments(parameters), body));
        }
    }
    (found, rest)
}

/// The text with each use of a macro replaced by its body. Macros that use each other end, because
/// so deep none of ours goes.
fn expanded(text: &str, macros: &BTreeMap<&str, Macro<'_>>, depth: usize) -> String {
    let mut text = text.to_owned();
    if depth == MOST_DEPTH {
        return text;
    }
    for (name, (parameters, body)) in macros {
        for call in calls(&text, name) {
            let body = pasted(body, parameters, &call);
            text.push_str(&expanded(&body, macros, depth + 1));
            text.push('\n');
        }
    }
    text
}

/// A macro's body for these arguments.
fn pasted(body: &str, parameters: &[String], args: &[String]) -> String {
    let mut out = String::new();
    let mut rest = body;
    while !rest.is_empty() {
        let word = rest.find(|c: char| !is_letter(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(word);
        let place = parameters.iter().position(|parameter| parameter == word);
        out.push_str(place.and_then(|at| args.get(at)).map_or(word, |arg| arg.trim()));
        let other = behind.find(is_letter).unwrap_or(behind.len());
        let (other, next) = behind.split_at(other);
        out.push_str(&other.replace("##", ""));
        rest = next;
    }
    out
}

/// The arguments of each use of `name(...)`.
fn calls(text: &str, name: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(name) {
        let before = text[..at].chars().next_back();
        let behind = &text[at + name.len()..];
        if before.is_some_and(is_letter) || !behind.starts_with('(') {
            continue;
        }
        let mut depth = 0i32;
        let end = behind.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        if let Some(end) = end {
            found.push(arguments(&behind[1..end]));
        }
    }
    found
}

/// What commas divide, outside of brackets.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut found) = (0i32, vec![String::new()]);
    for c in text.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        match found.last_mut() {
            Some(last) if c != ',' || depth > 0 => last.push(c),
            _ => found.push(String::new()),
        }
    }
    found.iter_mut().for_each(|one| *one = one.trim().to_owned());
    found.retain(|one| !one.is_empty());
    found
}

/// Structures by name.
struct Structs(BTreeMap<String, Vec<String>>);

impl Structs {
    fn of(text: String) -> Self {
        let mut found = BTreeMap::new();
        for piece in text.split("struct ").skip(1) {
            let Some((name, behind)) = piece.split_once('{') else { continue };
            let Some((fields, _)) = behind.split_once('}') else { continue };
            // `u32 from, to;` are two; ours that are passed have one name each.
            let fields = fields.split(';').map(|field| field.trim().to_owned());
            let fields = fields.filter(|field| !field.is_empty()).collect();
            found.insert(name.trim().to_owned(), fields);
        }
        Self(found)
    }

    /// The kind of a declaration such as `const f32* scales`.
    fn kind(&self, declaration: &str) -> Kind {
        if let Some((of, _)) = declaration.rsplit_once('*') {
            // A pointer to pointers is to what may be written unless those are constant.
            let target = of.rsplit_once('*').map_or(of, |(_, qualifier)| qualifier);
            let constant = target.split_whitespace().any(|word| word == "const");
            return if constant { Kind::In } else { Kind::Out };
        }
        let words: Vec<&str> = declaration.split_whitespace().collect();
        match words.iter().find(|word| **word != "const") {
            Some(&"u32") => Kind::U32,
            Some(&"u64") => Kind::U64,
            Some(&"f32") => Kind::F32,
            Some(name) => match self.0.get(*name) {
                Some(fields) => Kind::Struct(fields.iter().map(|one| self.kind(one)).collect()),
                None => Kind::Unknown(declaration.to_owned()),
            },
            None => Kind::Unknown(declaration.to_owned()),
        }
    }
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_letter)
}

const MOST_DEPTH: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_read_and_every_parameter_has_a_kind() {
        let all = signatures();
        for (name, signature) in &all {
            assert!((32..=1024).contains(&signature.threads), "{name}: {signature:?}");
            let kinds = format!("{:?}", signature.kinds);
            assert!(!signature.kinds.is_empty() && !kinds.contains("Unknown"), "{name}: {kinds}");
        }
        for name in [
            "rms_norm_bf16",
            "attention_decode_bf16_int8_128",
            "attention_prefill_f16_same_64",
            "moe_combine_f32",
            "product_coded_f16",
        ] {
            assert!(all.contains_key(name), "{name} is not among {:?}", all.keys());
        }
        let norm = &all["add_rms_norm_f32"];
        let expected = [Kind::In, Kind::Out, Kind::In, Kind::F32, Kind::U32, Kind::Out];
        assert_eq!((norm.source.name, &norm.kinds[..]), ("norm", &expected[..]));
        let Kind::Struct(fields) = &all["product_any"].kinds[0] else { panic!("no structure") };
        assert_eq!(fields.len(), 14);
        assert_eq!(fields[..4], [Kind::In, Kind::In, Kind::In, Kind::In]);
        assert_eq!(fields[4], Kind::Out);
    }

    #[test]
    fn arguments_are_held_against_kinds() {
        assert!(Kind::Struct(vec![Kind::U32]).takes(&Arg::Struct(vec![Arg::U32(1)])));
        assert!(!Kind::Struct(vec![Kind::U32]).takes(&Arg::Struct(vec![Arg::U64(1)])));
        assert!(!Kind::Struct(vec![Kind::U32]).takes(&Arg::Struct(Vec::new())));
        assert!(Kind::In.takes(&Arg::Null) && Kind::Out.takes(&Arg::Null));
        assert!(!Kind::U64.takes(&Arg::U32(1)));
    }
}
