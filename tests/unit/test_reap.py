"""DeleteResult: the second listing, the look, the limits, and an account of every pod."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from include.kpo_cleanup.classify import Snapshot, Verdict, classify
from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.errors import KubernetesError, TaskInstanceSourceError
from include.kpo_cleanup.identity import TaskInstanceKey
from include.kpo_cleanup.kube import CONCURRENT_DELETES, DeleteResult, Listing
from include.kpo_cleanup.pod import Container, Pod
from include.kpo_cleanup.reap import BATCH, MAX_CONFLICTS, MAX_SNAPSHOT_AGE, Result, count_outcomes, reap
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import Record, TaskInstance, TaskInstances
from tests.unit.builders import DAY, HOUR, JOB, NOW, answer, make_pod, make_ti

DELETED = DeleteResult(Outcome.DELETED)
GONE = DeleteResult(Outcome.ALREADY_GONE, "the API server has no such pod any more")
HELD = DeleteResult(Outcome.AWAITING_FINALIZER, "held by example.com/hold")
NO_ANSWER = DeleteResult(Outcome.FAILED, "no answer from the API server", is_retryable=True, outcome_unknown=True)
SLOW_DOWN = DeleteResult(Outcome.FAILED, "429 Too Many Requests", is_retryable=True)
GARBLED = DeleteResult(Outcome.FAILED, "the answer is a None, not a Pod or Status", outcome_unknown=True)
FORBIDDEN = DeleteResult(Outcome.FAILED, "403 Forbidden", "allow verb 'delete'")
CONFLICT = DeleteResult(Outcome.FAILED, "409 Conflict", is_conflict=True)
FINISHED, RUNNING = make_ti(), make_ti(state="running", ended=None)
AT_ONCE = RetryPolicy(initial_backoff=0, max_backoff=0)
NAMESPACES = ["airflow", "other"]
TOO_OLD = MAX_SNAPSHOT_AGE + 1  # seconds

Answers = DeleteResult | Sequence[DeleteResult]  # to one deletion after the other; the last one again and again


class Server:
    """The API server: the pods that exist now, and its answers to deletions, by pod name."""

    def __init__(self, pods: Iterable[Pod], says: Mapping[str, Answers] | None = None) -> None:
        self.pods = {pod.uid: pod for pod in pods}
        self._says = {name: list(said) if isinstance(said, Sequence) else [said] for name, said in (says or {}).items()}
        self._lock = threading.Lock()
        self.deletions: list[tuple[str, int]] = []
        self.before_deletion: Callable[[Pod], None] = lambda _pod: None
        self.errors_by_namespace: dict[str, str] = {}

    def list_pods(
        self, namespaces: Sequence[str], *_: object, keep: Callable[[Pod], bool] | None = None, **__: object
    ) -> Listing:
        there = self.pods.values()
        listed = [pod for pod in there if pod.namespace in namespaces and (keep is None or keep(pod))]
        return Listing(
            [pod for pod in listed if pod.namespace not in self.errors_by_namespace],
            {namespace: why for namespace, why in self.errors_by_namespace.items() if namespace in namespaces},
        )

    def get(self, pod: Pod, *_: object, **__: object) -> Pod | None:
        return next((now for now in self.pods.values() if str(now) == str(pod)), None)

    def delete(self, pod: Pod, grace_period_seconds: int) -> DeleteResult:
        with self._lock:
            self.before_deletion(pod)
            self.deletions.append((pod.name, grace_period_seconds))
            now = self.pods.get(pod.uid)
            if now is not None and now.resource_version != pod.resource_version:
                return CONFLICT
            says = self._says.get(pod.name, [DELETED])
            said = says.pop(0) if len(says) > 1 else says[0]
            if said.outcome is Outcome.DELETED:
                self.pods.pop(pod.uid, None)
            return said

    def change(self, pod: Pod, **changes: Any) -> None:
        """Change a pod, as if somebody patched it."""
        version = f"{int(self.pods[pod.uid].resource_version or 0) + 1}"
        self.pods[pod.uid] = replace(self.pods[pod.uid], resource_version=version, **changes)

    @property
    def deleted(self) -> set[str]:
        return {name for name, _ in self.deletions}


class Airflow:
    """The task instances as they are now; after ``fails_after`` looks there is no answer."""

    description = "test"

    def __init__(
        self,
        found: Mapping[TaskInstanceKey, TaskInstance | None],
        fails_after: int | None = None,
        records: Mapping[TaskInstanceKey, Record] | None = None,
    ) -> None:
        self.found = dict(found)
        self._fails_after, self._records = fails_after, records or {}
        self.looks: list[list[TaskInstanceKey]] = []
        self.records_read: list[TaskInstanceKey] = []

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        if self._fails_after is not None and len(self.looks) >= self._fails_after:
            raise TaskInstanceSourceError("the database is down")
        self.looks.append(list(keys))
        return answer({key: self.found.get(key) for key in keys})

    def read_records(self, _: TaskInstances, keys: Collection[TaskInstanceKey]) -> Mapping[TaskInstanceKey, Record]:
        self.records_read += keys
        return {key: record for key, record in self._records.items() if key in keys}


def zombies_of(*pods: Pod, ti: TaskInstance = FINISHED, **settings: Any) -> list[Verdict]:
    facts = Snapshot(pods, TaskInstances({pod.key: ti for pod in pods}), Settings(**settings), NOW)
    return [verdict for verdict in classify(facts) if verdict.is_zombie]


def make_zombies(count: int, **overrides: Any) -> list[Verdict]:
    """Make pods ``z0000``, ``z0001``... with a task instance each, oldest first."""
    return zombies_of(
        *(
            make_pod(name=f"z{number:04d}", map_index=number, created=NOW - 9 * HOUR + number, **overrides)
            for number in range(count)
        )
    )


def server_of(zombies: Iterable[Verdict], says: Mapping[str, Answers] | None = None, *others: Pod) -> Server:
    return Server([*(zombie.pod for zombie in zombies), *others], says)


def now_finished(zombies: Iterable[Verdict], **more: Any) -> Airflow:
    return Airflow({verdict.pod.key: FINISHED for verdict in zombies}, **more)


def run(
    zombies: list[Verdict],
    server: Server | None = None,
    airflow: Airflow | None = None,
    clock: Callable[[], float] = lambda: NOW + 0.9,
    monotonic: Callable[[], float] = lambda: 0.0,
    namespaces: Collection[str] = NAMESPACES,
    patience: RetryPolicy = AT_ONCE,
    **settings: Any,
) -> list[Result]:
    """Reap, and check that every zombie has one result, in their order."""
    server, airflow = server or server_of(zombies), airflow or now_finished(zombies)
    results = reap(zombies, server, airflow, Settings(**settings), namespaces, clock, monotonic, patience)
    assert [result.verdict.pod.name for result in results] == [zombie.pod.name for zombie in zombies]
    return results


def outcomes(results: Iterable[Result]) -> dict[str, str]:
    return {result.verdict.pod.name: result.outcome.value for result in results}


def said(results: Iterable[Result], outcome: Outcome) -> set[str]:
    return {str(result.deletion) for result in results if result.outcome is outcome}


class TestDeleting:
    def test_of_nothing_asks_nobody(self) -> None:
        server, airflow = Server([]), Airflow({})
        assert run([], server, airflow) == []
        assert (server.deletions, airflow.looks) == ([], [])

    def test_deletes_every_zombie_once_with_the_grace_period_that_was_set(self) -> None:
        zombies = make_zombies(3)
        server = server_of(zombies)
        assert count_outcomes(run(zombies, server, grace_period_seconds=7)) == {"deleted": 3}
        assert sorted(server.deletions) == [("z0000", 7), ("z0001", 7), ("z0002", 7)]

    def test_asks_for_the_task_instances_of_the_zombies_only(self) -> None:
        zombies = make_zombies(3)
        airflow = now_finished(zombies)
        run(zombies, server_of(zombies, {}, make_pod(task_id="other")), airflow)
        assert airflow.looks == [[zombie.pod.key for zombie in zombies]]

    def test_looks_again_for_each_batch_and_reads_each_record_once(self) -> None:
        zombies = make_zombies(2 * BATCH + 1)
        airflow = now_finished(zombies)
        assert count_outcomes(run(zombies, airflow=airflow)) == {"deleted": len(zombies)}
        assert [len(look) for look in airflow.looks] == [BATCH, BATCH, 1]
        assert sorted(airflow.records_read) == sorted(zombie.pod.key for zombie in zombies)

    @pytest.mark.parametrize("says", [GONE, HELD, FORBIDDEN], ids=lambda says: says.outcome.value)
    def test_reports_what_the_api_server_said_and_goes_on(self, says: DeleteResult) -> None:
        zombies = make_zombies(3)
        results = run(zombies, server_of(zombies, {"z0001": says}))
        assert outcomes(results) == {"z0000": "deleted", "z0001": says.outcome.value, "z0002": "deleted"}
        assert said(results, says.outcome) == {str(says)}

    def test_says_each_deletion_with_its_evidence(self, caplog: pytest.LogCaptureFixture) -> None:
        zombies = make_zombies(2)
        with caplog.at_level(logging.INFO):
            run(zombies, server_of(zombies, {"z0001": FORBIDDEN}))
        evidence = "    orphaned: task instance failed (try 1) 60 min ago; base running 2 h"
        said = [(record.levelname, record.getMessage()) for record in caplog.records]
        deleted = [line for level, line in said if level == "INFO"]
        assert deleted == ["deleted airflow/z0000: orders.extract[0] try 1 of run run_1", evidence]
        assert [line for level, line in said if level == "ERROR"] == [
            "failed airflow/z0001: orders.extract[1] try 1 of run run_1",
            "    403 Forbidden",
            "        allow verb 'delete'",
            evidence,
        ]

    @pytest.mark.parametrize(
        ("limit", "lines"),
        [
            pytest.param(500, ["100 pods deleted so far, 101 to go", "200 pods deleted so far, 1 to go"], id="all go"),
            pytest.param(150, ["100 pods deleted so far, 50 to go"], id="some are left for the next run"),
        ],
    )
    def test_says_how_far_it_is(self, limit: int, lines: list[str], caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            run(make_zombies(2 * BATCH + 1), max_deletes=limit)
        assert [message for message in caplog.messages if "so far" in message] == lines

    @pytest.mark.parametrize(
        "error", [ConnectionError("odd"), KubernetesError("reading", cause="503"), ValueError("bad")]
    )
    def test_that_raises_whatever_it_is_fails_one_pod_and_keeps_the_report(self, error: Exception) -> None:
        zombies = make_zombies(3)
        server = server_of(zombies)

        def fail(pod: Pod) -> None:
            if pod.name == "z0001":
                raise error

        server.before_deletion = fail
        results = run(zombies, server)
        assert outcomes(results) == {"z0000": "deleted", "z0001": "failed", "z0002": "deleted"}
        assert str(error) in next(iter(said(results, Outcome.FAILED)))


class TestDryRun:
    @pytest.mark.parametrize("settings", [{}, {"max_deletes": 1}, {"grace_period_seconds": -1}])
    def test_never_deletes(self, settings: dict[str, Any]) -> None:
        zombies = make_zombies(3)
        server = server_of(zombies)
        results = run(zombies, server, dry_run=True, **settings)
        assert server.deletions == []
        assert {result.outcome for result in results} <= {Outcome.WOULD_DELETE, Outcome.LEFT_FOR_NEXT_RUN}

    def test_shows_what_a_real_run_would_do(self) -> None:
        zombies = make_zombies(4)
        airflow = Airflow({zombie.pod.key: FINISHED for zombie in zombies[1:]})
        dry = outcomes(run(zombies, airflow=airflow, dry_run=True, max_deletes=2))
        real = outcomes(run(zombies, airflow=airflow, max_deletes=2))
        assert dry == {name: outcome.replace("deleted", "would_delete") for name, outcome in real.items()}
        assert set(dry.values()) == {"spared", "would_delete", "left_for_next_run"}


class TestListingAgain:
    """The second listing: the pods as they were when they were classified do not count."""

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            pytest.param({"protected_by": "kpo-cleanup/protect=true"}, "protected", id="is protected"),
            pytest.param({"controller": JOB}, "owned", id="has a controller"),
            pytest.param({"phase": "Failed"}, "completed", id="has failed, and failed ones are kept"),
            pytest.param({"deletion_deadline": NOW + 30}, "terminating", id="is ending by itself"),
            pytest.param({"label_problem": "label x is missing"}, "bad_labels", id="lost a label"),
            pytest.param({"task_id": "other"}, "unmatched", id="is labelled as another task's"),
        ],
    )
    def test_spares_a_pod_that(self, changes: dict[str, Any], reason: str) -> None:
        zombies = make_zombies(2)
        server = server_of(zombies)
        server.change(zombies[0].pod, **changes)
        results = run(zombies, server)
        assert outcomes(results) == {"z0000": "spared", "z0001": "deleted"}
        assert server.deleted == {"z0001"}
        assert next(iter(said(results, Outcome.SPARED))).startswith(f"{reason} now: ")

    def test_takes_a_pod_that_is_not_there_for_gone(self) -> None:
        zombies = make_zombies(2)
        assert outcomes(run(zombies, server_of(zombies[1:]))) == {"z0000": "already_gone", "z0001": "deleted"}

    def test_does_not_take_a_new_pod_of_the_same_name_for_the_old_one(self) -> None:
        zombies = make_zombies(1)
        server = Server([replace(zombies[0].pod, uid="new")])
        assert outcomes(run(zombies, server)) == {"z0000": "already_gone"}
        assert server.deletions == []

    def test_believes_no_uid_that_was_edited_away(self) -> None:
        zombies = make_zombies(1)
        edited = [replace(zombies[0], pod=replace(zombies[0].pod, uid="null"))]
        server = server_of(zombies)
        assert outcomes(run(edited, server)) == {"z0000": "already_gone"}
        assert server.deletions == []

    @pytest.mark.parametrize(
        ("namespaces", "settings", "outcome"),
        [
            pytest.param(["other"], {}, "failed", id="not in a namespace that is none of the run's"),
            pytest.param(["*"], {}, "deleted", id="in any, if the run is about all"),
            pytest.param(["*"], {"exclude_namespaces": "airflow"}, "failed", id="but not in one that is left out"),
        ],
    )
    def test_deletes(self, namespaces: list[str], settings: dict[str, Any], outcome: str) -> None:
        zombies = make_zombies(1)
        server = server_of(zombies)
        assert outcomes(run(zombies, server, namespaces=namespaces, **settings)) == {"z0000": outcome}
        assert bool(server.deletions) == (outcome == "deleted")

    def test_that_fails_in_one_namespace_does_not_stop_the_others(self) -> None:
        zombies = zombies_of(
            make_pod(name="a", namespace="airflow"), make_pod(name="b", namespace="other", map_index=1)
        )
        server = server_of(zombies)
        server.errors_by_namespace["other"] = "listing pods in namespace 'other': 403 Forbidden"
        results = run(zombies, server)
        assert outcomes(results) == {"a": "deleted", "b": "failed"}
        assert said(results, Outcome.FAILED) == {"listing pods in namespace 'other': 403 Forbidden"}

    @pytest.mark.parametrize("error", [KubernetesError("listing", cause="no answer"), RuntimeError("odd")])
    def test_that_fails_altogether_fails_all_and_keeps_the_report(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken(Server):
            def list_pods(self, *_: object, **__: object) -> Listing:
                raise error

        zombies = make_zombies(2)
        results = run(zombies, Broken([]))
        assert count_outcomes(results) == {"failed": 2}
        assert all(str(error) in text for text in said(results, Outcome.FAILED))


class TestAPodThatChanges:
    """A pod that changes. Its resource version is a precondition, so only the pod that was judged is deleted."""

    @pytest.mark.parametrize(
        ("times", "outcome"), [(1, "deleted"), (MAX_CONFLICTS, "deleted"), (MAX_CONFLICTS + 1, "failed")]
    )
    def test_is_read_again_and_judged_again(self, times: int, outcome: str) -> None:
        zombies = make_zombies(1)
        server, changes = server_of(zombies), itertools.count()

        def change(pod: Pod) -> None:
            if next(changes) < times:
                server.change(pod, phase_reason="still at it")

        server.before_deletion = change
        assert outcomes(run(zombies, server)) == {"z0000": outcome}

    def test_is_spared_if_it_is_no_zombie_any_more(self) -> None:
        zombies = make_zombies(2)
        server = server_of(zombies)

        def protect(pod: Pod) -> None:
            if pod.name == "z0000" and not server.pods[pod.uid].protected_by:
                server.change(pod, protected_by="kpo-cleanup/protect=true")

        server.before_deletion = protect
        assert outcomes(run(zombies, server)) == {"z0000": "spared", "z0001": "deleted"}
        assert zombies[0].pod.uid in server.pods

    def test_into_another_tasks_is_looked_up_anew(self) -> None:
        zombies = make_zombies(1)
        server = server_of(zombies)
        running = replace(zombies[0].pod, task_id="other").key
        airflow = Airflow({zombies[0].pod.key: FINISHED, running: RUNNING})

        def relabel(pod: Pod) -> None:
            if pod.task_id != "other":
                server.change(pod, task_id="other")

        server.before_deletion = relabel
        results = run(zombies, server, airflow, delete_unmatched_pods=True)
        assert outcomes(results) == {"z0000": "spared"}
        assert said(results, Outcome.SPARED).pop().startswith("active now: ")

    @pytest.mark.parametrize(
        ("now", "outcome"),
        [
            pytest.param([], "already_gone", id="into none is gone"),
            pytest.param(["new"], "spared", id="into another of its name is spared"),
        ],
    )
    def test(self, now: list[str], outcome: str) -> None:
        zombies = make_zombies(1)
        server = server_of(zombies, {"z0000": CONFLICT})

        def replace_it(pod: Pod) -> None:
            server.pods = {uid: replace(pod, uid=uid) for uid in now}

        server.before_deletion = replace_it
        assert outcomes(run(zombies, server)) == {"z0000": outcome}

    def test_is_not_what_every_conflict_is_about(self) -> None:
        zombies = make_zombies(1)
        results = run(zombies, server_of(zombies, {"z0000": CONFLICT}))
        assert outcomes(results) == {"z0000": "failed"}
        assert said(results, Outcome.FAILED) == {"409 Conflict"}


class TestLook:
    @pytest.mark.parametrize(
        ("ti", "why"),
        [
            pytest.param(RUNNING, "active now: task instance running (try 1)", id="runs again"),
            pytest.param(make_ti(state=None), "active now: task instance cleared (try 1)", id="was cleared"),
            pytest.param(
                make_ti(ended=NOW), "settling now: task instance failed (try 1) 0 s", id="has just ended again"
            ),
            pytest.param(None, "unmatched now: no task instance on record", id="is on record no more"),
        ],
    )
    def test_spares_a_pod_whose_task_instance(self, ti: TaskInstance | None, why: str) -> None:
        zombies = make_zombies(2)
        server = server_of(zombies)
        results = run(zombies, server, Airflow({zombies[0].pod.key: ti, zombies[1].pod.key: FINISHED}))
        assert outcomes(results) == {"z0000": "spared", "z0001": "deleted"}
        assert server.deleted == {"z0001"}
        assert said(results, Outcome.SPARED).pop().startswith(why)

    def test_spares_a_pod_that_the_operators_record_does_not_name(self) -> None:
        zombies = make_zombies(1)
        airflow = now_finished(zombies, records={zombies[0].pod.key: Record(frozenset({"airflow/other"}))})
        results = run(zombies, airflow=airflow)
        assert said(results, Outcome.SPARED).pop().startswith("unmatched now: Airflow's record names pod airflow/other")

    def test_reads_the_clock_anew(self) -> None:
        zombies = make_zombies(1)
        ended_again = Airflow({zombies[0].pod.key: make_ti(ended=NOW)})
        assert outcomes(run(zombies, airflow=ended_again, clock=lambda: NOW + 299)) == {"z0000": "spared"}
        assert outcomes(run(zombies, airflow=ended_again, clock=lambda: NOW + 300)) == {"z0000": "deleted"}

    def test_reports_its_evidence(self) -> None:
        zombies = make_zombies(1)
        airflow = Airflow({zombies[0].pod.key: make_ti(state="removed")})
        assert run(zombies, airflow=airflow)[0].verdict.evidence.startswith("task instance removed")

    def test_that_fails_deletes_nothing(self) -> None:
        zombies = make_zombies(3)
        server = server_of(zombies)
        results = run(zombies, server, now_finished(zombies, fails_after=0))
        assert server.deletions == []
        assert count_outcomes(results) == {"failed": 3}
        assert said(results, Outcome.FAILED) == {"the look at the task instances failed: the database is down"}

    def test_that_fails_later_fails_its_batch_and_leaves_the_rest(self) -> None:
        zombies = make_zombies(3 * BATCH)
        server = server_of(zombies)
        results = run(zombies, server, now_finished(zombies, fails_after=1))
        assert count_outcomes(results) == {"deleted": BATCH, "failed": BATCH, "left_for_next_run": BATCH}
        assert server.deleted == {zombie.pod.name for zombie in zombies[:BATCH]}
        assert said(results, Outcome.LEFT_FOR_NEXT_RUN) == {
            "the look at the task instances failed: the database is down"
        }

    def test_that_fails_in_an_odd_way_keeps_the_report(self) -> None:
        class Odd(Airflow):
            def fetch(self, _keys: Collection[TaskInstanceKey]) -> TaskInstances:
                raise RuntimeError("odd")

        assert count_outcomes(run(make_zombies(2), airflow=Odd({}))) == {"failed": 2}


class TestAnOldLook:
    """An old look: nothing is deleted on an answer about the task instance that is older than some seconds."""

    def test_is_followed_by_a_new_one_which_spares_what_came_back_to_life(self) -> None:
        zombies = make_zombies(BATCH)
        server, airflow = server_of(zombies), now_finished(zombies)
        now = itertools.count()  # seconds

        def one_second_passes(_pod: Pod) -> None:
            next(now)
            # All tasks are cleared, and their next tries attach to the pods.
            airflow.found = dict.fromkeys(airflow.found, RUNNING)

        server.before_deletion = one_second_passes
        results = run(zombies, server, airflow, monotonic=lambda: float(now.__reduce__()[1][0]))
        assert len(server.deletions) <= MAX_SNAPSHOT_AGE + CONCURRENT_DELETES  # those under way when it got old
        assert set(outcomes(results).values()) == {"deleted", "spared"}

    def test_is_not_used_for_another_attempt(self) -> None:
        zombies = make_zombies(1)
        server = server_of(zombies, {"z0000": [SLOW_DOWN, DELETED]})
        airflow = now_finished(zombies)

        def comes_back(_pod: Pod) -> None:
            airflow.found = dict.fromkeys(airflow.found, RUNNING)

        server.before_deletion = comes_back
        assert outcomes(run(zombies, server, airflow)) == {"z0000": "spared"}
        assert len(server.deletions) == 1

    def test_that_is_old_as_soon_as_it_is_there_deletes_nothing(self) -> None:
        zombies = make_zombies(1)
        server = server_of(zombies)
        results = run(zombies, server, monotonic=itertools.count(step=MAX_SNAPSHOT_AGE + 1).__next__)
        assert outcomes(results) == {"z0000": "failed"}
        assert "took longer than 5 s" in said(results, Outcome.FAILED).pop()
        assert server.deletions == []


class TestSuperseded:
    MAX_SNAPSHOT_AGE = make_pod(name="old", resource_version="1")
    NEW = make_pod(name="new", try_number=2, uid="new")
    TRY_2 = RUNNING._replace(try_number=2)

    def reap(self, *pods_now: Pod, ti: TaskInstance = TRY_2) -> dict[str, str]:
        zombies = zombies_of(self.MAX_SNAPSHOT_AGE, self.NEW, ti=self.TRY_2)
        assert [(zombie.pod.name, zombie.reason) for zombie in zombies] == [("old", Reason.SUPERSEDED)]
        server = Server(pods_now)
        result = outcomes(run(zombies, server, Airflow({self.MAX_SNAPSHOT_AGE.key: ti})))
        assert server.deleted == {name for name, outcome in result.items() if outcome == "deleted"}
        return result

    def test_goes_while_its_successor_is_there(self) -> None:
        assert self.reap(self.MAX_SNAPSHOT_AGE, self.NEW) == {"old": "deleted"}

    @pytest.mark.parametrize(
        "now",
        [
            pytest.param([], id="has vanished"),
            pytest.param([replace(NEW, already_checked=True)], id="was checked off"),
            pytest.param([replace(NEW, deletion_deadline=NOW)], id="is being deleted"),
        ],
    )
    def test_is_spared_when_its_successor(self, now: list[Pod]) -> None:
        assert self.reap(self.MAX_SNAPSHOT_AGE, *now) == {"old": "spared"}

    @pytest.mark.parametrize(
        ("seconds", "changes", "outcome"),
        [
            pytest.param(TOO_OLD, {"deletion_deadline": NOW}, "spared", id="long ago, and it is being deleted now"),
            pytest.param(TOO_OLD, {"already_checked": True}, "spared", id="long ago, and it was checked off meanwhile"),
            pytest.param(TOO_OLD, {"name": "vanished"}, "spared", id="long ago, and it has vanished"),
            pytest.param(TOO_OLD, {}, "deleted", id="long ago, and it is as it was"),
            pytest.param(TOO_OLD - 1, {"deletion_deadline": NOW}, "deleted", id="just now"),
        ],
    )
    def test_whose_successor_was_read(self, seconds: float, changes: dict[str, Any], outcome: str) -> None:
        """Check it with a listing that takes so long: it shows the cluster as it was at its first page."""
        times = itertools.chain([0.0], itertools.repeat(seconds))

        class Slow(Server):
            def list_pods(self, *arguments: Any, **more: Any) -> Listing:
                listing = super().list_pods(*arguments, **more)
                self.pods["new"] = replace(self.pods["new"], **changes)
                return listing

        server = Slow([self.MAX_SNAPSHOT_AGE, self.NEW])
        zombies = zombies_of(self.MAX_SNAPSHOT_AGE, self.NEW, ti=self.TRY_2)
        airflow = Airflow({self.MAX_SNAPSHOT_AGE.key: self.TRY_2})
        assert outcomes(run(zombies, server, airflow, monotonic=lambda: next(times))) == {"old": outcome}

    def test_goes_when_its_task_instance_is_over_meanwhile(self) -> None:
        assert self.reap(self.MAX_SNAPSHOT_AGE, self.NEW, ti=make_ti(try_number=2)) == {"old": "deleted"}

    def test_goes_by_its_mark_alone_if_it_was_checked_off(self) -> None:
        checked = make_pod(name="checked", already_checked=True)
        zombies = zombies_of(checked, ti=self.TRY_2)
        assert outcomes(run(zombies, airflow=Airflow({checked.key: self.TRY_2}))) == {"checked": "deleted"}


class TestMaxDeletes:
    def test_leaves_the_youngest_for_the_next_run(self) -> None:
        zombies = make_zombies(5)
        server = server_of(zombies)
        results = run(zombies, server, max_deletes=2)
        assert outcomes(results) == {
            "z0000": "deleted",
            "z0001": "deleted",
            **dict.fromkeys(("z0002", "z0003", "z0004"), "left_for_next_run"),
        }
        assert server.deleted == {"z0000", "z0001"}
        assert said(results, Outcome.LEFT_FOR_NEXT_RUN) == {"max_deletes=2 was reached"}

    @pytest.mark.parametrize("says", [GONE, FORBIDDEN], ids=lambda says: says.outcome.value)
    def test_does_not_count_what_was_not_deleted(self, says: DeleteResult) -> None:
        zombies = make_zombies(6)
        server = server_of(zombies, dict.fromkeys(("z0000", "z0001", "z0003"), says))
        assert count_outcomes(run(zombies, server, max_deletes=2)) == {
            "deleted": 2,
            says.outcome.value: 3,
            "left_for_next_run": 1,
        }

    def test_counts_what_a_finalizer_holds_and_is_not_called_deleted(self) -> None:
        zombies = make_zombies(3)
        server = server_of(zombies, dict.fromkeys(("z0000", "z0001"), HELD))
        assert count_outcomes(run(zombies, server, max_deletes=2)) == {"awaiting_finalizer": 2, "left_for_next_run": 1}

    def test_counts_a_deletion_whose_answer_got_lost(self) -> None:
        """Act as a gateway that answers 502 after each deletion."""
        zombies = make_zombies(20)
        server = server_of(zombies, {zombie.pod.name: [NO_ANSWER, GONE] for zombie in zombies})
        results = run(zombies, server, max_deletes=2)
        assert count_outcomes(results) == {"deleted": 2, "left_for_next_run": 18}
        assert server.deleted == {"z0000", "z0001"}

    def test_counts_a_deletion_whose_answer_cannot_be_read(self) -> None:
        zombies = make_zombies(4)
        server = server_of(zombies, {"z0000": GARBLED})
        assert count_outcomes(run(zombies, server, max_deletes=2)) == {
            "deleted": 1,
            "failed": 1,
            "left_for_next_run": 2,
        }
        assert server.deleted == {"z0000", "z0001"}

    def test_does_not_count_what_the_look_spared(self) -> None:
        zombies = make_zombies(4)
        server = server_of(zombies)
        run(zombies, server, Airflow({zombie.pod.key: FINISHED for zombie in zombies[2:]}), max_deletes=2)
        assert server.deleted == {"z0002", "z0003"}

    @pytest.mark.parametrize("limit", [1, BATCH - 1, BATCH, BATCH + 1])
    def test_is_never_exceeded(self, limit: int) -> None:
        zombies = make_zombies(2 * BATCH)
        server = server_of(zombies)
        assert count_outcomes(run(zombies, server, max_deletes=limit))["deleted"] == limit
        assert len(server.deletions) == limit

    def test_that_is_just_enough_leaves_nothing(self) -> None:
        assert count_outcomes(run(make_zombies(3), max_deletes=3)) == {"deleted": 3}


class TestTryingAgain:
    @pytest.mark.parametrize("says", [NO_ANSWER, SLOW_DOWN], ids=["no answer", "429"])
    def test_ends_after_some_attempts(self, says: DeleteResult) -> None:
        zombies = make_zombies(2)
        server = server_of(zombies, {"z0000": says})
        results = run(zombies, server)
        assert outcomes(results) == {"z0000": "failed", "z0001": "deleted"}
        assert [name for name, _ in server.deletions].count("z0000") == AT_ONCE.attempts
        assert said(results, Outcome.FAILED) == {says.status}

    def test_ends_when_the_time_for_one_pod_is_over(self) -> None:
        zombies = make_zombies(1)
        server = server_of(zombies, {"z0000": replace(SLOW_DOWN, retry_after=20)})
        now = [0.0]

        def time_passes(_pod: Pod) -> None:
            now[0] += 40

        server.before_deletion = time_passes
        results = run(zombies, server, monotonic=lambda: now[0], patience=RetryPolicy(deadline=50, max_backoff=0))
        assert outcomes(results) == {"z0000": "failed"}
        assert len(server.deletions) == 2

    def test_after_an_answer_that_got_lost_tells_whose_deletion_it_was(self) -> None:
        zombies = make_zombies(3)
        says: dict[str, Answers] = {"z0000": [NO_ANSWER, GONE], "z0001": [SLOW_DOWN, GONE], "z0002": GONE}
        assert outcomes(run(zombies, server_of(zombies, says))) == {
            "z0000": "deleted",
            "z0001": "already_gone",
            "z0002": "already_gone",
        }

    @pytest.mark.parametrize(
        ("finalizers", "outcome"),
        [
            pytest.param((), "deleted", id="ends within its grace period"),
            pytest.param(("example.com/backup",), "awaiting_finalizer", id="is held by a finalizer"),
        ],
    )
    def test_after_an_answer_that_got_lost_finds_that_the_pod(self, finalizers: tuple[str, ...], outcome: str) -> None:
        zombies = make_zombies(1, finalizers=finalizers)
        server = server_of(zombies, {"z0000": NO_ANSWER})

        def was_done(pod: Pod) -> None:
            if server.deletions:
                server.change(pod, deletion_deadline=NOW + 30)

        server.before_deletion = was_done
        assert outcomes(run(zombies, server)) == {"z0000": outcome}
        assert len(server.deletions) == 2

    @pytest.mark.parametrize(
        ("left", "outcome"),
        [
            pytest.param(None, "deleted", id="is gone"),
            pytest.param({"uid": "another"}, "deleted", id="has made place for another of its name"),
            pytest.param({"deletion_deadline": NOW + 30}, "deleted", id="ends within its grace period"),
            pytest.param(
                {"deletion_deadline": NOW, "finalizers": ("a/b",)}, "awaiting_finalizer", id="is held by a finalizer"
            ),
            pytest.param({}, "spared", id="is there as before"),
        ],
    )
    def test_after_an_answer_that_got_lost_and_a_task_that_came_back_finds_that_the_pod(
        self, left: dict[str, Any] | None, outcome: str
    ) -> None:
        zombies = make_zombies(1)
        airflow = now_finished(zombies)

        class Deaf(Server):
            def delete(self, pod: Pod, grace_period_seconds: int) -> DeleteResult:
                super().delete(pod, grace_period_seconds)
                self.pods = {} if left is None else {"left": replace(pod, **left)}
                airflow.found[pod.key] = RUNNING
                return NO_ANSWER

        server = Deaf(zombie.pod for zombie in zombies)
        assert outcomes(run(zombies, server, airflow)) == {"z0000": outcome}
        assert len(server.deletions) == 1

    def test_after_an_answer_that_got_lost_and_a_new_pod_of_its_name_tells_that_the_old_one_was_deleted(self) -> None:
        zombies = make_zombies(1)
        server = server_of(zombies, {"z0000": [NO_ANSWER, CONFLICT]})

        def is_replaced(pod: Pod) -> None:
            if server.deletions:
                server.pods = {"another": replace(pod, uid="another")}

        server.before_deletion = is_replaced
        assert outcomes(run(zombies, server)) == {"z0000": "deleted"}


class TestRefusals:
    def test_stop_in_a_namespace_after_as_many_as_run_at_once(self) -> None:
        zombies = make_zombies(60)
        server = server_of(zombies, {zombie.pod.name: FORBIDDEN for zombie in zombies})
        results = run(zombies, server, max_deletes=1)
        assert count_outcomes(results) == {"failed": 60}
        assert len(server.deletions) == CONCURRENT_DELETES
        assert len({result.deletion.cause for result in results}) == 1

    def test_in_one_namespace_do_not_stop_another(self) -> None:
        forbidden = [make_pod(name=f"f{n:02d}", map_index=n, created=NOW - DAY + n) for n in range(20)]
        allowed = make_pod(name="allowed", namespace="other", map_index=99)
        zombies = zombies_of(*forbidden, allowed)
        server = server_of(zombies, {pod.name: FORBIDDEN for pod in forbidden})
        assert count_outcomes(run(zombies, server)) == {"deleted": 1, "failed": 20}


class TestASilentApiServer:
    def test_stops_the_run_when_it_does_not_answer_any_more(self) -> None:
        zombies = make_zombies(2 * BATCH)
        server = server_of(zombies, {zombie.pod.name: NO_ANSWER for zombie in zombies})
        results = run(zombies, server)
        counts = count_outcomes(results)
        assert CONCURRENT_DELETES <= counts.pop("failed") < 2 * CONCURRENT_DELETES
        assert list(counts) == ["left_for_next_run"]
        assert said(results, Outcome.LEFT_FOR_NEXT_RUN) == {"the API server does not answer any more"}
        assert len(server.deletions) < 2 * CONCURRENT_DELETES * AT_ONCE.attempts

    def test_does_not_stop_it_over_a_few_pods_that_it_chokes_on(self) -> None:
        zombies = make_zombies(2 * BATCH)
        choking = zombies[1:CONCURRENT_DELETES]
        server = server_of(zombies, {zombie.pod.name: NO_ANSWER for zombie in choking})
        assert count_outcomes(run(zombies, server)) == {
            "deleted": 2 * BATCH - len(choking),
            "failed": len(choking),
        }

    def test_that_is_back_after_a_while_deletes_all(self) -> None:
        zombies = make_zombies(2 * BATCH)
        server = server_of(zombies, {zombie.pod.name: [NO_ANSWER, DELETED] for zombie in zombies})
        assert count_outcomes(run(zombies, server)) == {"deleted": 2 * BATCH}


class TestGracePeriod:
    @pytest.mark.parametrize(
        ("pod", "settings", "seconds"),
        [
            pytest.param({}, {}, 0, id="is that of the settings"),
            pytest.param({}, {"grace_period_seconds": -1}, -1, id="is the pod's own if the settings say so"),
            pytest.param(
                {"deletion_deadline": NOW - DAY}, {"grace_period_seconds": 30}, 0, id="is none past a deadline"
            ),
            pytest.param(
                {"deletion_deadline": NOW - DAY}, {"grace_period_seconds": -1}, 0, id="nor the pod's own then"
            ),
        ],
    )
    def test(self, pod: dict[str, Any], settings: dict[str, Any], seconds: int) -> None:
        zombies = zombies_of(make_pod(name="pod", **pod))
        server = server_of(zombies)
        run(zombies, server, **settings)
        assert server.deletions == [("pod", seconds)]

    @pytest.mark.parametrize(
        ("pod", "settings", "seconds"),
        [
            pytest.param({}, {}, 300, id="is the settling time"),
            pytest.param({}, {"grace_period_seconds": 900}, 900, id="is that of the settings if it is longer"),
            pytest.param({}, {"grace_period_seconds": -1}, 300, id="is the settling time if the pod's own is shorter"),
            pytest.param(
                {"grace_period": 86_400}, {"grace_period_seconds": -1}, 86_400, id="is the pod's own if longer"
            ),
            pytest.param({}, {"settle_seconds": 0}, 0, id="is none if nothing has to settle"),
            pytest.param({"deletion_deadline": NOW - DAY}, {}, 0, id="is none past a deadline of its own"),
        ],
    )
    def test_if_nobody_knows_since_when_the_task_is_over(
        self, pod: dict[str, Any], settings: dict[str, Any], seconds: int
    ) -> None:
        ti = TaskInstance("failed")
        zombies = zombies_of(make_pod(name="pod", **pod), ti=ti)
        server = server_of(zombies)
        run(zombies, server, Airflow({zombies[0].pod.key: ti}), **settings)
        assert server.deletions == [("pod", seconds)]


def test_containers_that_ended_since_the_listing_do_not_matter_if_the_pod_still_runs() -> None:
    pod = make_pod(name="pod", containers=(Container("base", "running", NOW - HOUR),))
    server = Server([replace(pod, resource_version="2", containers=(Container("base", "terminated", ended=NOW),))])
    assert outcomes(run(zombies_of(pod), server)) == {"pod": "deleted"}
