"""Random clusters, task instances, clocks and faults: what is live stays, what is dead goes, and nothing hangs.

``python -m tests.faults.explore`` looks much further.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, event, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from demo.cluster import EmbeddedCluster
from include.kpo_cleanup import xcom
from include.kpo_cleanup.classify import Snapshot, classify, keys_needing_records
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.errors import KpoCleanupError
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey, to_label_value
from include.kpo_cleanup.kube.pods import PodClient
from include.kpo_cleanup.reap import MAX_SNAPSHOT_AGE, Result, reap
from include.kpo_cleanup.report import failures
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import Record
from tests import proxy
from tests.dag.pods import wait_until
from tests.faults import world
from tests.faults.cases import DELETE_CASES, LIST_CASES, Case, Does, says_pattern
from tests.faults.conftest import CONN_ID
from tests.faults.servers import Server, behind_proxy, connection
from tests.faults.world import (
    LAGS,
    OVER,
    SOURCE_DOWN,
    TALLY,
    UNREADABLE,
    Json,
    MemorySource,
    Operator,
    Task,
    timestamp,
    uid,
)

HISTORIES = settings().max_examples  # `make test-random` takes more, ``explore`` many more
MERGE = "application/merge-patch+json"
PAST_PROXY = "past_proxy"  # the id of a connection that no fault hits
PAGE_SIZE = 2
ALWAYS = 1e9  # seconds
STEP_SECONDS = 20.0  # with the timeouts that are set below, for every fault
BRIEF = RetryPolicy(connect_timeout=2, read_timeout=0.25, attempts=3, initial_backoff=0.002, max_backoff=0.02)
LONG = RetryPolicy()  # without faults there is no timeout to wait for, and a busy machine must not make one
PRODUCTION, STAGING = {"env": "production"}, {"env": "staging"}

RUN_IDS = ("run_1", to_label_value("scheduled__2026-11-24T00:00:00+00:00"))
DELETE_FAULTS = [case for case in DELETE_CASES if case.does in (Does.DELETE_RETRIES, Does.DELETE_FAILS)]
REFUSALS = ("400", "401", "403", "409", "429")  # of the API server itself, which then has done nothing

FINISH_ACTIONS = ("delete_pod", "delete_pod", "keep_pod", "delete_succeeded_pod", "delete_active_pod")
KILL_ACTIONS = ("delete_pod", "delete_pod", "keep_pod")

ANY_NUMBER = st.integers(0, 1_000)
durations = st.sampled_from([1, 59, 61, 299, 301, 4_000, 90_000])
fault_times = st.sampled_from([None, 1, 2, 3, 7])
task_shapes = st.fixed_dictionaries(
    {
        "namespace": st.integers(0, 1),
        "map_index": st.sampled_from([UNMAPPED, UNMAPPED, 0, 1]),
        "run_id": st.sampled_from(RUN_IDS),
        "reattaches": st.booleans(),
        "on_finish_action": st.sampled_from(FINISH_ACTIONS),
        "on_kill_action": st.sampled_from(KILL_ACTIONS),
        "is_deferrable": st.booleans(),
        "steps": st.sampled_from([(), (), ({},), ({"step": "train"},), ({}, {"step": "load"})]),
        "finalizers": st.sampled_from([[], [], [], ["example.org/backup"]]),
        "is_shared": st.sampled_from([False, False, True]),
    }
)
# The moves of a task instance. If it ends, its operator deletes the pod (tidy), checks it off (keep), or is dead.
ENDS = ("failed", "success", "skipped", "upstream_failed", "removed", "failed, end not known")
WAITS = ("up_for_retry", "cleared", "queued", "restarting", "deferred", "a_state_of_a_later_airflow")
RUN_ENDS = ("its run is deleted", "its run is made anew")
RECORDS = ("its record is lost", "its record names another", "its record is unreadable")
SECOND = ("its second operator starts", "its second operator starts, tidy")
TRIES = ("tries again", "tries again and dies early", "tries again and dies unsaid", "tries again and dies late")
TIDY = ("success, tidy", "success, keep", "failed, keep", "failed, killed", "success, killed")
moves = st.sampled_from([*ENDS, *TIDY, *WAITS, *TRIES, *RUN_ENDS, *RECORDS, *SECOND])
stories = st.one_of(
    st.lists(moves, max_size=3),
    st.tuples(st.sampled_from(ENDS)),
    st.tuples(st.sampled_from(WAITS), st.sampled_from(TRIES)),
    st.tuples(st.sampled_from(ENDS), st.just("cleared"), st.just("tries again")),
    st.tuples(st.sampled_from(ENDS), st.sampled_from(RUN_ENDS)),
    # Two pods, and nobody may attach to the later one any more.
    st.tuples(st.just("up_for_retry"), st.just("tries again and dies unsaid"), st.just("its pod is being deleted")),
    st.tuples(*map(st.just, ("up_for_retry", "tries again and dies unsaid", "failed, keep", "cleared"))),
    st.tuples(st.sampled_from(SECOND), st.sampled_from(["up_for_retry", *ENDS]), st.just("tries again")),
    st.tuples(st.just("its second operator starts"), st.sampled_from(RECORDS), st.sampled_from(ENDS)),
    st.tuples(st.just("up_for_retry"), st.just("tries again and dies unsaid"), st.sampled_from(RECORDS)),
)
POD_MOVES = (
    *("running", "sidecar", "Succeeded", "Failed", "Unknown", "vanishes", "is replaced", "is being deleted"),
    *("is protected", "gets a controller", "gets a label"),
)

Life = tuple[Json, list[Sequence[str]]]
lives = st.lists(st.tuples(task_shapes, st.lists(stories, max_size=3)), min_size=2, max_size=8)
Happening = tuple[str, int, Any]  # the kind of thing, which of them, and what happens to it
happenings = st.one_of(
    st.tuples(st.just("task"), ANY_NUMBER, moves),
    st.tuples(st.just("pod"), ANY_NUMBER, st.sampled_from(POD_MOVES)),
    st.tuples(st.just("time"), st.just(0), durations),
)
# The moves of pods that are about to be deleted, and of their task instances.
REVIVALS = ("cleared", "tries again")
ESCAPES = (*POD_MOVES, "leaves the selection", "loses the operator's label")
escapes = st.tuples(st.just("zombie"), ANY_NUMBER, st.sampled_from([*REVIVALS, *REVIVALS, *ESCAPES]))
# The interruptions of reap: before which of its requests, what happens, and for how many seconds the answer waits.
interruptions = st.tuples(
    st.integers(0, 8), st.one_of(escapes, escapes, happenings), st.sampled_from([0, 1, MAX_SNAPSHOT_AGE + 1, 40])
)
Fault = tuple[str, Case | None, bool, int | None]  # which requests, the fault, whether after the deed, how often
faults = st.one_of(
    st.tuples(
        st.sampled_from(["GET .*/pods", "GET .*continue=", "GET .*fieldSelector="]),
        st.sampled_from(LIST_CASES),
        st.just(False),
        fault_times,
    ),
    # None is no fault of the API server: a pod is replaced at the last moment.
    st.tuples(st.just("DELETE "), st.sampled_from([None, None, *DELETE_FAULTS]), st.booleans(), fault_times).map(
        lambda fault: (*fault[:2], False, fault[3]) if fault[1] and fault[1].id in REFUSALS else fault
    ),
    st.tuples(
        st.sampled_from(["source is down", "source is slow", "source lags"]), st.none(), st.just(False), fault_times
    ),
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
    """One Airflow with its pods in two namespaces; the cleanup runs step by step while life goes on.

    A second Airflow may have pods there, too. Its labels may tell it apart, with or without a ``label_selector`` that
    excludes it; or they may not.
    """

    server: Server
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    time_passes: Callable[[float], None]
    brief_api: PodClient
    long_api: PodClient

    @classmethod
    def prepare(cls, patch: pytest.MonkeyPatch) -> None:
        """Prepare for all histories of a machine."""

    @initialize(
        tells_all=st.booleans(),
        neighbour=st.sampled_from(["none", "none", "selected", "labelled", "alike"]),
        lives=lives,
        seconds=durations,
    )
    def begin(self, tells_all: bool, neighbour: str, lives: list[Life], seconds: int) -> None:
        self.neighbour = neighbour
        self.namespaces = [self.server.create_namespace() for _ in range(2)]
        self.tasks: dict[TaskInstanceKey, Task] = {}
        self.their_tasks: dict[TaskInstanceKey, Task] = {}  # of the second Airflow
        self.all_tasks: list[Task] = []  # with those whose run was deleted
        self.source = MemorySource(self.tasks, tells_all)
        self.numbers = itertools.count(1)
        self.causes: list[re.Pattern[str]] = []  # one of which any error must name
        self.replaced: dict[str, str] = {}  # uid of the old pod: uid of the new one
        self.within: list[tuple[int, Happening, float]] = []
        self.wrong: list[str] = []  # uids of pods in use that were deleted
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
    @rule(which=ANY_NUMBER, odd=st.sampled_from(["owned", "protected", "badly labelled", "of another task"]))
    def there_is_an_odd_pod(self, which: int, odd: str) -> None:
        """Make a pod of a task that is over, so that only its odd feature can save it."""
        task = replace(list(self.tasks.values())[which % len(self.tasks)])
        if not task.is_over:
            return
        metadata = {"owned": MAX_CONFLICTS["gets a controller"], "protected": MAX_CONFLICTS["is protected"]}
        if odd == "of another task":
            task.dag_id = "staging"
        elif odd == "protected":
            task.try_number = 1  # else it passes for a later one of the operator's, which that does not know
        self.create_pod(task, without="try_number" if odd == "badly labelled" else "", **metadata.get(odd, {}))

    # --- the cleanup

    @rule(
        chosen=options,
        faults=st.lists(faults, max_size=3),
        between=st.lists(st.lists(happenings, max_size=3), min_size=3, max_size=3),
        escapes=st.lists(escapes, max_size=3),
        within=st.lists(interruptions, max_size=3),
        batch_size=st.sampled_from([1, 3]),
        again=st.booleans(),
    )
    def the_cleanup_runs(
        self,
        chosen: Json,
        faults: list[Fault],
        between: list[list[Happening]],
        escapes: list[Happening],
        within: list[tuple[int, Happening, float]],
        batch_size: int,
        again: bool,
    ) -> None:
        """Run it step by step, while something breaks and life goes on; and perhaps again without faults."""
        self.heal()
        self.begin_run(**chosen)
        self.within, self.batch_size = within, batch_size
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
        self.api, before, now = self.long_api, self.by_uid(), int(self.clock())
        zombies = world.zombies(before.values(), self.source, self.settings, now)
        while self.step():
            pass
        held = {uid for uid in zombies if before[uid]["metadata"].get("finalizers")}
        assert {result.verdict.pod.uid: result.outcome for result in self.results} == {
            **dict.fromkeys(zombies - held, Outcome.DELETED),
            **dict.fromkeys(held, Outcome.AWAITING_FINALIZER),
        }
        after = self.by_uid()
        assert before.keys() - after.keys() <= zombies - held
        assert all(world.is_terminating(after[uid]) for uid in zombies & after.keys())
        dead = world.must_go(before.values(), self.source, self.settings, now)
        if self.neighbour == "none":
            missed = dead - zombies
            assert not (missed and self.settings.delete_unmatched_pods), "alone, and yet a dead pod was missed"
            for verdict in self.verdicts:
                if verdict.pod.uid in missed:
                    why = re.sub(r"(?<=pod )\S+|\S*\d\S*( s| min| h| d)?", "…", verdict.evidence.partition(";")[0])
                    TALLY[f"missed, but for delete_unmatched_pods: {why}"] += 1

    def teardown(self) -> None:
        if hasattr(self, "namespaces"):
            self.when_all_is_well_the_next_run_deletes_all_zombies({})
            for namespace in self.namespaces:
                self.server.call("DELETE", f"namespaces/{namespace}")

    def begin_run(self, **chosen: Any) -> None:
        self.next_step = "list"
        self.api = self.brief_api
        self.within, self.batch_size = [], 3
        self.results: list[Result] = []
        self.doomed: list[Json] = []  # the zombies of this run, once they are known
        selector = world.OURS if self.neighbour == "selected" else world.NOT_LEFT_OUT
        self.settings = Settings(namespaces=",".join(self.namespaces), label_selector=selector, **chosen)

    def step(self) -> bool:
        """Do the next step as ``steps`` does; False at the end. A failure ends the run, and must name its cause."""
        step = self.next_step
        if step == "end":
            return False
        start, self.source.own = time.monotonic(), self.source.own + 1
        try:
            getattr(self, f"_{step}")()
        except KpoCleanupError as error:
            event(f"{step} failed")
            self.must_be_explained(str(error))
            self.next_step = "end"
        assert time.monotonic() - start < STEP_SECONDS, f"{step} took too long"
        return self.next_step != "end"

    def _list(self) -> None:
        listing = self.api.list_pods(self.settings.namespace_list(), self.settings.label_selector)
        self.listing = through_json(xcom.dump_listing(listing))
        for problem in self.listing["unlisted"].values():
            self.must_be_explained(problem)
        self.next_step = "fetch"

    def _fetch(self) -> None:
        pods = xcom.load_listing(self.listing).pods
        told = self.source.fetch({pod.key for pod in pods if not pod.label_problem})
        doubted = keys_needing_records(Snapshot(pods, told, self.settings, int(self.clock())))
        records = self.source.read_records(told, doubted)
        self.told = through_json(xcom.dump_task_instances(told, records))
        self.next_step = "classify"

    def _classify(self) -> None:
        listed, (told, records) = xcom.load_listing(self.listing).pods, xcom.load_task_instances(self.told)
        self.verdicts = classify(Snapshot(listed, told, self.settings, int(self.clock()), records))
        self.classification = through_json(xcom.dump_classification(self.verdicts, {}))
        self.doomed = self.classification["zombies"]
        self.next_step = "reap"

    def _reap(self) -> None:
        doomed = xcom.load_classification(self.classification).zombies
        namespaces = self.settings.namespace_list()
        watch = Watch(self)
        self.replaced.clear()
        with watch:
            results = reap(
                doomed,
                self.api,
                self.source,
                self.settings,
                namespaces,
                self.clock,
                self.monotonic,
                LONG if self.api is self.long_api else BRIEF,
                self.batch_size,
            )
        after = self.by_uid()
        assert not self.wrong, "a pod was deleted that a live task instance uses, or that something on it protects"
        TALLY[f"wrong, with a second Airflow that is {self.neighbour}"] += len(watch.deletions.keys() & watch.excused)
        assert watch.deletions.keys() <= {verdict.pod.uid for verdict in doomed}
        assert len(watch.deletions) <= self.settings.max_deletes, "more than max_deletes may have been deleted"
        assert not (watch.was_sent and self.settings.dry_run)
        # On a busy machine an attempt may time out, and the next one finds the new pod replaced, too.
        new = {*self.replaced.values()} - self.replaced.keys() - watch.vanished
        assert new <= after.keys(), "a new pod of the same name was deleted"
        assert [r.verdict.pod.uid for r in results] == [v.pod.uid for v in doomed]
        for result in results:
            event(f"{result.verdict.reason.value}: {result.outcome.value}")
            TALLY[f"{result.outcome.value}: {result.verdict.reason.value}"] += 1
            pod = after.get(result.verdict.pod.uid)
            if result.outcome is Outcome.ALREADY_GONE:
                assert pod is None or not world.is_selected(pod, self.settings)
            elif result.outcome in (Outcome.DELETED, Outcome.AWAITING_FINALIZER):
                assert pod is None or world.is_terminating(pod)
            elif result.outcome not in (Outcome.FAILED, Outcome.LEFT_FOR_NEXT_RUN):  # whose answer may be lost
                assert result.verdict.pod.uid not in watch.deletions
        failed = [result for result in results if result.outcome is Outcome.FAILED]
        for result in failed:
            self.must_be_explained(str(result.deletion))
        assert bool(failures(results)) == bool(failed)
        self.results = results
        self.next_step = "end"

    def must_live(self) -> set[str]:
        """List the pods that no run may delete: used by our Airflow, or by one that the labels tell apart."""
        tasks = [*self.tasks.values()] if self.neighbour != "alike" else []
        return world.pods_in_use(self.server, [*tasks, *(t for t in self.their_tasks.values() if self.is_apart(t))])

    def is_apart(self, theirs: Task) -> bool:
        """Tell whether the labels tell a live task instance of the other Airflow apart.

        Without a selector, the labels do so only beside a live one of ours: otherwise nobody knows our labels.
        """
        ours = self.tasks.get(theirs.key)
        return self.neighbour == "selected" or (self.neighbour == "labelled" and ours is not None and not ours.is_over)

    # --- parts of the rules

    def heal(self) -> None:
        wait_until(self.server.proxy.is_idle)  # an attempt that timed out may still be carried out
        self.server.proxy.heal()
        self.source.heal()
        self.cut_off_at = ALWAYS
        # A busy machine may be late without any fault.
        self.causes[:] = map(re.compile, ("it was read again . times", "not sent, for .* others", "Read timed out"))

    def must_be_explained(self, message: str) -> None:
        assert any(cause.search(message) for cause in self.causes), f"{message!r} names none of {self.causes}"

    def all_pods(self) -> list[Json]:
        return [pod for namespace in self.namespaces for pod in self.server.pods(namespace).values()]

    def by_uid(self) -> dict[str, Json]:
        return {uid(pod): pod for pod in self.all_pods()}

    def create_pod(self, task: Task, operator: Operator | None = None, without: str = "", **metadata: Any) -> Json:
        self.a_moment_passes()
        labels = {**(operator or task.operators[0]).labels, **task.labels, "try_number": str(task.try_number)}
        labels.pop(without, None)
        return self.server.create_pod(task.namespace, f"pod-{next(self.numbers)}", labels, **metadata)

    def a_moment_passes(self) -> None:
        """Let a moment pass, or none: times do not always show which of two pods is the later one."""
        self.time_passes(next(self.numbers) % 2)

    def delete_pod(self, pod: Json) -> None:
        self.server.delete(pod["metadata"]["namespace"], pod["metadata"]["name"])

    def replace_pod(self, namespace: str, name: str) -> None:
        old = self.server.pods(namespace).get(name)
        if old is None or "finalizers" in old["metadata"]:
            return
        self.server.delete(namespace, name)
        self.time_passes(1)
        labels, key = dict(old["metadata"]["labels"]), world.make_key(old)
        if key in self.tasks:  # its operator makes a pod of the try that it is at
            labels["try_number"] = str(self.tasks[key].try_number)
        self.replaced[uid(old)] = uid(self.server.create_pod(namespace, name, labels))

    def break_something(self, fault: Fault) -> None:
        where, case, late, times = fault
        if where.startswith("source"):
            how, says = {
                "source is down": (self.source.is_down, SOURCE_DOWN),
                "source is slow": (lambda: self.time_passes(MAX_SNAPSHOT_AGE + 1), "took longer than"),
                "source lags": (self.cut_off, LAGS),
            }[where]
            self.source.fails_in(times or 0, how)
            self.causes.append(re.compile(says))
        elif case is None:
            self.server.proxy.spoil("DELETE ", self.replace_first, times)
        else:
            self.server.proxy.spoil(where, proxy.too_late(case.fault) if late else case.fault, times)
            self.causes.append(says_pattern(case.says, namespace="…", pod="…"))
            if case.does is Does.RUN_FAILS:  # ``reap`` makes its selector itself: it is no setting
                self.causes.append(re.compile("400 Bad Request; server message: unable to parse requirement"))

    def cut_off(self) -> None:
        """Cut the source off from the database, like a replica."""
        self.cut_off_at = min(self.cut_off_at, self.monotonic())
        self.source.lags()

    def move_zombie(self, uid: str, what: str) -> None:
        """Bring a pod that is about to be deleted, or its task instance, to life again, or remove it."""
        pod = self.by_uid().get(uid)
        key = world.make_key(pod) if pod else None
        task = self.tasks.get(key) if key else None
        if pod and what in ESCAPES:
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
        elif what in MAX_CONFLICTS:
            self.server.call("PATCH", path_of(pod), {"metadata": MAX_CONFLICTS[what]}, MERGE)
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
            MERGE,
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

    def create_task(
        self,
        namespace: int,
        map_index: int,
        run_id: str,
        reattaches: bool,
        on_finish_action: str,
        on_kill_action: str,
        is_deferrable: bool,
        steps: tuple[dict[str, str], ...],
        finalizers: list[str],
        is_shared: bool,
    ) -> Task:
        """Make a task instance with its first pod; if it is shared, the other Airflow has the same ids."""
        task_id = f"task_{next(self.numbers)}"
        made = []
        airflows = (True, False) if is_shared and self.neighbour != "none" else (True,)
        for is_ours in airflows:
            env = (PRODUCTION if is_ours else STAGING) if self.neighbour in ("selected", "labelled") else {}
            operators = [Operator({**env, **labels}) for labels in steps or ({},)]
            ids = ("orders", task_id, run_id, map_index)
            task = Task(self.namespaces[namespace], *ids, reattaches, operators, is_ours, try_number=0)
            task.on_finish_action, task.on_kill_action = on_finish_action, on_kill_action
            task.is_deferrable = is_deferrable
            self.tasks_of(task)[task.key] = task
            made.append(task)
            self.start_try(task)
            pod = self.by_uid().get(operators[0].pod or "")
            if pod and finalizers:
                self.server.call("PATCH", path_of(pod), {"metadata": {"finalizers": finalizers}}, MERGE)
        self.all_tasks += made
        return made[next(self.numbers) % len(made)]

    def tasks_of(self, task: Task) -> dict[TaskInstanceKey, Task]:
        return self.tasks if task.is_ours else self.their_tasks

    def uses(self, task: Task, operator: Operator, pod: Json, dies: str) -> None:
        """Let the operator have its pod, and push its XComs if it does not die first."""
        operator.pod = uid(pod)
        if dies != "unsaid":
            task.record = Record(frozenset({world.name(pod)}))

    def move(self, task: Task, move: str) -> None:
        """Make a move; nothing happens if the move makes no sense."""
        move, _, how = move.partition(", ")
        tasks = self.tasks_of(task)
        exists = tasks.get(task.key) is task
        if move == "its run is made anew" and (not exists or task.is_over):
            # Under the same run_id: the tries begin with 1 again, and pods of the earlier run may still exist.
            tasks[task.key] = task
            task.try_number = 0
            task.store.clear()
            self.start_try(task)
        elif move == "its run is deleted" and exists and task.is_over:
            # Under a live task, nobody would use the pod then.
            del tasks[task.key]
        elif move.startswith("tries again") and exists and not task.is_over and task.state != "running":
            self.start_try(task, move.removeprefix("tries again").removeprefix(" and dies "))
        elif move in OVER and exists and not task.is_over:
            self.end(task, move, how)
        elif move == "its pod is being deleted":
            for pod in world.find_pods(self.server, task, task.operators[0])[-1:]:
                self.delete_in_good_order(pod)
        elif move == "its second operator starts" and exists and task.state == "running" and len(task.operators) > 1:
            if how == "tidy":
                self.operators_end(task, how)
            self.operator_starts(task, task.operators[1])
        elif move in RECORDS:
            task.record = {
                "its record is lost": None,
                "its record names another": Record(frozenset({f"{task.namespace}/another"})),
                "its record is unreadable": Record(problem=UNREADABLE),
            }[move]
        elif move in WAITS and exists:
            task.state = None if move == "cleared" else move

    def start_try(self, task: Task, dies: str = "") -> None:
        """Start a try as Airflow and the operator do.

        :param dies: ``early``, before it has a pod; ``unsaid``, before it has pushed its XComs; ``late``, before it has
            checked off an older pod.
        """
        task.try_number, task.state, task.ended, task.record = task.try_number + 1, "running", None, None
        for operator in task.operators:
            operator.pod = operator.process = None
        if dies != "early":
            self.operator_starts(task, task.operators[0], dies)

    def operator_starts(self, task: Task, operator: Operator, dies: str = "") -> None:
        found = world.find_pods(self.server, task, operator)
        if not task.reattaches:
            self.uses(task, operator, self.create_pod(task, operator), dies)
            for older in [] if dies else found[:1]:
                self.check_off(older)
        elif len(found) > 1:
            task.state = "up_for_retry"  # FoundMoreThanOnePodFailure
        elif not found:
            self.uses(task, operator, self.create_pod(task, operator), dies)
        elif world.is_completed(found[0]):
            self.delete_pod(found[0])
            self.uses(task, operator, self.create_pod(task, operator), dies)
        else:
            self.uses(task, operator, found[0], dies)

    def attached(self, task: Task) -> list[Json]:
        there, used = self.by_uid(), dict.fromkeys(operator.pod for operator in task.operators)
        return [there[pod] for pod in used if pod in there]

    def end(self, task: Task, state: str, how: str) -> None:
        task.state, task.ended = state, None if how == "end not known" else int(self.clock())
        if how:
            self.operators_end(task, how)
        for operator in task.operators:
            operator.pod = operator.process = None

    def operators_end(self, task: Task, how: str) -> None:
        for pod in self.attached(task):
            if how == "tidy":
                self.delete_pod(pod)
            elif how == "killed" and task.on_kill_action == "delete_pod":
                self.delete_in_good_order(pod)
            elif how == "keep":
                self.check_off(pod)
                if not world.is_completed(pod):
                    self.set_status(pod, "Succeeded" if task.state == "success" else "Failed")


class Watch:
    """A watch before all faults while ``reap`` runs: it interrupts it, and notes all real deletions."""

    def __init__(self, machine: Airflow) -> None:
        self._machine, self._lock = machine, threading.Lock()
        self._requests = itertools.count()
        self._in_use = dict.fromkeys(machine.must_live(), -ALWAYS)  # by uid, since when
        everybody = [*machine.tasks.values(), *machine.their_tasks.values()]
        self.excused = world.pods_in_use(machine.server, everybody) - self._in_use.keys()  # nothing tells them apart
        self.deletions: dict[str, float] = {}  # by uid, when it was asked for
        self.vanished: set[str] = set()  # deleted by somebody else
        self.was_sent = False

    def __enter__(self) -> None:
        self._machine.server.proxy.rules.insert(0, proxy.Rule("", self._pass))

    def __exit__(self, *_: object) -> None:
        del self._machine.server.proxy.rules[0]

    async def _pass(self, request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        machine, arrived = self._machine, self._machine.monotonic()
        line = f"{request.method} {request.path_qs}"
        await request.loop.run_in_executor(None, self._interrupt)
        wanted = json.loads(await request.read())["preconditions"]["uid"] if request.method == "DELETE" else ""

        async def note() -> web.StreamResponse:
            is_left_alone = wanted and await request.loop.run_in_executor(None, self._is_left_alone, wanted)
            answer = await forward()
            if wanted:
                self.was_sent = True
                if answer.status == 200:
                    self.deletions[wanted] = arrived
                    # If several are deleted at once, nobody can tell which one saw what.
                    too_long = MAX_SNAPSHOT_AGE if machine.batch_size == 1 else ALWAYS / 2
                    since = self._in_use.get(wanted, arrived)
                    is_used = arrived - since > too_long
                    is_believed = is_used and machine.source.is_believed and since >= machine.cut_off_at
                    TALLY["wrong, with a copy of the database that was cut off while reap ran"] += is_believed
                    if is_left_alone or (is_used and not is_believed):
                        machine.wrong.append(wanted)
            return answer

        rule = next((rule for rule in machine.server.proxy.rules[1:] if rule.applies(line)), None)
        return await (rule.fault(request, note) if rule else note())

    def _is_left_alone(self, uid: str) -> bool:
        machine = self._machine
        pod = machine.by_uid().get(uid)
        return pod is not None and world.is_left_alone(pod, machine.settings, int(machine.clock()))

    def _interrupt(self) -> None:
        with self._lock:
            number, machine = next(self._requests), self._machine
            for at, happening, seconds in machine.within:
                if at == number:
                    before = machine.by_uid()
                    machine.life_goes_on([happening])
                    self.vanished |= before.keys() - machine.by_uid().keys()
                    now = machine.monotonic()
                    self._in_use = {uid: self._in_use.get(uid, now) for uid in machine.must_live()}
                    machine.time_passes(seconds)


OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "1", "controller": True}
MAX_CONFLICTS: dict[str, Json] = {
    "is protected": {"annotations": {"kpo-cleanup/protect": "true"}},
    "gets a controller": {"ownerReferences": [OWNER]},
    "gets a label": {"labels": {"sidecar.example.org/injected": "true"}},
    "leaves the selection": {"labels": {"env": "left-out"}},
    "loses the operator's label": {"labels": {"kubernetes_pod_operator": None}},
}


def path_of(pod: Json) -> str:
    return f"namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def through_json(value: Any) -> Any:
    """Pass data through JSON, as XCom does."""
    return json.loads(json.dumps(value))


@contextmanager
def set_up(kind: type[Airflow]) -> Iterator[None]:
    """Give a machine what all its histories share: one API server behind one proxy, and one clock."""
    now, offset = float(world.START), 0.0

    def time_passes(seconds: float) -> None:
        nonlocal now, offset
        now, offset = now + seconds, offset + seconds

    def server_time() -> datetime:
        return datetime.fromtimestamp(now, UTC)

    with (
        pytest.MonkeyPatch.context() as patch,
        EmbeddedCluster(kubelet=False, now=server_time) as cluster,
        behind_proxy(cluster.kubeconfig) as server,
    ):
        for conn_id, url in ((CONN_ID, server.proxy.url), (PAST_PROXY, server.url)):
            patch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection({"server": url})))
        kind.server, kind.clock, kind.time_passes = server, staticmethod(lambda: now), staticmethod(time_passes)
        kind.monotonic = staticmethod(lambda: time.monotonic() + offset)
        kind.brief_api, kind.long_api = PodClient(CONN_ID, BRIEF, PAGE_SIZE), PodClient(CONN_ID, LONG, PAGE_SIZE)
        kind.prepare(patch)
        yield


def run_histories(kind: type[Airflow], histories: int, of_seed: int | None = None) -> None:
    """Run so many random histories; the same ones each time, or those of a seed."""
    run_state_machine_as_test(
        kind if of_seed is None else seed(of_seed)(kind),
        settings=settings(
            max_examples=histories,
            stateful_step_count=8,
            deadline=None,
            database=None,
            derandomize=of_seed is None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )


@pytest.mark.timeout(900)  # a failing example takes a while to shrink
def test_what_is_live_stays_and_what_is_dead_goes() -> None:
    with set_up(Airflow):
        run_histories(Airflow, HISTORIES)
