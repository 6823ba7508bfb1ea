"""Runs under a real scheduler. Only there does Airflow 3 deny tasks access to the ORM, which Airflow 2 must allow.

The dry run and the start of the schedule follow the README.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from kubernetes import client

from demo.airflow import REPO, Airflow
from demo.airflow_settings import Config
from demo.processes import end_processes_of
from demo.terminal import DemoError, Terminal
from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, IS_AIRFLOW_3
from include.kpo_cleanup.identity import to_label_value
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES
from tests.alerts import RULES, selectors_of
from tests.conftest import HOME
from tests.dag.pods import NO_SCHEDULER, create, labels_of, pods_by_role, role
from tests.documents import block, documented_metrics, exported_variables, section
from tests.proxy import FaultProxy, Forward, silent
from tests.statsd import Sample, StatsdServer

pytestmark = pytest.mark.long

TERMINAL = Terminal(0)
DRY_RUN = "kpo_cleanup_dry_run"
CONTINUOUS = "kpo_cleanup_continuous"
ON_DEMAND = "kpo_cleanup_on_demand"
SHARING = ("docs/protecting.md", "Several Airflows in one namespace")
LABEL_SELECTOR = re.findall(r'`label_selector="(.+?)"`', section(*SHARING))[0]


@pytest.fixture(scope="module")
def statsd() -> Iterator[StatsdServer]:
    with StatsdServer() as server:
        yield server


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, statsd: StatsdServer, _proxy: FaultProxy) -> Iterator[Airflow]:
    """Start a separate Airflow, because this scheduler must not process the runs of other tests.

    It labels its pods and selects only these, as described in docs/protecting.md. It sends metrics
    as described in `docs/operating.md`. Its XCom backend stores the operators' records elsewhere.
    """
    config: Config = {
        "core": {"dags_are_paused_at_creation": True, "xcom_backend": "elsewhere.Elsewhere"},
        "kpo_cleanup": {"settle_seconds": 0, "label_selector": LABEL_SELECTOR},
        "metrics": {"statsd_host": "127.0.0.1", "statsd_port": statsd.port},
    }
    folder = tmp_path_factory.mktemp("airflow")  # a retry needs a new one
    (folder / "config").mkdir()
    (folder / "config" / "airflow_local_settings.py").write_text(block(*SHARING, "python"))
    shutil.copy(REPO / "tests" / "dag" / "elsewhere.py", folder / "config")
    metrics = exported_variables("docs/operating.md", "Metrics")
    airflow = Airflow(folder, HOME / "kubeconfig.json", "airflow", config=config, variables=metrics)
    airflow.install_dags(*(REPO / "tests" / "dag" / file for file in ("workload.py", "own_dags.py")))
    try:
        cleanups = ["kpo_cleanup", "kpo_cleanup_dry_run", "kpo_cleanup_gpu", CONTINUOUS, ON_DEMAND]
        airflow.start(TERMINAL, [*cleanups, "collisions"])
        yield airflow
    finally:
        end_processes_of(folder)


@pytest.fixture(scope="module")
def folder(airflow: Airflow) -> Path:
    return airflow.folder


def trigger(airflow: Airflow, dag_id: str, **conf: object) -> str:
    """Trigger a DAG through the REST API, wait for the end of the run, and return its run_id."""
    run_id = airflow.api.trigger(dag_id, conf)
    await_end(airflow, dag_id, run_id)
    return run_id


def await_end(airflow: Airflow, dag_id: str, run_id: str) -> None:
    def is_finished() -> bool:
        return airflow.healthy_api().run_state(dag_id, run_id) in ("success", "failed")

    TERMINAL.wait_for(f"{dag_id} finishes", is_finished, 180, log=airflow.log("scheduler"))


def run_ids(airflow: Airflow, dag_id: str) -> list[str]:
    return [run["dag_run_id"] for run in airflow.healthy_api().request("GET", f"/dags/{dag_id}/dagRuns")["dag_runs"]]


def follow_readme(airflow: Airflow, step: str, dag_id: str) -> str:
    """Follow a step of the README's quick start, wait for the end of the run that starts, and return its run_id."""
    before = set(run_ids(airflow, dag_id))
    for line in block("README.md", "Quick start", paragraph=step).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "airflow"
        airflow.run(*arguments)

    def started() -> set[str]:
        return set(run_ids(airflow, dag_id)) - before

    (run_id,) = TERMINAL.wait_for("a run starts", started, 60, log=airflow.log("scheduler"))
    await_end(airflow, dag_id, run_id)
    return run_id


def states(airflow: Airflow, dag_id: str, run_id: str) -> set[tuple[str, int, str | None]]:
    return {(ti.task_id, ti.map_index, ti.state) for ti in airflow.api.task_instances(dag_id, run_id)}


@pytest.fixture(scope="module")
def zombies(airflow: Airflow, folder: Path, core: client.CoreV1Api, _proxy: FaultProxy) -> None:
    """Create two zombies, and one pod whose task is active."""
    core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)
    airflow.api.pause("collisions", False)
    work = trigger(airflow, "collisions")
    assert states(airflow, "collisions", work) == {("a", 0, "failed"), ("a", 1, "failed"), ("a_1", -1, "failed")}
    assert set(pods_by_role(core)) == ALL_PODS, "a task failed before it had its pod"
    # The scheduler does not change this state.
    sql = "UPDATE task_instance SET state = 'deferred' WHERE run_id = ? AND task_id = 'a' AND map_index = 1"
    with closing(sqlite3.connect(folder / "airflow.db", timeout=60)) as database, database:
        database.execute(sql, (work,))


def reaped_in(folder: Path, run_id: str) -> dict[str, tuple[str, str]]:
    """Return the reason and the outcome of each pod in the report of a run; none if `reap` was skipped."""
    sql = "SELECT value FROM xcom WHERE run_id = ? AND task_id = 'reap' AND key = 'return_value'"
    with closing(sqlite3.connect(folder / "airflow.db", timeout=60)) as database:
        reports = [json.loads(value) for (value,) in database.execute(sql, (run_id,))]
    rows = [row for report in reports for row in report["zombies"]]
    return {row["pod"].partition("/")[2]: (row["reason"], row["outcome"]) for row in rows}


ALL_PODS = {"collisions.a[0]#1", "collisions.a[1]#1", "collisions.a_1#1"}
ALL_SUCCEEDED = {(task, -1, "success") for task in ("list_pods", "fetch_active_tis", "classify", "reap")}


@pytest.mark.timeout(900)  # in the oldest releases, each task imports Airflow again
@pytest.mark.usefixtures("zombies", "proxy")
class TestFirstRun:
    @pytest.fixture(scope="class", autouse=True)
    def _pause_at_the_end(self, airflow: Airflow) -> Iterator[None]:
        yield
        airflow.api.pause("kpo_cleanup", True)  # otherwise its next scheduled run deletes the pods of another test

    @pytest.mark.parametrize(
        "start",
        [
            lambda airflow: follow_readme(airflow, "3. Dry run", DRY_RUN),
            lambda airflow: trigger(airflow, DRY_RUN),
        ],
        ids=["with the command line", "through the REST API"],
    )
    def test_a_first_dry_run_deletes_nothing(
        self, airflow: Airflow, core: client.CoreV1Api, start: Callable[[Airflow], str]
    ) -> None:
        run_id = start(airflow)
        assert states(airflow, DRY_RUN, run_id) == ALL_SUCCEEDED
        assert set(pods_by_role(core)) == ALL_PODS
        assert run_ids(airflow, "kpo_cleanup") == []

    @pytest.mark.skipif(not IS_AIRFLOW_3, reason="Airflow 2 uses its session")
    def test_a_cleanup_with_the_rest_api_as_source_deletes_a_zombie(
        self, airflow: Airflow, folder: Path, core: client.CoreV1Api
    ) -> None:
        airflow.api.pause("kpo_cleanup_by_rest", False)
        run_id = trigger(airflow, "kpo_cleanup_by_rest")
        assert states(airflow, "kpo_cleanup_by_rest", run_id) == ALL_SUCCEEDED
        assert "collisions.a[1]#1" in pods_by_role(core)
        assert len(pods_by_role(core)) == len(ALL_PODS) - 1  # max_deletes
        logs = [path.read_text() for path in (folder / "task-logs").rglob(f"*{run_id}*/task_id=*/*.log")]
        assert [log for log in logs if "Task instances come from the REST API" in log]
        assert [log for log in logs if airflow.password in log] == []

    def test_unpausing_deletes_the_zombies_immediately_and_keeps_the_live_pod(
        self, airflow: Airflow, folder: Path, core: client.CoreV1Api
    ) -> None:
        run_id = follow_readme(airflow, "4. Enable", "kpo_cleanup")
        assert states(airflow, "kpo_cleanup", run_id) == ALL_SUCCEEDED
        assert set(pods_by_role(core)) == {"collisions.a[1]#1"}
        assert list((folder / "xcoms").iterdir())  # the records that had to be read
        log = next((folder / "task-logs").rglob(f"*{run_id}*/task_id=fetch_active_tis/*.log")).read_text()
        assert ("the Task SDK" if IS_AIRFLOW_3 else "Airflow's session") in log


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("proxy")
@pytest.mark.skipif(AIRFLOW_RELEASE < (3, 2), reason="before Airflow 3.2, the Task SDK returns states only")
class TestTriesAndEndsFromTheTaskSdk:
    """What happens to the pods of tasks whose workers died, with nothing configured."""

    @pytest.fixture(scope="class")
    def pods(self, airflow: Airflow, folder: Path, core: client.CoreV1Api, _proxy: FaultProxy) -> dict[str, str]:
        """Return what is special about each pod."""
        for namespace in ("airflow", "other"):
            core.delete_collection_namespaced_pod(namespace, grace_period_seconds=0)
        airflow.api.pause("collisions", False)
        airflow.api.pause(ON_DEMAND, False)
        first, second, third = (self.run_with_logical_date(airflow) for _ in range(3))
        names = {
            (pod.metadata.labels["run_id"], role(pod.metadata.labels, "")): pod.metadata.name
            for pod in core.list_namespaced_pod("airflow").items
        }

        def pod_of(run_id: str, task: str) -> str:
            return str(names[to_label_value(run_id), f"collisions.{task}#1"])

        pending = core.read_namespaced_pod(pod_of(second, "a[1]"), "airflow")
        core.delete_namespaced_pod(pending.metadata.name, "airflow", grace_period_seconds=0)
        create(core, pending.metadata.name, pending.metadata.labels, scheduler=NO_SCHEDULER)
        elsewhere = core.read_namespaced_pod(pod_of(third, "a_1"), "airflow")
        core.delete_namespaced_pod(elsewhere.metadata.name, "airflow", grace_period_seconds=0)
        create(core, elsewhere.metadata.name, elsewhere.metadata.labels, "other", NO_SCHEDULER)
        own_label = {"metadata": {"labels": {"git-sha": "1a2b3c4"}}}
        core.patch_namespaced_pod(pod_of(second, "a[0]"), "airflow", own_label)
        of_task = "WHERE run_id = ? AND task_id = ? AND map_index = ?"
        with closing(sqlite3.connect(folder / "airflow.db", timeout=60)) as database, database:
            database.execute(f"UPDATE task_instance SET state = 'success' {of_task}", (first, "a", 1))
            database.execute(f"UPDATE task_instance SET state = 'removed' {of_task}", (first, "a_1", -1))
            database.execute(f"UPDATE task_instance SET try_number = 2 {of_task}", (second, "a", 0))
            database.execute(f"UPDATE xcom SET value = '\"gone\"' {of_task} AND key = 'pod_name'", (second, "a", 0))
            database.execute(
                f"UPDATE task_instance SET end_date = datetime(end_date, '-1 minute') {of_task}", (second, "a_1", -1)
            )
            # The pods of these two were created again above, after their task instances had ended.
            database.execute(f"UPDATE task_instance SET end_date = CURRENT_TIMESTAMP {of_task}", (second, "a", 1))
            database.execute(f"UPDATE task_instance SET end_date = CURRENT_TIMESTAMP {of_task}", (third, "a_1", -1))
            database.execute(f"UPDATE task_instance SET state = 'deferred' {of_task}", (third, "a", 1))
        airflow.api.pause("collisions", True)  # so that the scheduler leaves a cleared task instance alone
        body = {"dry_run": False, "dag_run_id": third, "task_ids": [["a", 0]], "reset_dag_runs": False}
        airflow.api.request("POST", "/dags/collisions/clearTaskInstances", json=body)
        for map_index in (0, 1):
            path = f"/dags/collisions/dagRuns/{third}/taskInstances/a/{map_index}"
            airflow.api.request("PATCH", path, json={"new_state": "failed"})
        return {
            pod_of(first, "a[0]"): "its worker died",
            pod_of(first, "a[1]"): "its worker died, and it was marked as success",
            pod_of(first, "a_1"): "its task was removed from the DAG",
            pod_of(second, "a[0]"): "a later try's pod, which had another label, is gone",
            pod_of(second, "a[1]"): "it stays pending forever",
            pod_of(second, "a_1"): "it was created after the end of its task instance",
            pod_of(third, "a[0]"): "it was marked as failed while it was cleared, and keeps its old end",
            pod_of(third, "a[1]"): "it was marked as failed while it was deferred",
            elsewhere.metadata.name: "it is in another namespace than the worker",
        }

    def run_with_logical_date(self, airflow: Airflow) -> str:
        body = {"logical_date": datetime.now(UTC).isoformat(), "conf": {}}
        run_id = str(airflow.api.request("POST", "/dags/collisions/dagRuns", json=body)["dag_run_id"])
        await_end(airflow, "collisions", run_id)
        return run_id

    def test_running_pods_settle_and_are_deleted_without_a_grace_period(
        self, airflow: Airflow, folder: Path, core: client.CoreV1Api, pods: dict[str, str]
    ) -> None:
        def clean_up(settle_seconds: int) -> dict[str, tuple[str, str]]:
            reaped = reaped_in(folder, trigger(airflow, ON_DEMAND, settle_seconds=settle_seconds))
            return {pods[name]: result for name, result in reaped.items()}

        assert clean_up(3600) == {}
        kept = "it was created after the end of its task instance"
        assert clean_up(1) == dict.fromkeys(set(pods.values()) - {kept}, ("orphaned", "deleted"))
        # Other tests have left pods in other namespaces of a real API server.
        left = core.list_pod_for_all_namespaces(label_selector=LABEL_SELECTOR).items
        assert [pods[pod.metadata.name] for pod in left] == [kept]


def create_zombies(airflow: Airflow, folder: Path, core: client.CoreV1Api, number: int) -> set[str]:
    """Create pods of one finished task instance, whose operator has recorded none, and return their names."""
    airflow.api.pause("collisions", False)
    work = trigger(airflow, "collisions")
    labels = {**labels_of("collisions", "a_1", work), **dict([LABEL_SELECTOR.split("=")])}
    core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)
    names = {f"zombie-{each}" for each in range(number)}
    for name in sorted(names):
        create(core, name, labels, scheduler=NO_SCHEDULER)
    of_task = "WHERE run_id = ? AND task_id = 'a_1'"
    with closing(sqlite3.connect(folder / "airflow.db", timeout=60)) as database, database:
        database.execute(f"DELETE FROM xcom {of_task}", (work,))
        database.execute(f"UPDATE task_instance SET end_date = CURRENT_TIMESTAMP {of_task}", (work,))
    return names


@pytest.mark.timeout(900)
@pytest.mark.skipif(not IS_AIRFLOW_3, reason="for Airflow 2, `test_failures` sends SIGTERM to the task itself")
def test_a_reap_that_is_marked_as_failed_deletes_nothing_more_and_reports_what_it_has_done(
    airflow: Airflow, folder: Path, core: client.CoreV1Api, proxy: FaultProxy, statsd: StatsdServer
) -> None:
    """The supervisor learns of it with its next heartbeat, sends SIGTERM, and would kill the task 5 seconds later."""
    names = create_zombies(airflow, folder, core, 5 * CONCURRENT_DELETES)
    number_of_quick_deletions = 2 * CONCURRENT_DELETES
    deletions, is_waiting = itertools.count(), threading.Event()

    async def stop_responding(request: web.Request, forward: Forward) -> web.StreamResponse:
        if next(deletions) < number_of_quick_deletions:
            return await forward()
        is_waiting.set()
        return await silent(request, forward)

    proxy.spoil("^DELETE ", stop_responding)
    airflow.api.pause(ON_DEMAND, False)
    samples_before = len(statsd.samples)
    run_id = airflow.api.trigger(ON_DEMAND, {"settle_seconds": 0})
    TERMINAL.wait_for("a deletion gets no response", is_waiting.is_set, 180, log=airflow.log("scheduler"))
    path = f"/dags/{ON_DEMAND}/dagRuns/{run_id}/taskInstances/reap"
    airflow.api.request("PATCH", path, json={"new_state": "failed"})
    log = next((folder / "task-logs").rglob(f"*{run_id}*/task_id=reap/*.log"))
    TERMINAL.wait_for("the task has ended", lambda: "Task killed!" in log.read_text(), 60, log=log)

    outcomes = {name: outcome for name, (_, outcome) in reaped_in(folder, run_id).items()}
    assert outcomes.keys() == names
    sent = {line.partition("?")[0].rpartition("/")[2] for line in proxy.requests if line.startswith("DELETE ")}
    assert {name for name, outcome in outcomes.items() if outcome != "left_for_next_run"} == sent
    deleted = {name for name, outcome in outcomes.items() if outcome == "deleted"}
    assert len(deleted) == number_of_quick_deletions
    assert names - deleted == {pod.metadata.name for pod in core.list_namespaced_pod("airflow").items}
    assert f"deleted {len(deleted)} of {len(names)} zombies: collisions {len(deleted)}" in log.read_text()

    def counted() -> list[float]:
        return [each.value for each in statsd.samples[samples_before:] if each.name.endswith(".outcome.deleted")]

    assert TERMINAL.wait_for("the metrics arrive", counted, 10, log=log) == [len(deleted)]


def test_a_failed_run_of_a_users_own_dag_calls_its_callback(airflow: Airflow, folder: Path) -> None:
    airflow.api.pause("kpo_cleanup_gpu", False)
    failed_runs = folder / "failed-runs"
    # Airflow's DAG processor calls each callback at most once, and drops it if it is too busy.
    for _ in range(3):
        trigger(airflow, "kpo_cleanup_gpu")  # its connection does not exist
        with suppress(DemoError):
            TERMINAL.wait_for("the callback was called", failed_runs.exists, 60, log=airflow.log("scheduler"))
            break
    assert set(failed_runs.read_text().splitlines()) == {"kpo_cleanup_gpu"}


@pytest.mark.timeout(900)
def test_each_scheduled_run_deletes_the_inputs_of_the_previous_one(
    airflow: Airflow, folder: Path, core: client.CoreV1Api
) -> None:
    # Without a pod, the tasks after list_pods would be skipped.
    create(core, "kept", {"kubernetes_pod_operator": "True", **dict([LABEL_SELECTOR.split("=")])}, "other")

    def tasks_with_xcom() -> dict[str, set[str]]:
        sql = """SELECT run_id, task_id FROM xcom JOIN dag_run USING (dag_id, run_id)
            WHERE dag_id = ? AND run_type = 'scheduled' AND state = 'success' AND key = 'return_value'
            ORDER BY dag_run.id"""
        with closing(sqlite3.connect(folder / "airflow.db", timeout=60)) as database:
            rows = database.execute(sql, (CONTINUOUS,)).fetchall()
        return {run_id: {task_id for other, task_id in rows if other == run_id} for run_id, _ in rows}

    airflow.api.pause(CONTINUOUS, False)
    TERMINAL.wait_for("three runs succeed", lambda: len(tasks_with_xcom()) >= 3, 600, log=airflow.log("scheduler"))
    airflow.api.pause(CONTINUOUS, True)
    *earlier, newest = tasks_with_xcom().values()
    core.delete_namespaced_pod("kept", "other", grace_period_seconds=0)
    assert earlier == [{"classify"}] * len(earlier)
    assert newest in (
        {"classify"},
        {"list_pods", "fetch_active_tis", "classify"},
    )  # depends on the progress of the next run
    logs = [path.read_text() for path in (folder / "task-logs").rglob(f"dag_id={CONTINUOUS}/*/task_id=list_pods/*.log")]
    assert len(logs) >= 3
    assert [log for log in logs if "earlier run" in log or "XCom not found" in log] == []


@pytest.fixture(scope="module")
def sent(airflow: Airflow, statsd: StatsdServer, zombies: None) -> list[Sample]:
    """Return the metrics that a successful and a failed run send, and Airflow's own metrics of these runs.

    The first run of `kpo_cleanup` in this module deletes the zombies.
    """
    for dag_id in ("kpo_cleanup", "kpo_cleanup_gpu"):  # the connection of the second does not exist
        airflow.api.pause(dag_id, False)
        trigger(airflow, dag_id)

    def is_complete() -> bool:
        ends = {"airflow.dagrun.duration.success", "airflow.dagrun.duration.failed"}
        return ends <= {sample.name for sample in statsd.samples}

    TERMINAL.wait_for("the scheduler sends the durations of the runs", is_complete, 60, log=airflow.log("scheduler"))
    return statsd.samples


@pytest.mark.timeout(900)
class TestOperating:
    """What `docs/operating.md` promises to operators."""

    @pytest.mark.usefixtures("proxy")
    def test_the_hook_and_the_selector_keep_the_pods_of_another_airflow(
        self, airflow: Airflow, core: client.CoreV1Api
    ) -> None:
        airflow.api.pause("collisions", False)
        work = trigger(airflow, "collisions")
        create(core, "of-another-airflow", labels_of("collisions", "a_1", work))
        of_run = f"run_id={to_label_value(work)}"
        ours = f"{LABEL_SELECTOR},{of_run}"
        assert len(core.list_namespaced_pod("airflow", label_selector=ours).items) == len(ALL_PODS)
        airflow.api.pause("kpo_cleanup", False)
        trigger(airflow, "kpo_cleanup")
        left = core.list_namespaced_pod("airflow", label_selector=of_run).items
        assert [pod.metadata.name for pod in left] == ["of-another-airflow"]

    @pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
    def test_an_alert_selects_metrics_that_real_runs_send(self, sent: list[Sample], rule: dict[str, str]) -> None:
        selectors = selectors_of(rule["expr"])
        assert {selector.text for selector in selectors if not any(map(selector.selects, sent))} == set()

    def test_the_documented_metrics_are_those_that_real_runs_send(self, sent: list[Sample]) -> None:
        types = {"g": "gauge", "c": "counter", "ms": "timer"}
        of_runs = {
            re.sub(r"^airflow\.", "", sample.name): (types[sample.kind], set(sample.tags))
            for sample in sent
            if re.match(r"airflow\.(kpo_cleanup\.|dagrun\.duration\.(success|failed)$)", sample.name)
        }
        assert of_runs == documented_metrics()
