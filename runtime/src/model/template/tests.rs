//! Details in which Jinja2 and minijinja, or Python and Rust, differ; and hostile templates.

use serde_json::json;

use super::*;

fn templates(source: &str) -> ChatTemplates {
    let config = TokenizerConfig {
        special_tokens: vec![("bos_token", "<s>".to_owned())],
        ..TokenizerConfig::default()
    };
    ChatTemplates::parse(Path::new("t.jinja"), &[("default", source)], &config).unwrap()
}

fn render(source: &str, kwargs: &Json) -> Result<String, TemplateError> {
    templates(source).render(&ChatInput {
        messages: &json!([{"role": "user", "content": "Hi"}]),
        tools: None,
        documents: None,
        add_generation_prompt: true,
        kwargs: kwargs.as_object(),
        now_unix_s: 1_751_284_800,
    })
}

fn check(source: &str, expected: &str) {
    let x = json!({
        "x": {
            "b": [1, 2.5, 1e16, 1e-5, -0.0, true, null],
            "a": "<é\u{1}\"\u{7f}", "e": [], "o": {},
        },
        "messages": "mine",
    });
    assert_eq!(render(source, &x).as_deref(), Ok(expected), "{source}");
}

#[test]
fn values_are_written_as_python_writes_them() {
    check("{{ true }} {{ none }} {{ 1.0 }} {{ [1, 'a'] }}", "True None 1.0 [1, 'a']");
    check("{{ x.b|tojson }}", "[1, 2.5, 1e+16, 1e-05, -0.0, true, null]");
    check("{{ x.a|tojson }}", "\"<é\\u0001\\\"\u{7f}\"");
    check("{{ x.a|tojson(ensure_ascii=true) }}", "\"<\\u00e9\\u0001\\\"\\u007f\"");
    check("{{ {'b': [], 'a': {}}|tojson(indent=2) }}", "{\n  \"b\": [],\n  \"a\": {}\n}");
    check("{{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}", "{\"a\": 2, \"b\": 1}");
    check("{{ [1, {'a': 2}]|tojson(separators=(',', ':')) }}", "[1,{\"a\":2}]");
    check("{{ [[1]]|tojson(indent='\t') }}", "[\n\t[\n\t\t1\n\t]\n]");
}

#[test]
fn pythons_methods_and_tests_are_there() {
    check("{{ 'a.b.c'.rsplit('.', 1) }} {{ 'abc'.removeprefix('a') }}", "['a.b', 'c'] bc");
    check("{{ 'k=v'.partition('=')[2] }} {{ 'abc'.index('c') }}", "v 2");
    check("{{ ' x\n'.strip() }}{{ 'a,b'.split(',')[-1] }} {{ 'abc'[::-1] }}", "xb cba");
    check("{{ x.get('z', 'none') }} {% for k, v in x.items() %}{{ k }}{% endfor %}", "none baeo");
    check("{{ none is iterable }} {{ 'a' is sequence }} {{ true is number }}", "False True True");
    check(
        "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
        "13",
    );
}

#[test]
fn variables_of_the_template_cannot_be_replaced() {
    check("{{ bos_token }}{{ messages[0].content }}{{ tools }}", "<s>HiNone");
}

#[test]
fn generation_tags_are_as_if_not_there() {
    check("a {%- generation -%} b {% endgeneration %}\nc", "ab c");
    check("{% generation %}x{% endgeneration %}{{ '{% generation' }}", "x{% generation");
}

#[test]
fn loops_know_their_last_character() {
    let around = "{{ loop.index }}/{{ loop.length }}{{ c }}{% if not loop.last %}, {% endif %}";
    let over = |iterable| format!("{{% for c in {iterable} %}}{around}{{% endfor %}}");
    let expected = "1/3a, 2/3\u{e9}, 3/3}";
    check(&over("'a\u{e9}}'"), expected);
    check(&over("'a\u{e9}' ~ ['}', 'in'][0]"), expected);
    check(&over("'a\u{e9}' + '}' if true"), expected);
    check(&over("['a', '\u{e9}', '}']"), expected);
    check(&over("'-a-\u{e9}-}'|list if c != '-'"), expected);
    check(&over("''"), "");
    check(&over("none or 'x'"), "1/1x");
    check(&over("{'k': 'in', 'l': 'if'}"), "1/2k, 2/2l");
    check(&over("{'k': 'v'}|items"), "1/1('k', 'v')");
    check(&over("{'if': ['v'], 'z': 0}.if"), "1/1v");
    check("{%-for (k, v) in x.o|items recursive-%}{{k}}{%else%}none{%endfor-%}", "none");
    check("{% for k\n in 'ab'\n %}{{ k }}{{ loop.revindex0 }}{% endfor %}", "a1b0");
}

#[test]
fn loops_that_are_no_tags_stay_as_they_are() {
    for text in ["{{ '{% for a in b %}' }}", "{{ {'k': {'l': \"\\\"}}{% for a in b %}\"}}.k.l }}"] {
        assert_eq!(tags::rewrite(text).unwrap(), text);
    }
    check("{% raw %}{% for a in b %}{% endfor %}{%- endraw %}", "{% for a in b %}{% endfor %}");
    check("{# {% for a in b %} '#}{{ \"'\" }}", "'");
    let failed = render("\n{% for a\nin\n5 %}{% endfor %}", &json!({})).unwrap_err();
    assert!(failed.to_string().contains("number is not iterable (line 4)"), "{failed}");
    for malformed in
        ["{% for a in %}", "{% for a in 'b %}", "{% for a in [ %}", "{% for", "{% raw %}"]
    {
        let sources = [("default", malformed)];
        let config = TokenizerConfig::default();
        let error = ChatTemplates::parse(Path::new("t"), &sources, &config).unwrap_err();
        assert!(!error.to_string().contains(tags::COUNTED), "{malformed}: {error}");
    }
}

#[test]
fn dates_come_from_the_argument() {
    check("{{ strftime_now('%d %b %Y %H:%M') }}", "30 Jun 2025 12:00");
    check("{{ strftime_now('%A %-d %B, %j %I%p %q%') }}", "Monday 30 June, 181 12PM %q%");
    let at = |unix_s| Clock::at(unix_s).format("%F %T %a %j");
    assert_eq!(at(0), "1970-01-01 00:00:00 Thu 001");
    assert_eq!(at(-1), "1969-12-31 23:59:59 Wed 365");
    assert_eq!(at(951_827_696), "2000-02-29 12:34:56 Tue 060");
    assert_eq!(at(1_735_689_599), "2024-12-31 23:59:59 Tue 366");
}

#[test]
fn refusals_and_failures_are_told_apart() {
    let raised = render("{{ raise_exception('roles must alternate') }}", &json!({}));
    assert_eq!(raised, Err(TemplateError::Raised("roles must alternate".to_owned())));
    let in_macro = "{% macro m() %}{{ raise_exception('no') }}{% endmacro %}{{ m() }}";
    assert_eq!(render(in_macro, &json!({})), Err(TemplateError::Raised("no".to_owned())));
    let failed = render("\n{{ 'a' + 1 }}", &json!({})).unwrap_err();
    assert!(matches!(&failed, TemplateError::Failed(text) if text.contains("line 2")), "{failed}");
}

#[test]
fn hostile_templates_end() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert_eq!(render(endless, &json!({})), Err(TemplateError::TooMuch));
    let long = "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}";
    assert_eq!(render(long, &json!({})), Err(TemplateError::TooMuch));
    let deep = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert!(matches!(render(deep, &json!({})), Err(TemplateError::Failed(_))));
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    let config = TokenizerConfig::default();
    assert!(ChatTemplates::parse(Path::new("t"), &[("default", &nested)], &config).is_err());
}

/// What grows by steps that are few, each of which makes it larger by itself.
#[test]
fn values_have_bounds() {
    let often = |body: &str| {
        format!(
            "{{% set n = namespace(x='xy', y=[]) %}}\
             {{% for i in range(9999) %}}{body}{{% endfor %}}"
        )
    };
    for growing in [
        &often("{% set n.x = n.x ~ n.x %}"),
        &often("{% set n.y = [n.y] %}"),
        &often("{% set n.y = [n.y]|reverse %}"),
        &often("{% set n.y = [n.y, n.y] %}"),
        &often("{% set n.y = {'a': n.y, 'b': n.y} %}"),
        &often("{% set x %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = x %}"),
        &often("{% set n.x = n.x|replace('x', 'xx') %}"),
        &often("{% set n.x = n.x.replace('', 'xx') %}"),
        &often("{% set n.x = n.x.join(['a', 'b', 'c', 'd']) %}"),
        &often("{% set n.x = n.x|list|join('--') %}"),
        &often("{% set n.y = namespace(x=n.y) %}"),
        "{% macro m(a) %}{{ m(a ~ a) }}{% endmacro %}{{ m('xy') }}",
        "{% macro m(a, b=(1)) -%} {{ m(1, b ~ b) }}{% endmacro %}{{ m(1, 'xy') }}",
        "{% for a in ['xy'] recursive %}{{ loop([a ~ a]) }}{% endfor %}",
        "{{ 'x'|indent(9999999999) }}",
        "{{ ('x\n' * 99999)|indent(99999) }}",
        "{{ [1]|batch(9999999999)|list }}",
        "{{ [1]|slice(9999999999)|list }}",
        "{{ ([1] * 99999999)|list|length }}",
        "{{ (range(99999)|list * 999)|string|length }}",
        "{{ ('x' * 99999)|replace('x', 'x' * 99999) }}",
        "{{ (['x'] * 99999)|join('x' * 99999) }}",
        "{{ '%9999999999d'|format(1) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        &format!(
            "{{% set x %}}{{% for i in range(99999) %}}{}{{% endfor %}}{{% endset %}}",
            "x".repeat(99_999)
        ),
    ] {
        let result = render(growing, &json!({}));
        assert!(
            matches!(result, Err(TemplateError::TooMuch | TemplateError::Failed(_))),
            "{growing}: {result:?}"
        );
    }
    // What looks like it and is honest.
    check("{% set a, b = 1, 2 %}{% set c = nothing %}{{ a }}{{ b }}{{ c is defined }}", "12False");
    check(
        "{% set outer = 1 %}{% macro m(a, b='q') -%} {{ a }}{{ b }}{% endmacro %}{{ m(1) }}",
        "1q",
    );
    check("{% for a in [[1]] recursive %}{{ a if a is number else loop(a) }}{% endfor %}", "1");
    check("{% with a = 1, b = 'c' -%} {{ a }}{{ b }}{% endwith %}", "1c");
    check("{% set x = 'a' == 'a' %}{% set y -%} b {%- endset %}{{ x }}{{ y }}", "Trueb");
    check("{% for m in [1, 2] %}{% set l = loop %}{{ l.index }}{% endfor %}", "12");
}

#[test]
fn what_no_chat_template_has_is_refused_when_it_is_read() {
    let refused = |source: &str| {
        let config = TokenizerConfig::default();
        let parsed = ChatTemplates::parse(Path::new("t"), &[("default", source)], &config);
        parsed.expect_err(source).to_string()
    };
    assert!(refused("{% include 'chat' %}").contains("stand alone"));
    assert!(refused("{%- extends 'chat' %}").contains("stand alone"));
    assert!(refused(&format!("{{{{ 'x'{} }}}}", "~'x'".repeat(65))).contains("joins 65 values"));
    let hidden = format!("{{{{ '}}}}\\'' {} }}}}", "~'x'".repeat(65));
    assert!(refused(&hidden).contains("joins 65 values"));
    let behind = format!("{{% raw %}}{{{{ '{{% endraw %}}{{% if 1 {}%}}", "+1".repeat(65));
    assert!(refused(&behind).contains("joins 65 values"));
    assert!(refused(&"x".repeat(2 << 20)).contains("1048576 bytes"));
    check(&format!("{{{{ '{}' }}}}", "*".repeat(99)), &"*".repeat(99));
}

#[test]
fn templates_are_found_where_tokenizer_configs_have_them() {
    let load = |template: Json| {
        let config =
            TokenizerConfig { chat_template: Some(template), ..TokenizerConfig::default() };
        ChatTemplates::load(None, &config).map_err(|error| error.to_string())
    };
    let input = |tools| ChatInput {
        messages: &Json::Null,
        tools,
        documents: None,
        add_generation_prompt: false,
        kwargs: None,
        now_unix_s: 0,
    };
    let tools = json!([]);
    let list = json!([
        {"name": "tool_use", "template": "with"}, {"name": "default", "template": "without"},
    ]);
    let named = load(list).unwrap().unwrap();
    assert_eq!(named.render(&input(None)).unwrap(), "without");
    assert_eq!(named.render(&input(Some(&tools))).unwrap(), "with");
    let single = load(json!("one")).unwrap().unwrap();
    assert_eq!(single.render(&input(Some(&tools))).unwrap(), "one");
    assert!(load(json!(5)).unwrap_err().contains("chat_template"));
    assert!(load(json!("{% if %}")).unwrap_err().contains("line 1"));
    assert!(ChatTemplates::load(None, &TokenizerConfig::default()).unwrap().is_none());
}
