"""The steps of the demo, from the first pod to the check of what was deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote

from demo.airflow import Airflow
from demo.airflow_settings import HEARTBEAT_TIMEOUT
from demo.pods import COLUMNS, Namespace, PodView
from demo.processes import kill_worker
from demo.rest import TaskInstance
from demo.scenario import DAG_ID, DemoTask, title
from demo.terminal import DemoError, Terminal

STEPS = 8
SETTLE_SECONDS = 5
# Timeouts in seconds. The user's own cluster may have to pull images first.
PODS_TIMEOUT = 180
TASKS_TIMEOUT = 120


class Story:
    """Steps 2 to 8 of the demo, which follow the start of the cluster and of Airflow."""

    def __init__(self, airflow: Airflow, namespace: Namespace, terminal: Terminal, tasks: Sequence[DemoTask]) -> None:
        self._airflow = airflow
        self._namespace = namespace
        self._terminal = terminal
        self._tasks = tasks
        self._zombies = sum(task.leaves_zombie for task in tasks)
        self.run_id = ""
        self._cleanup_run_ids: dict[str, str] = {}  # the latest run_id of each cleanup DAG

    def run(self) -> bool:
        """Run all steps, and return whether all zombies and nothing else were deleted."""
        self.start_tasks()
        self.dry_run_without_zombies()
        self.kill_workers()
        self.wait_for_heartbeat_timeout()
        before = self._pods()
        self._show_pods(before)
        self.dry_run_with_zombies()
        self.clean_up()
        return self.compare(before)

    def links(self) -> list[tuple[str, str]]:
        """Return the pages of the Airflow 3 UI that show the result, as pairs of description and path."""
        return [
            (
                "the log of `classify` in the dry run, which lists each zombie",
                self._path("kpo_cleanup_dry_run", "classify"),
            ),
            ("the log of `reap` in the real run, which lists each deletion", self._path("kpo_cleanup", "reap")),
            ("the XComs `summary`, one for each run and task", "/xcoms?key_pattern=summary"),
            ("the tasks that created the pods", f"/dags/{DAG_ID}/runs/{quote(self.run_id)}"),
        ]

    def start_tasks(self) -> None:
        self._terminal.step("run tasks that create pods (DAG kpo_zombies)")
        # With a logical date, like a scheduled run: without one, the Task SDK returns neither tries nor ends.
        self.run_id = self._airflow.healthy_api().trigger(DAG_ID, {}, datetime.now(UTC))
        self._terminal.table([(title(task), task.pod_description) for task in self._tasks], ("task", "its pod"))
        self._wait("all pods are in the state described above", self._pods_are_ready, PODS_TIMEOUT)
        self._wait(
            "the triggerer has taken over the deferred task",
            lambda: any(ti.state == "deferred" for ti in self._task_instances()),
            TASKS_TIMEOUT,
        )
        self._show_pods(self._pods())

    def dry_run_without_zombies(self) -> None:
        self._terminal.step("run kpo_cleanup_dry_run, which deletes nothing, while all tasks are still active")
        classification = self._dry_run()
        stalled = sum(task.hangs for task in self._tasks)
        if classification["zombies"] or classification["kept_by_reason"].get("stalled") != stalled:
            raise DemoError(f"expected no zombies and {stalled} stalled pods, but got: {classification['summary']}")
        self._terminal.info(f"no zombies yet: {stalled} tasks are stalled, waiting for a sidecar that never exits")

    def kill_workers(self) -> None:
        count = sum(task.loses_worker for task in self._tasks)
        self._terminal.step(f"kill the workers of {count} tasks (SIGKILL, as if their node had died)")
        for ti in self._task_instances():
            if self._task_of(ti).loses_worker:
                if ti.pid is None:
                    raise DemoError(f"{title(ti)} is {ti.state} and has no process")
                kill_worker(ti.pid, self._airflow.scheduler_pid)
                self._terminal.info(f"killed process {ti.pid} of {title(ti)} and its supervisor")

    def wait_for_heartbeat_timeout(self) -> None:
        self._terminal.step(
            f"wait until Airflow notices the missing heartbeats ({HEARTBEAT_TIMEOUT} s here, 5 minutes by default)"
        )
        for task in self._tasks:
            if task.loses_worker:
                retry = f" again, as try {task.expected_try}" if task.expected_try > 1 else ""
                self._wait(
                    f"{title(task)} is in state {task.expected_state}{retry}",
                    partial(self._is_as_expected, task),
                    TASKS_TIMEOUT,
                )
        retried = next(task for task in self._tasks if task.expected_try > 1)
        [pod] = [pod for pod in self._pods() if retried.matches(pod)]
        self._wait(f"try 2 adopts the pod of try 1, {pod.name}", lambda: self._is_adopted(pod), TASKS_TIMEOUT)
        self._wait(f"the failed tasks ended at least {SETTLE_SECONDS} s ago", self._zombies_have_settled, TASKS_TIMEOUT)

    def dry_run_with_zombies(self) -> None:
        self._terminal.step("run kpo_cleanup_dry_run again, now that there are zombies")
        classification = self._dry_run()
        if len(classification["zombies"]) != self._zombies:
            raise DemoError(f"expected {self._zombies} zombies, but got: {classification['summary']}")
        self._terminal.info(f"all pods still exist; the summary of the run: {classification['summary']}")

    def clean_up(self) -> None:
        self._terminal.step("run kpo_cleanup, which deletes the zombies")
        self._run_cleanup("kpo_cleanup")
        # The garbage collector deletes the pods of a deleted Job or SparkApplication.
        self._wait("no pod is terminating", lambda: not any(pod.is_terminating for pod in self._pods()), PODS_TIMEOUT)

    def compare(self, before: list[PodView]) -> bool:
        self._terminal.step("compare the remaining pods with what is expected")
        after = {pod.uid: pod for pod in self._pods()}
        self._show_pods(list(after.values()))
        self._terminal.info("result:")
        rows, task_instances = [], self._task_instances()
        for pod in before:
            task, current = self._task_of(pod), after.pop(pod.uid, None)
            survived = current is not None and current.main_is_running and not current.is_terminating
            is_right = (current is None) if task.leaves_zombie else (survived and task.is_as_expected(task_instances))
            state = ", ".join(f"{ti.state}, try {ti.try_number}" for ti in task_instances if task.matches(ti))
            expected = "deleted" if task.leaves_zombie else "alive"
            actual = "deleted" if current is None else "alive" if survived else "terminating"
            rows.append((title(pod), state, expected, actual, "yes" if is_right else "NO"))
        self._terminal.table(rows, ("task", "task instance", "pod should be", "pod is", "as expected"))
        for pod in after.values():
            self._terminal.info(f"unexpected new pod: {pod.name}")
        return not after and all(row[-1] == "yes" for row in rows) and len(rows) == self._pod_count

    def _dry_run(self) -> dict[str, Any]:
        """Run kpo_cleanup_dry_run, and return what `classify` returned.

        :raises DemoError: if pods were deleted or created in the meantime.
        """
        before = self._pods()
        classification = self._run_cleanup("kpo_cleanup_dry_run")
        after = self._pods()
        if {pod.uid for pod in after} != {pod.uid for pod in before} or any(pod.is_terminating for pod in after):
            raise DemoError("pods were deleted or created during the dry run")
        return classification

    def _run_cleanup(self, dag_id: str) -> dict[str, Any]:
        """Run a cleanup DAG, show the logs of its tasks, and return what `classify` returned."""
        conf = {"settle_seconds": SETTLE_SECONDS}
        run_id = self._cleanup_run_ids[dag_id] = self._airflow.healthy_api().trigger(dag_id, conf)
        self._terminal.info(f"triggered {dag_id} with {conf}")

        def has_ended() -> bool:
            return self._airflow.healthy_api().run_state(dag_id, run_id) in ("success", "failed")

        self._wait("the run has ended", has_ended, TASKS_TIMEOUT)
        states = {ti.task_id: ti.state for ti in self._airflow.api.task_instances(dag_id, run_id)}
        for task_id in ("list_pods", "fetch_active_tis", "classify", "reap"):
            self._terminal.info(f"{task_id}: {states.get(task_id)}")
            self._terminal.show(self._airflow.api.cleanup_log(dag_id, run_id, task_id))
        if "failed" in states.values():
            raise DemoError(f"{dag_id} failed", self._airflow.log("scheduler"))
        classification: dict[str, Any] = self._airflow.api.return_value(dag_id, run_id, "classify")
        return classification

    def _path(self, dag_id: str, task_id: str) -> str:
        """Return the UI path of a task in the latest run of a cleanup DAG."""
        return f"/dags/{dag_id}/runs/{quote(self._cleanup_run_ids[dag_id])}/tasks/{task_id}"

    def _pods_are_ready(self) -> bool:
        """Return whether the main container of each future zombie has exited, and all others are running."""
        for ti in self._task_instances():
            if ti.state == "failed":
                raise DemoError(f"{title(ti)} failed too early", self._airflow.log("scheduler"))
        pods = self._pods()
        return len(pods) == self._pod_count and all(
            pod.main_ended_longer_ago_than(SETTLE_SECONDS) if self._task_of(pod).hangs else pod.main_is_running
            for pod in pods
        )

    def _zombies_have_settled(self) -> bool:
        return all(
            ti.ended_longer_ago_than(SETTLE_SECONDS) for ti in self._task_instances() if self._task_of(ti).leaves_zombie
        )

    @property
    def _pod_count(self) -> int:
        return sum(task.pods for task in self._tasks)

    def _task_of(self, item: TaskInstance | PodView) -> DemoTask:
        return next(task for task in self._tasks if task.matches(item))

    def _is_as_expected(self, task: DemoTask) -> bool:
        return task.is_as_expected(self._task_instances())

    def _is_adopted(self, pod: PodView) -> bool:
        log = self._airflow.healthy_api().log(DAG_ID, self.run_id, pod.task_id, try_number=2)
        return any(pod.name in str(entry["event"]) for entry in log)

    def _pods(self) -> list[PodView]:
        return self._namespace.pods(DAG_ID, self.run_id)

    def _task_instances(self) -> list[TaskInstance]:
        return self._airflow.healthy_api().task_instances(DAG_ID, self.run_id)

    def _show_pods(self, pods: list[PodView]) -> None:
        self._terminal.info(f"pods in namespace {self._namespace.name}:{'' if pods else ' none'}")
        if pods:
            self._terminal.table([(title(pod), *pod.row) for pod in pods], ("task", *COLUMNS))

    def _wait(self, description: str, condition: Callable[[], bool], timeout: float) -> None:
        def is_met_while_healthy() -> bool:
            self._airflow.healthy_api()
            return condition()

        try:
            self._terminal.wait_for(description, is_met_while_healthy, timeout, log=self._airflow.log("scheduler"))
        except DemoError:
            self._show_pods(self._pods())
            raise
