"""The fields of a FlinkDeployment that ours have, with their types, in the form of a CustomResourceDefinition.

The operator's own definition has eleven thousand lines and is not ours to keep. `test_kubernetes_manifests.py` compares
this with it, and the manifests too, where it is at hand.
"""

from typing import Any

OPERATOR = "1.15.0"
TEXT = {"type": "string"}
INTEGER = {"type": "integer"}
NUMBER = {"type": "number"}
FLAG = {"type": "boolean"}


def fields(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def many(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def one_of(*words: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(words)}


CONTAINER = fields(
    name=TEXT,
    env=many(fields(name=TEXT, value=TEXT)),
    envFrom=many(fields(secretRef=fields(name=TEXT))),
    securityContext=fields(allowPrivilegeEscalation=FLAG, capabilities=fields(drop=many(TEXT))),
    volumeMounts=many(fields(name=TEXT, mountPath=TEXT)),
)
POD = fields(
    containers=many(CONTAINER),
    securityContext=fields(
        runAsNonRoot=FLAG, runAsUser=INTEGER, runAsGroup=INTEGER, fsGroup=INTEGER, seccompProfile=fields(type=TEXT)
    ),
    volumes=many(fields(name=TEXT, persistentVolumeClaim=fields(claimName=TEXT))),
)
SPEC = fields(
    image=TEXT,
    imagePullPolicy=TEXT,
    flinkVersion=one_of("v1_20", "v2_0", "v2_1", "v2_2"),
    mode=one_of("native", "standalone"),
    serviceAccount=TEXT,
    flinkConfiguration={"x-kubernetes-preserve-unknown-fields": True},
    podTemplate=fields(spec=POD),
    jobManager=fields(replicas=INTEGER, resource=fields(cpu=NUMBER, memory=TEXT)),
    taskManager=fields(resource=fields(cpu=NUMBER, memory=TEXT)),
    job=fields(
        jarURI=TEXT,
        entryClass=TEXT,
        args=many(TEXT),
        parallelism=INTEGER,
        upgradeMode=one_of("savepoint", "last-state", "stateless"),
        state=one_of("running", "suspended"),
    ),
)
DEFINITION: dict[str, Any] = {
    "spec": {
        "group": "flink.apache.org",
        "names": {"kind": "FlinkDeployment"},
        "versions": [{"name": "v1beta1", "schema": {"openAPIV3Schema": fields(spec=SPEC)}}],
    }
}
