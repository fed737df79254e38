//! The language, and what is said of who steps outside of it.

use super::*;

fn metadata() -> Metadata {
    Metadata {
        name: "chat".into(),
        namespace: "prod".into(),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        ..Metadata::default()
    }
}

fn filled(text: &str) -> Result<String, String> {
    let own = json!({
        "model": {"uri": "hf://org/model"},
        "replicas": 0,
        "parallelism": {"tensor": 4, "expert": true},
        "template": {"terminationGracePeriodSeconds": 120},
        "labels": {"Role": "x"},
    });
    let mut document = json!({"spec": own.clone()});
    document["spec"]["prefill"] = json!({"replicas": 2, "x": "{{ .Name }}"});
    document["spec"]["text"] = json!(text);
    let problems = fill(&mut document, &own, &metadata());
    match problems.as_slice() {
        [] => Ok(document["spec"]["text"].as_str().expect("a text").to_owned()),
        [problem, ..] => Err(problem.to_string()),
    }
}

#[test]
fn what_configurations_use_is_understood() {
    let long = "a".repeat(60);
    let cases = [
        ("{{ .Name }}/{{.Namespace}}", "chat/prod"),
        ("{{ .ObjectMeta.Name }} {{ .Labels.team }} {{ .Spec.Labels.Role }}", "chat a x"),
        ("{{ .Spec.Model.Name }} {{ .Spec.Model.URI }}", "chat hf://org/model"),
        (
            "{{ .Spec.Model.URI.Scheme }} {{ .Spec.Model.URI.Host }}{{ .Spec.Model.URI.Path }}",
            "hf org/model",
        ),
        ("{{ .Spec.WorkloadSpec.Parallelism.Tensor }}", "4"),
        ("{{ or .Spec.Parallelism.DataLocal 1 }}", "1"),
        ("{{ or .Spec.Replicas 3 }} {{ and .Spec.Parallelism.Tensor `y` }}", "3 y"),
        ("{{ .Spec.Prefill.Replicas }}", "2"),
        ("a {{- if .Spec.Parallelism.Expert -}} -- {{- end }} b", "a-- b"),
        (
            "{{ if .Spec.Parallelism.Data }}d{{ else if eq .Spec.Parallelism.Tensor 4 }}t{{ else }}\
             n{{ end }}",
            "t",
        ),
        (
            "{{ if not (ne .Name \"chat\" ) }}{{ if .Spec.Tracing.Sampler }}x{{ else }}y{{ end }}\
             {{ end }}",
            "y",
        ),
        ("{{ if .GlobalConfig.EnableTLS }}HTTPS{{else}}HTTP{{- end }}", "HTTP"),
        ("{{ .GlobalConfig.InferencePoolNamespacedName }}", "prod/chat-inference-pool"),
        ("{{ ChildName .ObjectMeta.Name `-epp-sa` }}", "chat-epp-sa"),
        ("{{ `-sa` | ChildName .Name }}", "chat-sa"),
        ("{{/* nothing */}}{{ \"a\\\"}}\\n\" }}{{ true }}", "a\"}}\ntrue"),
        ("{{ shutdownTimeout .Spec.Template 15 }} {{ shutdownTimeout .Spec.Worker 15 }}", "100 40"),
        ("{{ shutdownTimeout nil 100 }}{{ kvTransferConfig .Spec.KVCacheOffloading }}", "0"),
        (&format!("{{{{ ChildName `{long}` `-sa` }}}}"), &child_name(&long, "-sa")),
    ];
    for (template, wanted) in cases {
        assert_eq!(filled(template).as_deref(), Ok(wanted), "{template}");
    }
}

#[test]
fn what_cannot_be_is_told_with_its_place() {
    let cases = [
        ("{{ .Name", "spec.text: has `{{` without `}}`"),
        (
            "{{ .NonExistentField }}",
            "spec.text: asks for `.NonExistentField`, which is no field of the service",
        ),
        (
            "{{ if .Spec.Paralelism.Tensor }}{{ end }}",
            "spec.text: asks for `.Spec.Paralelism.Tensor`, which is no field of the service",
        ),
        (
            "{{ .Spec.Parallelism.Data }}",
            "spec.text: asks for `.Spec.Parallelism.Data`, which is not set",
        ),
        ("{{ .Spec.Prefill.x }}", "spec.text: asks for `.Spec.Prefill.x`, which is not set"),
        (
            "{{ .Spec.Parallelism }}",
            "spec.text: asks for `.Spec.Parallelism`, which is not a text or a number",
        ),
        (
            "{{ printf `%s` .Name }}",
            "spec.text: has the function `printf`, which is not known; or, and, not, eq, ne, \
             ChildName, shutdownTimeout and kvTransferConfig are",
        ),
        (
            "{{ range .Spec.Labels }}{{ end }}",
            "spec.text: has `{{ range }}`, which is not known here",
        ),
        ("{{ if .Name }}", "spec.text: has `{{ if }}` without `{{ end }}`"),
        ("{{ if .Name }}{{ else }}", "spec.text: has `{{ else }}` without `{{ end }}`"),
        ("{{ end }}", "spec.text: has `{{ end }}` without an `{{ if }}` before it"),
        (
            "{{ .Name .Namespace }}",
            "spec.text: in `.Name .Namespace`: a value is no function: give one value, or a \
             function first",
        ),
        ("{{ or (.Name }}", "spec.text: in `or (.Name`: a `)` is missing"),
        ("{{ or .Name ) }}", "spec.text: in `or .Name )`: there is a `)` too many"),
        ("{{ }}", "spec.text: in ``: nothing is there"),
        ("{{ $x := .Name }}", "spec.text: has `$x`, which is not known here"),
        ("{{ eq .Name }}", "spec.text: gives `eq` 1 values, it needs 2"),
        (
            "{{ .GlobalConfig.StorageConfig }}",
            "spec.text: asks for `.GlobalConfig.StorageConfig`, which is no field of the service",
        ),
        ("{{ . }}", "spec.text: has `.`, which names no field"),
    ];
    for (template, wanted) in cases {
        assert_eq!(filled(template), Err(wanted.to_owned()), "{template}");
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(filled(&deep).expect_err("too deep").contains("nested more than"));
    let deep = "{{ if .Name }}".repeat(100_000);
    assert!(filled(&deep).expect_err("too deep").contains("nested more than"));
}

#[test]
fn names_of_children_are_host_names_and_differ() {
    let (one, other) = (format!("{}1", "a".repeat(62)), format!("{}2", "a".repeat(62)));
    for suffix in ["", "-sa", &"-x".repeat(40)] {
        let (one, other) = (child_name(&one, suffix), child_name(&other, suffix));
        assert!(one.len() <= 63 && other.len() <= 63, "{one} {other}");
        assert_ne!(one, other);
    }
    assert!(child_name(&"a".repeat(63), "-sa").ends_with("-sa"));
    assert!(child_name(&"ä".repeat(60), "-sa").len() <= 63);
}
