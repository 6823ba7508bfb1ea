"""Random clusters, task instances, clocks and faults: what is live stays, what is dead goes, and nothing hangs.

``HYPOTHESIS_PROFILE=explore`` looks much further, at random.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from demo.cluster import EmbeddedCluster
from include.kpo_cleanup import xcom
from include.kpo_cleanup.classify import classify
from include.kpo_cleanup.errors import KpoCleanupError
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey, safe_label
from include.kpo_cleanup.kube.pods import PodApi
from include.kpo_cleanup.reap import Result, reap
from include.kpo_cleanup.report import failures
from include.kpo_cleanup.retries import Patience
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.vocabulary import Outcome
from tests import proxy
from tests.faults import world
from tests.faults.cases import DELETE_CASES, LIST_CASES, Case, Does, says_pattern
from tests.faults.conftest import CONN_ID
from tests.faults.servers import Server, behind_proxy, connection
from tests.faults.world import OVER, SOURCE_DOWN, Json, MemorySource, Task, timestamp, uid

EXPLORE = os.environ.get("HYPOTHESIS_PROFILE") == "explore"
EXAMPLES = int(os.environ.get("FAULT_EXAMPLES", "1500" if EXPLORE else "120"))
PAGE_SIZE, BATCH_SIZE = 2, 3
HASTY = Patience(read_timeout=0.25, attempts=3, first_wait=0.0025, max_wait=0.02)
PATIENT = replace(HASTY, read_timeout=30)  # without faults, a busy machine must not make a timeout
STEP_SECONDS = 20.0  # with the timeouts above, whatever the fault

RUN_IDS = ("run_1", safe_label("scheduled__2026-11-24T00:00:00+00:00"))
DELETE_FAULTS = [case for case in DELETE_CASES if case.does in (Does.DELETE_RETRIES, Does.DELETE_FAILS)]

ANY_NUMBER = st.integers(0, 1_000)
durations = st.sampled_from([1, 59, 61, 299, 301, 4_000, 90_000])
fault_times = st.sampled_from([None, 1, 2, 3, 7])
task_shapes = st.fixed_dictionaries(
    {
        "namespace": st.integers(0, 1),
        "map_index": st.sampled_from([UNMAPPED, UNMAPPED, 0, 1]),
        "run_id": st.sampled_from(RUN_IDS),
        "reattaches": st.booleans(),
        "finalizers": st.sampled_from([[], [], [], ["example.org/backup"]]),
    }
)
# What becomes of a task instance. Where it ends, its operator deletes the pod (tidy), checks it off (keep), or is dead.
ENDS = ("failed", "success", "skipped", "upstream_failed", "removed", "failed, end not known")
WAITS = ("up_for_retry", "cleared", "queued", "restarting", "deferred", "a_state_of_a_later_airflow")
RUN_ENDS = ("its run is deleted", "its run is made anew")
moves = st.sampled_from([*ENDS, "success, tidy", "success, keep", "failed, keep", *WAITS, "tries again", *RUN_ENDS])
stories = st.one_of(
    st.lists(moves, max_size=3),
    st.tuples(st.sampled_from(ENDS)),
    st.tuples(st.sampled_from(WAITS), st.sampled_from(["tries again", "tries again and dies"])),
    st.tuples(st.sampled_from(ENDS), st.just("cleared"), st.just("tries again")),
    st.tuples(st.sampled_from(ENDS), st.sampled_from(RUN_ENDS)),
    # Two pods, and the later one is not to be attached to any more.
    st.tuples(st.just("up_for_retry"), st.just("tries again and dies"), st.just("its pod is being deleted")),
    st.tuples(*map(st.just, ("up_for_retry", "tries again and dies", "failed, keep", "cleared"))),
)
POD_MOVES = ("running", "sidecar", "Succeeded", "Failed", "Unknown", "vanishes", "is replaced", "is being deleted")

Life = tuple[Json, list[Sequence[str]]]
lives = st.lists(st.tuples(task_shapes, st.lists(stories, max_size=3)), min_size=2, max_size=8)
Happening = tuple[str, int, Any]  # what it is about, which of them, and what becomes of it
happenings = st.one_of(
    st.tuples(st.just("task"), ANY_NUMBER, moves),
    st.tuples(st.just("pod"), ANY_NUMBER, st.sampled_from(POD_MOVES)),
    st.tuples(st.just("time"), st.just(0), durations),
)
# Of pods that are about to be deleted, and of their task instances.
escapes = st.tuples(
    st.just("zombie"), ANY_NUMBER, st.sampled_from(["cleared", "cleared", "tries again", "tries again", *POD_MOVES])
)
Fault = tuple[str, Case | None, bool, int | None]  # which requests, what, after the deed?, how often
faults = st.one_of(
    st.tuples(
        st.sampled_from(["GET .*/pods", "GET .*continue=", "GET .*labelSelector=dag_id"]),
        st.sampled_from(LIST_CASES),
        st.just(False),
        fault_times,
    ),
    # With no fault of the API server it is a pod that is replaced at the last moment.
    st.tuples(st.just("DELETE "), st.sampled_from([None, None, *DELETE_FAULTS]), st.booleans(), fault_times),
    st.tuples(st.just("source"), st.none(), st.just(False), fault_times),
)
options = st.fixed_dictionaries(
    {
        "settle_seconds": st.sampled_from([0, 60, 300]),
        "delete_completed_pods": st.booleans(),
        "delete_pods_on_failure": st.booleans(),
        "ttl_seconds_after_finished": st.sampled_from([None, None, 0, 3_600]),
        "delete_unmatched_pods": st.booleans(),
        "grace_period_seconds": st.sampled_from([0, 0, -1, 30]),
        "max_deletes": st.sampled_from([500, 500, 1, 3]),
        "dry_run": st.sampled_from([False, False, False, True]),
    }
)


class Airflow(RuleBasedStateMachine):
    """One Airflow with its pods in two namespaces; the cleanup runs step by step while life goes on."""

    server: Server
    clock: Callable[[], float]
    time_passes: Callable[[float], None]

    @initialize(tells_all=st.booleans(), lives=lives, seconds=durations)
    def begin(self, tells_all: bool, lives: list[Life], seconds: int) -> None:
        self.namespaces = [self.server.create_namespace() for _ in range(2)]
        self.tasks: dict[TaskInstanceKey, Task] = {}
        self.all_tasks: list[Task] = []  # with those whose run was deleted
        self.source = MemorySource(self.tasks, tells_all)
        self.api = self.hasty_api = PodApi(CONN_ID, HASTY, PAGE_SIZE)
        self.patient_api = PodApi(CONN_ID, PATIENT, PAGE_SIZE)
        self.numbers = itertools.count(1)
        self.causes: list[re.Pattern[str]] = []  # one of which any error must name
        self.replaced: dict[str, str] = {}  # uid of the old pod: uid of the new one
        self.heal()
        self.begin_run()
        self.tasks_live(lives, seconds)

    # --- the life of task instances and pods

    @rule(lives=lives, seconds=durations)
    def tasks_live(self, lives: list[Life], seconds: int) -> None:
        for shape, past in lives:
            task = self.create_task(**shape)
            for move in itertools.chain.from_iterable(past):
                self.move(task, move)
        self.time_passes(seconds)

    @rule(happens=st.lists(happenings, min_size=1, max_size=6))
    def life_goes_on(self, happens: list[Happening]) -> None:
        for kind, which, what in happens:
            if kind == "time":
                self.time_passes(what)
            elif kind == "task" and self.all_tasks:
                self.move(self.all_tasks[which % len(self.all_tasks)], what)
            elif kind == "pod" and (pods := self.all_pods()):
                self.move_pod(pods[which % len(pods)], what)
            elif kind == "zombie" and self.doomed:
                self.move_zombie(self.doomed[which % len(self.doomed)]["uid"], what)

    @precondition(lambda self: self.tasks)
    @rule(which=ANY_NUMBER, odd=st.sampled_from(["owned", "protected", "unidentified", "of another task"]))
    def there_is_an_odd_pod(self, which: int, odd: str) -> None:
        """Of a task that is over, so that only what is odd about it can save it."""
        task = replace(list(self.tasks.values())[which % len(self.tasks)])
        if not task.is_over:
            return
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "1", "controller": True}
        metadata: dict[str, Json] = {
            "owned": {"ownerReferences": [owner]},
            "protected": {"annotations": {"kpo-cleanup/protect": "true"}},
        }
        if odd == "of another task":
            task.dag_id = "staging"
        self.create_pod(task, without="try_number" if odd == "unidentified" else "", **metadata.get(odd, {}))

    # --- the cleanup

    @rule(
        chosen=options,
        faults=st.lists(faults, max_size=3),
        between=st.lists(st.lists(happenings, max_size=3), min_size=3, max_size=3),
        escapes=st.lists(escapes, max_size=3),
        again=st.booleans(),
    )
    def the_cleanup_runs(
        self,
        chosen: Json,
        faults: list[Fault],
        between: list[list[Happening]],
        escapes: list[Happening],
        again: bool,
    ) -> None:
        """Step by step, while something breaks and life goes on; and perhaps again, when all is well."""
        self.heal()
        self.api = self.hasty_api
        self.begin_run(**chosen)
        for fault in faults:
            self.break_something(fault)
        before_fetch, before_classify, before_reap = between
        for happens in (before_fetch, before_classify, [*before_reap, *escapes], []):
            if self.step():
                self.life_goes_on(happens)
        if again:
            self.when_all_is_well_the_next_run_deletes_all_zombies(chosen)

    def when_all_is_well_the_next_run_deletes_all_zombies(self, chosen: Json) -> None:
        self.heal()
        self.begin_run(**{**chosen, "max_deletes": 500, "dry_run": False, "grace_period_seconds": 0})
        before = self.by_uid()
        zombies = world.zombies(before.values(), self.source, self.settings, int(self.clock()))
        self.api = self.patient_api
        while self.step():
            pass
        assert {result.verdict.pod.uid: result.outcome for result in self.results} == dict.fromkeys(
            zombies, Outcome.DELETED
        )
        after = self.by_uid()
        held = {uid for uid in zombies if before[uid]["metadata"].get("finalizers")}
        assert after.keys() == before.keys() - zombies | held
        assert all(world.is_terminating(after[uid]) for uid in held)

    def teardown(self) -> None:
        if hasattr(self, "namespaces"):
            self.when_all_is_well_the_next_run_deletes_all_zombies({})
            for namespace in self.namespaces:
                self.server.call("DELETE", f"namespaces/{namespace}")

    def begin_run(self, **chosen: Any) -> None:
        self.next_step = "list"
        self.results: list[Result] = []
        self.doomed: list[Json] = []  # the zombies of this run, once they are known
        self.settings = Settings(namespaces=",".join(self.namespaces), **chosen)

    def step(self) -> bool:
        """The next step as in ``steps``; a failure ends the run, and must name its cause. False once it is over."""
        step = self.next_step
        if step == "end":
            return False
        start = time.monotonic()
        try:
            getattr(self, f"_{step}")()
        except KpoCleanupError as error:
            event(f"{step} failed")
            self.must_be_explained(str(error))
            self.next_step = "end"
        assert time.monotonic() - start < STEP_SECONDS, f"{step} took too long"
        return self.next_step != "end"

    def _list(self) -> None:
        self.listing = through_json(xcom.dump_listing(self.api.list_pods(self.settings.namespace_list())))
        for problem in self.listing["problems"]:
            self.must_be_explained(problem)
        self.next_step = "fetch"

    def _fetch(self) -> None:
        keys = {pod.key for pod in xcom.load_listing(self.listing).pods if not pod.label_problem}
        self.told = through_json(xcom.dump_task_instances(self.source.fetch(keys)))
        self.next_step = "classify"

    def _classify(self) -> None:
        listed, told = xcom.load_listing(self.listing).pods, xcom.load_task_instances(self.told)
        verdicts = classify(listed, told, self.settings, int(self.clock()))
        self.doomed = through_json(xcom.dump_zombies(verdicts))
        self.next_step = "reap"

    def _reap(self) -> None:
        doomed = xcom.load_zombies(self.doomed, xcom.load_listing(self.listing))
        used, before = world.pods_in_use(self.server, self.tasks.values()), self.by_uid()
        self.replaced.clear()
        try:
            results = reap(doomed, self.api, self.source, self.settings, self.clock, BATCH_SIZE)
        except KpoCleanupError as error:
            raise AssertionError("reap ended without accounting for every pod") from error
        finally:
            after = self.by_uid()
            standing = {uid for uid, pod in before.items() if not world.is_terminating(pod)}
            still = {uid for uid, pod in after.items() if not world.is_terminating(pod)}
            killed = (standing - still | before.keys() - after.keys()) - self.replaced.keys()
            assert not killed & used, "a pod of a live task instance was deleted"
            assert killed <= {verdict.pod.uid for verdict in doomed}
            assert not (killed and self.settings.dry_run)
            assert set(self.replaced.values()) <= after.keys(), "a new pod of the same name was deleted"
        assert sorted(r.verdict.pod.uid for r in results) == sorted(v.pod.uid for v in doomed)
        for result in results:
            event(f"{result.verdict.reason.value}: {result.outcome.value}")
            pod = after.get(result.verdict.pod.uid)
            if result.outcome is Outcome.ALREADY_GONE:
                assert pod is None
            elif result.outcome is Outcome.DELETED:
                assert pod is None or world.is_terminating(pod)
        failed = [result for result in results if result.outcome is Outcome.FAILED]
        for result in failed:
            self.must_be_explained(str(result.deletion))
        assert bool(failures(results)) == bool(failed)
        self.results = results
        self.next_step = "end"

    # --- what the rules are made of

    def heal(self) -> None:
        self.server.proxy.heal()
        self.source.fails_in = None
        self.causes.clear()

    def must_be_explained(self, message: str) -> None:
        assert any(cause.search(message) for cause in self.causes), f"{message!r} names none of {self.causes}"

    def all_pods(self) -> list[Json]:
        return [pod for namespace in self.namespaces for pod in self.server.pods(namespace).values()]

    def by_uid(self) -> dict[str, Json]:
        return {uid(pod): pod for pod in self.all_pods()}

    def create_pod(self, task: Task, without: str = "", **metadata: Any) -> Json:
        self.time_passes(1)  # which of two pods is the later one must show
        labels = {**task.labels, "try_number": str(task.try_number)}
        labels.pop(without, None)
        return self.server.create_pod(task.namespace, f"pod-{next(self.numbers)}", labels, **metadata)

    def delete_pod(self, pod: Json) -> None:
        self.server.delete(pod["metadata"]["namespace"], pod["metadata"]["name"])

    def replace_pod(self, namespace: str, name: str) -> None:
        old = self.server.pods(namespace).get(name)
        if old is None or "finalizers" in old["metadata"]:
            return
        self.server.delete(namespace, name)
        self.time_passes(1)
        labels, key = dict(old["metadata"]["labels"]), world.key_of(old)
        if key in self.tasks:  # its operator makes a pod of the try that it is at
            labels["try_number"] = str(self.tasks[key].try_number)
        self.replaced[uid(old)] = uid(self.server.create_pod(namespace, name, labels))

    def break_something(self, fault: Fault) -> None:
        where, case, late, times = fault
        if where == "source":
            self.source.fails_in = times or 0
            self.causes.append(re.compile(re.escape(SOURCE_DOWN)))
        elif case is None:
            self.server.proxy.spoil("DELETE ", self.replace_first, times)
        else:
            self.server.proxy.spoil(where, proxy.too_late(case.fault) if late else case.fault, times)
            self.causes.append(says_pattern(case.says, namespace="…", pod="…"))
            if case.does is Does.RUN_FAILS:  # the selector of a second look is nobody's setting
                self.causes.append(re.compile("400 Bad Request; the server says: unable to parse requirement"))

    def move_zombie(self, uid: str, what: str) -> None:
        """What is about to be deleted, or its task instance, comes to life again or goes."""
        pod = self.by_uid().get(uid)
        key = world.key_of(pod) if pod else None
        task = self.tasks.get(key) if key else None
        if pod and what in POD_MOVES:
            self.move_pod(pod, what)
        elif task:
            self.move(task, "cleared")
            if what == "tries again":
                self.move(task, what)

    def move_pod(self, pod: Json, what: str) -> None:
        if what == "vanishes":
            self.delete_pod(pod)
        elif what == "is replaced":
            self.replace_pod(pod["metadata"]["namespace"], pod["metadata"]["name"])
        elif what == "is being deleted":
            self.delete_in_good_order(pod)
        elif not world.is_completed(pod):
            self.set_status(pod, what)

    async def replace_first(self, request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        namespace, name = request.path.split("/")[4::2]
        return await proxy.first(lambda: self.replace_pod(namespace, name))(request, forward)

    def check_off(self, pod: Json) -> None:
        self.server.call(
            "PATCH",
            path_of(pod),
            {"metadata": {"labels": {"already_checked": "True"}}},
            "application/merge-patch+json",
        )

    def delete_in_good_order(self, pod: Json) -> None:
        if not world.is_terminating(pod) and not pod["spec"].get("nodeName"):
            binding = {"metadata": {"name": pod["metadata"]["name"]}, "target": {"kind": "Node", "name": "node-1"}}
            self.server.call("POST", f"{path_of(pod)}/binding", binding)
        self.server.call("DELETE", path_of(pod), {"gracePeriodSeconds": 30})

    def set_status(self, pod: Json, what: str) -> None:
        now = timestamp(self.clock())
        run, end = {"running": {"startedAt": now}}, {"terminated": {"exitCode": 0, "startedAt": now, "finishedAt": now}}
        base, sidecar = {"running": (run, run), "sidecar": (end, run), "Unknown": (run, run)}.get(what, (end, end))
        statuses = [
            {"name": name, "state": state, "image": "busybox", "imageID": "", "ready": False, "restartCount": 0}
            for name, state in (("base", base), ("sidecar", sidecar))
        ]
        phase = "Running" if what in ("running", "sidecar") else what
        metadata = pod["metadata"]
        self.server.set_status(metadata["namespace"], metadata["name"], phase=phase, containerStatuses=statuses)

    def create_task(self, namespace: int, map_index: int, run_id: str, reattaches: bool, finalizers: list[str]) -> Task:
        task_id = f"task_{next(self.numbers)}"
        task = Task(self.namespaces[namespace], "orders", task_id, run_id, map_index, reattaches)
        self.tasks[task.key] = task
        self.all_tasks.append(task)
        self.create_pod(task, finalizers=finalizers)
        return task

    def move(self, task: Task, move: str) -> None:
        """Nothing happens where a move makes no sense."""
        move, _, how = move.partition(", ")
        exists = task.key in self.tasks
        if move == "its run is made anew" and (not exists or task.is_over):
            # Under the same run_id: the tries begin with 1 again, and pods of the run before may still be there.
            self.tasks[task.key] = task
            task.try_number = 0
            self.start_try(task)
        elif move == "its run is deleted" and exists and task.is_over:
            # Under a live task it would leave the pod to nobody.
            del self.tasks[task.key]
        elif move.startswith("tries again") and exists and not task.is_over and task.state != "running":
            self.start_try(task, dies=move.endswith("dies"))
        elif move in OVER and exists and not task.is_over:
            self.end(task, move, how)
        elif move == "its pod is being deleted":
            for pod in world.find_pods(self.server, task)[-1:]:
                self.delete_in_good_order(pod)
        elif move in WAITS and exists:
            task.state = None if move == "cleared" else move

    def start_try(self, task: Task, dies: bool = False) -> None:
        """As the operator does it.

        :param dies: where it does not reattach: whether it dies before it has checked off the older pod.
        """
        task.try_number, task.state, task.ended = task.try_number + 1, "running", None
        found = world.find_pods(self.server, task)
        if not task.reattaches:
            self.create_pod(task)
            for older in [] if dies else found[:1]:
                self.check_off(older)
        elif len(found) > 1:
            task.state = "up_for_retry"  # FoundMoreThanOnePodFailure
        elif not found:
            self.create_pod(task)
        elif world.is_completed(found[0]):
            self.delete_pod(found[0])
            self.create_pod(task)

    def end(self, task: Task, state: str, how: str) -> None:
        task.state, task.ended = state, None if how == "end not known" else int(self.clock())
        for pod in world.find_pods(self.server, task)[-1:]:
            if how == "tidy":
                self.delete_pod(pod)
            elif how == "keep":
                self.check_off(pod)
                if not world.is_completed(pod):
                    self.set_status(pod, "Succeeded" if state == "success" else "Failed")


def path_of(pod: Json) -> str:
    return f"namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def through_json(value: Any) -> Any:
    """As XCom does it."""
    return json.loads(json.dumps(value))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Airflow]]:
    now = float(world.START)

    def time_passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    def server_time() -> datetime:
        return datetime.fromtimestamp(now, UTC)

    with EmbeddedCluster(kubelet=False, now=server_time) as cluster, behind_proxy(cluster.kubeconfig) as server:
        monkeypatch.setenv(
            f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(connection({"server": server.proxy.url}, "default"))
        )
        Airflow.server, Airflow.clock, Airflow.time_passes = (
            server,
            staticmethod(lambda: now),
            staticmethod(time_passes),
        )
        yield Airflow


@pytest.mark.timeout(24 * 3600 if EXPLORE else 900)  # a failing example takes a while to shrink
def test_what_is_live_stays_and_what_is_dead_goes(machine: type[Airflow]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=8,
            deadline=None,
            database=None,
            derandomize=not EXPLORE,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
