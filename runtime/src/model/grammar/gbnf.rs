//! GBNF, the notation of llama.cpp and xgrammar (`root ::= "a" | "b"`), as Lark.
//!
//! vLLM's users send either; which one a text is shows in its first rule ([`is_gbnf`]). Both
//! describe the same languages, but Lark has a lexer and GBNF has none: where Lark's lexemes could
//! end in two places, the longer one is taken. So that this seldom matters, everything that does
//! not refer to itself becomes one lexeme, as large as it can be; a grammar without recursion is a
//! single one and loses nothing.
//!
//! What is not here: lookahead (`(= ...)`), which nothing below has, and xgrammar's macros.
//!
//! - [`read`]: the text as rules, or what is wrong with it, where, and what would be right
//! - [`write`]: the rules as Lark

mod read;
mod write;

use super::matcher::MAX_REASON;

/// Whether a text is GBNF: Lark's rules have `:` where these have `::=`.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        let rule = line.split_once("::=").map(|(name, _)| name.trim());
        rule.is_some_and(|name| name.chars().all(read::is_in_name))
    })
}

/// The grammar in Lark; its rules have other names.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let told = |mistake: read::Mistake| mistake.to_string().chars().take(MAX_REASON).collect();
    let rules = read::rules(text).map_err::<String, _>(told)?;
    Ok(write::lark(&rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lark(text: &str) -> String {
        to_lark(text).unwrap_or_else(|why| panic!("{why} in {text}"))
    }

    #[test]
    fn gbnf_is_told_from_lark() {
        for gbnf in ["root ::= \"a\"", "# a comment\n\nroot::=[a-z]", "  a-b_1.c ::= \"::=\""] {
            assert!(is_gbnf(gbnf), "{gbnf}");
        }
        for lark in ["start: \"a ::= b\"", "start: A\nA: /x::=/", "// root ::= a\nstart: \"a\"", ""]
        {
            assert!(!is_gbnf(lark), "{lark}");
        }
    }

    #[test]
    fn what_does_not_recur_is_one_lexeme() {
        let cases = [
            ("root ::= \"a\" | \"b\" \"c\"", "start: T0\nT0: \"a\" | \"b\" \"c\""),
            ("root ::= x x\nx ::= [a-z]+", "start: T0\nT0: T1 T1\nT1: /[a-z]/+"),
            ("root ::= (\"a\" | \"b\")? \"c\"*", "start: T0\nT0: (\"a\" | \"b\")? \"c\"*"),
            ("root ::= |\n \"a\" # end", "start: T0\nT0: \"\" | \"a\""),
            ("root ::= .{2,3} [^\"/\\n]{2} \"\"{,4}", {
                "start: T0\nT0: /(?s:.)/{2,3} /[^\\x22\\x2F\\x0A]/{2} \"\"{0,4}"
            }),
            ("root ::= \"a\"{1,} \"b\"{0,} \"c\"{0,1} \"d\"{0}", {
                "start: T0\nT0: \"a\"+ \"b\"* \"c\"? \"\""
            }),
        ];
        for (gbnf, wanted) in cases {
            assert_eq!(lark(gbnf), format!("{wanted}\n"), "{gbnf}");
        }
    }

    #[test]
    fn what_recurs_is_a_rule_around_lexemes() {
        let gbnf = "root ::= sum\nsum ::= digits (\" \"? \"+\" sum)*\ndigits ::= \"(\" sum \")\" | \
                    [0-9] | \"x\"";
        let wanted = "start: r1\nr1: r2 (T3 r1)*\nr2: T4 | \"(\" r1 \")\"\nT3: \" \"? \"+\"\n\
                      T4: /[0-9]/ | \"x\"\n";
        assert_eq!(lark(gbnf), wanted);
        // A rule may have any name, and come after its use or over several lines.
        let gbnf = "root ::= Te.xt-1\n  \"!\"\n\nTe.xt-1\n::= \"a\" root |\n\n\"b\"";
        assert_eq!(lark(gbnf), "start: r1 \"!\"\nr1: \"b\" | \"a\" start\n");
    }

    #[test]
    fn escapes_are_characters() {
        let gbnf = r#"root ::= "\x41\u00e9\U0001F600\t\"\\\/" [\]\-\^a\\-\x7f] [a-]"#;
        let wanted = "start: T0\nT0: \"Aé😀\\t\\\"\\\\/\" /[\\x5D\\x2D\\x5Ea\\x5C-\\x7F]/ \
                      /[a\\x2D]/\n";
        assert_eq!(lark(gbnf), wanted);
    }

    #[test]
    fn mistakes_are_placed() {
        let cases = [
            ("roo ::= \"a\"", "no rule is named `root`, where an output begins"),
            ("root ::= a", "line 1, column 10: the rule `a` is not defined; write `a ::= ...`"),
            ("root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule `root` is defined a"),
            ("root ::= \"a\n\"", "line 1, column 10: a text begins that its line does not end"),
            ("root ::= \"\\q\"", "line 1, column 11: `\\q` is no escape"),
            ("root ::= [\\d]", "line 1, column 11: `\\d` is no escape"),
            ("root ::= \"\\u12\"", "line 1, column 11: `\\u` needs 4 hexadecimal digits"),
            ("root ::= \"\\uD800\"", "line 1, column 11: `\\uD800` is no character"),
            ("root ::=\n  [z-a]", "line 2, column 4: the range `z-a` has its ends"),
            ("root ::= []", "line 1, column 10: a class of no characters"),
            ("root ::= [a", "line 1, column 10: a class begins that its line does not end"),
            ("root ::= \"a\" | *", "line 1, column 16: `*` repeats nothing"),
            ("root ::= \"a\"{2", "line 1, column 13: a repetition is `{n}`, `{m,n}`, `{m,}`"),
            ("root ::= \"a\"{3,2}", "line 1, column 13: {3,2} ends before it begins"),
            ("root ::= \"a\"{9999999}", "line 1, column 13: {9999999} is more than 1000000"),
            ("root ::= (\"a\"", "line 1, column 10: `(` is not closed; a `)` is missing"),
            ("root ::= \"a\")", "line 1, column 13: `)` closes nothing"),
            ("root ::= \"a\" (= \"b\")", "line 1, column 14: lookahead is not supported"),
            ("root ::= /a/", "line 1, column 10: regular expressions"),
            ("root ::= \"a\" $", "line 1, column 14: `$` means nothing here"),
            ("root ::= \"a\"\n::= b", "line 2, column 1: `::=` has no name before it"),
            ("# x\n* ::= \"a\"\nroot ::= \"a\"", "line 2, column 1: a rule is needed here"),
            ("x : \"a\"\nroot ::= \"a\"", "line 1, column 3: `::=` is needed behind the name `x`"),
        ];
        for (gbnf, wanted) in cases {
            let why = to_lark(gbnf).expect_err(gbnf);
            assert!(why.starts_with(wanted), "{gbnf}: {why}");
        }
        let deep = format!("root ::= {}", "(".repeat(100));
        assert!(to_lark(&deep).is_err_and(|why| why.contains("nested")));
        let many: String = (0..501).map(|i| format!("r{i} ::= \"a\"\n")).collect();
        assert!(to_lark(&many).is_err_and(|why| why.contains("500")));
    }
}
