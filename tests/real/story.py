"""The story of a real Airflow while the cleanup runs on its schedule; `tests/dag/workload.py` has the tasks."""

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
from tests.real.witness import DeleteResult, Witness

TIMEOUT = 240  # seconds; the machine may have other work

# Tasks of `lively`.
SURVIVORS = ("reattached", "cleared", "mapped[1]", "replaced", "stalled")  # run to the end
LOSE_WORKER = ("reattached", "mapped[0]", "replaced", "sidecar")
# Pods that must go: of tasks that fail, and of one that uses another pod now.
ZOMBIES = {f"lively.{task}#1" for task in ("mapped[0]", "sidecar", "deferred_failed", "replaced")}
LATE = "lively.reattached#1"  # becomes one while the cleanup is paused


@dataclass(frozen=True)
class Evidence:
    """The facts that were seen, for the tests to judge."""

    before: Pods  # after all tasks of `lively` had reached their states
    after: Pods  # when the cleanup was paused
    tasks: dict[str, Row]  # of `lively`, at that time
    cleanups: list[Run]  # all until that time
    results: set[tuple[str, str]]  # run and task of each result that was still there
    paused_runs: list[Run]  # of the cleanup while it was paused
    paused_pods: Pods  # at the end of that pause
    deletions: list[DeleteResult]  # all that the cleanup asked for
    busy: list[Row]  # the task instances of all runs of `busy` that are over


class Story:
    """A story that is told once. Each step waits until its event has happened."""

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
        self._see_one_cleanup()
        self._disturb()
        self._await_pods_gone(ZOMBIES)
        self._restart_scheduler()
        self._see_one_cleanup()
        self._until("there were three cleanups", lambda: len(self._records.runs("kpo_cleanup")) >= 3)
        since = self._pause_cleanup_between_runs()
        after, tasks, cleanups = self._pods(), self._tasks(), self._records.runs("kpo_cleanup")
        results = self._records.results("kpo_cleanup")
        self._kill_worker("reattached")
        self._mark_failed("reattached")
        self._until("another DAG has a whole run on the same schedule", lambda: self._has_run("busy", since))
        paused_runs, paused_pods = self._records.runs("kpo_cleanup", since), self._pods()
        self._airflow.api.pause("kpo_cleanup", False)
        self._await_pods_gone({LATE})
        over = {run.run_id for run in self._records.runs("busy") if run.is_over}
        busy = [ti for ti in self._records.task_instances("busy") if ti.run_id in over]
        deletions = self._witness.deletions
        return Evidence(before, after, tasks, cleanups, results, paused_runs, paused_pods, deletions, busy)

    def _start_tasks(self) -> Pods:
        self._airflow.api.pause("lively", False)
        self._run_id = self._airflow.api.trigger("lively", {})
        self._until("all tasks are where they should be", self._all_in_place)
        return self._pods()

    def _all_in_place(self) -> bool:
        states = {name: ti.state for name, ti in self._tasks().items()}
        running = dict.fromkeys((*SURVIVORS, *LOSE_WORKER), "running")
        if states != {**running, "deferred": "deferred", "deferred_failed": "deferred", "kept": "success"}:
            return False
        return all(pod.status.phase != "Pending" for pod in self._pods().values())

    def _disturb(self) -> None:
        """Kill workers, and fail and clear tasks as a person does."""
        tries = self._tries()
        for name in LOSE_WORKER:
            self._kill_worker(name)
        for name in ("mapped[0]", "deferred_failed"):
            self._mark_failed(name)
        self._clear("cleared")
        self._until("the task without retries has failed", lambda: self._tasks()["sidecar"].state == "failed")
        self._await_new_tries(tries, ("reattached", "replaced", "cleared"))

    def _restart_scheduler(self) -> None:
        """Kill the scheduler with all its workers, as when its container dies: all running tasks lose theirs."""
        self._until("no run is going on", lambda: self._records.are_idle("kpo_cleanup", "busy"))
        tries = self._tries()
        self._airflow.restart("scheduler", self._terminal)
        self._await_new_tries(tries, SURVIVORS)

    def _await_new_tries(self, tries: Mapping[str, int], names: Collection[str]) -> None:
        def all_run() -> bool:
            tasks = self._tasks()
            return all(tasks[name].state == "running" and tasks[name].try_number > tries[name] for name in names)

        self._until(f"the next tries of {', '.join(names)} run", all_run)

    def _pause_cleanup_between_runs(self) -> Any:
        """Pause the cleanup between two runs, and return the time of it, by the clock of the database."""

        def paused() -> bool:
            self._airflow.api.pause("kpo_cleanup", True)
            if self._records.are_idle("kpo_cleanup"):
                return True
            self._airflow.api.pause("kpo_cleanup", False)  # or the run that has begun would stand still
            return False

        self._until("the cleanup is paused between two runs", paused)
        return self._records.now()

    def _see_one_cleanup(self) -> None:
        """Wait for a cleanup that begins from now on."""
        since = self._records.now()
        self._until("a cleanup on its schedule", lambda: self._has_run("kpo_cleanup", since))

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
            # The REST API of 2.11 does not write the state of a task that is running. The worker's next heartbeat then
            # undoes the rest. The UI and the command line do write it.
            self._airflow.run("tasks", "clear", "--yes", "--task-regex", f"^{name}$", "lively")

    def _kill_worker(self, name: str) -> None:
        pid = self._tasks()[name].pid
        assert pid is not None, f"{name} has no process"
        kill_worker(pid, self._airflow.scheduler_pid)

    def _pods(self) -> Pods:
        """List the pods of `lively`."""
        pods = pods_by_role(self._core)
        return {role: pod for role, pod in pods.items() if role.startswith("lively.")}

    def _tasks(self) -> dict[str, Row]:
        """List the tasks of `lively`."""
        return {ti.name: ti for ti in self._records.task_instances("lively")}

    def _tries(self) -> dict[str, int]:
        return {name: ti.try_number for name, ti in self._tasks().items()}

    def _until(self, what: str, look: Callable[[], bool]) -> None:
        def look_at_both() -> bool:
            self._airflow.healthy_api()
            return look()

        try:
            self._terminal.wait_for(what, look_at_both, TIMEOUT, log=self._airflow.log("scheduler"))
        except DemoError:
            self._terminal.show(f"{name}: {ti.state}, try {ti.try_number}" for name, ti in self._tasks().items())
            self._terminal.show(f"{role}: {pod.status.phase}" for role, pod in self._pods().items())
            raise
