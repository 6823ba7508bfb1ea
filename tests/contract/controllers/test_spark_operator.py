"""The simulated Spark operator, which is the same for both servers, and the garbage collection of its pods."""

from __future__ import annotations

import pytest

from tests.contract.controllers.spark import (
    DEADLINE,
    FOREVER,
    application,
    path_of,
    running_driver,
    submit,
    wait_for_state,
)
from tests.contract.namespace import Namespace, container

DRIVER = "spark-kubernetes-driver"


def test_a_driver_has_the_labels_and_the_controller_reference_of_its_application(namespace: Namespace) -> None:
    uid = submit(namespace, application(arguments=FOREVER))["metadata"]["uid"]
    driver = running_driver(namespace)
    status = namespace.find(path_of(namespace))["status"]
    assert driver["metadata"]["labels"] == {
        "dag_id": "d",
        "spark-role": "driver",
        "spark-app-name": "app",
        "spark-app-selector": f"spark-{status['submissionID']}",
        "sparkoperator.k8s.io/app-name": "app",
        "sparkoperator.k8s.io/launched-by-spark-operator": "true",
        "sparkoperator.k8s.io/submission-id": status["submissionID"],
    }
    assert driver["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "sparkoperator.k8s.io/v1beta2",
            "kind": "SparkApplication",
            "name": "app",
            "uid": uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    assert [one["name"] for one in driver["spec"]["containers"]] == [DRIVER]
    assert status["driverInfo"]["podName"] == "app-driver"
    assert status["executionAttempts"] == 1


def test_an_application_completes_with_its_driver(namespace: Namespace) -> None:
    submit(namespace, application(arguments=["sleep 5; true"]))
    found = wait_for_state(namespace, "COMPLETED")
    assert found["status"]["terminationTime"]
    assert "errorMessage" not in found["status"]["applicationState"]
    assert namespace.get_pod("app-driver")["status"]["phase"] == "Succeeded"


def test_an_application_fails_with_its_driver(namespace: Namespace) -> None:
    submit(namespace, application(arguments=["exit 3"]))
    found = wait_for_state(namespace, "FAILED")
    message = "driver container failed with ExitCode: 3, Reason: Error"
    assert found["status"]["applicationState"]["errorMessage"] == message
    assert namespace.get_pod("app-driver")["status"]["phase"] == "Failed"


def test_an_application_completes_even_if_a_sidecar_of_its_driver_is_running(namespace: Namespace) -> None:
    submit(namespace, application(driver={"sidecars": [container("sidecar", "sleep infinity")]}))
    wait_for_state(namespace, "COMPLETED")
    assert namespace.get_pod("app-driver")["status"]["phase"] == "Running"


@pytest.mark.parametrize("policy", ["OnFailure", "Always"])
def test_an_application_whose_driver_is_deleted_is_started_again_by_policy(namespace: Namespace, policy: str) -> None:
    submit(namespace, application(arguments=FOREVER, restartPolicy={"type": policy, "onFailureRetries": 1}))
    first = running_driver(namespace)
    namespace.delete_pod("app-driver", gracePeriodSeconds=0)
    second = namespace.wait_for(
        f"{namespace.pods}/app-driver",
        lambda found: found and found["metadata"]["uid"] != first["metadata"]["uid"],
        DEADLINE,
    )
    found = wait_for_state(namespace, "RUNNING")
    assert found["status"]["executionAttempts"] == 2
    assert second["metadata"]["labels"]["dag_id"] == "d"


def test_an_application_whose_driver_is_deleted_fails_without_a_restart_policy(namespace: Namespace) -> None:
    submit(namespace, application(arguments=FOREVER))
    running_driver(namespace)
    namespace.delete_pod("app-driver", gracePeriodSeconds=0)
    found = wait_for_state(namespace, "FAILED")
    assert found["status"]["applicationState"]["errorMessage"] == "driver pod not found"


def test_an_application_fails_when_its_retries_are_exhausted(namespace: Namespace) -> None:
    policy = {"type": "OnFailure", "onFailureRetries": 1, "onFailureRetryInterval": 1}
    submit(namespace, application(arguments=["exit 1"], restartPolicy=policy))
    assert wait_for_state(namespace, "FAILED")["status"]["executionAttempts"] == 2


def test_an_application_that_always_restarts_starts_again_after_a_success(namespace: Namespace) -> None:
    submit(namespace, application(restartPolicy={"type": "Always"}))
    namespace.wait_for(
        path_of(namespace), lambda found: found.get("status", {}).get("executionAttempts", 0) >= 2, DEADLINE
    )
    namespace.call("DELETE", path_of(namespace))  # it would restart until the end of all tests


def test_executors_run_as_long_as_their_driver(namespace: Namespace) -> None:
    executor = {"instances": 2, "labels": {"dag_id": "d"}}
    submit(namespace, application(arguments=["sleep 20; true"], executor=executor))
    namespace.wait_for_phase("app-exec-2", "Running")
    pod = namespace.get_pod("app-exec-1")
    assert pod["metadata"]["labels"]["spark-role"] == "executor"
    assert pod["metadata"]["labels"]["dag_id"] == "d"
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("Pod", "app-driver", True)
    wait_for_state(namespace, "COMPLETED")
    namespace.wait_until_gone("app-exec-1")
    namespace.wait_until_gone("app-exec-2")
    assert namespace.get_pod("app-driver")


def test_deleting_an_application_deletes_its_driver_and_its_executors(namespace: Namespace) -> None:
    submit(namespace, application(arguments=FOREVER, executor={"instances": 1}))
    namespace.wait_for_phase("app-exec-1", "Running")
    status = namespace.call("DELETE", path_of(namespace), {"propagationPolicy": "Background"})
    assert status["status"] == "Success"
    namespace.wait_until_gone("app-driver")
    namespace.wait_until_gone("app-exec-1")
    assert not namespace.find(path_of(namespace))


def test_an_application_whose_driver_cannot_be_created_fails(namespace: Namespace) -> None:
    namespace.create_pod("app-driver")
    submit(namespace, application())
    found = wait_for_state(namespace, "FAILED")
    assert "app-driver" in found["status"]["applicationState"]["errorMessage"]
