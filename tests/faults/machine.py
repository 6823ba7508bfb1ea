"""One Airflow with its workloads, as a machine that makes random histories."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from include.kpo_cleanup import xcom
from include.kpo_cleanup.candidates import with_records
from include.kpo_cleanup.classify import Snapshot, classify, with_plain_tasks
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.errors import KpoCleanupError
from include.kpo_cleanup.identity import UNMAPPED
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.reap.schedule import BATCH
from include.kpo_cleanup.reap.snapshot import MAX_SNAPSHOT_AGE
from include.kpo_cleanup.report import failures
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import Record
from include.kpo_cleanup.termination import raise_on_sigterm
from include.kpo_cleanup.verdict import Rule, Verdict
from tests import proxy
from tests.faults import rules
from tests.faults.cases import Does, says_pattern
from tests.faults.chances import (
    ANY_NUMBER,
    Biography,
    Event,
    Fault,
    Interruption,
    durations,
    escapes,
    events,
    faults,
    interruptions,
    lives,
    options,
    revivals,
    troubles,
    waits,
)
from tests.faults.controllers import Controllers
from tests.faults.life import PATCHES, Life
from tests.faults.objects import JOB, NOT_EXCLUDED, OURS, Json, controller_uid, find_at, is_terminating
from tests.faults.rules import DAY
from tests.faults.watch import ALWAYS, STEP_SECONDS, TIMED_OUT, Watch, server_timeout
from tests.faults.world import DAG_FAILS, LAGGING, SOURCE_DOWN, TALLY, MemorySource, Task

BYPASS = "bypass"  # the id of a connection without faults
PAGE_SIZE = 4
MAX_DELETES = 5  # max_deletes of a run while a trouble lasts: fewer than the zombies that the trouble blocks
BRIEF = RetryPolicy(connect_timeout=2, read_timeout=0.25, attempts=3, initial_backoff=0.004, max_backoff=0.02)
PATIENT = replace(BRIEF, connect_timeout=60, read_timeout=60)  # only a busy machine would cause a timeout
MAX_TICK = BRIEF.max_backoff  # seconds by which the clock advances at once, however busy the machine is
CROWD = CONCURRENT_DELETES + 2  # more zombies than a run tries in vain before it tries others


class Airflow(Life, RuleBasedStateMachine):
    """One Airflow with its workloads in two namespaces, while the cleanup runs step by step.

    Its workloads are created by two API servers, whose clocks may differ.

    Another Airflow may have pods there as well. Its pods may have other labels, with or without a ``label_selector``
    that excludes them, or the same labels.
    """

    monotonic: Callable[[], float]
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
        lives: list[Biography],
        seconds: int,
    ) -> None:
        TALLY["histories"] += 1
        self.neighbour, self.troubles = neighbour, [*troubles]
        self.clocks = itertools.cycle([0, skew, skew, 0])
        self.namespaces = [self.server.create_namespace() for _ in range(2)]
        self.controllers = Controllers(self.server, self.clock)
        self.tasks, self.their_tasks, self.all_tasks = {}, {}, []
        self.source = MemorySource(self.tasks, *knowledge)
        self.source.wait = self.time_passes
        self.numbers = itertools.count(1)
        self.causes: list[re.Pattern[str]] = []  # any error must match one of them
        self.replaced = {}
        self.within: list[Interruption] = []
        self.wrong: list[Json] = []  # workloads that were deleted although they must be kept
        self.heal()
        self.begin_run()
        if troubles:
            for trouble in troubles:
                TALLY[f"histories in which {trouble}"] += 1
            self.there_is_a_crowd()
        self.tasks_live(lives, seconds)

    # --- the life of task instances and pods

    @rule(lives=lives, seconds=durations)
    def tasks_live(self, lives: list[Biography], seconds: int) -> None:
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
            elif kind == "object" and (found := self.objects()):
                self.move_object(found[which % len(found)], what)
            elif kind == "zombie" and self.zombies:
                self.move_zombie(self.zombies[which % len(self.zombies)]["uid"], what)

    @precondition(lambda self: self.tasks)
    @rule(which=ANY_NUMBER, odd=st.sampled_from(["owned", "protected", "badly labelled", "of another task"]))
    def there_is_an_odd_pod(self, which: int, odd: str) -> None:
        """Create a pod of a finished task, with one property that must keep it."""
        task = replace(list(self.tasks.values())[which % len(self.tasks)])
        if not task.is_finished:
            return
        metadata = {"owned": PATCHES["gets a controller"], "protected": PATCHES["is protected"]}.get(odd, {})
        if odd == "of another task":
            task.dag_id = "staging"
        elif odd == "protected":
            task.try_number = 1  # a later try would make it the successor of the operator's own pod
        labels = {**task.operators[0].labels, **task.labels, "try_number": str(task.try_number)}
        if odd == "badly labelled":
            del labels["try_number"]
        self.a_moment_passes()
        self.server.create_pod(task.namespace, f"pod-{next(self.numbers)}", labels, **metadata)

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
        zombies = rules.zombies(before.values(), self.source, self.settings, now)
        deletable = {uid for uid in zombies if not self.is_blocked(before[uid])}
        held = {uid for uid in deletable if before[uid]["metadata"].get("finalizers")}
        # What a webhook prevents counts towards max_deletes, because the response does not show that it was prevented.
        max_deletes = MAX_DELETES if self.troubles and not any("webhook" in one for one in self.troubles) else 500
        # Time passes during these runs, so they may also delete workloads that are not zombies yet.
        later = rules.zombies(before.values(), self.source, self.settings, now + 2 * DAY)
        expected_deletions = deletable | {uid for uid in later if not self.is_blocked(before[uid])}
        results: dict[str, Result] = {}
        for _ in range(math.ceil(len(expected_deletions) / max_deletes) or 1):
            self.begin_run(**{**chosen, "max_deletes": max_deletes, "dry_run": False, "grace_period_seconds": 0})
            self.client = self.patient_client
            while self.step():
                pass
            results |= {result.verdict.workload.uid: result for result in self.results}
        differing = [before[uid] for uid in results.keys() ^ zombies]
        assert self.troubles or not differing, f"the verdict and the rules differ: {differing}"
        if max_deletes < len(expected_deletions) and not self.source.knows_all:
            # Only the recorded pod of a later try showed that these are of an earlier one, and it has gone first.
            gone_names = {rules.record_name(before[uid]) for uid in before.keys() - self.by_uid().keys()}
            unmatched = [v.workload for v in self.verdicts if v.rule is Rule.RECORD_NAMES_ANOTHER]
            records = {each.uid: self.tasks[each.key].record or Record() for each in unmatched}
            deletable -= {uid for uid, record in records.items() if record.workloads & gone_names}
        expected = {uid: Outcome.AWAITING_FINALIZER if uid in held else Outcome.DELETED for uid in deletable}
        done = {uid for uid, result in results.items() if result.outcome is expected.get(uid)}
        assert deletable <= done, f"not deleted: {[results.get(uid) for uid in deletable - done]}; {self.troubles}"
        after = self.by_uid()
        gone = before.keys() - after.keys()
        of_gone = {uid for uid in gone if controller_uid(before[uid]) in gone}  # which the garbage collector deletes
        assert self.troubles or gone - of_gone <= zombies - held
        assert all(is_terminating(after[uid]) for uid in deletable & after.keys())
        dead = rules.must_be_deleted(before.values(), self.source, self.settings, now)
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
        selector = OURS if self.neighbour == "selected" else NOT_EXCLUDED
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
        for error in [*listing.errors_by_namespace.values(), *listing.errors_by_kind.values()]:
            self.must_be_explained(str(error))
        self.next_step = "fetch"

    def _fetch(self) -> None:
        listed = xcom.load_listing(self.listing).workloads
        task_instances = self.source.fetch(with_plain_tasks(each.key for each in listed if not each.label_problem))
        snapshot = Snapshot(listed, task_instances, self.settings, int(self.clock()))
        snapshot = with_records(snapshot, self.source, self.monotonic)
        self.task_instances = through_json(xcom.dump_task_instances(snapshot.task_instances, snapshot.records))
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
        # On a busy machine an attempt may time out, and the next one finds that the new pod was replaced as well.
        if new := {*self.replaced.values()} - self.replaced.keys() - watch.vanished:
            # Before garbage collection, which deletes the new pod of a Job with the Job.
            assert new <= self.by_uid().keys(), "a new pod with the same name was deleted"
        if watch.deletions:
            self.controllers.collect_garbage(self.namespaces)
        after = self.by_uid()
        in_flight = min(self.batch_size, CONCURRENT_DELETES) - 1  # besides the one that SIGTERM precedes
        assert watch.sent_after_sigterm <= in_flight, "a deletion was sent after SIGTERM"
        assert not self.wrong, f"deleted, although it is in use, or something on it protects it: {self.wrong}"
        TALLY[f"wrong, with another Airflow that is {self.neighbour}"] += len(watch.deletions & watch.excused)
        assert watch.deletions <= {verdict.workload.uid for verdict in zombies}
        in_time = watch.deletions - watch.late
        assert len(in_time) <= self.settings.max_deletes, "more than max_deletes may have been deleted"
        assert not (watch.was_sent and self.settings.dry_run)
        TALLY["terminated"] += watch.is_terminated.is_set()
        assert [r.verdict.workload.uid for r in results] == [v.workload.uid for v in zombies]
        for result in results:
            event(f"{result.verdict.reason.value}: {result.outcome.value}")
            TALLY[f"{result.outcome.value}: {result.verdict.reason.value}"] += 1
            pod = after.get(result.verdict.workload.uid)
            was_deleted = result.verdict.workload.uid in in_time
            assert rules.agrees(result.outcome, pod, was_deleted, self.settings), f"not true: {result}"
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
        """Return the workloads that must not be deleted: in use by our Airflow, or by another that has other labels."""
        tasks = [*self.tasks.values()] if self.neighbour != "alike" else []
        return rules.in_use(self.objects(), [*tasks, *(t for t in self.their_tasks.values() if self.is_apart(t))])

    def is_apart(self, theirs: Task) -> bool:
        """Return whether labels distinguish a live task instance of the other Airflow from ours.

        Without a selector, they do so only if ours is live as well, because otherwise nobody knows the labels of ours.
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
        in_namespace = f"DELETE .*/{self.namespaces[0]}/"
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

    def there_is_a_crowd(self) -> None:
        """Create many zombies, each of its own map index, and then a younger one in each namespace."""
        crowd = [("billing", "crowd", self.namespaces[0])] * CROWD
        bystanders = [("orders", "bystander", namespace) for namespace in self.namespaces]
        for index, (dag_id, task_id, namespace) in enumerate([*crowd, *bystanders]):
            self.create_zombie(dag_id, task_id, namespace, index)
            if task_id == "bystander":
                self.create_zombie(dag_id, "its-job", namespace, index, JOB)
        self.time_passes(4_000)

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
            # The error of a request for a Job or an application says the same, apart from the kind and the rule to add.
            cause = says_pattern(case.says.partition(": ")[2].partition(";")[0]).pattern
            cause = cause.replace("PodList", "(PodList|Job|SparkApplication)").replace(r"a\ Pod\ or", r"a\ \w+\ or")
            self.explained_by(f"(?s)(reading a|deleting the) (Job|SparkApplication): ({cause}|skipped)")
            self.explained_by(f"(?s)none of [0-9]+ namespaces could be listed: .*({cause}|skipped)")
            if case.does is Does.RUN_FAILS:  # a pod is read by a selector as well
                self.explained_by("400 Bad Request; server message: unable to parse requirement")

    def cut_off(self) -> None:
        """Cut the source off from the primary database, like a replica."""
        self.cut_off_at = min(self.cut_off_at, self.monotonic())
        self.source.lag()

    async def hang(self, request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        """Wait for the webhook until the request times out on the API server."""
        await request.loop.run_in_executor(None, self.time_passes, server_timeout(request))
        return await TIMED_OUT(request, forward)

    async def replace_first(self, request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        return await proxy.first(lambda: self.replace_at(request.path))(request, forward)

    def replace_at(self, path: str) -> None:
        found = find_at(self.server, path)
        if found:
            self.replace(found)


WEBHOOK_FAILS = 'failed calling webhook "guard.example.com": connection refused'


def through_json(value: Any) -> Any:
    """Return data after a round trip through JSON, like an XCom."""
    return json.loads(json.dumps(value))
