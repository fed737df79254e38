"""The chart and what it makes: rendered by Helm's own engine, held against Kubernetes' schemas.

No cluster is needed, and none was there: whether the objects do in one what they should is not shown
here. `tests/deploy.rs` runs this as part of `make test`.
"""

import copy
import importlib.util
import pathlib

import helm_python
import kubernetes_validate
import pytest
import yaml

import leaderworkerset

ROOT = pathlib.Path(__file__).parents[2] / "deploy/kubernetes"
CHART = ROOT / "chart"
# The oldest and the newest that there are schemas of, from the chart's kubeVersion on.
VERSIONS = ("1.27", "1.37")
PEM = {"certificate": "CERTIFICATE", "key": "KEY", "ca": "CA"}
VALUES = {
    "as it is": {},
    "all that there is": {
        "nameOverride": "llama",
        "groups": 3,
        "size": 4,
        "parallel": {"tensor": 2, "pipeline": 4},
        "image": {"repository": "registry.local/troupe", "tag": "x", "pullSecrets": [{"name": "s"}]},
        "model": {"path": "hf://org/name", "name": "n", "volume": {"hostPath": {"path": "/m"}}},
        "config": {"max-model-len": 4096, "dtype": "float32"},
        "identity": PEM,
        "apiKeySecret": "keys",
        "service": {"type": "LoadBalancer", "port": 8080},
        "restartPolicy": "RecreateGroupOnPodRestart",
        "exclusiveTopology": "topology.kubernetes.io/rack",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"a": "b"},
        "podDisruptionBudget": {"maxUnavailable": "50%"},
    },
    "no budget": {"podDisruptionBudget": {"enabled": False}},
}


def render(values, name="troupe"):
    """The objects that the chart makes, by kind."""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values, name=name, namespace="llm")
    documents = [
        document
        for path, text in texts.items()
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents), "one object of each kind"
    return by_kind


def check(document):
    """Holds an object, and the pods in it, against the schemas."""
    if document["kind"] == "LeaderWorkerSet":
        assert leaderworkerset.complaints(document) == []
        template = document["spec"]["leaderWorkerTemplate"]
        for name in ("leaderTemplate", "workerTemplate"):
            pod = template[name]
            metadata = {"name": "pod", **pod["metadata"]}
            check({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]})
        return
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_what_the_chart_makes_is_what_kubernetes_takes(values):
    for document in render(values).values():
        check(document)


def test_what_is_wrong_is_found():
    good = render({})["LeaderWorkerSet"]
    for path, value in [
        (("spec", "leaderWorkerTemplate", "restartPolicy"), "Never"),
        (("spec", "leaderWorkerTemplate", "size"), 0),
        (("spec", "replica"), 1),
        (("spec", "rolloutStrategy", "rollingUpdateConfiguration", "maxUnavailable"), 0),
        (("metadata", "name"), "a" * 52),
    ]:
        bad = copy.deepcopy(good)
        at = bad
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value
        assert leaderworkerset.complaints(bad), path
    bad = copy.deepcopy(good)
    bad["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["containers"][0]["arg"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="arg"):
        check(bad)


def test_helm_has_nothing_to_say():
    report = helm_python.lint(str(CHART))
    told = [message for message in report["messages"] if "icon" not in message["error"]]
    assert (told, report["errors"]) == ([], [])


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"size": 0}, "size"),
        ({"size": 3}, "size must divide"),
        ({"groupes": 2}, "groupes"),
        ({"restartPolicy": "Never"}, "restartPolicy"),
        ({"identity": {"certificate": "x"}}, "identity.key"),
    ],
)
def test_bad_values_are_refused(values, word):
    with pytest.raises(helm_python.HelmError, match=word):
        with helm_python.Chart.load(CHART) as chart:
            chart.validate_schema(values)
        render(values)


def test_parts_find_each_other():
    made = render(VALUES["all that there is"], name="release")
    group = made["LeaderWorkerSet"]
    template = group["spec"]["leaderWorkerTemplate"]
    assert {document["metadata"]["name"] for document in made.values()} == {
        "llama",
        "llama-http",
        "troupe-identity",
    }
    for name in ("leaderTemplate", "workerTemplate"):
        spec = template[name]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        (container,) = spec["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["identity"]["secret"]["secretName"] == made["Secret"]["metadata"]["name"]
        assert volumes["config"]["configMap"]["name"] == made["ConfigMap"]["metadata"]["name"]
    ports = {port["name"] for port in template["leaderTemplate"]["spec"]["containers"][0]["ports"]}
    assert made["Service"]["spec"]["ports"][0]["targetPort"] in ports
    # What LeaderWorkerSet puts on the first pod of each group.
    assert made["Service"]["spec"]["selector"] == {
        "leaderworkerset.sigs.k8s.io/name": "llama",
        "leaderworkerset.sigs.k8s.io/worker-index": "0",
    }
    assert yaml.safe_load(made["ConfigMap"]["data"]["troupe.yaml"])["max-model-len"] == 4096
    assert set(made["Secret"]["data"]) == {"identity.pem", "identity-key.pem", "ca.pem"}


def test_group_yaml_is_what_the_chart_makes():
    spec = importlib.util.spec_from_file_location("render", ROOT / "render.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = (ROOT / "group.yaml").read_text()
    assert text == script.plain(), "the chart changed: `make manifests` writes group.yaml anew"
    for document in yaml.safe_load_all(text):
        check(document)
