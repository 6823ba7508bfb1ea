"""Random histories of a cluster, its task instances and faults: what is alive is kept, and what is dead is deleted.

``python -m tests.faults.explore`` runs many more of them.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import signal
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
from include.kpo_cleanup.classify import (
    Snapshot,
    classify,
    incomplete_keys,
    keys_needing_records,
    uncertain_workloads,
    with_plain_tasks,
)
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.errors import KpoCleanupError
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey, to_label_value
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES, DELETE_TIMEOUT
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.reap import BATCH, MAX_SNAPSHOT_AGE, reap
from include.kpo_cleanup.report import failures
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import Record
from include.kpo_cleanup.termination import raise_on_sigterm
from include.kpo_cleanup.verdict import Verdict
from tests import proxy
from tests.faults import world
from tests.faults.cases import DELETE_CASES, LIST_CASES, Case, Does, says_pattern
from tests.faults.conftest import CONN_ID
from tests.faults.servers import Server, connection, without_http
from tests.faults.world import (
    DAG_FAILS,
    FINISHED,
    LAGGING,
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

HISTORIES = settings().max_examples  # ``explore`` runs many more
MERGE = "application/merge-patch+json"
BYPASS = "bypass"  # the id of a connection without faults
PAGE_SIZE = 4
MAX_DELETES = 5  # of a run while a trouble lasts: fewer than the zombies that it blocks
ALWAYS = 1e9  # seconds
STEP_SECONDS = 120.0  # for one step with any faults and the timeouts below, on a busy machine
BRIEF = RetryPolicy(connect_timeout=2, read_timeout=0.25, attempts=3, initial_backoff=0.004, max_backoff=0.02)
PATIENT = replace(BRIEF, connect_timeout=60, read_timeout=60)  # only a busy machine would cause a timeout
MAX_TICK = BRIEF.max_backoff  # seconds by which the clock advances at once, however busy the machine is
PRODUCTION, STAGING = {"env": "production"}, {"env": "staging"}

RUN_IDS = ("run_1", to_label_value("scheduled__2026-11-24T00:00:00+00:00"))
CROWD = CONCURRENT_DELETES + 2  # more zombies than may be refused or fail before something else is tried
# What keeps zombies from being deleted, run after run; there are many of them, and they are older than all others.
TROUBLES = (
    *("a policy denies their deletion", "a webhook fails in their namespace", "a webhook hangs in their namespace"),
    *("their DAG is unresolved", "their DAG fails from reap on", "their DAG is slow"),
)
DELETE_FAULTS = [case for case in DELETE_CASES if case.does in (Does.DELETE_RETRIES, Does.DELETE_FAILS)]
# Faults by which the API server itself refuses a deletion, before it carries it out.
REFUSALS = ("400", "401", "403", "409", "429", "403-admission", "404-admission", "409-admission")

FINISH_ACTIONS = ("delete_pod", "delete_pod", "keep_pod", "delete_succeeded_pod", "delete_active_pod")
KILL_ACTIONS = ("delete_pod", "delete_pod", "keep_pod")

troubles = st.sampled_from([*itertools.combinations(TROUBLES, 1), *itertools.product(TROUBLES[:3], TROUBLES[4:])])
ANY_NUMBER = st.integers(0, 1_000)
durations = st.sampled_from([1, 59, 61, 299, 301, 4_000, 90_000])
fault_times = st.sampled_from([None, 1, 2, 3, 7])
task_shapes = st.fixed_dictionaries(
    {
        "namespace": st.integers(0, 1),
        "dag_id": st.sampled_from(["orders", "orders", "billing"]),
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
# The moves of a task instance. At its end, its operator deletes the pod (tidy), marks it checked (keep), or is dead.
ENDS = ("failed", "success", "skipped", "upstream_failed", "removed", "failed, end unknown")
WAITS = ("up_for_retry", "cleared", "queued", "restarting", "deferred", "a_state_of_a_later_airflow")
RUN_ENDS = ("its run is deleted", "its run is recreated")
RECORDS = ("its record is lost", "its record names another", "its record is unreadable")
SECOND = ("its second operator starts", "its second operator starts, tidy")
TRIES = ("tries again", "tries again and dies early", "tries again and dies unrecorded", "tries again and dies late")
PLAIN = ("becomes plain", "becomes plain and tries again", "becomes plain with an unreadable record")
TIDY = ("success, tidy", "success, keep", "failed, keep", "failed, killed", "success, killed")
moves = st.sampled_from([*ENDS, *TIDY, *WAITS, *TRIES, *RUN_ENDS, *RECORDS, *SECOND, *PLAIN])
stories = st.one_of(
    st.lists(moves, max_size=3),
    st.tuples(st.sampled_from(ENDS)),
    st.tuples(st.sampled_from(WAITS), st.sampled_from(TRIES)),
    st.tuples(st.sampled_from(ENDS), st.just("cleared"), st.just("tries again")),
    st.tuples(st.sampled_from(ENDS), st.sampled_from(RUN_ENDS)),
    # Two pods, of which nobody may adopt the later one any more.
    st.tuples(st.just("up_for_retry"), st.just("tries again and dies unrecorded"), st.just("its pod is being deleted")),
    st.tuples(*map(st.just, ("up_for_retry", "tries again and dies unrecorded", "failed, keep", "cleared"))),
    st.tuples(st.sampled_from(SECOND), st.sampled_from(["up_for_retry", *ENDS]), st.just("tries again")),
    st.tuples(st.just("its second operator starts"), st.sampled_from(RECORDS), st.sampled_from(ENDS)),
    st.tuples(st.just("up_for_retry"), st.just("tries again and dies unrecorded"), st.sampled_from(RECORDS)),
    st.tuples(st.sampled_from(["cleared", "up_for_retry", "failed"]), st.sampled_from(PLAIN)),
    # A pod of a run that was created anew, whose first try is younger or older than the second one of the earlier run.
    st.tuples(*map(st.just, ("up_for_retry", "tries again", "failed", "its run is recreated", "its record is lost"))),
)
POD_MOVES = (
    *("running", "sidecar", "Succeeded", "Failed", "Unknown", "vanishes", "is replaced", "is being deleted"),
    *("is protected", "gets a controller", "gets a label"),
)

Life = tuple[Json, list[Sequence[str]]]
lives = st.lists(st.tuples(task_shapes, st.lists(stories, max_size=3)), min_size=2, max_size=8)
Event = tuple[str, int, Any]  # the kind of object, which of them, and what happens to it
events = st.one_of(
    st.tuples(st.just("task"), ANY_NUMBER, moves),
    st.tuples(st.just("pod"), ANY_NUMBER, st.sampled_from(POD_MOVES)),
    st.tuples(st.just("time"), st.just(0), durations),
)
# What happens to pods that are about to be deleted, and to their task instances.
REVIVALS = ("cleared", "tries again")
ESCAPES = (*POD_MOVES, "leaves the selection", "loses the operator's label")
escapes = st.tuples(st.just("zombie"), ANY_NUMBER, st.sampled_from([*REVIVALS, *REVIVALS, *ESCAPES]))
revivals = st.tuples(st.just("zombie"), st.just(1), st.sampled_from(REVIVALS))  # of the pod that is being deleted
# Interruptions of reap: before which of its requests or deletions, what happens, and for how many seconds it waits.
Interruption = tuple[tuple[str, int], Event, float]
waits = st.sampled_from([0, 1, 4, MAX_SNAPSHOT_AGE + 1, 40])
interruptions = st.one_of(
    st.tuples(st.tuples(st.just("request"), st.integers(0, 8)), st.one_of(escapes, escapes, events), waits),
    st.tuples(st.tuples(st.just("deletion"), st.integers(0, 3)), st.one_of(escapes, revivals), waits),
)
# Which requests, the fault, whether the request is carried out nevertheless, and how often.
Fault = tuple[str, Case | None, bool, int | None]
faults = st.one_of(
    st.tuples(
        st.sampled_from(["GET .*/pods", "GET .*continue=", "GET .*fieldSelector="]),
        st.sampled_from(LIST_CASES),
        st.just(False),
        fault_times,
    ),
    # None is not a fault of the API server: the pod is replaced right before its deletion.
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
    """One Airflow with its pods in two namespaces, while the cleanup runs step by step.

    Its pods are created by two API servers, whose clocks may differ.

    Another Airflow may have pods there as well. Its pods may have other labels, with or without a ``label_selector``
    that excludes them, or the same labels.
    """

    server: Server
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    time_passes: Callable[[float], None]
    set_clock_offset: Callable[[float], None]  # of the API server, in seconds
    brief_client: KubeClient
    patient_client: KubeClient
    settings: Settings
    verdicts: Sequence[Verdict]

    @classmethod
    def prepare(cls, patch: pytest.MonkeyPatch) -> None:
        """Prepare for all histories of a machine."""

    @initialize(
        knowledge=st.sampled_from([(False, False), (True, False), (True, True)]),
        neighbour=st.sampled_from(["none", "none", "selected", "labelled", "alike"]),
        skew=st.sampled_from([0, 0, 0, 180]),
        troubles=st.one_of(st.just(()), st.just(()), troubles),
        lives=lives,
        seconds=durations,
    )
    def begin(
        self,
        knowledge: tuple[bool, bool],
        neighbour: str,
        skew: int,
        troubles: Sequence[str],
        lives: list[Life],
        seconds: int,
    ) -> None:
        TALLY["histories"] += 1
        self.neighbour, self.troubles = neighbour, [*troubles]
        self.clocks = itertools.cycle([0, skew, skew, 0])
        self.namespaces = [self.server.create_namespace() for _ in range(2)]
        self.tasks: dict[TaskInstanceKey, Task] = {}
        self.their_tasks: dict[TaskInstanceKey, Task] = {}  # of the other Airflow
        self.all_tasks: list[Task] = []  # including those whose run was deleted
        self.source = MemorySource(self.tasks, *knowledge)
        self.source.wait = self.time_passes
        self.numbers = itertools.count(1)
        self.causes: list[re.Pattern[str]] = []  # any error must match one of them
        self.replaced: dict[str, str] = {}  # uid of the old pod: uid of the new one
        self.within: list[Interruption] = []
        self.wrong: list[str] = []  # uids of pods that were deleted although they must be kept
        self.heal()
        self.begin_run()
        if troubles:
            for trouble in troubles:
                TALLY[f"histories in which {trouble}"] += 1
            self.there_is_a_crowd()
        self.tasks_live(lives, seconds)

    # --- the life of task instances and pods

    @rule(lives=lives, seconds=durations)
    def tasks_live(self, lives: list[Life], seconds: int) -> None:
        for shape, past in lives:
            task = self.create_task(**shape)
            for move in itertools.chain.from_iterable(past):
                self.move(task, move)
        self.time_passes(seconds)

    @rule(occurring=st.lists(events, min_size=1, max_size=6))
    def life_goes_on(self, occurring: list[Event]) -> None:
        for kind, which, what in occurring:
            if kind == "time":
                self.time_passes(what)
            elif kind == "task" and self.all_tasks:
                self.move(self.all_tasks[which % len(self.all_tasks)], what)
            elif kind == "pod" and (pods := self.all_pods()):
                self.move_pod(pods[which % len(pods)], what)
            elif kind == "zombie" and self.zombies:
                self.move_zombie(self.zombies[which % len(self.zombies)]["uid"], what)

    @precondition(lambda self: self.tasks)
    @rule(which=ANY_NUMBER, odd=st.sampled_from(["owned", "protected", "badly labelled", "of another task"]))
    def there_is_an_odd_pod(self, which: int, odd: str) -> None:
        """Create a pod of a finished task, with one property that must keep it."""
        task = replace(list(self.tasks.values())[which % len(self.tasks)])
        if not task.is_finished:
            return
        metadata = {"owned": PATCHES["gets a controller"], "protected": PATCHES["is protected"]}
        if odd == "of another task":
            task.dag_id = "staging"
        elif odd == "protected":
            task.try_number = 1  # a later try would make it the successor of the operator's own pod
        self.create_pod(task, without="try_number" if odd == "badly labelled" else "", **metadata.get(odd, {}))

    # --- the cleanup

    @rule(
        chosen=options,
        faults=st.lists(faults, max_size=3),
        between=st.lists(st.lists(events, max_size=3), min_size=3, max_size=3),
        escapes=st.lists(escapes, max_size=3),
        within=st.lists(interruptions, max_size=3),
        batch_size=st.sampled_from([1, 3, BATCH]),
        sigterm=st.one_of(st.none(), st.none(), st.integers(0, 3)),
        again=st.booleans(),
    )
    def the_cleanup_runs(
        self,
        chosen: Json,
        faults: list[Fault],
        between: list[list[Event]],
        escapes: list[Event],
        within: list[Interruption],
        batch_size: int,
        sigterm: int | None,
        again: bool,
    ) -> None:
        """Run it step by step with faults and events in between, and perhaps once more without faults.

        :param sigterm: before which deletion ``reap`` receives SIGTERM.
        """
        self.heal()
        self.begin_run(**chosen)
        self.within, self.batch_size, self.sigterm = within, batch_size, sigterm
        for fault in faults:
            self.inject(fault)
        before_fetch, before_classify, before_reap = between
        for occurring in (before_fetch, before_classify, [*before_reap, *escapes], []):
            if self.step():
                self.life_goes_on(occurring)
        if again:
            self.run_without_faults(chosen)

    @rule(number=st.integers(0, 2), revival=revivals, seconds=waits, batch_size=st.sampled_from([1, BATCH]))
    def a_deletion_waits(self, number: int, revival: Event, seconds: float, batch_size: int) -> None:
        """Run the cleanup while a deletion waits, as in the API server's queue, and its task is restarted."""
        for namespace in self.namespaces:
            self.create_zombie("orders", f"waits-{next(self.numbers)}", namespace, UNMAPPED)
        self.time_passes(4_000)
        interruption = ("deletion", number), revival, seconds
        self.the_cleanup_runs({}, [], [[], [], []], [], [interruption], batch_size, sigterm=None, again=False)

    def run_without_faults(self, chosen: Json) -> None:
        """Run the cleanup, and check that it deletes all zombies that no trouble blocks.

        Whatever else is in the cluster, it does so in as many runs as ``max_deletes`` requires.
        """
        self.heal()
        before, now = self.by_uid(), int(self.clock())
        self.begin_run(**chosen)
        zombies = world.zombies(before.values(), self.source, self.settings, now)
        deletable = {uid for uid in zombies if not self.is_blocked(before[uid])}
        held = {uid for uid in deletable if before[uid]["metadata"].get("finalizers")}
        # What a webhook prevents counts towards max_deletes, because the response does not show that it was prevented.
        max_deletes = MAX_DELETES if self.troubles and not any("webhook" in one for one in self.troubles) else 500
        results: dict[str, Result] = {}
        for _ in range(math.ceil(len(deletable) / max_deletes) or 1):
            self.begin_run(**{**chosen, "max_deletes": max_deletes, "dry_run": False, "grace_period_seconds": 0})
            self.client = self.patient_client
            while self.step():
                pass
            results |= {result.verdict.workload.uid: result for result in self.results}
        assert self.troubles or results.keys() == zombies
        expected = {uid: Outcome.AWAITING_FINALIZER if uid in held else Outcome.DELETED for uid in deletable}
        done = {uid for uid, result in results.items() if result.outcome is expected.get(uid)}
        assert deletable <= done, f"not deleted: {[results.get(uid) for uid in deletable - done]}; {self.troubles}"
        after = self.by_uid()
        assert self.troubles or before.keys() - after.keys() <= zombies - held
        assert all(world.is_terminating(after[uid]) for uid in deletable & after.keys())
        dead = world.must_be_deleted(before.values(), self.source, self.settings, now)
        if self.neighbour == "none":
            missed = dead - zombies
            assert not (missed and self.settings.delete_unmatched_pods), "a dead pod was missed"
            for verdict in self.verdicts:
                if verdict.workload.uid in missed:
                    TALLY[f"not deleted without delete_unmatched_pods: {verdict.rule}"] += 1

    def teardown(self) -> None:
        if hasattr(self, "namespaces"):
            if self.troubles:
                self.run_without_faults({})
                self.troubles.clear()
            self.run_without_faults({})
            for namespace in self.namespaces:
                self.server.call("DELETE", f"namespaces/{namespace}")

    def begin_run(self, **chosen: Any) -> None:
        self.next_step = "list"
        self.client = self.brief_client
        self.within, self.batch_size, self.sigterm = [], 3, None
        self.results: list[Result] = []
        self.zombies: list[Json] = []  # of this run, once they are classified
        selector = world.OURS if self.neighbour == "selected" else world.NOT_EXCLUDED
        self.settings = Settings(namespaces=",".join(self.namespaces), label_selector=selector, **chosen)

    def step(self) -> bool:
        """Run the next task of the DAG, and return whether there is another one. An error must name its cause."""
        step = self.next_step
        if step == "end":
            return False
        start, self.source.caller = time.monotonic(), self.source.caller + 1
        try:
            getattr(self, f"_{step}")()
        except KpoCleanupError as error:
            event(f"{step} failed")
            self.must_be_explained(str(error))
            self.next_step = "end"
        assert time.monotonic() - start < STEP_SECONDS, f"{step} took too long"
        return self.next_step != "end"

    def _list(self) -> None:
        listing = self.client.list_workloads(self.settings.namespace_list(), self.settings.label_selector)
        self.listing = through_json(xcom.dump_listing(listing))
        for error in xcom.load_listing(self.listing).errors_by_namespace.values():
            self.must_be_explained(str(error))
        self.next_step = "fetch"

    def _fetch(self) -> None:
        pods = xcom.load_listing(self.listing).workloads
        task_instances = self.source.fetch(with_plain_tasks(pod.key for pod in pods if not pod.label_problem))
        snapshot = Snapshot(pods, task_instances, self.settings, int(self.clock()))
        records = self.source.read_records(task_instances, keys_needing_records(snapshot))
        incomplete = incomplete_keys(task_instances, uncertain_workloads(snapshot))
        task_instances = self.source.complete(task_instances, incomplete)
        self.task_instances = through_json(xcom.dump_task_instances(task_instances, records))
        self.next_step = "classify"

    def _classify(self) -> None:
        listed = xcom.load_listing(self.listing).workloads
        task_instances, records = xcom.load_task_instances(self.task_instances)
        self.verdicts = classify(Snapshot(listed, task_instances, self.settings, int(self.clock()), records))
        self.classification = through_json(xcom.dump_classification(self.verdicts, {}))
        self.zombies = self.classification["zombies"]
        self.next_step = "reap"

    def _reap(self) -> None:
        zombies = xcom.load_classification(self.classification).zombies
        namespaces = self.settings.namespace_list()
        watch = Watch(self)
        self.replaced.clear()
        # Only in this task: a DAG that fails in `fetch_active_tis` is unresolved.
        self.source.failing_dag = "billing" if "their DAG fails from reap on" in self.troubles else ""
        with raise_on_sigterm(), watch:
            results = reap(
                zombies,
                self.client,
                self.source,
                self.settings,
                namespaces,
                self.clock,
                self.monotonic,
                PATIENT if self.client is self.patient_client else BRIEF,
                self.batch_size,
                delete_timeout=0,
            )
            self.server.proxy.wait_until_idle()
        self.source.failing_dag = ""
        after = self.by_uid()
        in_flight = min(self.batch_size, CONCURRENT_DELETES) - 1  # besides the one that SIGTERM precedes
        assert watch.sent_after_sigterm <= in_flight, "a deletion was sent after SIGTERM"
        assert not self.wrong, "a pod was deleted that a live task instance uses, or that something on it protects"
        TALLY[f"wrong, with another Airflow that is {self.neighbour}"] += len(watch.deletions & watch.excused)
        assert watch.deletions <= {verdict.workload.uid for verdict in zombies}
        in_time = watch.deletions - watch.late
        assert len(in_time) <= self.settings.max_deletes, "more than max_deletes may have been deleted"
        assert not (watch.was_sent and self.settings.dry_run)
        # On a busy machine an attempt may time out, and the next one finds that the new pod was replaced as well.
        new = {*self.replaced.values()} - self.replaced.keys() - watch.vanished
        assert new <= after.keys(), "a new pod with the same name was deleted"
        TALLY["terminated"] += watch.is_terminated.is_set()
        assert [r.verdict.workload.uid for r in results] == [v.workload.uid for v in zombies]
        for result in results:
            event(f"{result.verdict.reason.value}: {result.outcome.value}")
            TALLY[f"{result.outcome.value}: {result.verdict.reason.value}"] += 1
            pod = after.get(result.verdict.workload.uid)
            was_deleted = result.verdict.workload.uid in in_time
            assert world.agrees(result.outcome, pod, was_deleted, self.settings), f"not true: {result}"
        unsuccessful = {Outcome.FAILED, Outcome.UNKNOWN}
        if watch.is_terminated.is_set():
            unsuccessful.add(Outcome.LEFT_FOR_NEXT_RUN)
        failed = [result for result in results if result.outcome in unsuccessful]
        for result in failed:
            self.must_be_explained(str(result.error))
        assert bool(failures(results)) == bool(failed)
        self.results = results
        self.next_step = "end"

    def must_be_kept(self) -> set[str]:
        """Return the pods that must not be deleted: those of our Airflow, and of another that has other labels."""
        tasks = [*self.tasks.values()] if self.neighbour != "alike" else []
        return world.pods_in_use(self.server, [*tasks, *(t for t in self.their_tasks.values() if self.is_apart(t))])

    def is_apart(self, theirs: Task) -> bool:
        """Return whether labels distinguish a live task instance of the other Airflow from ours.

        Without a selector, they do so only if ours is live as well, because nobody knows its labels otherwise.
        """
        ours = self.tasks.get(theirs.key)
        return self.neighbour == "selected" or (
            self.neighbour == "labelled" and ours is not None and not ours.is_finished
        )

    # --- parts of the rules

    def heal(self) -> None:
        self.server.proxy.wait_until_idle()  # an attempt that timed out may still be in progress
        self.server.proxy.heal()
        self.source.heal()
        self.cut_off_at = ALWAYS
        # A busy machine may be slow without any fault.
        self.causes[:] = map(re.compile, ("was read . times and keeps changing", "(?i)read timed out"))
        for trouble in self.troubles:
            self.suffer(trouble)

    def suffer(self, trouble: str) -> None:
        """Inject what keeps the crowd from being deleted."""
        in_namespace = f"DELETE .*/{self.namespaces[0]}/pods/"
        if trouble == "a policy denies their deletion":
            self.server.proxy.spoil("DELETE .*/crowd-", proxy.denied(403, "Forbidden"))
            self.explained_by("403 Forbidden, by admission webhook")
        elif trouble == "a webhook fails in their namespace":
            self.server.proxy.spoil(in_namespace, proxy.status(500, "InternalError", WEBHOOK_FAILS))
            self.explained_by(re.escape(WEBHOOK_FAILS))
        elif trouble == "a webhook hangs in their namespace":
            self.server.proxy.spoil(in_namespace, self.hang)
            self.explained_by("504 Gateway Timeout")
        elif trouble == "their DAG is unresolved":
            self.source.unresolved_dag = "billing"
        elif trouble == "their DAG is slow":
            self.source.slow_dag = "billing"
            self.explained_by("took longer than")
        else:
            self.explained_by(DAG_FAILS)

    def is_blocked(self, pod: Json) -> bool:
        """Return whether a trouble prevents the deletion of this pod."""
        blocks = {
            "a policy denies their deletion": pod["metadata"]["name"].startswith("crowd-"),
            "their DAG fails from reap on": pod["metadata"]["labels"].get("dag_id") == "billing",
        }
        is_in_namespace = pod["metadata"]["namespace"] == self.namespaces[0]
        return any(blocks.get(trouble, "webhook" in trouble and is_in_namespace) for trouble in self.troubles)

    def explained_by(self, cause: str) -> None:
        self.causes.append(re.compile(cause))

    def must_be_explained(self, message: str) -> None:
        assert any(cause.search(message) for cause in self.causes), f"{message!r} matches none of {self.causes}"

    def all_pods(self) -> list[Json]:
        return [pod for namespace in self.namespaces for pod in self.server.pods(namespace).values()]

    def by_uid(self) -> dict[str, Json]:
        return {uid(pod): pod for pod in self.all_pods()}

    def there_is_a_crowd(self) -> None:
        """Create many zombies, each of its own map index, and then a younger one in each namespace."""
        crowd = [("billing", "crowd", self.namespaces[0])] * CROWD
        bystanders = [("orders", "bystander", namespace) for namespace in self.namespaces]
        for index, (dag_id, task_id, namespace) in enumerate([*crowd, *bystanders]):
            self.create_zombie(dag_id, task_id, namespace, index)
        self.time_passes(4_000)

    def create_zombie(self, dag_id: str, task_id: str, namespace: str, index: int) -> None:
        operators = [Operator(PRODUCTION if self.neighbour in ("selected", "labelled") else {})]
        task = Task(namespace, dag_id, task_id, RUN_IDS[0], index, operators=operators, state="failed")
        self.tasks[task.key] = task
        self.create_pod(task, name=f"{task_id}-{next(self.numbers)}")
        task.ended = int(self.clock()) + 300  # later than a pod that an API server ahead of time has dated

    def create_pod(
        self, task: Task, operator: Operator | None = None, without: str = "", name: str = "", **metadata: Any
    ) -> Json:
        self.a_moment_passes()
        labels = {**(operator or task.operators[0]).labels, **task.labels, "try_number": str(task.try_number)}
        labels.pop(without, None)
        return self.server.create_pod(task.namespace, name or f"pod-{next(self.numbers)}", labels, **metadata)

    def a_moment_passes(self) -> None:
        """Let a second pass, or none, so that creation times do not always show which of two pods is younger.

        The next pod may be created by another API server.
        """
        self.time_passes(next(self.numbers) % 2)
        self.set_clock_offset(next(self.clocks))

    def delete_pod(self, pod: Json) -> None:
        self.server.delete(pod["metadata"]["namespace"], pod["metadata"]["name"])

    def replace_pod(self, namespace: str, name: str) -> None:
        old = self.server.pods(namespace).get(name)
        if old is None or "finalizers" in old["metadata"]:
            return
        self.server.delete(namespace, name)
        self.time_passes(1)
        labels, key = dict(old["metadata"]["labels"]), world.make_key(old)
        if key in self.tasks:  # its operator creates a pod of the current try
            labels["try_number"] = str(self.tasks[key].try_number)
        self.replaced[uid(old)] = uid(self.server.create_pod(namespace, name, labels))

    def inject(self, fault: Fault) -> None:
        where, case, carried_out, times = fault
        if where.startswith("source"):
            fail, message = {
                "source is down": (self.source.be_down, SOURCE_DOWN),
                "source is slow": (lambda: self.time_passes(MAX_SNAPSHOT_AGE + 1), "took longer than"),
                "source lags": (self.cut_off, LAGGING),
            }[where]
            self.source.fail_after(times or 0, fail)
            self.explained_by(message)
        elif case is None:
            self.server.proxy.spoil("DELETE ", self.replace_first, times)
        else:
            self.server.proxy.spoil(where, proxy.too_late(case.fault) if carried_out else case.fault, times)
            self.causes.append(says_pattern(case.says, namespace="…", pod="…"))
            if case.does is Does.RUN_FAILS:  # a pod is read by a selector as well
                self.explained_by("400 Bad Request; server message: unable to parse requirement")

    def cut_off(self) -> None:
        """Cut the source off from the primary database, like a replica."""
        self.cut_off_at = min(self.cut_off_at, self.monotonic())
        self.source.lag()

    def move_zombie(self, uid: str, what: str) -> None:
        """Restart the task of a pod that is about to be deleted, or change or remove the pod."""
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
            self.delete_gracefully(pod)
        elif what in PATCHES:
            self.server.call("PATCH", path_of(pod), {"metadata": PATCHES[what]}, MERGE)
        elif not world.is_completed(pod):
            self.set_status(pod, what)

    async def hang(self, request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        """Wait for the webhook until the request times out on the API server."""
        await request.loop.run_in_executor(None, self.time_passes, server_timeout(request))
        return await TIMED_OUT(request, forward)

    async def replace_first(self, request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        namespace, name = request.path.split("/")[4::2]
        return await proxy.first(lambda: self.replace_pod(namespace, name))(request, forward)

    def mark_checked(self, pod: Json) -> None:
        self.server.call(
            "PATCH",
            path_of(pod),
            {"metadata": {"labels": {"already_checked": "True"}}},
            MERGE,
        )

    def delete_gracefully(self, pod: Json) -> None:
        if not world.is_terminating(pod) and not pod["spec"].get("nodeName"):
            self.server.bind(pod["metadata"]["namespace"], pod["metadata"]["name"])
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
    ) -> Task:
        """Create a task instance with its first pod. If it is shared, the other Airflow has one with the same ids."""
        task_id = f"task_{next(self.numbers)}"
        created = []
        airflows = (True, False) if is_shared and self.neighbour != "none" else (True,)
        for is_ours in airflows:
            env = (PRODUCTION if is_ours else STAGING) if self.neighbour in ("selected", "labelled") else {}
            operators = [Operator({**env, **labels}) for labels in steps or ({},)]
            ids = (dag_id, task_id, run_id, map_index)
            task = Task(self.namespaces[namespace], *ids, reattaches, operators, is_ours=is_ours, try_number=0)
            task.on_finish_action, task.on_kill_action = on_finish_action, on_kill_action
            task.is_deferrable = is_deferrable
            self.tasks_of(task)[task.key] = task
            created.append(task)
            self.start_try(task)
            pod = self.by_uid().get(operators[0].pod or "") if finalizers else None
            if pod:
                self.server.call("PATCH", path_of(pod), {"metadata": {"finalizers": finalizers}}, MERGE)
        self.all_tasks += created
        return created[next(self.numbers) % len(created)]

    def tasks_of(self, task: Task) -> dict[TaskInstanceKey, Task]:
        return self.tasks if task.is_ours else self.their_tasks

    def uses(self, task: Task, operator: Operator, pod: Json, dies: str) -> None:
        """Attach the operator to its pod, and push its XComs unless it dies first."""
        operator.pod = uid(pod)
        if dies != "unrecorded":
            task.record = Record(frozenset({world.name(pod)}))

    def move(self, task: Task, move: str) -> None:
        """Make a move, or do nothing if it is impossible."""
        move, _, how = move.partition(", ")
        tasks = self.tasks_of(task)
        exists = tasks.get(task.key) is task
        if move == "its run is recreated" and (not exists or task.is_finished):
            # It has the same run_id: tries count from 1 again, and pods of the earlier run may still exist.
            tasks[task.key] = task
            task.try_number = 0
            task.store.clear()
            self.start_try(task)
        elif move == "its run is deleted" and exists and task.is_finished:
            # If the task were live, nobody would use its pod then.
            del tasks[task.key]
        elif move.startswith("tries again") and exists and not task.is_finished and task.state != "running":
            self.start_try(task, move.removeprefix("tries again").removeprefix(" and dies "))
        elif move in FINISHED and exists and not task.is_finished:
            self.end(task, move, how)
        elif move == "its pod is being deleted":
            for pod in world.find_pods(self.server, task, task.operators[0])[-1:]:
                self.delete_gracefully(pod)
        elif move == "its second operator starts" and exists and task.state == "running" and len(task.operators) > 1:
            if how == "tidy":
                self.operators_end(task, how)
            self.operator_starts(task, task.operators[1])
        elif move.startswith("becomes plain") and exists and task.map_index != UNMAPPED and task.state != "running":
            self.become_plain(task, move.removeprefix("becomes plain"))
        elif move in RECORDS:
            task.record = {
                "its record is lost": None,
                "its record names another": Record(frozenset({f"{task.namespace}/another"})),
                "its record is unreadable": Record(problem=UNREADABLE),
            }[move]
        elif move in WAITS and exists:
            task.state = None if move == "cleared" else move

    def become_plain(self, task: Task, how: str) -> None:
        """Replace a mapped task by a plain one in a newer version of its DAG, which Airflow schedules in the same run.

        Its operator adopts the pod of a map index: it searches by a subset of its labels.
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

        :param dies: ``early``, before it has a pod; ``unsaid``, before it has pushed its XComs; ``late``, before it has
            marked an older pod as checked.
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
                self.mark_checked(older)
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
        task.state, task.ended = state, None if how == "end unknown" else int(self.clock())
        if how:
            self.operators_end(task, how)
        for operator in task.operators:
            operator.pod = operator.process = None

    def operators_end(self, task: Task, how: str) -> None:
        for pod in self.attached(task):
            if how == "tidy":
                self.delete_pod(pod)
            elif how == "killed" and task.on_kill_action == "delete_pod":
                self.delete_gracefully(pod)
            elif how == "keep":
                self.mark_checked(pod)
                if not world.is_completed(pod):
                    self.set_status(pod, "Succeeded" if task.state == "success" else "Failed")


class Watch:
    """A rule before all faults while ``reap`` runs, which interrupts it and records what is really deleted."""

    def __init__(self, machine: Airflow) -> None:
        self._machine, self._lock = machine, threading.Lock()
        self._requests, self._deletions = itertools.count(), itertools.count()
        self._in_use = dict.fromkeys(machine.must_be_kept(), -ALWAYS)  # since when, by uid
        all_tasks = [*machine.tasks.values(), *machine.their_tasks.values()]
        self.excused = world.pods_in_use(machine.server, all_tasks) - self._in_use.keys()  # nothing distinguishes them
        self.deletions: set[str] = set()  # uids
        self.late: set[str] = set()  # deleted although the client no longer waited: the machine was busy
        self.vanished: set[str] = set()  # deleted by somebody else
        self.was_sent = False
        self.is_terminated = threading.Event()
        self.sent_after_sigterm = 0

    def __enter__(self) -> None:
        self._machine.server.proxy.rules.insert(0, proxy.Rule("", self._pass))
        self._handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._terminate)

    def __exit__(self, *_: object) -> None:
        del self._machine.server.proxy.rules[0]

    def _terminate(self, *arguments: Any) -> None:
        self.is_terminated.set()
        self._machine.explained_by("reap was terminated before the response arrived|reap received SIGTERM")
        assert callable(self._handler)
        self._handler(*arguments)

    async def _pass(self, request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        machine, line = self._machine, f"{request.method} {request.path_qs}"
        arrived = machine.monotonic()
        wanted = json.loads(await request.read())["preconditions"]["uid"] if request.method == "DELETE" else ""
        self.sent_after_sigterm += bool(wanted) and self.is_terminated.is_set()
        waited, waited_in_use = await request.loop.run_in_executor(None, self._interrupt, wanted)

        async def record() -> web.StreamResponse:
            is_exempt = wanted and await request.loop.run_in_executor(None, self._is_exempt, request.path, wanted)
            if wanted and waited > server_timeout(request):
                machine.explained_by("504 Gateway Timeout")
                return await TIMED_OUT(request, forward)
            answer = await forward()
            if wanted:
                self.was_sent = True
                if answer.status == 200:
                    self.deletions.add(wanted)
                    if proxy.is_gone(request):
                        self.late.add(wanted)
                    # With several deletions at once, it is not known which of them was decided when.
                    too_long = MAX_SNAPSHOT_AGE + DELETE_TIMEOUT if machine.batch_size == 1 else ALWAYS / 2
                    since = self._in_use.get(wanted, arrived)
                    is_used = waited_in_use > DELETE_TIMEOUT or arrived - since > too_long
                    is_trusted = is_used and machine.source.is_trusted and since >= machine.cut_off_at
                    TALLY["wrong, with a replica that was cut off while reap ran"] += is_trusted
                    if is_exempt or (is_used and not is_trusted):
                        machine.wrong.append(wanted)
            return answer

        rule = next((rule for rule in machine.server.proxy.rules[1:] if rule.applies(line)), None)
        return await (rule.fault(request, record) if rule else record())

    def _is_exempt(self, path: str, wanted: str) -> bool:
        machine, (namespace, name) = self._machine, path.split("/")[4::2]
        found = machine.server.call("GET", f"namespaces/{namespace}/pods?fieldSelector=metadata.name={name}")["items"]
        return any(uid(pod) == wanted and world.is_exempt(pod, machine.settings, int(machine.clock())) for pod in found)

    def _interrupt(self, wanted: str) -> tuple[float, float]:
        """Let happen what does so right before this request.

        :param wanted: the uid of the pod that it deletes; half of what happens to zombies happens to that one.
        :return: for how many seconds the request waits, and for how many of them that pod is in use.
        """
        waited = waited_in_use = 0.0
        with self._lock:
            machine, now_at = self._machine, [("request", next(self._requests))]
            if wanted:
                now_at.append(("deletion", next(self._deletions)))
            if ("deletion", machine.sigterm) in now_at:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                assert self.is_terminated.wait(STEP_SECONDS)
            for at, incident, seconds in machine.within:
                if at in now_at:
                    before = machine.by_uid()
                    if wanted and incident[0] == "zombie" and incident[1] % 2:
                        machine.move_zombie(wanted, incident[2])
                    else:
                        machine.life_goes_on([incident])
                    self.vanished |= before.keys() - machine.by_uid().keys()
                    now = machine.monotonic()
                    self._in_use = {uid: self._in_use.get(uid, now) for uid in machine.must_be_kept()}
                    machine.time_passes(seconds)
                    waited += seconds
                    waited_in_use += seconds if wanted in self._in_use else 0
        return waited, waited_in_use


WEBHOOK_FAILS = 'failed calling webhook "guard.example.com": connection refused'
TIMED_OUT = proxy.status(504, "Timeout", "request did not complete within the allotted timeout")
OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "1", "controller": True}
PATCHES: dict[str, Json] = {
    "is protected": {"annotations": {"kpo-cleanup/protect": "true"}},
    "gets a controller": {"ownerReferences": [OWNER]},
    "gets a label": {"labels": {"sidecar.example.org/injected": "true"}},
    "leaves the selection": {"labels": {"env": "excluded"}},
    "loses the operator's label": {"labels": {"kubernetes_pod_operator": None}},
}


def server_timeout(request: web.Request) -> float:
    """Return the seconds after which the API server drops a request."""
    return float(request.query.get("timeout", "60s").removesuffix("s"))


def path_of(pod: Json) -> str:
    return f"namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def through_json(value: Any) -> Any:
    """Return data after a round trip through JSON, like an XCom."""
    return json.loads(json.dumps(value))


@contextmanager
def set_up(kind: type[Airflow]) -> Iterator[None]:
    """Set up what all histories of a machine share: an API server behind a proxy, and a clock."""
    now, elapsed, ahead, lock = float(world.START), 0.0, 0.0, threading.Lock()
    last = time.monotonic()

    def set_clock_offset(seconds: float) -> None:
        nonlocal ahead
        ahead = seconds

    def time_passes(seconds: float) -> None:
        nonlocal now, elapsed
        with lock:  # each request may pass time in a thread of its own
            now, elapsed = now + seconds, elapsed + seconds

    def monotonic() -> float:
        nonlocal last, elapsed
        with lock:
            before, last = last, time.monotonic()
            elapsed += min(last - before, MAX_TICK)
            return elapsed

    def server_time() -> datetime:
        return datetime.fromtimestamp(now + ahead, UTC)

    with (
        pytest.MonkeyPatch.context() as patch,
        EmbeddedCluster(kubelet=False, now=server_time) as cluster,
        without_http(cluster) as server,
    ):
        for conn_id, url in ((CONN_ID, server.proxy.url), (BYPASS, server.url)):
            patch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection({"server": url})))
        kind.server, kind.clock, kind.time_passes = server, staticmethod(lambda: now), staticmethod(time_passes)
        kind.set_clock_offset = staticmethod(set_clock_offset)
        kind.monotonic = staticmethod(monotonic)
        kind.brief_client, kind.patient_client = (
            KubeClient(CONN_ID, BRIEF, PAGE_SIZE),
            KubeClient(CONN_ID, PATIENT, PAGE_SIZE),
        )
        kind.prepare(patch)
        yield


def run_histories(kind: type[Airflow], histories: int, of_seed: int | None = None) -> int:
    """Run random histories, with the profile's seed or with this one, and return how many ran."""
    before = TALLY["histories"]
    run_state_machine_as_test(
        kind if of_seed is None else seed(of_seed)(kind),
        settings=settings(
            max_examples=histories,
            stateful_step_count=8,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
    return TALLY["histories"] - before


@pytest.mark.timeout(900)  # a failing example takes a while to shrink
def test_what_is_alive_is_kept_and_what_is_dead_is_deleted(record_property: Callable[[str, object], None]) -> None:
    with set_up(Airflow):
        record_property("histories", run_histories(Airflow, HISTORIES))
