"""The Job controller: the pods of a Job, their results, and the status of the Job."""

from __future__ import annotations

import time

import pytest

from tests.contract.namespace import MERGE, Json, Namespace, conditions, job, states

TRACKING = "batch.kubernetes.io/job-tracking"
FOREVER = "sleep infinity"
BACKOFF_SECONDS = 30  # the real controller waits ten seconds before it replaces a failed pod


def create(namespace: Namespace, body: Json) -> Json:
    return namespace.call("POST", namespace.jobs, body)


def pods_of(namespace: Namespace, name: str = "j") -> list[Json]:
    items = namespace.call("GET", namespace.pods, labelSelector=f"job-name={name}")["items"]
    return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]


def wait_for_pods(namespace: Namespace, count: int, phase: str = "Running") -> list[Json]:
    namespace.wait_for(
        namespace.pods, lambda _: [pod["status"]["phase"] for pod in pods_of(namespace)] == [phase] * count
    )
    return pods_of(namespace)


def wait_for_job(namespace: Namespace, condition: str, timeout: float = 20.0) -> Json:
    """Wait until a condition of the Job `j` is true, and return the Job."""
    path = f"{namespace.jobs}/j"
    return namespace.wait_for(path, lambda found: conditions(found).get(condition) == "True", timeout)


def counts(found: Json) -> Json:
    """Return the numbers in the status of a Job."""
    names = ("active", "ready", "terminating", "succeeded", "failed")
    return {name: found["status"][name] for name in names if name in found["status"]}


def test_a_pod_has_the_labels_and_the_controller_reference_of_its_job(namespace: Namespace) -> None:
    body = job("j", FOREVER, labels={"dag_id": "d"})
    body["spec"]["template"]["metadata"]["annotations"] = {"a": "b"}
    uid = create(namespace, body)["metadata"]["uid"]
    (pod,) = wait_for_pods(namespace, 1)
    assert pod["metadata"]["name"].startswith("j-")
    assert pod["metadata"]["labels"] == {
        "dag_id": "d",
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": "j",
        "controller-uid": uid,
        "job-name": "j",
    }
    assert pod["metadata"]["annotations"] == {"a": "b"}
    assert pod["metadata"]["finalizers"] == [TRACKING]
    assert pod["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": "j",
            "uid": uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def test_a_running_job_counts_its_active_and_ready_pods(namespace: Namespace) -> None:
    create(namespace, job("j", FOREVER, parallelism=2, completions=2))
    wait_for_pods(namespace, 2)
    found = namespace.wait_for(f"{namespace.jobs}/j", lambda found: found["status"].get("ready") == 2)
    assert counts(found) == {"active": 2, "ready": 2, "terminating": 0}
    assert found["status"]["startTime"]
    assert "completionTime" not in found["status"]


def test_a_job_completes_when_enough_pods_have_succeeded(namespace: Namespace) -> None:
    create(namespace, job("j", "sleep 5; true", parallelism=2, completions=3))
    found = wait_for_job(namespace, "Complete")
    assert counts(found) == {"ready": 0, "terminating": 0, "succeeded": 3}
    assert [(one["type"], one["reason"]) for one in found["status"]["conditions"]] == [
        ("SuccessCriteriaMet", "CompletionsReached"),
        ("Complete", "CompletionsReached"),
    ]
    assert found["status"]["completionTime"]
    assert found["status"]["uncountedTerminatedPods"] == {}
    assert [pod["status"]["phase"] for pod in pods_of(namespace)] == ["Succeeded"] * 3
    assert not any("finalizers" in pod["metadata"] for pod in pods_of(namespace))


def test_a_job_without_completions_completes_when_all_its_pods_have_ended_after_a_success(namespace: Namespace) -> None:
    create(namespace, job("j", parallelism=2))
    found = wait_for_job(namespace, "Complete")
    assert found["status"]["succeeded"] == len(pods_of(namespace)) == 2


def test_a_job_fails_when_its_backoff_limit_is_exceeded(namespace: Namespace) -> None:
    create(namespace, job("j", "exit 3", backoffLimit=1))
    found = wait_for_job(namespace, "Failed", BACKOFF_SECONDS)
    assert counts(found) == {"ready": 0, "terminating": 0, "failed": 2}
    assert [(one["type"], one["reason"], one["message"]) for one in found["status"]["conditions"]] == [
        ("FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),
        ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),
    ]
    assert "completionTime" not in found["status"]
    assert [states(pod) for pod in pods_of(namespace)] == [{"base": 3}] * 2


def test_a_failed_job_deletes_its_other_pods(namespace: Namespace) -> None:
    create(namespace, job("j", FOREVER, parallelism=2, completions=2, backoffLimit=0))
    first, _ = wait_for_pods(namespace, 2)
    namespace.delete_pod(first["metadata"]["name"], gracePeriodSeconds=0)
    found = wait_for_job(namespace, "Failed")
    assert found["status"]["failed"] == 2
    assert pods_of(namespace) == []


def test_a_container_is_restarted_in_place_until_the_backoff_limit_is_reached(namespace: Namespace) -> None:
    body = job("j", "exit 1", backoffLimit=2)
    body["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    create(namespace, body)
    found = wait_for_job(namespace, "Failed")
    assert found["status"]["conditions"][-1]["reason"] == "BackoffLimitExceeded"
    namespace.wait_for(namespace.pods, lambda found: found["items"] == [])


def test_a_deleted_pod_counts_as_failed_and_is_replaced(namespace: Namespace) -> None:
    create(namespace, job("j", FOREVER))
    (first,) = wait_for_pods(namespace, 1)
    deleted = namespace.delete_pod(first["metadata"]["name"], gracePeriodSeconds=0)
    assert deleted["metadata"]["finalizers"] == [TRACKING]
    namespace.wait_until_gone(first["metadata"]["name"])
    found = namespace.wait_for(
        f"{namespace.jobs}/j",
        lambda found: counts(found).items() >= {"failed": 1, "active": 1}.items(),
        BACKOFF_SECONDS,
    )
    assert conditions(found) == {}
    (second,) = wait_for_pods(namespace, 1)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]


def test_a_lower_parallelism_deletes_surplus_pods_without_counting_them(namespace: Namespace) -> None:
    create(namespace, job("j", FOREVER, parallelism=3, completions=3))
    wait_for_pods(namespace, 3)
    namespace.call("PATCH", f"{namespace.jobs}/j", {"spec": {"parallelism": 1}}, MERGE)
    wait_for_pods(namespace, 1)
    found = namespace.wait_for(f"{namespace.jobs}/j", lambda found: counts(found).get("terminating") == 0)
    assert counts(found) == {"active": 1, "ready": 1, "terminating": 0}


def test_a_suspended_job_has_no_pods_until_it_is_resumed(namespace: Namespace) -> None:
    create(namespace, job("j", FOREVER, suspend=True))
    found = wait_for_job(namespace, "Suspended")
    assert "startTime" not in found["status"]
    assert pods_of(namespace) == []
    namespace.call("PATCH", f"{namespace.jobs}/j", {"spec": {"suspend": False}}, MERGE)
    wait_for_pods(namespace, 1)
    found = namespace.wait_for(f"{namespace.jobs}/j", lambda found: conditions(found) == {"Suspended": "False"})
    assert found["status"]["startTime"]
    assert [one["reason"] for one in found["status"]["conditions"]] == ["JobResumed"]


def test_suspending_a_running_job_deletes_its_pods_without_counting_them(namespace: Namespace) -> None:
    create(namespace, job("j", FOREVER))
    wait_for_pods(namespace, 1)
    namespace.call("PATCH", f"{namespace.jobs}/j", {"spec": {"suspend": True}}, MERGE)
    wait_for_job(namespace, "Suspended")
    found = namespace.wait_for(f"{namespace.jobs}/j", lambda found: counts(found) == {"ready": 0, "terminating": 0})
    assert "startTime" not in found["status"]
    namespace.wait_for(namespace.pods, lambda found: found["items"] == [])


def test_a_job_that_another_controller_manages_is_left_alone(namespace: Namespace) -> None:
    create(namespace, job("j", managedBy="example.com/queue"))
    create(namespace, job("k"))
    namespace.wait_for(f"{namespace.jobs}/k", lambda found: conditions(found).get("Complete") == "True")
    assert pods_of(namespace, "j") == []
    assert namespace.find(f"{namespace.jobs}/j")["status"] == {}


@pytest.mark.parametrize("script", ["true", "exit 1"])
def test_a_finished_job_creates_no_more_pods(namespace: Namespace, script: str) -> None:
    create(namespace, job("j", script, backoffLimit=0))
    wait_for_job(namespace, "Complete" if script == "true" else "Failed")
    (pod,) = pods_of(namespace)
    namespace.delete_pod(pod["metadata"]["name"])
    namespace.wait_until_gone(pod["metadata"]["name"])
    create(namespace, job("k"))
    namespace.wait_for(f"{namespace.jobs}/k", lambda found: conditions(found).get("Complete") == "True")
    time.sleep(0.1)
    assert pods_of(namespace, "j") == []
