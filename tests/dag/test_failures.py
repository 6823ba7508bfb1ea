"""Failures, and the run's actions and words then: nothing live is deleted, no pod is forgotten."""

from __future__ import annotations

import re
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
from include.kpo_cleanup.retry import RetryPolicy
from tests.dag import airflow_runs
from tests.dag.pods import create, labels_of, wait_until
from tests.proxy import FaultProxy, first, forbidden, status

NAMESPACE = "other"  # the pods of the scenarios are in another one
DELETE = f"DELETE /api/v1/namespaces/{NAMESPACE}/pods/"


@pytest.fixture(scope="module")
def collisions(core: client.CoreV1Api, _proxy: FaultProxy) -> DagRun:
    """Run tasks that are all over then; each test makes their pods."""
    run = airflow_runs.run("collisions")
    core.delete_collection_namespaced_pod("airflow", label_selector="dag_id=collisions", grace_period_seconds=0)
    return run


@pytest.fixture
def zombie(proxy: FaultProxy, core: client.CoreV1Api, collisions: DagRun) -> Iterator[Any]:
    airflow_runs.set_state(collisions, "a_1", "failed")
    zombie = create(core, "zombie", labels_of("collisions", "a_1", collisions.run_id), NAMESPACE)
    airflow_runs.record_pod(collisions, "a_1", NAMESPACE, "zombie")
    airflow_runs.end_now("collisions")
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
    """Let the database fail on the statements that match, as if it is lost in between."""

    def fail(_conn: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if re.search(statement, sql, re.DOTALL):
            raise OperationalError(sql, {}, Exception("the database went away"))

    event.listen(airflow_settings.engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        event.remove(airflow_settings.engine, "before_cursor_execute", fail)


# The query to the database in this Airflow: our own, or the API server's behind the SDK.
SDK_QUERY = r"WHERE task_instance\.dag_id = \S+ AND task_instance\.task_id IN .* AND task_instance\.run_id IN"
SOURCE_QUERY = SDK_QUERY if IS_AIRFLOW_3 else "UNION ALL"


def test_a_forbidden_namespace_does_not_stop_the_others_but_fails_the_run(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, said: Callable[[], str]
) -> None:
    proxy.spoil("GET /api/v1/namespaces/default/pods", forbidden("list", "default"))
    run = clean_up(namespaces=f"default,{NAMESPACE}")
    assert run.state == "failed"
    assert airflow_runs.states(run)["reap"] == "failed"
    assert outcome(run) == {"other/zombie": "deleted"}
    assert names(core) == set()
    assert "allow verb 'list' on resource 'pods' in a Role for namespace 'default'" in said()


def test_a_forbidden_namespace_fails_the_run_even_where_there_is_nothing_to_reap(proxy: FaultProxy) -> None:
    proxy.spoil("GET /api/v1/namespaces/default/pods", forbidden("list", "default"))
    run = clean_up(namespaces=f"default,{NAMESPACE}")
    assert airflow_runs.states(run)["reap"] == "failed"


def test_where_no_namespace_can_be_listed_the_run_fails_at_once(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, said: Callable[[], str]
) -> None:
    proxy.spoil("GET ", forbidden("list", NAMESPACE))
    run = clean_up()
    assert airflow_runs.states(run) == {
        "list_pods": "failed",
        "fetch_active_tis": "upstream_failed",
        "classify": "upstream_failed",
        "reap": "upstream_failed",
    }
    assert "allow verb 'list'" in said()
    assert names(core) == {"zombie"}


def test_a_missing_namespace_is_named_and_does_not_stop_the_others(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, said: Callable[[], str]
) -> None:
    run = clean_up(namespaces=f"nowhere,{NAMESPACE}")
    assert airflow_runs.states(run)["reap"] == "failed"
    assert names(core) == set()
    assert "namespace 'nowhere' does not exist" in said()


def test_a_source_that_is_down_is_never_read_as_no_task_instances(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, said: Callable[[], str]
) -> None:
    with database_down_for(SOURCE_QUERY):
        run = clean_up(config={"delete_unmatched_pods": True})
    assert airflow_runs.states(run)["fetch_active_tis"] == "failed"
    assert airflow_runs.states(run)["reap"] == "upstream_failed"
    assert names(core) == {"zombie"}
    out = said()
    assert "task instances could not be read" in out or "the Task SDK could not read task states" in out


def test_a_source_that_fails_at_the_second_look_spares_all(
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


def test_a_pod_that_has_gone_by_itself_is_reported_as_gone(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any
) -> None:
    proxy.spoil(DELETE, first(lambda: core.delete_namespaced_pod("zombie", NAMESPACE, grace_period_seconds=0)))
    run = clean_up()
    assert run.state == "success"
    assert outcome(run) == {"other/zombie": "already_gone"}


def test_a_new_pod_of_the_same_name_is_spared(proxy: FaultProxy, core: client.CoreV1Api, zombie: Any) -> None:
    proxy.spoil(DELETE, first(lambda: replace(core, zombie)))
    run = clean_up()
    assert run.state == "success"
    assert outcome(run) == {"other/zombie": "spared"}
    assert core.read_namespaced_pod("zombie", NAMESPACE).metadata.uid != zombie.metadata.uid


@pytest.mark.parametrize("state", [None, "running", "deferred"], ids=["cleared", "reattached", "deferred"])
def test_a_task_instance_that_comes_back_to_life_after_classify_spares_its_pod(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, collisions: DagRun, state: str | None
) -> None:
    # Attaching to a pod changes nothing on the pod: only the task instance shows it.
    run = clean_up(before=("reap", lambda _: airflow_runs.set_state(collisions, "a_1", state)))
    assert airflow_runs.result(run, "classify")["zombies_by_reason"] == {"orphaned": 1}
    assert run.state == "success"
    assert outcome(run) == {"other/zombie": "spared"}
    assert core.read_namespaced_pod("zombie", NAMESPACE).metadata.uid == zombie.metadata.uid


def test_a_pod_that_a_finalizer_holds_does_not_keep_the_next_zombie_from_going(
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


def test_a_pod_whose_successor_vanishes_after_classify_is_spared(
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


def test_a_pod_that_must_not_be_deleted_fails_the_run_after_the_others_were_tried(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, said: Callable[[], str]
) -> None:
    create(core, "zombie-2", {**zombie.metadata.labels, "already_checked": "True"}, NAMESPACE)
    proxy.spoil(f"{DELETE}zombie$", forbidden("delete", NAMESPACE))
    run = clean_up()
    assert airflow_runs.states(run)["reap"] == "failed"
    assert outcome(run) == {"other/zombie": "failed", "other/zombie-2": "deleted"}
    assert names(core) == {"zombie"}
    assert f"allow verb 'delete' on resource 'pods' in a Role for namespace '{NAMESPACE}'" in said()


@pytest.mark.parametrize(
    "fault",
    [
        status(429, "TooManyRequests", "slow down", Retry_After="1"),
        status(500, "InternalError", "etcdserver: leader changed"),
        status(503, "ServiceUnavailable", "apiserver not ready"),
    ],
    ids=["too many requests", "internal error", "unavailable"],
)
@pytest.mark.parametrize("request_line", ["GET ", DELETE], ids=["listing", "deleting"])
def test_a_passing_fault_is_sat_out(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, fault: Any, request_line: str
) -> None:
    proxy.spoil(request_line, fault, times=2)
    run = clean_up()
    assert run.state == "success"
    assert outcome(run) == {"other/zombie": "deleted"}


@pytest.mark.parametrize(
    ("variables", "conf", "messages"),
    [
        ({}, {"dryrun": True}, ["dryrun=True (this run's conf): no such option: did you mean dry_run?"]),
        ({}, {"label_selector": "a"}, ["because it cannot be set for a single run"]),
        ({"AIRFLOW__KPO_CLEANUP_DRY_RUN": "True"}, {}, ["did you mean AIRFLOW__KPO_CLEANUP__DRY_RUN?"]),
        ({"AIRFLOW__KPOCLEANUP__DRY_RUN": "True"}, {}, ["did you mean AIRFLOW__KPO_CLEANUP__DRY_RUN?"]),
        ({"AIRFLOW__KPO_CLEANUP__NAMESPACE": "airflow"}, {}, ["did you mean AIRFLOW__KPO_CLEANUP__NAMESPACES?"]),
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
        ({"AIRFLOW__KPO_CLEANUP__LABEL_SELECTOR": "a in ("}, {}, ["label_selector='a in (' was refused"]),
        (
            {"AIRFLOW__KPO_CLEANUP__KUBERNETES_CONN_ID": "nowhere"},
            {},
            ["connection 'nowhere' gives no Kubernetes client"],
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) and value else "",
)
def test_a_bad_setting_keeps_the_dag_and_fails_the_run_before_anything_is_touched(
    proxy: FaultProxy,
    core: client.CoreV1Api,
    zombie: Any,
    variables: dict[str, str],
    conf: dict[str, Any],
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], str],
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
    out = said()
    assert [message for message in messages if message not in out] == []
    assert names(core) == {"zombie"}


def test_mistakes_in_a_dag_file_fail_the_runs_of_that_dag_and_not_the_file(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, said: Callable[[], str]
) -> None:
    run = airflow_runs.run("kpo_cleanup_with_mistakes", namespaces=NAMESPACE)
    assert airflow_runs.states(run)["list_pods"] == "failed"
    out = said()
    for fault in ("3 invalid settings", "dryrun=True (the DAG file)", "max_deletes=0 (the DAG file)"):
        assert fault in out
    assert "schedule='@sometimes' (the DAG file): set it to a cron expression" in out
    assert names(core) == {"zombie"}


UNAUTHORIZED = status(401, "Unauthorized", "Unauthorized")
UNAVAILABLE = status(503, "ServiceUnavailable", "apiserver not ready")
ANOTHER_TYPE = {"AIRFLOW_CONN_KUBERNETES_DEFAULT": "postgres://somewhere"}


@pytest.mark.parametrize(
    ("faults", "namespaces", "connections", "message"),
    [
        ({"GET ": UNAUTHORIZED}, NAMESPACE, {}, "credentials are missing, wrong or expired"),
        ({"GET ": forbidden("list", NAMESPACE)}, NAMESPACE, {}, "allow verb 'list'"),
        ({}, "nowhere", {}, "namespace 'nowhere' does not exist"),
        ({}, NAMESPACE, ANOTHER_TYPE, "its type is 'postgres'"),
    ],
    ids=["401", "403", "missing namespace", "connection of another type"],
)
def test_a_fault_that_stays_is_not_tried_again(
    proxy: FaultProxy,
    faults: dict[str, Any],
    namespaces: str,
    connections: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], str],
) -> None:
    for pattern, fault in faults.items():
        proxy.spoil(pattern, fault)
    for name, uri in connections.items():
        monkeypatch.setenv(name, uri)
    run = clean_up(namespaces=namespaces)
    assert airflow_runs.states(run)["list_pods"] == "failed"
    assert airflow_runs.tries(run, "list_pods") == 1
    assert message in said()


@pytest.mark.skipif(not IS_AIRFLOW_3, reason="Airflow 2 has its session")
@pytest.mark.parametrize(("conn_id", "message"), [("nowhere", "'nowhere'"), ("database", "its type is 'kubernetes'")])
def test_a_connection_that_gives_no_database_is_not_tried_again(
    proxy: FaultProxy,
    zombie: Any,
    conn_id: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], str],
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DATABASE", "kubernetes://")
    run = clean_up(config={"airflow_conn_id": conn_id})
    assert airflow_runs.states(run)["fetch_active_tis"] == "failed"
    assert airflow_runs.tries(run, "fetch_active_tis") == 1
    out = said()
    assert f"airflow_conn_id='{conn_id}' is not a usable database connection" in out
    assert message in out


def test_a_fault_that_may_pass_is_tried_again_even_beside_one_that_stays(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any
) -> None:
    proxy.spoil("GET /api/v1/namespaces/default/pods", forbidden("list", "default"))
    proxy.spoil(f"GET /api/v1/namespaces/{NAMESPACE}/pods", UNAVAILABLE, times=RetryPolicy().attempts)
    run = clean_up(namespaces=f"default,{NAMESPACE}")
    assert airflow_runs.tries(run, "list_pods") == 2
    assert outcome(run) == {"other/zombie": "deleted"}


@pytest.mark.parametrize("overrides", [True, False], ids=["with the params", "apart from the params"])
def test_nobody_deletes_with_the_dag_whose_dry_run_is_fixed(
    proxy: FaultProxy,
    core: client.CoreV1Api,
    zombie: Any,
    overrides: bool,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__DAG_RUN_CONF_OVERRIDES_PARAMS", str(overrides))
    conf: dict[str, Any] = {"settle_seconds": 0, "namespaces": NAMESPACE}
    look = airflow_runs.run("kpo_cleanup_dry_run", **conf)
    assert outcome(look) == {"other/zombie": "would_delete"}
    assert caplog.text.count("DRY RUN: nothing will be deleted") == len(airflow_runs.states(look))
    refused = airflow_runs.run("kpo_cleanup_dry_run", **conf, dry_run=False)
    assert airflow_runs.states(refused)["list_pods"] == "failed"
    assert "dry_run=False (this run's conf): remove it, because this DAG's file fixes it to True" in said()
    assert names(core) == {"zombie"}


def test_a_dry_run_stays_one_on_workers_with_another_configuration(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any
) -> None:
    # Each worker reads the configuration by itself when it makes the params.
    here = ("list_pods", lambda context: context["params"].update({"dry_run": True}))
    run = clean_up(before=here)
    assert outcome(run) == {"other/zombie": "would_delete"}
    assert names(core) == {"zombie"}


@pytest.mark.parametrize(
    ("name", "value"), [("max_deletes", 0), ("settle_seconds", "soon"), ("dry_run", "yes"), ("namespaces", "Team_A")]
)
def test_airflow_itself_refuses_a_run_with_a_value_out_of_bounds(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, name: str, value: Any
) -> None:
    with pytest.raises(Exception, match=f"Invalid input for param {name}"):  # its class differs between the versions
        clean_up(**{name: value})
    assert names(core) == {"zombie"}


def test_dry_run_holds_even_where_airflow_keeps_the_conf_out_of_the_params(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__DAG_RUN_CONF_OVERRIDES_PARAMS", "False")
    run = clean_up(dry_run=True)
    assert outcome(run) == {"other/zombie": "would_delete"}
    assert names(core) == {"zombie"}


def test_the_config_is_in_force_without_a_conf(
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
            id="in those of the conf",
        ),
        pytest.param(
            {"namespaces": ""},
            "namespace 'airflow'",
            "taken from connection 'kubernetes_default' because namespaces is empty",
            id="in that of the connection",
        ),
    ],
)
def test_no_pod_at_all_is_a_warning_that_names_the_namespaces_and_where_they_come_from(
    proxy: FaultProxy,
    collisions: DagRun,
    caplog: pytest.LogCaptureFixture,
    conf: dict[str, Any],
    where: str,
    origin: str,
) -> None:
    run = clean_up(**conf)
    said = f"No operator pods were found in {where}", f"    ({origin})"
    assert [message for message in caplog.messages if message in said] == [*said]
    assert airflow_runs.states(run)["reap"] == "skipped"


def test_a_line_for_each_run_is_left_of_classify_and_reap(proxy: FaultProxy, zombie: Any) -> None:
    def summaries(**conf: Any) -> list[str]:
        run = clean_up(**conf)
        return [airflow_runs.result(run, task_id, "summary") for task_id in ("classify", "reap")]

    would = "DRY RUN: would delete 1 of 1 pod: collisions 1"
    assert summaries(dry_run=True) == [would, would]
    assert summaries() == ["1 zombie of 1 pod: collisions 1", "deleted 1 of 1 zombie: collisions 1"]
    assert summaries() == ["nothing to delete among 0 pods"] * 2
    assert summaries(dry_run=True) == ["DRY RUN: nothing to delete among 0 pods"] * 2


def test_a_red_run_says_plainly_what_is_wrong_before_any_traceback(
    proxy: FaultProxy, collisions: DagRun, caplog: pytest.LogCaptureFixture, said: Callable[[], str]
) -> None:
    proxy.spoil("GET ", forbidden("list", NAMESPACE))
    clean_up()
    plain = [record.getMessage() for record in caplog.records if record.name.endswith("kpo_cleanup.tasks")]
    start = plain.index("listing pods in namespace 'other': 403 Forbidden")
    assert plain[start + 1].startswith("    allow verb 'list' on resource 'pods' in a Role for namespace 'other'")
    assert "No pods are deleted unless a retry succeeds." in plain[-1]
    assert "direct cause of the following exception" not in said()


@pytest.mark.parametrize(("task_id", "reader"), [("list_pods", "classify"), ("classify", "reap")])
def test_an_input_that_is_gone_is_named_with_the_remedy(
    proxy: FaultProxy, core: client.CoreV1Api, zombie: Any, task_id: str, reader: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Act as if somebody clears reap in a run of long ago."""

    def forget(_: Any) -> None:
        with create_session() as session:
            session.query(airflow_runs.xcom_model()).filter_by(dag_id="kpo_cleanup", task_id=task_id).delete()

    run = clean_up(before=(reader, forget))
    assert airflow_runs.states(run)[reader] == "failed"
    assert f"this run has no XCom of {task_id}: a later run or an XCom cleanup deleted it" in caplog.messages
    assert "    clear list_pods and its downstream tasks, or trigger a new run" in caplog.messages
    assert names(core) == {"zombie"}
