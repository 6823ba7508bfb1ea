"""The life of task instances and their workloads, as Airflow, the operators, people and the cluster lead it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.task_instance import Record
from tests.faults import objects, rules
from tests.faults.chances import ESCAPES, MARKED, RECORDS, RUN_IDS, WAITS
from tests.faults.controllers import MERGE, Controllers
from tests.faults.objects import (
    APPLICATION,
    JOB,
    POD,
    Json,
    controller_uid,
    is_completed,
    is_driver,
    is_finished,
    is_terminating,
    kind,
    path_of,
    timestamp,
    uid,
)
from tests.faults.servers import Server
from tests.faults.world import FINISHED, UNREADABLE, Operator, Task

PRODUCTION, STAGING = {"env": "production"}, {"env": "staging"}
WORKFLOW = {"apiVersion": "example.org/v1", "kind": "Workflow", "name": "flow", "uid": "1", "controller": True}
PATCHES: dict[str, Json] = {
    "is protected": {"annotations": {"kpo-cleanup/protect": "true"}},
    "gets a controller": {"ownerReferences": [WORKFLOW]},
    "gets a label": {"labels": {"sidecar.example.org/injected": "true"}},
    "leaves the selection": {"labels": {"env": "excluded"}},
    "loses the operator's label": {"labels": {"kubernetes_pod_operator": None}},
}


class Life:
    """One Airflow with its workloads in two namespaces, and perhaps another Airflow that has workloads there."""

    server: Server
    controllers: Controllers
    clock: Callable[[], float]
    time_passes: Callable[[float], None]
    set_clock_offset: Callable[[float], None]  # of the API server, in seconds
    neighbour: str  # how the other Airflow's workloads differ from ours
    clocks: Iterator[int]  # of the API servers: by how many seconds they are fast
    numbers: Iterator[int]
    namespaces: list[str]
    tasks: dict[TaskInstanceKey, Task]
    their_tasks: dict[TaskInstanceKey, Task]  # of the other Airflow
    all_tasks: list[Task]  # including those whose run was deleted
    replaced: dict[str, str]  # uid of the old workload: uid of the new one

    def objects(self) -> list[Json]:
        kinds = self.controllers.kinds
        return [obj for namespace in self.namespaces for obj in objects.objects(self.server, namespace, kinds)]

    def by_uid(self) -> dict[str, Json]:
        return objects.by_uid(self.objects())

    def create_zombie(self, dag_id: str, task_id: str, namespace: str, index: int, of_kind: str = POD) -> None:
        operators = [Operator(PRODUCTION if self.neighbour in ("selected", "labelled") else {})]
        task = Task(namespace, dag_id, task_id, RUN_IDS[0], index, operators=operators, kind=of_kind, state="failed")
        self.tasks[task.key] = task
        self.uses(task, operators[0], self.create(task, operators[0], name=f"{task_id}-{next(self.numbers)}"))
        operators[0].uses = None
        task.ended = int(self.clock()) + 300  # later than the pod's creation by the clock of any API server

    def create(self, task: Task, operator: Operator, name: str = "") -> Json:
        """Create the workload of an operator, as of its current try."""
        self.a_moment_passes()
        name, labels = name or f"pod-{next(self.numbers)}", task.labels_by(operator)
        if task.kind == POD:
            return self.server.create_pod(task.namespace, name, labels)
        return self.controllers.create(task.kind, task.namespace, name, labels, task.parallelism)

    def a_moment_passes(self) -> None:
        """Let a second pass, or none, so that creation times do not always show which of two pods is younger.

        The next pod may be created by another API server.
        """
        self.time_passes(next(self.numbers) % 2)
        self.set_clock_offset(next(self.clocks))

    def delete(self, obj: Json) -> None:
        if kind(obj) == POD:
            self.server.delete(obj["metadata"]["namespace"], obj["metadata"]["name"])
        else:
            self.controllers.delete(obj)

    def replace(self, old: Json) -> None:
        """Replace a workload with one of the same name; a pod of a Job or an application as its controller does it."""
        if "finalizers" in old["metadata"]:
            return
        self.delete(old)
        self.time_passes(1)
        namespace, name = old["metadata"]["namespace"], old["metadata"]["name"]
        labels, key = dict(old["metadata"]["labels"]), rules.make_key(old)
        owner = self.by_uid().get(controller_uid(old))
        if owner and (kind(owner) == JOB or is_driver(old)):
            new = self.controllers.start_pod(owner)
        elif kind(old) != POD and key not in self.tasks:
            return  # nobody would create it
        elif kind(old) == APPLICATION and self.controllers.has_driver(namespace, name):
            return  # a driver that has another controller now keeps the new application from starting its own
        else:
            if key in self.tasks:  # its operator creates a workload of the current try
                labels["try_number"] = str(self.tasks[key].try_number)
            if kind(old) == POD:
                new = self.server.create_pod(namespace, name, labels)
            else:
                own = {
                    label: value for label, value in labels.items() if "job-name" not in label and "uid" not in label
                }
                new = self.controllers.create(kind(old), namespace, name, own)
        self.replaced[uid(old)] = uid(new)

    def move_zombie(self, uid: str, what: str) -> None:
        """Restart the task of a workload that is about to be deleted, or change or remove the workload."""
        workload = self.by_uid().get(uid)
        key = rules.make_key(workload) if workload else None
        task = self.tasks.get(key) if key else None
        if workload and what in ESCAPES:
            self.move_object(workload, what)
        elif task:
            self.move(task, "cleared")
            if what == "tries again":
                self.move(task, what)

    def move_object(self, obj: Json, what: str) -> None:
        if what == "vanishes":
            self.delete(obj)
        elif what == "is replaced":
            self.replace(obj)
        elif what == "is being deleted":
            self.delete_gracefully(obj)
        elif what == "is deleted without its pods":
            if kind(obj) == JOB:
                self.controllers.delete(obj, "Orphan")
        elif what in PATCHES:
            self.patch(obj, PATCHES[what])
        elif kind(obj) == POD and not is_completed(obj):
            self.set_status(obj, what)
        elif kind(obj) != POD and not is_finished(obj):
            self.finish(obj, what)
        if is_driver(obj):
            self.controllers.collect_garbage(self.namespaces)

    def patch(self, obj: Json, metadata: Json) -> None:
        self.server.call("PATCH", path_of(obj), {"metadata": metadata}, MERGE)

    def pods_of(self, obj: Json) -> list[Json]:
        """Return the pods of a Job or the driver of an application, or a pod itself."""
        if kind(obj) == POD:
            return [obj]
        return [pod for pod in self.objects() if controller_uid(pod) == uid(obj)]

    def mark_checked(self, obj: Json) -> None:
        for pod in self.pods_of(obj):
            self.patch(pod, {"labels": {"already_checked": "True"}})

    def delete_gracefully(self, obj: Json) -> None:
        if kind(obj) != POD:
            self.controllers.delete(obj)
            return
        if not is_terminating(obj) and not obj["spec"].get("nodeName"):
            self.server.bind(obj["metadata"]["namespace"], obj["metadata"]["name"])
        self.server.call("DELETE", path_of(obj), {"gracePeriodSeconds": 30})

    def finish(self, obj: Json, what: str) -> None:
        """Let all pods of a workload end, or change in another way, and then their owner."""
        for pod in self.pods_of(obj):
            if not is_completed(pod):
                self.set_status(pod, what)
        if kind(obj) != POD:
            self.controllers.finish(obj, what)

    def set_status(self, pod: Json, what: str) -> None:
        now = timestamp(self.clock())
        run, end = {"running": {"startedAt": now}}, {"terminated": {"exitCode": 0, "startedAt": now, "finishedAt": now}}
        main, sidecar = {"running": (run, run), "sidecar": (end, run), "Unknown": (run, run)}.get(what, (end, end))
        main_name = pod["spec"]["containers"][0]["name"]
        statuses = [
            {"name": name, "state": state, "image": "busybox", "imageID": "", "ready": False, "restartCount": 0}
            for name, state in ((main_name, main), ("sidecar", sidecar))
        ]
        phase = "Running" if what in ("running", "sidecar") else what
        metadata = pod["metadata"]
        self.server.set_status(metadata["namespace"], metadata["name"], phase=phase, containerStatuses=statuses)

    def create_task(
        self,
        namespace: int,
        dag_id: str,
        map_index: int,
        run_id: str,
        reattaches: bool,
        on_finish_action: str,
        on_kill_action: str,
        is_deferrable: bool,
        steps: tuple[dict[str, str], ...],
        finalizers: list[str],
        is_shared: bool,
        kind: str,
        waits: bool,
        parallelism: int,
    ) -> Task:
        """Create a task instance with its workload. If it is shared, the other Airflow has one with the same ids."""
        task_id = f"task_{next(self.numbers)}"
        created = []
        airflows = (True, False) if is_shared and self.neighbour != "none" else (True,)
        for is_ours in airflows:
            env = (PRODUCTION if is_ours else STAGING) if self.neighbour in ("selected", "labelled") else {}
            operators = [Operator({**env, **labels}) for labels in (steps if kind == POD else ()) or ({},)]
            ids = (dag_id, task_id, run_id, map_index)
            task = Task(self.namespaces[namespace], *ids, reattaches, operators, kind, is_ours, try_number=0)
            task.on_finish_action, task.on_kill_action = on_finish_action, on_kill_action
            task.is_deferrable, task.waits, task.parallelism = is_deferrable, waits or kind != JOB, parallelism
            self.tasks_of(task)[task.key] = task
            created.append(task)
            self.start_try(task)
            workload = self.by_uid().get(operators[0].uses or "") if finalizers else None
            if workload:
                self.patch(workload, {"finalizers": finalizers})
        self.all_tasks += created
        return created[next(self.numbers) % len(created)]

    def tasks_of(self, task: Task) -> dict[TaskInstanceKey, Task]:
        return self.tasks if task.is_ours else self.their_tasks

    def uses(self, task: Task, operator: Operator, workload: Json, dies: str = "") -> None:
        """Attach the operator to its workload, and push its XComs unless it dies first.

        An operator that does not wait for its Job ends right after that. Its worker does not die in these milliseconds,
        because then nothing would show that an earlier Job was left running on purpose.
        """
        operator.uses = uid(workload)
        if dies != "unrecorded":
            task.record = Record(frozenset({rules.record_name(workload)}), is_detached=not task.waits)
            if not task.waits:
                task.detached.add(uid(workload))
                self.end(task, "success", "")

    def move(self, task: Task, move: str) -> None:
        """Make a move, or do nothing if it is impossible."""
        move, _, how = move.partition(", ")
        tasks = self.tasks_of(task)
        exists = tasks.get(task.key) is task
        if move.startswith("its run is recreated") and (not exists or task.is_finished):
            # It has the same run_id: tries count from 1 again, and workloads of the earlier run may still exist.
            tasks[task.key] = task
            task.try_number = 0
            task.store.clear()
            self.start_try(task, move.removeprefix("its run is recreated").removeprefix(" and dies "))
        elif move == "its run is deleted" and exists and task.is_finished:
            # If the task were live, nobody would use its workload then.
            del tasks[task.key]
        elif move.startswith("tries again") and exists and not task.is_finished and task.state != "running":
            self.start_try(task, move.removeprefix("tries again").removeprefix(" and dies "))
        elif move in FINISHED and exists and not task.is_finished:
            self.end(task, move, how)
        elif move == MARKED and exists:
            self.end(task, "failed", "")
        elif move == "its pod is being deleted":
            for pod in rules.find_pods(self.server, task, task.operators[0])[-1:]:
                self.delete_gracefully(pod)
        elif move == "its second operator starts" and exists and task.state == "running" and len(task.operators) > 1:
            if how == "tidy":
                self.operators_end(task, how)
            self.operator_starts(task, task.operators[1])
        elif move.startswith("becomes plain") and exists and task.map_index != UNMAPPED and task.state != "running":
            self.become_plain(task, move.removeprefix("becomes plain"))
        elif move in RECORDS and task.waits:  # otherwise only its record shows that a Job was left running on purpose
            another = f"{JOB} {task.namespace}/another" if task.kind == JOB else f"{task.namespace}/another"
            task.record = {
                "its record is lost": None,
                "its record names another": Record(frozenset({another})),
                "its record is unreadable": Record(problem=UNREADABLE),
            }[move]
        elif move in WAITS and exists:
            task.state = None if move == "cleared" else move

    def become_plain(self, task: Task, how: str) -> None:
        """Replace a mapped task with a plain one of a newer version of its DAG, scheduled in the same run.

        Its operator adopts a pod that has a map index, because it searches by a subset of the pod's labels.
        """
        plain = replace(
            task,
            map_index=UNMAPPED,
            operators=[Operator(operator.labels) for operator in task.operators],
            state="queued",
            try_number=0,
            ended=None,
            record=None,
            store={},
            detached=set(),
        )
        tasks = self.tasks_of(task)
        if plain.key in tasks:
            return
        task.state, task.ended = "removed", task.ended or int(self.clock())
        tasks[plain.key] = plain
        self.all_tasks.append(plain)
        if how:
            self.start_try(plain)
        if how == " with an unreadable record":
            plain.record = Record(problem=UNREADABLE)

    def start_try(self, task: Task, dies: str = "") -> None:
        """Start a try as Airflow and the operator do.

        :param dies: ``early``, before it has a workload; ``unrecorded``, before it has pushed its XComs; ``late``,
            before it has marked an older pod as checked.
        """
        task.try_number, task.state, task.ended, task.record = task.try_number + 1, "running", None, None
        for operator in task.operators:
            operator.uses = operator.process = None
        if dies != "early":
            self.operator_starts(task, task.operators[0], dies)

    def operator_starts(self, task: Task, operator: Operator, dies: str = "") -> None:
        starts = {
            POD: self._pod_operator_starts,
            JOB: self._job_operator_starts,
            APPLICATION: self._spark_operator_starts,
        }
        starts[task.kind](task, operator, dies)

    def _pod_operator_starts(self, task: Task, operator: Operator, dies: str) -> None:
        found = rules.find_pods(self.server, task, operator)
        if not task.reattaches:
            self.uses(task, operator, self.create(task, operator), dies)
            for older in [] if dies else found[:1]:
                self.mark_checked(older)
        elif len(found) > 1:
            task.state = "up_for_retry"  # FoundMoreThanOnePodFailure
        elif not found:
            self.uses(task, operator, self.create(task, operator), dies)
        elif is_completed(found[0]):
            self.delete(found[0])
            self.uses(task, operator, self.create(task, operator), dies)
        else:
            self.uses(task, operator, found[0], dies)

    def _job_operator_starts(self, task: Task, operator: Operator, dies: str) -> None:
        self.uses(task, operator, self.create(task, operator), dies)

    def _spark_operator_starts(self, task: Task, operator: Operator, dies: str) -> None:
        there = self.by_uid()
        driver = rules.find_driver(there.values(), task, operator)
        app = there.get(controller_uid(driver)) if driver else None
        self.uses(task, operator, app or self.create(task, operator), dies)

    def attached(self, task: Task) -> list[Json]:
        there, used = self.by_uid(), dict.fromkeys(operator.uses for operator in task.operators)
        return [there[workload] for workload in used if workload in there]

    def end(self, task: Task, state: str, how: str) -> None:
        task.state, task.ended = state, None if how == "end unknown" else int(self.clock())
        if how:
            self.operators_end(task, how)
        for operator in task.operators:
            operator.uses = operator.process = None

    def operators_end(self, task: Task, how: str) -> None:
        for workload in self.attached(task):
            has_ended = is_completed(workload) if kind(workload) == POD else is_finished(workload)
            if how == "tidy":
                self.delete(workload)
            elif how == "killed" and (kind(workload) != POD or task.on_kill_action == "delete_pod"):
                self.kill(task, workload)
            elif how == "keep":
                self.mark_checked(workload)
                if not has_ended:
                    self.finish(workload, "Succeeded" if task.state == "success" else "Failed")

    def kill(self, task: Task, workload: Json) -> None:
        """Delete a workload as ``on_kill`` does. The ``on_kill`` of old providers orphans the pods of a Job."""
        if kind(workload) == POD:
            self.delete_gracefully(workload)
        else:
            orphans = kind(workload) == JOB and task.on_kill_action == "keep_pod"
            self.controllers.delete(workload, "Orphan" if orphans else "Foreground")
