"""Writes group.yaml, the chart's objects for whoever has no Helm: `make manifests`.

The chart is the one source; a test fails when group.yaml is not what it makes.
"""

import pathlib

import helm_python

HERE = pathlib.Path(__file__).parent
HEAD = """\
# One model over two pods, without etcd: LeaderWorkerSet starts the pods, and they form a group from
# the variables that it sets. Made from the chart beside this by `make manifests`: change that.
#
#   troupe certify DIR
#   kubectl create secret generic troupe-identity --from-file=DIR/identity
#   kubectl apply -f deploy/kubernetes/group.yaml
#
# Needs LeaderWorkerSet in the cluster, the image (deploy/image.sh) where its hosts find it, and a
# volume claim `models` with the model in the folder `model`.
"""
# What only Helm's own objects carry.
HELMS = ("helm.sh/chart:", "app.kubernetes.io/managed-by:")
ORDER = ("configmap", "leaderworkerset", "service", "pdb")


def plain():
    """The text of group.yaml."""
    with helm_python.Chart.load(HERE / "chart") as chart:
        rendered = chart.render(name="troupe", namespace="default")
    texts = [rendered[f"troupe/templates/{name}.yaml"] for name in ORDER]
    lines = "\n---\n".join(text.strip() for text in texts).splitlines()
    return HEAD + "\n".join(line for line in lines if not line.strip().startswith(HELMS)) + "\n"


if __name__ == "__main__":
    (HERE / "group.yaml").write_text(plain())
