"""The story that the demo tells, step by step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from demo.airflow import Airflow
from demo.airflow_settings import HEARTBEAT_TIMEOUT
from demo.pods import COLUMNS, Namespace, PodView
from demo.processes import kill_worker
from demo.rest import TaskInstance
from demo.scenario import DAG_ID, ROLES, Role, role_of, title
from demo.terminal import DemoError, Terminal

STEPS = 8
HANGING = sum(role.is_zombie for role in ROLES)  # tasks whose pods never end
SETTLE_SECONDS = 5
# Seconds. A cluster of the user's own may have to pull images.
PODS_TIMEOUT = 180
TASKS_TIMEOUT = 120


class Story:
    """Steps 2 to 8 of the demo, after Airflow and the cluster have started."""

    def __init__(self, airflow: Airflow, namespace: Namespace, terminal: Terminal) -> None:
        self._airflow = airflow
        self._namespace = namespace
        self._terminal = terminal
        self.run_id = ""
        self._cleanup_run_ids: dict[str, str] = {}  # of the latest run of each DAG

    def tell(self) -> bool:
        """Play all steps; tell whether exactly the zombies were deleted."""
        self.make_pods()
        self.look_while_all_works()
        self.kill_workers()
        self.wait_for_heartbeats()
        before = self._pods()
        self._show_pods(before)
        self.look_at_zombies()
        self.clean_up()
        return self.compare(before)

    def places(self) -> list[tuple[str, str]]:
        """Name the places to look at in the UI of Airflow 3 after the story, each with its path."""
        return [
            ("the log of `classify` in the dry run, with each zombie", self._path("kpo_cleanup_dry_run", "classify")),
            ("the log of `reap` in the real run, with each deletion", self._path("kpo_cleanup", "reap")),
            ("the XComs `summary`, one for each run and task", "/xcoms?key_pattern=summary"),
            ("the tasks that made the pods", f"/dags/{DAG_ID}/runs/{quote(self.run_id)}"),
        ]

    def make_pods(self) -> None:
        self._terminal.step("run tasks that make pods (DAG kpo_zombies)")
        self.run_id = self._airflow.checked().trigger(DAG_ID, {})
        self._terminal.table([(title(role), role.story) for role in ROLES], ("task", "what its pod does"))
        self._wait("all pods do what they should", self._pods_play_their_roles, PODS_TIMEOUT)
        self._wait(
            "the triggerer has taken over the deferred task",
            lambda: any(ti.state == "deferred" for ti in self._task_instances()),
            TASKS_TIMEOUT,
        )
        self._show_pods(self._pods())

    def look_while_all_works(self) -> None:
        self._terminal.step("kpo_cleanup_dry_run, a look that deletes nothing, while all tasks are still running")
        classified = self._look()
        if classified["zombies"] or classified["kept_by_reason"].get("stalled") != HANGING:
            raise DemoError(f"expected no zombies and {HANGING} stalled pods, but: {classified['summary']}")
        self._terminal.say(f"no zombies yet: {HANGING} tasks are stalled, they wait for a sidecar that never ends")

    def kill_workers(self) -> None:
        self._terminal.step("the workers of three tasks die (SIGKILL, as when a node goes)")
        for ti in self._task_instances():
            if role_of(ti).loses_worker:
                if ti.pid is None:
                    raise DemoError(f"{title(ti)} is {ti.state} and has no process")
                kill_worker(ti.pid, self._airflow.scheduler_pid)
                self._terminal.say(f"killed process {ti.pid} of {title(ti)}, and its supervisor")

    def wait_for_heartbeats(self) -> None:
        self._terminal.step(f"Airflow misses their heartbeats (after {HEARTBEAT_TIMEOUT} s; usually 5 minutes)")
        for role in ROLES:
            if role.loses_worker:
                again = f" again, as try {role.try_number}" if role.try_number > 1 else ""
                self._wait(
                    f"{title(role)} is {role.state}{again}",
                    partial(self._has_come_true, role),
                    TASKS_TIMEOUT,
                )
        retried = next(role for role in ROLES if role.try_number > 1)
        [pod] = [pod for pod in self._pods() if retried.plays(pod)]
        self._wait(f"try 2 finds the pod of try 1, {pod.name}", lambda: self._has_reattached(pod), TASKS_TIMEOUT)

    def look_at_zombies(self) -> None:
        self._terminal.step("kpo_cleanup_dry_run again, now that there are zombies")
        classified = self._look()
        if len(classified["zombies"]) != HANGING:
            raise DemoError(f"expected {HANGING} zombies, but: {classified['summary']}")
        self._terminal.say(f"all pods are still there; the summary says: {classified['summary']}")

    def clean_up(self) -> None:
        self._terminal.step("kpo_cleanup, which deletes them")
        self._run_cleanup("kpo_cleanup")

    def compare(self, before: list[PodView]) -> bool:
        self._terminal.step("what is left")
        after = {pod.uid: pod for pod in self._pods()}
        self._show_pods(list(after.values()))
        self._terminal.say("the verdict:")
        rows, task_instances = [], self._task_instances()
        for pod in before:
            role, now = role_of(pod), after.pop(pod.uid, None)
            survives = now is not None and now.is_running and not now.is_terminating
            right = (now is None) if role.is_zombie else (survives and role.has_come_to(task_instances))
            state = ", ".join(f"{ti.state}, try {ti.try_number}" for ti in task_instances if role.plays(ti))
            left = "deleted" if now is None else "alive" if survives else "dying"
            rows.append((title(pod), state, "go" if role.is_zombie else "stay", left, "yes" if right else "NO"))
        self._terminal.table(rows, ("task", "Airflow says", "its pod must", "and is", "right?"))
        for pod in after.values():
            self._terminal.say(f"{pod.name} is new, which no pod should be")
        return not after and all(row[-1] == "yes" for row in rows) and len(rows) == len(ROLES)

    def _look(self) -> dict[str, Any]:
        """Do a dry run, and return what `classify` returned.

        :raises DemoError: if pods were deleted or made in the meantime.
        """
        before = self._pods()
        classified = self._run_cleanup("kpo_cleanup_dry_run")
        after = self._pods()
        if {pod.uid for pod in after} != {pod.uid for pod in before} or any(pod.is_terminating for pod in after):
            raise DemoError("pods were deleted or made during the dry run")
        return classified

    def _run_cleanup(self, dag_id: str) -> dict[str, Any]:
        """Run the cleanup, show its logs, and return what `classify` returned."""
        conf = {"settle_seconds": SETTLE_SECONDS}
        run_id = self._cleanup_run_ids[dag_id] = self._airflow.checked().trigger(dag_id, conf)
        self._terminal.say(f"{dag_id} is triggered with {conf}")

        def is_over() -> bool:
            return self._airflow.checked().run_state(dag_id, run_id) in ("success", "failed")

        self._wait("the run is over", is_over, TASKS_TIMEOUT)
        states = {ti.task_id: ti.state for ti in self._airflow.api.task_instances(dag_id, run_id)}
        for task_id in ("list_pods", "fetch_active_tis", "classify", "reap"):
            self._terminal.say(f"{task_id}: {states.get(task_id)}")
            self._terminal.show(self._airflow.api.our_log(dag_id, run_id, task_id))
        if "failed" in states.values():
            raise DemoError(f"{dag_id} failed", self._airflow.log("scheduler"))
        classified: dict[str, Any] = self._airflow.api.returned(dag_id, run_id, "classify")
        return classified

    def _path(self, dag_id: str, task_id: str) -> str:
        """Make the path of a task of the latest run."""
        return f"/dags/{dag_id}/runs/{quote(self._cleanup_run_ids[dag_id])}/tasks/{task_id}"

    def _pods_play_their_roles(self) -> bool:
        for ti in self._task_instances():
            if ti.state == "failed":
                raise DemoError(f"{title(ti)} has failed too early", self._airflow.log("scheduler"))
        pods = self._pods()
        return len(pods) == len(ROLES) and all(
            pod.base_ended_for(SETTLE_SECONDS) if role_of(pod).is_zombie else pod.is_running for pod in pods
        )

    def _has_come_true(self, role: Role) -> bool:
        return role.has_come_to(self._task_instances())

    def _has_reattached(self, pod: PodView) -> bool:
        log = self._airflow.checked().log(DAG_ID, self.run_id, pod.task_id, try_number=2)
        return any(pod.name in str(entry["event"]) for entry in log)

    def _pods(self) -> list[PodView]:
        return self._namespace.pods(DAG_ID, self.run_id)

    def _task_instances(self) -> list[TaskInstance]:
        return self._airflow.checked().task_instances(DAG_ID, self.run_id)

    def _show_pods(self, pods: list[PodView]) -> None:
        self._terminal.say(f"pods in namespace {self._namespace.name}:{'' if pods else ' none'}")
        if pods:
            self._terminal.table([(title(pod), *pod.row) for pod in pods], ("task", *COLUMNS))

    def _wait(self, what: str, look: Callable[[], bool], seconds: float) -> None:
        def look_at_both() -> bool:
            self._airflow.checked()
            return look()

        try:
            self._terminal.wait_for(what, look_at_both, seconds, log=self._airflow.log("scheduler"))
        except DemoError:
            self._show_pods(self._pods())
            raise
