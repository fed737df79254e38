"""What LeaderWorkerSet's API (leaderworkerset.x-k8s.io/v1) takes, as far as the chart uses it.

No package ships its schema, so this says in our own words which fields there are, what their values
may be, and what its admission webhook refuses. Pod templates are Kubernetes' own and are checked
against Kubernetes' schemas. Anything that is not here is a complaint.
"""

import jsonschema

COUNT = {"type": "integer", "minimum": 0}
COUNT_OR_SHARE = {
    "oneOf": [COUNT, {"type": "string", "pattern": "^(100|[1-9]?[0-9])%$"}],
}


def closed(required=(), **properties):
    """An object of these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


LEADER_WORKER_SET = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "leaderworkerset.x-k8s.io/v1"},
    kind={"const": "LeaderWorkerSet"},
    metadata={
        "type": "object",
        # Pods are <name>-<group>-<worker>, a label of at most 63 letters with a hash behind it.
        "properties": {"name": {"pattern": "^[a-z]([-a-z0-9]{0,49}[a-z0-9])?$"}},
    },
    spec=closed(
        ["leaderWorkerTemplate"],
        replicas=COUNT,
        startupPolicy={"enum": ["LeaderCreated", "LeaderReady"]},
        rolloutStrategy=closed(
            ["type"],
            type={"const": "RollingUpdate"},
            rollingUpdateConfiguration=closed(
                partition=COUNT, maxUnavailable=COUNT_OR_SHARE, maxSurge=COUNT_OR_SHARE
            ),
        ),
        networkConfig=closed(
            ["subdomainPolicy"], subdomainPolicy={"enum": ["Shared", "UniquePerReplica"]}
        ),
        leaderWorkerTemplate=closed(
            ["workerTemplate"],
            size={"type": "integer", "minimum": 1},
            restartPolicy={
                "enum": ["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]
            },
            leaderTemplate={"type": "object"},
            workerTemplate={"type": "object"},
        ),
    ),
)


def complaints(document):
    """What is wrong with a LeaderWorkerSet, its pod templates aside."""
    found = [
        f"{error.json_path}: {error.message}"
        for error in jsonschema.Draft7Validator(LEADER_WORKER_SET).iter_errors(document)
    ]
    rolling = document.get("spec", {}).get("rolloutStrategy", {})
    rolling = rolling.get("rollingUpdateConfiguration", {"maxUnavailable": 1})
    if all(rolling.get(name, 0) in (0, "0%") for name in ("maxUnavailable", "maxSurge")):
        found.append("$.spec.rolloutStrategy: maxUnavailable and maxSurge must not both be 0")
    return found
