"""SparkApplications: their definition, their pods and their states, as in version 2 of the Kubeflow Spark operator."""

from __future__ import annotations

from .ownership import controller_reference
from .resources import PODS, Json, Resource

SPARK_APPLICATIONS = Resource(
    "sparkapplications", "SparkApplication", "sparkoperator.k8s.io", "v1beta2", ("sparkapp",), custom=True
)
DRIVER = "spark-kubernetes-driver"  # the name of the container
_UNTIL_SIGTERM = "trap 'exit 143' TERM; while true; do sleep 1; done"
SUBMISSION = "sparkoperator.k8s.io/submission-id"
DEFINITION: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": SPARK_APPLICATIONS.name,
        # A real API server refuses a definition in a group of *.k8s.io without this annotation.
        "annotations": {"api-approved.kubernetes.io": "https://github.com/kubeflow/spark-operator/pull/1298"},
    },
    "spec": {
        "group": SPARK_APPLICATIONS.group,
        "scope": "Namespaced",
        "names": {
            "kind": SPARK_APPLICATIONS.kind,
            "listKind": f"{SPARK_APPLICATIONS.kind}List",
            "plural": SPARK_APPLICATIONS.plural,
            "singular": "sparkapplication",
            "shortNames": list(SPARK_APPLICATIONS.short_names),
        },
        "versions": [
            {
                "name": SPARK_APPLICATIONS.version,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def driver_pod(app: Json, submission: str) -> Json:
    """Return the driver pod of a submission. It runs the application's arguments as a shell script."""
    script = " ".join(app["spec"].get("arguments") or [])
    command = {"command": ["/bin/sh", "-c", script]} if script else {}
    driver = {"name": DRIVER, "image": app["spec"].get("image") or "spark", **command}
    pod = _pod(app, "driver", submission, [driver, *(_spec(app, "driver").get("sidecars") or [])])
    pod["metadata"] |= {
        "name": driver_name(app),
        "ownerReferences": [controller_reference(SPARK_APPLICATIONS, app)],
    }
    return pod


def executor_pods(app: Json, driver: Json) -> list[Json]:
    """Return the executor pods that the driver of a running application starts."""
    pods = []
    for number in range(1, _spec(app, "executor").get("instances", 0) + 1):
        image = app["spec"].get("image") or "spark"
        container = {"name": "executor", "image": image, "command": ["/bin/sh", "-c", _UNTIL_SIGTERM]}
        pod = _pod(app, "executor", driver["metadata"]["labels"][SUBMISSION], [container])
        pod["metadata"] |= {
            "name": f"{app['metadata']['name']}-exec-{number}",
            "ownerReferences": [controller_reference(PODS, driver)],
        }
        pod["metadata"]["labels"]["spark-exec-id"] = str(number)
        pods.append(pod)
    return pods


def driver_name(app: Json) -> str:
    return _spec(app, "driver").get("podName") or f"{app['metadata']['name']}-driver"


def state_of(driver: Json | None) -> tuple[str, str]:
    """Return the state of an application whose driver has this pod, and the error message.

    The driver's container decides: a sidecar that is still running does not matter.
    """
    if driver is None:
        return "FAILING", "driver pod not found"
    phase = driver["status"].get("phase")
    statuses = {one["name"]: one["state"] for one in driver["status"].get("containerStatuses") or []}
    ended = statuses.get(DRIVER, {}).get("terminated")
    if phase == "Succeeded" or (ended and ended["exitCode"] == 0):
        return "SUCCEEDING", ""
    if ended:
        return "FAILING", f"driver container failed with ExitCode: {ended['exitCode']}, Reason: {ended['reason']}"
    if phase == "Failed":
        return "FAILING", "driver container status missing"
    return ("RUNNING" if phase == "Running" else "SUBMITTED"), ""


def is_restarted(app: Json) -> bool:
    """Return whether the restart policy starts an application again that has succeeded or failed."""
    policy, status = app["spec"].get("restartPolicy") or {}, app["status"]
    if status["applicationState"]["state"] == "SUCCEEDING" or policy.get("type") == "Always":
        return policy.get("type") == "Always"
    return policy.get("type") == "OnFailure" and status["executionAttempts"] <= policy.get("onFailureRetries", 0)


def retry_delay(app: Json) -> float:
    """Return how long after its submission a failed application is started again, in simulated seconds."""
    policy = app["spec"].get("restartPolicy") or {}
    return float(policy.get("onFailureRetryInterval", 5) * app["status"]["submissionAttempts"])


def _spec(app: Json, role: str) -> Json:
    spec: Json = app["spec"].get(role) or {}
    return spec


def _pod(app: Json, role: str, submission: str, containers: list[Json]) -> Json:
    name = app["metadata"]["name"]
    labels = {
        **(app["metadata"].get("labels") or {}),
        **(_spec(app, role).get("labels") or {}),
        "spark-role": role,
        "spark-app-name": name,
        "spark-app-selector": f"spark-{submission}",
        "sparkoperator.k8s.io/app-name": name,
        "sparkoperator.k8s.io/launched-by-spark-operator": "true",
        SUBMISSION: submission,
    }
    return {"metadata": {"labels": labels}, "spec": {"containers": containers, "restartPolicy": "Never"}}
