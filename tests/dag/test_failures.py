"""Runs with failures: no live pod is deleted, every zombie is reported, and the log shows the remedy."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow import settings as airflow_settings
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from kubernetes import client
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from include.kpo_cleanup.airflow_compat import IS_AIRFLOW_3
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.surge import MIN_PODS
from tests.dag import airflow_runs
from tests.dag.pods import create, labels_of, wait_until
from tests.proxy import FaultProxy, first, forbidden, status

pytestmark = pytest.mark.long

NAMESPACE = "other"  # the pods of the scenarios are in another one
DELETE = f"DELETE /api/v1/namespaces/{NAMESPACE}/pods/"


@pytest.fixture(scope="module")
def collisions(core: client.CoreV1Api, _proxy: FaultProxy) -> DagRun:
    """Run tasks until all have finished; each test creates pods for them."""
    run = airflow_runs.run("collisions")
    core.delete_collection_namespaced_pod("airflow", label_selector="dag_id=collisions", grace_period_seconds=0)
    return run


@pytest.fixture
def zombie(proxy: FaultProxy, core: client.CoreV1Api, collisions: DagRun) -> Iterator[Any]:
    airflow_runs.set_state(collisions, "a_1", "failed")
    zombie = create(core, "zombie", labels_of("collisions", "a_1", collisions.run_id), NAMESPACE)
    airflow_runs.record_pod(collisions, "a_1", NAMESPACE, "zombie")
    airflow_runs.set_end_date("collisions")
    yield zombie
    core.delete_collection_namespaced_pod(NAMESPACE, grace_period_seconds=0)
    wait_until(lambda: names(core) == set())


def names(core: client.CoreV1Api) -> set[str]:
    return {pod.metadata.name for pod in core.list_namespaced_pod(NAMESPACE).items}


def clean_up(**conf: Any) -> DagRun:
    return airflow_runs.run("kpo_cleanup", **{"settle_seconds": 0, "namespaces": NAMESPACE, **conf})


def outcome(run: DagRun) -> dict[str, str]:
    return {row["pod"]: row["outcome"] for row in airflow_runs.result(run, "reap")["zombies"]}


def replace(core: client.CoreV1Api, pod: Any) -> None:
    core.delete_namespaced_pod(pod.metadata.name, NAMESPACE, grace_period_seconds=0)
    create(core, pod.metadata.name, pod.metadata.labels, NAMESPACE)


@contextmanager
def database_down_for(statement: str) -> Iterator[None]:
    """Make the statements that match a pattern fail, as if the connection to the database had been lost."""

    def fail(_conn: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if re.search(statement, sql, re.DOTALL):
            raise OperationalError(sql, {}, Exception("the connection was lost"))

    event.listen(airflow_settings.engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        event.remove(airflow_settings.engine, "before_cursor_execute", fail)


# The query of this Airflow's source: that of the session, or that of the API server behind the Task SDK.
SDK_QUERY = r"WHERE task_instance\.dag_id = \S+ AND task_instance\.task_id IN .* AND task_instance\.run_id IN"
SESSION_QUERY = r"WHERE task_instance\.dag_id = \S+ AND task_instance\.run_id IN .* AND task_instance\.task_id IN"
SOURCE_QUERY = SDK_QUERY if IS_AIRFLOW_3 else SESSION_QUERY


def test_a_forbidden_namespace_does_not_stop_the_others_but_fails_the_run(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, log_output: Callable[[], str]
) -> None:
    proxy.spoil("GET /api/v1/namespaces/default/pods", forbidden("list", "default"))
    run = clean_up(namespaces=f"default,{NAMESPACE}")
    assert run.state == "failed"
    assert airflow_runs.states(run)["reap"] == "failed"
    assert outcome(run) == {"other/zombie": "deleted"}
    assert names(core) == set()
    assert "allow verb 'list' on resource 'pods' in a Role for namespace 'default'" in log_output()


@pytest.mark.parametrize("is_explicit", [False, True], ids=["by default", "if kinds is set"])
def test_jobs_that_may_not_be_read_cause_a_warning_or_fail_the_run(
    proxy: FaultProxy,
    core: client.CoreV1Api,
    zombie: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    is_explicit: bool,
) -> None:
    if is_explicit:
        monkeypatch.setenv("AIRFLOW__KPO_CLEANUP__KINDS", "pods, jobs, sparkapplications")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "1", "controller": True}
    create(core, "of-job", zombie.metadata.labels, NAMESPACE, ownerReferences=[owner])
    proxy.spoil("GET /apis/batch/", status(403, "Forbidden", "no"))
    run = clean_up()
    assert airflow_runs.states(run)["reap"] == ("failed" if is_explicit else "success")
    assert outcome(run) == {"other/zombie": "deleted"}
    assert names(core) == {"of-job"}
    notices = caplog.messages.count("some Jobs could not be listed, and their pods are kept:")
    assert notices == (0 if is_explicit else 1)  # otherwise it is an error
    assert any("allow verb 'get' on resource 'jobs' of API group 'batch'" in line for line in caplog.messages)


def test_a_forbidden_namespace_fails_the_run_even_if_there_is_nothing_to_delete(proxy: FaultProxy) -> None:
    proxy.spoil("GET /api/v1/namespaces/default/pods", forbidden("list", "default"))
    run = clean_up(namespaces=f"default,{NAMESPACE}")
    assert airflow_runs.states(run)["reap"] == "failed"


def test_a_run_fails_in_list_pods_if_no_namespace_can_be_listed(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, log_output: Callable[[], str]
) -> None:
    proxy.spoil("GET ", forbidden("list", NAMESPACE))
    run = clean_up()
    assert airflow_runs.states(run) == {
        "list_pods": "failed",
        "fetch_active_tis": "upstream_failed",
        "classify": "upstream_failed",
        "reap": "upstream_failed",
    }
    assert "allow verb 'list'" in log_output()
    assert names(core) == {"zombie"}


def test_a_missing_namespace_is_named_and_does_not_stop_the_others(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, log_output: Callable[[], str]
) -> None:
    run = clean_up(namespaces=f"nowhere,{NAMESPACE}")
    assert airflow_runs.states(run)["reap"] == "failed"
    assert names(core) == set()
    assert "namespace 'nowhere' does not exist" in log_output()


def test_an_unavailable_source_does_not_count_as_having_no_task_instances(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, log_output: Callable[[], str]
) -> None:
    with database_down_for(SOURCE_QUERY):
        run = clean_up(config={"delete_unmatched_pods": True})
    assert airflow_runs.states(run)["fetch_active_tis"] == "failed"
    assert airflow_runs.states(run)["reap"] == "upstream_failed"
    assert names(core) == {"zombie"}
    out = log_output()
    assert "task instances could not be read" in out or "the Task SDK could not read task states" in out


def test_no_pod_is_deleted_if_the_source_becomes_unavailable_before_reap(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any
) -> None:
    down = database_down_for(SOURCE_QUERY)
    try:
        run = clean_up(before=("reap", lambda _: down.__enter__()))
    finally:
        down.__exit__(None, None, None)
    assert airflow_runs.states(run)["reap"] == "failed"
    assert outcome(run) == {"other/zombie": "failed"}
    assert names(core) == {"zombie"}


def test_a_run_that_is_terminated_fails_and_reports_what_it_has_done(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, log_output: Callable[[], str]
) -> None:
    for number in range(CONCURRENT_DELETES + 5):
        create(core, f"zombie-{number}", {**zombie.metadata.labels, "already_checked": "True"}, NAMESPACE)
    proxy.spoil(DELETE, first(lambda: os.kill(os.getpid(), signal.SIGTERM)), times=1)
    run = clean_up()
    assert airflow_runs.states(run)["reap"] == "failed"
    counts = Counter(outcome(run).values())
    assert counts["deleted"] > 0
    assert 0 <= len(names(core)) - counts["left_for_next_run"] <= counts["unknown"] <= 1
    assert "reap received SIGTERM" in log_output()
    assert airflow_runs.result(run, "reap", "summary").startswith(f"deleted {counts['deleted']} of ")


def test_an_implausible_share_of_zombies_fails_the_run_before_the_first_deletion_unless_it_is_allowed_once(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, log_output: Callable[[], str]
) -> None:
    for number in range(MIN_PODS - 1):
        create(core, f"zombie-{number}", {**zombie.metadata.labels, "already_checked": "True"}, NAMESPACE)
    config = {"max_delete_percent": 50}
    run = clean_up(config=config)
    assert airflow_runs.states(run)["reap"] == "failed"
    assert set(outcome(run).values()) == {"left_for_next_run"}
    assert len(names(core)) == MIN_PODS
    assert "20 of 20 pods are zombies, more than max_delete_percent=50" in log_output()
    assert "everything else was processed" not in log_output()
    assert set(outcome(clean_up(config=config, max_delete_percent=100)).values()) == {"deleted"}


def test_a_pod_that_something_else_deleted_is_reported_as_already_gone(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any
) -> None:
    proxy.spoil(DELETE, first(lambda: core.delete_namespaced_pod("zombie", NAMESPACE, grace_period_seconds=0)))
    run = clean_up()
    assert run.state == "success"
    assert outcome(run) == {"other/zombie": "already_gone"}


def test_a_new_pod_with_the_same_name_is_spared(proxy: FaultProxy, core: client.CoreV1Api, zombie: Any) -> None:
    proxy.spoil(DELETE, first(lambda: replace(core, zombie)))
    run = clean_up()
    assert run.state == "success"
    assert outcome(run) == {"other/zombie": "spared"}
    assert core.read_namespaced_pod("zombie", NAMESPACE).metadata.uid != zombie.metadata.uid


@pytest.mark.parametrize("state", [None, "running", "deferred"], ids=["is cleared", "runs again", "is deferred"])
def test_a_pod_is_spared_if_its_task_instance_becomes_active_after_classify(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, collisions: DagRun, state: str | None
) -> None:
    # Adopting a pod does not change the pod, only the task instance.
    run = clean_up(before=("reap", lambda _: airflow_runs.set_state(collisions, "a_1", state)))
    assert airflow_runs.result(run, "classify")["zombies_by_reason"] == {"orphaned": 1}
    assert run.state == "success"
    assert outcome(run) == {"other/zombie": "spared"}
    assert core.read_namespaced_pod("zombie", NAMESPACE).metadata.uid == zombie.metadata.uid


def test_a_pod_held_by_a_finalizer_does_not_block_the_deletion_of_the_next_zombie(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any
) -> None:
    merge_patch = client.CoreV1Api(client.ApiClient(core.api_client.configuration))
    merge_patch.api_client.set_default_header("Content-Type", "application/merge-patch+json")

    def set_finalizers(finalizers: list[str] | None) -> None:
        merge_patch.patch_namespaced_pod("zombie", NAMESPACE, {"metadata": {"finalizers": finalizers}})

    set_finalizers(["example.org/backup"])
    try:
        create(core, "zombie-2", {**zombie.metadata.labels, "already_checked": "True"}, NAMESPACE)
        assert outcome(clean_up(max_deletes=1)) == {
            "other/zombie": "awaiting_finalizer",
            "other/zombie-2": "left_for_next_run",
        }
        assert core.read_namespaced_pod("zombie", NAMESPACE).metadata.deletion_timestamp
        assert outcome(clean_up(max_deletes=1)) == {"other/zombie-2": "deleted"}
        deadline = core.read_namespaced_pod("zombie", NAMESPACE).metadata.deletion_timestamp
        wait_until(lambda: datetime.now(UTC) - deadline > timedelta(seconds=2))
        run = clean_up(max_deletes=1)
        assert airflow_runs.states(run)["reap"] == "skipped"
        assert airflow_runs.result(run, "classify")["kept_by_reason"] == {"terminating": 1}
    finally:
        set_finalizers(None)
    wait_until(lambda: names(core) == set())


def test_a_pod_is_spared_if_its_successor_is_deleted_after_classify(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, collisions: DagRun
) -> None:
    wait_until(lambda: datetime.now(UTC) - zombie.metadata.creation_timestamp > timedelta(seconds=2))
    create(core, "newer", labels_of("collisions", "a_1", collisions.run_id, try_number=2), NAMESPACE)
    airflow_runs.record_pod(collisions, "a_1", NAMESPACE, "newer")
    airflow_runs.set_state(collisions, "a_1", "running")
    airflow_runs.set_try(collisions, "a_1", 2)
    remove = ("reap", lambda _: core.delete_namespaced_pod("newer", NAMESPACE, grace_period_seconds=0))
    run = clean_up(before=remove)
    assert airflow_runs.result(run, "classify")["zombies_by_reason"] == {"superseded": 1}
    assert outcome(run) == {"other/zombie": "spared"}
    assert names(core) == {"zombie"}


def test_a_forbidden_deletion_fails_the_run_after_all_others_were_tried(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, log_output: Callable[[], str]
) -> None:
    create(core, "zombie-2", {**zombie.metadata.labels, "already_checked": "True"}, NAMESPACE)
    proxy.spoil(f"{DELETE}zombie\\?", forbidden("delete", NAMESPACE))
    run = clean_up()
    assert airflow_runs.states(run)["reap"] == "failed"
    assert outcome(run) == {"other/zombie": "failed", "other/zombie-2": "deleted"}
    assert names(core) == {"zombie"}
    assert f"allow verb 'delete' on resource 'pods' in a Role for namespace '{NAMESPACE}'" in log_output()


@pytest.mark.parametrize(
    "fault",
    [
        status(429, "TooManyRequests", "slow down", Retry_After="1"),
        status(500, "InternalError", "etcdserver: leader changed"),
        status(503, "ServiceUnavailable", "apiserver not ready"),
    ],
    ids=["429 TooManyRequests", "500 InternalError", "503 ServiceUnavailable"],
)
@pytest.mark.parametrize("request_line", ["GET ", DELETE], ids=["listing", "deleting"])
def test_a_temporary_error_is_retried_until_it_passes(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, fault: Any, request_line: str
) -> None:
    proxy.spoil(request_line, fault, times=2)
    run = clean_up()
    assert run.state == "success"
    assert outcome(run) == {"other/zombie": "deleted"}


@pytest.mark.parametrize(
    ("variables", "conf", "messages"),
    [
        ({}, {"dryrun": True}, ["dryrun (this run's conf): no such option: did you mean dry_run?"]),
        ({}, {"label_selector": "a"}, ["because it cannot be set for a single run"]),
        ({"AIRFLOW__KPO_CLEANUP_DRY_RUN": "True"}, {}, ["did you mean AIRFLOW__KPO_CLEANUP__DRY_RUN?"]),
        ({"AIRFLOW__KPOCLEANUP__DRY_RUN": "True"}, {}, ["did you mean AIRFLOW__KPO_CLEANUP__DRY_RUN?"]),
        ({"AIRFLOW__KPO_CLEANUP__NAMESPACE": "airflow"}, {}, ["no such option: did you mean namespaces?"]),
        ({"AIRFLOW__KPO_CLEANUP__DRY_RUN_CMD": "echo True"}, {}, ["set AIRFLOW__KPO_CLEANUP__DRY_RUN"]),
        (
            {"AIRFLOW__KPO_CLEANUP__SCHEDULE": "@sometimes"},
            {},
            ["schedule='@sometimes' (AIRFLOW__KPO_CLEANUP__SCHEDULE)"],
        ),
        ({"AIRFLOW__KPO_CLEANUP__SCHEDULE": "*/15 * * *"}, {}, ["set it to a cron expression of five fields"]),
        (
            {"AIRFLOW__KPO_CLEANUP__DRY_RUN": "yes", "AIRFLOW__KPO_CLEANUP__MAX_DELETES": "many"},
            {},
            ["2 invalid settings", "set it to True or False", "set it to a whole number from 1 to 100000"],
        ),
        (
            {},
            {"settle_second": 60, "dry_run": True},
            ["AirflowFailException: dry run stopped: 1 invalid setting", "did you mean settle_seconds?"],
        ),
        ({"AIRFLOW__KPO_CLEANUP__LABEL_SELECTOR": "a in ("}, {}, ["label_selector='a in (' was rejected"]),
        (
            {"AIRFLOW__KPO_CLEANUP__KUBERNETES_CONN_ID": "nowhere"},
            {},
            ["connection 'nowhere' provides no Kubernetes client"],
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) and value else "",
)
def test_an_invalid_setting_fails_the_run_before_anything_is_deleted_and_the_dag_remains(
    proxy: FaultProxy,
    core: client.CoreV1Api,
    zombie: Any,
    variables: dict[str, str],
    conf: dict[str, Any],
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
    log_output: Callable[[], str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run = clean_up(**conf)
    assert airflow_runs.states(run) == {
        "list_pods": "failed",
        "fetch_active_tis": "upstream_failed",
        "classify": "upstream_failed",
        "reap": "upstream_failed",
    }
    out = log_output()
    assert [message for message in messages if message not in out] == []
    assert names(core) == {"zombie"}


def test_invalid_settings_in_a_dag_file_fail_the_runs_of_that_dag_and_not_the_import(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, log_output: Callable[[], str]
) -> None:
    run = airflow_runs.run("kpo_cleanup_with_mistakes", namespaces=NAMESPACE)
    assert airflow_runs.states(run)["list_pods"] == "failed"
    out = log_output()
    for message in ("3 invalid settings", "dryrun (the DAG file)", "max_deletes=0 (the DAG file)"):
        assert message in out
    assert "schedule='@sometimes' (the DAG file): set it to a cron expression" in out
    assert names(core) == {"zombie"}


UNAUTHORIZED = status(401, "Unauthorized", "Unauthorized")
UNAVAILABLE = status(503, "ServiceUnavailable", "apiserver not ready")
ANOTHER_TYPE = {"AIRFLOW_CONN_KUBERNETES_DEFAULT": "postgres://somewhere"}


@pytest.mark.parametrize(
    ("faults", "namespaces", "connections", "message"),
    [
        ({"GET ": UNAUTHORIZED}, NAMESPACE, {}, "renew the connection's credentials"),
        ({"GET ": forbidden("list", NAMESPACE)}, NAMESPACE, {}, "allow verb 'list'"),
        ({}, "nowhere", {}, "namespace 'nowhere' does not exist"),
        ({}, NAMESPACE, ANOTHER_TYPE, "its type is 'postgres'"),
    ],
    ids=["401 Unauthorized", "403 Forbidden", "the namespace is missing", "the connection has another type"],
)
def test_a_permanent_error_is_not_retried(
    proxy: FaultProxy,
    faults: dict[str, Any],
    namespaces: str,
    connections: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    log_output: Callable[[], str],
) -> None:
    for pattern, fault in faults.items():
        proxy.spoil(pattern, fault)
    for name, uri in connections.items():
        monkeypatch.setenv(name, uri)
    run = clean_up(namespaces=namespaces)
    assert airflow_runs.states(run)["list_pods"] == "failed"
    assert airflow_runs.tries(run, "list_pods") == 1
    assert message in log_output()


@pytest.mark.skipif(not IS_AIRFLOW_3, reason="Airflow 2 uses its session")
@pytest.mark.parametrize(
    ("conn_id", "messages"),
    [
        ("nowhere", ["airflow_conn_id='nowhere' names no connection", "create connection 'nowhere', or correct"]),
        ("database", ["airflow_conn_id='database' is not a usable database connection", "its type is 'kubernetes'"]),
        ("added", ["the type of connection 'added' is 'generic'", "create it again with --conn-json"]),
        ("unknown", ['Unknown hook type "oracel"', "install the provider of this type"]),
    ],
    ids=[
        "it does not exist",
        "its type has no database",
        "the command line did not know its type",
        "the provider of its type is missing",
    ],
)
def test_a_connection_that_is_not_a_database_is_not_retried_if(
    proxy: FaultProxy,
    zombie: Any,
    conn_id: str,
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
    log_output: Callable[[], str],
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DATABASE", "kubernetes://")
    monkeypatch.setenv("AIRFLOW_CONN_ADDED", "generic://")
    monkeypatch.setenv("AIRFLOW_CONN_UNKNOWN", "oracel://")
    run = clean_up(config={"airflow_conn_id": conn_id})
    assert airflow_runs.states(run)["fetch_active_tis"] == "failed"
    assert airflow_runs.tries(run, "fetch_active_tis") == 1
    out = log_output()
    assert [message for message in messages if message not in out] == []
    assert conn_id != "nowhere" or "Task instances come from" not in out


def test_a_temporary_error_is_retried_even_if_another_namespace_has_a_permanent_one(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any
) -> None:
    proxy.spoil("GET /api/v1/namespaces/default/pods", forbidden("list", "default"))
    proxy.spoil(f"GET /api/v1/namespaces/{NAMESPACE}/pods", UNAVAILABLE, times=RetryPolicy().attempts)
    run = clean_up(namespaces=f"default,{NAMESPACE}")
    assert airflow_runs.tries(run, "list_pods") == 2
    assert outcome(run) == {"other/zombie": "deleted"}


@pytest.mark.parametrize("overrides", [True, False], ids=["conf overrides params", "conf does not override params"])
def test_no_conf_makes_the_dag_with_a_fixed_dry_run_delete_a_pod(
    proxy: FaultProxy,
    core: client.CoreV1Api,
    zombie: Any,
    overrides: bool,
    monkeypatch: pytest.MonkeyPatch,
    log_output: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__DAG_RUN_CONF_OVERRIDES_PARAMS", str(overrides))
    conf: dict[str, Any] = {"settle_seconds": 0, "namespaces": NAMESPACE}
    dry_run = airflow_runs.run("kpo_cleanup_dry_run", **conf)
    assert outcome(dry_run) == {"other/zombie": "would_delete"}
    assert caplog.text.count("DRY RUN: nothing will be deleted") == len(airflow_runs.states(dry_run))
    rejected = airflow_runs.run("kpo_cleanup_dry_run", **conf, dry_run=False)
    assert airflow_runs.states(rejected)["list_pods"] == "failed"
    assert "dry_run=False (this run's conf): remove it, because this DAG's file fixes it to True" in log_output()
    assert names(core) == {"zombie"}


def test_a_run_is_a_dry_run_even_if_only_the_worker_of_list_pods_sets_it(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any
) -> None:
    # Each worker reads its own configuration for the params.
    set_dry_run = ("list_pods", lambda context: context["params"].update({"dry_run": True}))
    run = clean_up(before=set_dry_run)
    assert outcome(run) == {"other/zombie": "would_delete"}
    assert names(core) == {"zombie"}


@pytest.mark.parametrize(
    ("name", "value"), [("max_deletes", 0), ("settle_seconds", "soon"), ("dry_run", "yes"), ("namespaces", "Team_A")]
)
def test_airflow_rejects_a_run_whose_conf_has_an_invalid_value(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, name: str, value: Any
) -> None:
    with pytest.raises(Exception, match=f"Invalid input for param {name}"):  # its class differs between the versions
        clean_up(**{name: value})
    assert names(core) == {"zombie"}


def test_dry_run_in_the_conf_applies_even_if_the_conf_does_not_override_params(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__DAG_RUN_CONF_OVERRIDES_PARAMS", "False")
    run = clean_up(dry_run=True)
    assert outcome(run) == {"other/zombie": "would_delete"}
    assert names(core) == {"zombie"}


def test_the_config_section_applies_to_a_run_without_a_conf(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KPO_CLEANUP__DRY_RUN", "True")
    run = clean_up()
    assert outcome(run) == {"other/zombie": "would_delete"}
    assert names(core) == {"zombie"}


@pytest.mark.parametrize(
    ("conf", "where", "origin"),
    [
        pytest.param(
            {"namespaces": "default"},
            "namespaces 'default'",
            "namespaces is set by this run's conf",
            id="namespaces are from the conf",
        ),
        pytest.param(
            {"namespaces": "*", "config": {"exclude_namespaces": "airflow,other"}},
            "namespaces '*' except airflow, other",
            "namespaces is set by this run's conf",
            id="some namespaces are excluded",
        ),
        pytest.param(
            {"namespaces": ""},
            "namespace 'airflow'",
            "taken from connection 'kubernetes_default' because namespaces is empty",
            id="the namespace is from the connection",
        ),
    ],
)
def test_an_empty_listing_is_a_warning_with_the_namespaces_and_their_origin(
    proxy: FaultProxy,
    collisions: DagRun,
    caplog: pytest.LogCaptureFixture,
    conf: dict[str, Any],
    where: str,
    origin: str,
) -> None:
    run = clean_up(**conf)
    expected = f"No operator pods were found in {where}", f"    ({origin})"
    assert [message for message in caplog.messages if message in expected] == [*expected]
    skipped = dict.fromkeys(("fetch_active_tis", "classify", "reap"), "skipped")
    assert airflow_runs.states(run) == {"list_pods": "success", **skipped}
    assert run.state == "success"


def test_a_run_without_zombies_skips_reap_and_keeps_the_verdicts(
    proxy: FaultProxy, core: client.CoreV1Api, collisions: DagRun, zombie: Any
) -> None:
    airflow_runs.set_state(collisions, "a_1", "running")
    run = clean_up()
    succeeded = dict.fromkeys(("list_pods", "fetch_active_tis", "classify"), "success")
    assert airflow_runs.states(run) == {**succeeded, "reap": "skipped"}
    assert run.state == "success"
    assert airflow_runs.result(run, "classify")["kept_by_reason"] == {"active": 1}
    assert airflow_runs.result(run, "classify", "summary") == "nothing to delete among 1 pod"
    assert names(core) == {"zombie"}


def test_each_finished_run_has_summaries_of_a_single_line(proxy: FaultProxy, zombie: Any) -> None:
    def summaries(*task_ids: str, **conf: Any) -> list[str]:
        run = clean_up(**conf)
        return [airflow_runs.result(run, task_id, "summary") for task_id in task_ids]

    would = "DRY RUN: would delete 1 of 1 pod: collisions 1"
    assert summaries("classify", "reap", dry_run=True) == [would, would]
    done = ["1 zombie of 1 pod: collisions 1", "deleted 1 of 1 zombie: collisions 1"]
    assert summaries("classify", "reap") == done
    assert summaries("list_pods") == ["nothing to delete among 0 pods"]
    assert summaries("list_pods", dry_run=True) == ["DRY RUN: nothing to delete among 0 pods"]


def test_a_failed_task_logs_cause_and_remedy_only_in_its_exception_and_with_a_short_traceback(
    proxy: FaultProxy, collisions: DagRun, caplog: pytest.LogCaptureFixture, log_output: Callable[[], str]
) -> None:
    proxy.spoil("GET ", forbidden("list", NAMESPACE))
    clean_up()
    assert "403 Forbidden" not in "".join(r.getMessage() for r in caplog.records if "kpo_cleanup" in r.name)
    # On Airflow 2, dag.test() logs the exception twice.
    (*_, traceback) = log_output().split("Traceback (most recent call last)")
    assert traceback.count("include/kpo_cleanup/") == 2
    assert (
        "AirflowFailException: stopped before deleting anything: listing pods in namespace 'other': 403 Forbidden"
        in traceback
    )
    assert "allow verb 'list' on resource 'pods' in a Role for namespace 'other'" in traceback
    assert "retry" not in traceback  # a missing permission is not retried
    assert "direct cause of the following exception" not in traceback


@pytest.mark.parametrize(("task_id", "reader"), [("list_pods", "classify"), ("classify", "reap")])
def test_a_missing_xcom_is_named_with_the_remedy(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, task_id: str, reader: str, log_output: Callable[[], str]
) -> None:
    """Delete the XCom, as when a task of an old run is cleared."""

    def delete_xcom(_: Any) -> None:
        with create_session() as session:
            session.query(airflow_runs.xcom_model()).filter_by(dag_id="kpo_cleanup", task_id=task_id).delete()

    run = clean_up(before=(reader, delete_xcom))
    assert airflow_runs.states(run)[reader] == "failed"
    out = log_output()
    assert f"this run has no XCom of {task_id}: a later run or an XCom cleanup deleted it" in out
    assert "clear list_pods and its downstream tasks, or trigger a new run" in out
    assert names(core) == {"zombie"}
