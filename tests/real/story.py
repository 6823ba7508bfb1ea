"""The course of events on a real Airflow with a scheduled cleanup; `tests/dag/workload.py` has the tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from kubernetes import client

from demo.airflow import Airflow
from demo.airflow_settings import IS_AIRFLOW_3
from demo.processes import kill_worker
from demo.terminal import DemoError, Terminal
from tests.dag.pods import Pods, pods_by_role
from tests.real.records import Records, Row, Run
from tests.real.witness import Deletion, Witness

TIMEOUT = 240  # seconds, because the machine may be busy

# Tasks of `lively`.
SURVIVORS = ("reattached", "cleared", "mapped[1]", "replaced", "stalled")  # run throughout
LOSE_WORKER = ("reattached", "mapped[0]", "replaced", "sidecar")
# Pods that must be deleted: those of failed tasks, and of one that now uses another pod.
ZOMBIES = {f"lively.{task}#1" for task in ("mapped[0]", "sidecar", "deferred_failed", "replaced")}
LATE = "lively.reattached#1"  # becomes a zombie while the cleanup is paused


@dataclass(frozen=True)
class Evidence:
    """The facts that were observed, for the tests."""

    before: Pods  # when all tasks of `lively` had reached their states
    after: Pods  # when the cleanup was paused
    tasks: dict[str, Row]  # of `lively` at that time
    cleanups: list[Run]  # all until that time
    results: set[tuple[str, str]]  # run and task of each return value that still existed
    paused_runs: list[Run]  # of the cleanup while it was paused
    paused_pods: Pods  # at the end of that pause
    deletions: list[Deletion]  # all that the cleanup requested
    busy: list[Row]  # the task instances of all finished runs of `busy`


class Story:
    """A sequence of steps that runs once. Each step waits until its event has happened."""

    def __init__(
        self, airflow: Airflow, records: Records, core: client.CoreV1Api, witness: Witness, terminal: Terminal
    ) -> None:
        self._airflow = airflow
        self._records = records
        self._core = core
        self._witness = witness
        self._terminal = terminal
        self._run_id = ""

    def tell(self) -> Evidence:
        before = self._start_tasks()
        self._airflow.api.pause("busy", False)
        self._airflow.api.pause("kpo_cleanup", False)
        self._await_cleanup()
        self._disturb()
        self._await_pods_gone(ZOMBIES)
        self._restart_scheduler()
        self._await_cleanup()
        self._until("three cleanups were started", lambda: len(self._records.runs("kpo_cleanup")) >= 3)
        since = self._pause_cleanup_between_runs()
        after, tasks, cleanups = self._pods(), self._tasks(), self._records.runs("kpo_cleanup")
        results = self._records.results("kpo_cleanup")
        self._kill_worker("reattached")
        self._mark_failed("reattached")
        self._until("another DAG on the same schedule finished a run", lambda: self._has_run("busy", since))
        paused_runs, paused_pods = self._records.runs("kpo_cleanup", since), self._pods()
        self._airflow.api.pause("kpo_cleanup", False)
        self._await_pods_gone({LATE})
        finished = {run.run_id for run in self._records.runs("busy") if run.is_over}
        busy = [ti for ti in self._records.task_instances("busy") if ti.run_id in finished]
        deletions = self._witness.deletions
        return Evidence(before, after, tasks, cleanups, results, paused_runs, paused_pods, deletions, busy)

    def _start_tasks(self) -> Pods:
        self._airflow.api.pause("lively", False)
        self._run_id = self._airflow.api.trigger("lively", {})
        self._until("all tasks have reached their states", self._all_in_place)
        return self._pods()

    def _all_in_place(self) -> bool:
        states = {name: ti.state for name, ti in self._tasks().items()}
        running = dict.fromkeys((*SURVIVORS, *LOSE_WORKER), "running")
        if states != {**running, "deferred": "deferred", "deferred_failed": "deferred", "kept": "success"}:
            return False
        pods = self._pods()  # a task is running for a moment before it has created its pod
        has_all = {f"lively.{name}#1" for name in states} <= pods.keys()
        return has_all and all(pod.status.phase != "Pending" for pod in pods.values())

    def _disturb(self) -> None:
        """Kill workers, and mark tasks as failed and clear them as a user does."""
        tries = self._tries()
        for name in LOSE_WORKER:
            self._kill_worker(name)
        for name in ("mapped[0]", "deferred_failed"):
            self._mark_failed(name)
        self._clear("cleared")
        self._until("the task without retries has failed", lambda: self._tasks()["sidecar"].state == "failed")
        self._await_new_tries(tries, ("reattached", "replaced", "cleared"))

    def _restart_scheduler(self) -> None:
        """Kill the scheduler with all its workers, as when its container dies."""
        self._until("no run is in progress", lambda: self._records.are_idle("kpo_cleanup", "busy"))
        tries = self._tries()
        self._airflow.restart("scheduler", self._terminal)
        self._await_new_tries(tries, SURVIVORS)

    def _await_new_tries(self, tries: Mapping[str, int], names: Collection[str]) -> None:
        def all_run() -> bool:
            tasks = self._tasks()
            return all(tasks[name].state == "running" and tasks[name].try_number > tries[name] for name in names)

        self._until(f"the next tries of {', '.join(names)} are running", all_run)

    def _pause_cleanup_between_runs(self) -> Any:
        """Pause the cleanup between two runs, and return the time by the database's clock."""

        def paused() -> bool:
            self._airflow.api.pause("kpo_cleanup", True)
            if self._records.are_idle("kpo_cleanup"):
                return True
            self._airflow.api.pause("kpo_cleanup", False)  # or the run in progress would not continue
            return False

        self._until("the cleanup is paused between two runs", paused)
        return self._records.now()

    def _await_cleanup(self) -> None:
        """Wait until a cleanup that starts from now on has finished."""
        since = self._records.now()
        self._until("a scheduled cleanup has finished", lambda: self._has_run("kpo_cleanup", since))

    def _has_run(self, dag_id: str, since: Any) -> bool:
        return any(run.is_over for run in self._records.runs(dag_id, since))

    def _await_pods_gone(self, roles: set[str]) -> None:
        self._until(f"the pods {', '.join(sorted(roles))} are gone", lambda: not roles & set(self._pods()))

    def _mark_failed(self, name: str) -> None:
        ti = self._tasks()[name]
        which = ti.task_id if ti.map_index < 0 else f"{ti.task_id}/{ti.map_index}"
        path = f"/dags/lively/dagRuns/{quote(self._run_id, safe='')}/taskInstances/{which}"
        body = {"new_state": "failed", **({} if IS_AIRFLOW_3 else {"dry_run": False})}
        self._airflow.api.request("PATCH", path, json=body)

    def _clear(self, name: str) -> None:
        if IS_AIRFLOW_3:
            body = {"dag_run_id": self._run_id, "task_ids": [name], "only_failed": False, "dry_run": False}
            self._airflow.api.request("POST", "/dags/lively/clearTaskInstances", json=body)
        else:
            # The REST API of 2.11 does not change the state of a running task, so the worker's next heartbeat would
            # undo the rest. The UI and the command line change it.
            self._airflow.run("tasks", "clear", "--yes", "--task-regex", f"^{name}$", "lively")

    def _kill_worker(self, name: str) -> None:
        pid = self._tasks()[name].pid
        assert pid is not None, f"{name} has no process"
        kill_worker(pid, self._airflow.scheduler_pid)

    def _pods(self) -> Pods:
        """Return the pods of `lively`."""
        pods = pods_by_role(self._core)
        return {role: pod for role, pod in pods.items() if role.startswith("lively.")}

    def _tasks(self) -> dict[str, Row]:
        """Return the tasks of `lively`."""
        return {ti.name: ti for ti in self._records.task_instances("lively")}

    def _tries(self) -> dict[str, int]:
        return {name: ti.try_number for name, ti in self._tasks().items()}

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        def is_met() -> bool:
            self._airflow.healthy_api()
            return condition()

        try:
            self._terminal.wait_for(what, is_met, TIMEOUT, log=self._airflow.log("scheduler"))
        except DemoError:
            self._terminal.show(f"{name}: {ti.state}, try {ti.try_number}" for name, ti in self._tasks().items())
            self._terminal.show(f"{role}: {pod.status.phase}" for role, pod in self._pods().items())
            raise
