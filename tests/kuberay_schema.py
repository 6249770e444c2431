"""What the KubeRay objects in cluster/ may say: a strict JSON schema of the fields that they use.

KubeRay's own definitions are half a megabyte each; a field that is not here is a typo, or is to be
added here after a look at KubeRay's API reference (v1.6).
"""

from typing import Any

POD_TEMPLATE = {"type": "object", "required": ["spec"]}  # kubernetes-validate knows the rest
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": properties,
    }


HEAD = _object(["rayStartParams", "template"], rayStartParams=TEXTS, template=POD_TEMPLATE)
WORKERS = _object(
    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    groupName={"type": "string"},
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=TEXTS,
    template=POD_TEMPLATE,
)
RAY_CLUSTER = _object(
    ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
    rayVersion={"type": "string"},
    authOptions=_object(["mode"], mode={"const": "token"}, secretName={"type": "string"}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=_object([], version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS, "minItems": 1},
)
RAY_JOB = _object(
    ["entrypoint", "activeDeadlineSeconds", "rayClusterSpec"],
    entrypoint={"type": "string"},
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=RAY_CLUSTER,
)
RAY_CRON_JOB = _object(
    ["schedule", "jobTemplate"],
    schedule={"type": "string"},
    timeZone={"type": "string"},
    suspend={"type": "boolean"},
    jobTemplate=RAY_JOB,
)
RAY_SERVICE = _object(
    ["serveConfigV2", "rayClusterConfig"],
    serveConfigV2={"type": "string"},
    serviceUnhealthySecondThreshold=COUNT,
    deploymentUnhealthySecondThreshold=COUNT,
    rayClusterConfig=RAY_CLUSTER,
)
POD_MONITOR = _object(
    ["selector", "podMetricsEndpoints"],
    selector={"type": "object"},
    podMetricsEndpoints={
        "type": "array",
        "items": _object(["port"], port={"const": "metrics"}, relabelings={"type": "array"}),
    },
)

SPECS = {
    ("ray.io/v1", "RayJob"): RAY_JOB,
    ("ray.io/v1", "RayCronJob"): RAY_CRON_JOB,
    ("ray.io/v1", "RayService"): RAY_SERVICE,
    ("monitoring.coreos.com/v1", "PodMonitor"): POD_MONITOR,
}
"""The schema of `spec` by apiVersion and kind."""


def object_schema(api_version: str, kind: str) -> dict[str, Any]:
    """The schema of a whole object. Raises KeyError where there is none."""
    return _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=_object(["name"], name={"type": "string"}, labels=TEXTS),
        spec=SPECS[api_version, kind],
    )
