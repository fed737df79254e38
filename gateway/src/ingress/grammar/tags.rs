//! Structural tags: text of which some parts have a form, as Lark.
//!
//! There are two styles, xgrammar's, which vLLM passes on: `structures` with `triggers` (free text,
//! in which each trigger is followed by the rest of a tag's beginning, a value of the tag's schema
//! and its end), and `format`, a tree of forms. Free text ends at the first trigger or at the end
//! of the tag that it fills, which a lexeme that is as short as possible sees to; in other places
//! nothing would tell where it ends, so it is refused there. Forms of tokens rather than of text
//! are refused, and so are the ways of writing JSON's values that are not JSON's.
//!
//! - [`fields`]: a form's fields, or what is wrong with them and where

mod fields;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use troupe_runtime::model::grammar::lark;

use self::fields::Fields;

/// The grammar of a structural tag, or what is wrong with it and where.
pub(super) fn lark(tag: &Value) -> Result<String, String> {
    let mut writer = Writer { rules: Vec::new() };
    let whole = match tag.get("format").filter(|format| !format.is_null()) {
        Some(format) => writer.form("format", format, Place::Last)?,
        None => writer.structures(tag)?,
    };
    let mut lines = vec![format!("start: {whole}")];
    let has_text = writer.rules.iter().chain(&lines).any(|line| line.contains(TEXT));
    lines.append(&mut writer.rules);
    lines.extend(has_text.then(|| format!("{TEXT}: /(.|\\n)*/")));
    Ok(lines.join("\n") + "\n")
}

/// What may follow a form.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The output's end.
    Last,
    /// More.
    Inner,
}

struct Writer {
    rules: Vec<String>,
}

// === impl Writer ===

impl Writer {
    /// The older style is one form of the newer.
    fn structures(&mut self, tag: &Value) -> Result<String, String> {
        let Some(structures) = tag.get("structures").and_then(Value::as_array) else {
            return Err("`format` is missing, or `structures` with `triggers`".into());
        };
        let tags = structures.iter().map(|structure| {
            let mut tag = structure.clone();
            if let Some(fields) = tag.as_object_mut() {
                let schema = fields.remove("schema").unwrap_or_else(|| json!({}));
                let content = json!({"type": "json_schema", "json_schema": schema});
                fields.insert("content".into(), content);
            }
            tag
        });
        let tags: Vec<Value> = tags.collect();
        let form = json!({"triggers": tag.get("triggers"), "tags": tags});
        self.triggered("structures", Fields { place: "", value: &form }, Place::Last)
    }

    /// A form as one name or one literal.
    fn form(&mut self, place: &str, form: &Value, at: Place) -> Result<String, String> {
        let fields = Fields { place, value: form };
        match fields.text("type")? {
            "const_string" => fields.text("value").map(lark::text),
            "json_schema" => fields.schema(),
            "regex" => {
                let regex = lark::regex(fields.text("pattern")?);
                regex.map_err(|why| fields.wrong("pattern", &why))
            }
            "grammar" => {
                let grammar = lark::nested(fields.text("grammar")?);
                grammar.map_err(|why| fields.wrong("grammar", &why))
            }
            "any_text" => {
                fields.check_plain_text()?;
                if at == Place::Last { Ok(TEXT.into()) } else { Err(fields.endless("any_text")) }
            }
            "sequence" => {
                let last = fields.list("elements")?.len().saturating_sub(1);
                let each = |index| if index == last { at } else { Place::Inner };
                let parts = self.elements(fields, each)?;
                Ok(self.rule(&parts.join(" ")))
            }
            "or" => {
                let parts = self.elements(fields, |_| at)?;
                Ok(self.rule(&parts.join(" | ")))
            }
            "optional" => {
                let inner = self.content(fields, at)?;
                Ok(self.rule(&format!("{inner} | \"\"")))
            }
            "plus" => {
                let inner = self.content(fields, Place::Inner)?;
                Ok(self.rule(&format!("({inner})+")))
            }
            "star" => {
                let inner = self.content(fields, Place::Inner)?;
                Ok(self.rule(&format!("({inner})*")))
            }
            "repeat" => {
                let times = fields.times()?;
                let inner = self.content(fields, Place::Inner)?;
                Ok(self.rule(&format!("({inner}){times}")))
            }
            "tag" => {
                let begin = fields.text("begin")?;
                self.tag(fields, begin)
            }
            "triggered_tags" => self.triggered(place, fields, at),
            "tags_with_separator" => self.separated(fields),
            other => Err(fields.wrong("type", &format!("`{other}` is not supported; {KNOWN}"))),
        }
    }

    /// A tag of which so much of the beginning is still to come.
    fn tag(&mut self, fields: Fields<'_>, begin: &str) -> Result<String, String> {
        let ends = fields.ends()?;
        let Some(content) = fields.value.get("content") else {
            return Err(fields.missing("content"));
        };
        let place = fields.below("content");
        let inner = Fields { place: &place, value: content };
        let begin = lark::text(begin);
        if content.get("type").is_some_and(|kind| kind == "any_text") {
            inner.check_plain_text()?;
            if ends.contains(&"") {
                return Err(inner.endless("any_text"));
            }
            let text = self.lazy(&ends);
            return Ok(self.rule(&format!("{begin} {text}")));
        }
        let inner = self.form(&place, content, Place::Inner)?;
        Ok(self.rule(&format!("{begin} {inner} {}", choice(&ends))))
    }

    /// Tags in free text, each announced by a trigger.
    fn triggered(&mut self, place: &str, fields: Fields<'_>, at: Place) -> Result<String, String> {
        if at != Place::Last {
            return Err(fields.endless("triggered_tags"));
        }
        fields.check_plain_text()?;
        let triggers = fields.texts("triggers")?;
        if triggers.is_empty() || triggers.contains(&"") {
            return Err(fields.wrong("triggers", "texts are needed that are not empty"));
        }
        let (at_least_one, only_one) =
            (fields.flag("at_least_one")?, fields.flag("stop_after_first")?);
        let mut announced: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut first = Vec::new();
        for (index, tag) in fields.list("tags")?.iter().enumerate() {
            let place = match place {
                "structures" => format!("structures.{index}"),
                _ => fields.below(&format!("tags.{index}")),
            };
            let tag = Fields { place: &place, value: tag };
            let begin = tag.text("begin")?;
            let fitting: Vec<&str> =
                triggers.iter().copied().filter(|trigger| begin.starts_with(trigger)).collect();
            let [trigger] = fitting[..] else {
                let what = format!(
                    "it has to begin with one of the triggers, and does with {}",
                    fitting.len()
                );
                return Err(tag.wrong("begin", &what));
            };
            if at_least_one {
                first.push(self.tag(tag, begin)?);
            }
            if !(at_least_one && only_one) {
                let rest = self.tag(tag, &begin[trigger.len()..])?;
                announced.entry(trigger).or_default().push(rest);
            }
        }
        let tags: Vec<String> = announced
            .into_iter()
            .map(|(trigger, rests)| {
                let head = self.lazy(&[trigger]);
                self.rule(&format!("{head} ({})", rests.join(" | ")))
            })
            .collect();
        if tags.is_empty() && first.is_empty() {
            return Err(fields.wrong("tags", "at least one is needed"));
        }
        let (tags, first) = (tags.join(" | "), first.join(" | "));
        let whole = match (at_least_one, only_one) {
            (false, false) => format!("({tags})* {TEXT}"),
            (false, true) => format!("{tags} | {TEXT}"),
            (true, false) => format!("({first}) ({tags})* {TEXT}"),
            (true, true) => first,
        };
        Ok(self.rule(&whole))
    }

    /// Tags with something between them and nothing else.
    fn separated(&mut self, fields: Fields<'_>) -> Result<String, String> {
        let (at_least_one, only_one) =
            (fields.flag("at_least_one")?, fields.flag("stop_after_first")?);
        let separator = lark::text(fields.text("separator")?);
        let mut tags = Vec::new();
        for (index, tag) in fields.list("tags")?.iter().enumerate() {
            let place = fields.below(&format!("tags.{index}"));
            let tag = Fields { place: &place, value: tag };
            let begin = tag.text("begin")?;
            tags.push(self.tag(tag, begin)?);
        }
        if tags.is_empty() {
            return Err(fields.wrong("tags", "at least one is needed"));
        }
        let one = self.rule(&tags.join(" | "));
        let some = if only_one { one } else { format!("{one} ({separator} {one})*") };
        Ok(self.rule(&if at_least_one { some } else { format!("({some})?") }))
    }

    fn elements(
        &mut self,
        fields: Fields<'_>,
        at: impl Fn(usize) -> Place,
    ) -> Result<Vec<String>, String> {
        let elements = fields.list("elements")?;
        if elements.is_empty() {
            return Err(fields.wrong("elements", "at least one is needed"));
        }
        let each = elements.iter().enumerate().map(|(index, form)| {
            self.form(&fields.below(&format!("elements.{index}")), form, at(index))
        });
        each.collect()
    }

    fn content(&mut self, fields: Fields<'_>, at: Place) -> Result<String, String> {
        match fields.value.get("content") {
            Some(content) => self.form(&fields.below("content"), content, at),
            None => Err(fields.missing("content")),
        }
    }

    /// Text up to the first of these, with it.
    fn lazy(&mut self, ends: &[&str]) -> String {
        let name = format!("r{}", self.rules.len());
        self.rules.push(format!("{name}[lazy]: {TEXT} {}", choice(ends)));
        name
    }

    fn rule(&mut self, body: &str) -> String {
        let name = format!("r{}", self.rules.len());
        self.rules.push(format!("{name}: {body}"));
        name
    }
}

// === Helpers ===

/// One of these texts.
fn choice(texts: &[&str]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| lark::text(text)).collect();
    if let [text] = texts.as_slice() { text.clone() } else { format!("({})", texts.join(" | ")) }
}

/// The terminal of free text.
const TEXT: &str = "TEXT";
/// What there is.
const KNOWN: &str = "there are any_text, const_string, grammar, json_schema, optional, or, plus, \
                     regex, repeat, sequence, star, tag, tags_with_separator and triggered_tags";

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(begin: &str, content: Value, end: Value) -> Value {
        json!({"type": "tag", "begin": begin, "content": content, "end": end})
    }

    fn of(format: Value) -> Result<String, String> {
        lark(&json!({"format": format}))
    }

    #[test]
    fn the_older_style_is_tags_in_free_text() {
        let schema = json!({"type": "object"});
        let structure =
            |name: &str| json!({"begin": format!("<f={name}>"), "schema": schema, "end": "</f>"});
        let both = json!({
            "format": null, "structures": [structure("a"), structure("b")], "triggers": ["<f="],
        });
        let text = lark(&both).expect("a grammar");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "start: r4");
        assert!(lines[1].starts_with("r0: \"a>\" %json {"), "{text}");
        assert!(lines[1].ends_with("} \"</f>\""), "{text}");
        assert_eq!(
            lines[3..],
            ["r2[lazy]: TEXT \"<f=\"", "r3: r2 (r0 | r1)", "r4: (r3)* TEXT", "TEXT: /(.|\\n)*/",]
        );
    }

    #[test]
    fn every_form_has_its_lark() {
        let text = |value: &str| json!({"type": "const_string", "value": value});
        let any = json!({"type": "any_text"});
        let tags =
            json!([tag("<a>", text("x"), json!("</a>")), tag("<b>", any.clone(), json!("."))]);
        let cases = [
            (json!({"type": "regex", "pattern": "^[a/]$"}), "start: /[a\\/]/\n"),
            (
                json!({"type": "or", "elements": [text("a"), text("\"")]}),
                "start: r0\nr0: \"a\" | \"\\\"\"\n",
            ),
            (
                json!({"type": "sequence", "elements": [text("a"), any]}),
                "start: r0\nr0: \"a\" TEXT\nTEXT: /(.|\\n)*/\n",
            ),
            (json!({"type": "optional", "content": text("a")}), "start: r0\nr0: \"a\" | \"\"\n"),
            (json!({"type": "plus", "content": text("a")}), "start: r0\nr0: (\"a\")+\n"),
            (json!({"type": "star", "content": text("a")}), "start: r0\nr0: (\"a\")*\n"),
            (
                json!({"type": "repeat", "min": 1, "max": -1, "content": text("a")}),
                "start: r0\nr0: (\"a\"){1,}\n",
            ),
            (
                json!({"type": "grammar", "grammar": "root ::= \"a\""}),
                "start: %lark {\nstart: T0\nT0: \"a\"\n\n}\n",
            ),
            (
                tag("<a>", text("b"), json!(["c", "d"])),
                "start: r0\nr0: \"<a>\" \"b\" (\"c\" | \"d\")\n",
            ),
            (
                json!({"type": "tags_with_separator", "tags": tags, "separator": ","}),
                "start: r4\nr0: \"<a>\" \"x\" \"</a>\"\nr1[lazy]: TEXT \".\"\nr2: \"<b>\" r1\n\
              r3: r0 | r2\nr4: (r3 (\",\" r3)*)?\nTEXT: /(.|\\n)*/\n",
            ),
            (
                json!({"type": "triggered_tags", "tags": tags, "triggers": ["<a", "<b"],
                    "at_least_one": true, "stop_after_first": true}),
                "start: r3\nr0: \"<a>\" \"x\" \"</a>\"\nr1[lazy]: TEXT \".\"\nr2: \"<b>\" r1\n\
              r3: r0 | r2\nTEXT: /(.|\\n)*/\n",
            ),
        ];
        for (format, wanted) in cases {
            assert_eq!(of(format.clone()).as_deref(), Ok(wanted), "{format}");
        }
    }

    #[test]
    fn mistakes_are_placed() {
        let any = || json!({"type": "any_text"});
        let wrong = tag("<a>", json!({"type": "token", "token": 1}), json!("</a>"));
        let cases = [
            (json!({}), "`format.type`: it is missing"),
            (json!({"type": "poem"}), "`format.type`: `poem` is not supported; there are any_text"),
            (
                json!({"type": "sequence", "elements": [any(), any()]}),
                "`format.elements.0.type`: `any_text` is only possible",
            ),
            (json!({"type": "or", "elements": []}), "`format.elements`: at least one"),
            (
                json!({"type": "or", "elements": [wrong]}),
                "`format.elements.0.content.type`: `token` is not supported",
            ),
            (json!({"type": "regex", "pattern": 3}), "`format.pattern`: a text is needed"),
            (
                json!({"type": "grammar", "grammar": "root ::= a"}),
                "`format.grammar`: line 1, column 10: the rule `a`",
            ),
            (
                json!({"type": "any_text", "max_tokens": 3}),
                "`format.max_tokens`: it is not supported",
            ),
            (
                json!({"type": "json_schema", "json_schema": {}, "style": "qwen_xml"}),
                "`format.style`: `json` is the only",
            ),
            (
                json!({"type": "repeat", "min": 3, "max": 2, "content": any()}),
                "`format.max`: it is less than `min`",
            ),
            (
                json!({"type": "triggered_tags", "triggers": ["<x"],
                       "tags": [tag("<a", any(), json!("."))]}),
                "`format.tags.0.begin`: it has to begin with one of the triggers, and does with 0",
            ),
            (tag("<a>", any(), json!("")), "`format.content.type`: `any_text` is only possible"),
            (tag("<a>", any(), json!([])), "`format.end`: at least one"),
        ];
        for (format, wanted) in cases {
            let why = of(format.clone()).expect_err("a mistake");
            assert!(why.starts_with(wanted), "{format}: {why}");
        }
        let structures = json!({"structures": [{"begin": 1}], "triggers": ["<"]});
        assert_eq!(lark(&structures), Err("`structures.0.begin`: a text is needed".into()));
    }
}
