"""Reaping: verification right before each deletion, retries, limits, and a result for every pod."""

from __future__ import annotations

import itertools
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.errors import (
    AdmissionDenied,
    CallerNotRunning,
    Conflict,
    Forbidden,
    KpoCleanupError,
    KubernetesError,
    NotFound,
    RetryableApiError,
    TaskInstanceSourceError,
    UnexpectedResponse,
)
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES, DeleteResult, Listing
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.reap.deleter import MAX_CONFLICTS, NO_RESPONSE
from include.kpo_cleanup.reap.pod_logs import MAX_LOG_SECONDS
from include.kpo_cleanup.reap.reaper import ENDED, NO_ANSWERS, OUT_OF_TIME
from include.kpo_cleanup.reap.schedule import BATCH, MAX_FAILURES, MAX_PROBES, MAX_QUERY_FAILURES, MAX_SILENT
from include.kpo_cleanup.reap.snapshot import MAX_SNAPSHOT_AGE
from include.kpo_cleanup.results import Result, count_outcomes
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import POD_RECORD, RawIds, Record, RecordKeys, TaskInstance, TaskInstances
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.termination import raise_on_sigterm
from include.kpo_cleanup.verdict import Verdict
from include.kpo_cleanup.workloads.workload import Container, Workload
from tests.unit.builders import DAY, HOUR, JOB, NOW, answer, make_pod, make_ti

DELETING = "deleting the pod"
DELETED = DeleteResult.from_accepted([], None)
HELD = DeleteResult.from_accepted(["example.com/hold"], NOW + 30)
TERMINATING = DeleteResult.from_accepted([], NOW + 30)
GONE = NotFound(DELETING, cause="404 Not Found")
LOST = RetryableApiError(DELETING, cause="no response from the API server", has_response=False)
WEBHOOK_DOWN = RetryableApiError(DELETING, cause="500 Internal Server Error")
TOO_MANY = RetryableApiError(DELETING, cause="429 Too Many Requests", outcome_unknown=False)
GARBLED = UnexpectedResponse(DELETING, cause="the response has no kind, not a Pod or Status")
FORBIDDEN = Forbidden(DELETING, cause="403 Forbidden", remedy="allow verb 'delete'")
DENIED = AdmissionDenied(DELETING, cause="403 Forbidden", denied_by="a policy", server_message="keep it")
CONFLICT = Conflict(DELETING, cause="409 Conflict")
NOT_LISTED = KubernetesError("listing pods in namespace 'other'", cause="403 Forbidden")
FINISHED, RUNNING = make_ti(), make_ti(state="running", ended=None)
NO_DELAY = RetryPolicy(initial_backoff=0, max_backoff=0)
ONE_ATTEMPT = replace(NO_DELAY, attempts=1)
NAMESPACES = ["airflow", "other"]
EXPIRED = MAX_SNAPSHOT_AGE + 1  # seconds
START = 1_000.0  # of the monotonic clock, which may begin at any time
LOST_RECORD = Record(frozenset({"airflow/other"}))

Response = DeleteResult | KpoCleanupError
Responses = Response | Sequence[Response]  # to one deletion after the other; the last one is repeated


def outcome_of(response: Response) -> str:
    """Return the outcome to which a response leads if nothing was sent before."""
    if isinstance(response, DeleteResult):
        return response.outcome.value
    return "already_gone" if isinstance(response, NotFound) else "failed"


class FakeCluster:
    """The pods of a cluster, and its responses to deletions by pod name."""

    def __init__(self, pods: Iterable[Workload], responses: Mapping[str, Responses] | None = None) -> None:
        self.workloads = {pod.uid: pod for pod in pods}
        self._responses = {
            name: list(each) if isinstance(each, Sequence) else [each] for name, each in (responses or {}).items()
        }
        self._lock = threading.Lock()
        self.deletions: list[tuple[str, int]] = []
        self.before_deletion: Callable[[Workload], None] = lambda _pod: None
        self.errors_by_namespace: dict[str, KpoCleanupError] = {}

    def list_workloads(
        self, namespaces: Sequence[str], *_: object, keep: Callable[[Workload], bool] | None = None, **__: object
    ) -> Listing:
        failing = {name: error for name, error in self.errors_by_namespace.items() if name in namespaces}
        there = [pod for pod in self.workloads.values() if pod.namespace in namespaces and pod.namespace not in failing]
        return Listing([pod for pod in there if keep is None or keep(pod)], failing)

    def get(self, workload: Workload, *_: object, **__: object) -> Workload | None:
        return next((now for now in self.workloads.values() if str(now) == str(workload)), None)

    def delete(self, workload: Workload, grace_period_seconds: int) -> DeleteResult:
        pod = workload
        with self._lock:
            self.before_deletion(pod)
            self.deletions.append((pod.name, grace_period_seconds))
            now = self.workloads.get(pod.uid)
            if now is not None and now.resource_version != pod.resource_version:
                raise CONFLICT
            responses = self._responses.get(pod.name, [DELETED])
            response = responses.pop(0) if len(responses) > 1 else responses[0]
            if isinstance(response, KpoCleanupError):
                raise response
            if response.outcome is Outcome.DELETED:
                self.workloads.pop(pod.uid, None)
            return response

    def read_log(self, pod: Workload, lines: int) -> list[str]:
        return [f"line {number} of {pod.name}" for number in range(lines)]

    def change(self, pod: Workload, **changes: Any) -> None:
        """Change a pod, like somebody who patches it."""
        version = f"{int(self.workloads[pod.uid].resource_version or 0) + 1}"
        self.workloads[pod.uid] = replace(self.workloads[pod.uid], resource_version=version, **changes)

    @property
    def deleted(self) -> set[str]:
        return {name for name, _ in self.deletions}


class FakeSource(TaskInstanceSource):
    """Task instances as they are now. After ``fails_after`` queries every query fails."""

    description = "test"

    def __init__(
        self,
        found: Mapping[TaskInstanceKey, TaskInstance | None],
        fails_after: int | None = None,
        records: Mapping[TaskInstanceKey, Record] | None = None,
    ) -> None:
        self.found = dict(found)
        self._fails_after, self._records = fails_after, records or {}
        self.queries: list[list[TaskInstanceKey]] = []
        self.records_read: list[TaskInstanceKey] = []

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        if self._fails_after is not None and len(self.queries) >= self._fails_after:
            raise TaskInstanceSourceError("the database is down")
        self.queries.append(list(keys))
        return answer({key: self.found.get(key) for key in keys})

    def read_records(
        self, _: TaskInstances, keys: Collection[TaskInstanceKey], record_keys: RecordKeys = POD_RECORD
    ) -> Mapping[TaskInstanceKey, Record]:
        self.records_read += keys
        return {key: record for key, record in self._records.items() if key in keys}


def zombies_of(
    *pods: Workload,
    ti: TaskInstance = FINISHED,
    records: Mapping[TaskInstanceKey, Record] | None = None,
    **settings: Any,
) -> list[Verdict]:
    found = TaskInstances({pod.key: ti for pod in pods})
    snapshot = Snapshot(pods, found, Settings(**settings), NOW, records or {})
    return [verdict for verdict in classify(snapshot) if verdict.is_zombie]


def make_zombies(count: int, **overrides: Any) -> list[Verdict]:
    """Return zombies ``z0000``, ``z0001``... of one task instance each, oldest first."""
    return zombies_of(
        *(
            make_pod(name=f"z{number:04d}", map_index=number, created=NOW - 9 * HOUR + number, **overrides)
            for number in range(count)
        )
    )


def cluster_of(
    zombies: Iterable[Verdict], responses: Mapping[str, Responses] | None = None, *others: Workload
) -> FakeCluster:
    return FakeCluster([*(zombie.workload for zombie in zombies), *others], responses)


def all_finished(zombies: Iterable[Verdict], **more: Any) -> FakeSource:
    return FakeSource({verdict.workload.key: FINISHED for verdict in zombies}, **more)


def run(
    zombies: list[Verdict],
    cluster: FakeCluster | None = None,
    source: FakeSource | None = None,
    clock: Callable[[], float] = lambda: NOW + 0.9,
    monotonic: Callable[[], float] = lambda: START,
    namespaces: Collection[str] = NAMESPACES,
    retry_policy: RetryPolicy = NO_DELAY,
    max_seconds: float = math.inf,
    batch_size: int = BATCH,
    delete_timeout: float = 0,
    **settings: Any,
) -> list[Result]:
    """Reap, and check that every zombie has one result, in their order, and that what failed has an error."""
    cluster, source = cluster or cluster_of(zombies), source or all_finished(zombies)
    results = reap(
        zombies,
        cluster,
        source,
        Settings(**settings),
        namespaces,
        clock,
        monotonic,
        retry_policy,
        batch_size,
        delete_timeout,
        max_seconds=max_seconds,
    )
    assert [result.verdict.workload.name for result in results] == [zombie.workload.name for zombie in zombies]
    failed = (Outcome.FAILED, Outcome.UNKNOWN)
    assert all((result.error is not None) == (result.outcome in failed) for result in results if result.error != ENDED)
    return results


def outcomes(results: Iterable[Result]) -> dict[str, str]:
    return {result.verdict.workload.name: result.outcome.value for result in results}


def errors(results: Iterable[Result]) -> set[str]:
    return {str(result.error) for result in results if result.error}


def details(results: Iterable[Result], outcome: Outcome) -> set[str]:
    return {result.detail for result in results if result.outcome is outcome}


def the_spared(results: Iterable[Result]) -> Verdict:
    (result,) = (result for result in results if result.outcome is Outcome.SPARED)
    return result.verdict


class TestDeletingZombies:
    def test_without_zombies_no_request_is_sent(self) -> None:
        cluster, source = FakeCluster([]), FakeSource({})
        assert run([], cluster, source) == []
        assert (cluster.deletions, source.queries) == ([], [])

    def test_every_zombie_is_deleted_once_with_the_configured_grace_period(self) -> None:
        zombies = make_zombies(3)
        cluster = cluster_of(zombies)
        assert count_outcomes(run(zombies, cluster, grace_period_seconds=7)) == {"deleted": 3}
        assert sorted(cluster.deletions) == [("z0000", 7), ("z0001", 7), ("z0002", 7)]

    def test_only_the_task_instances_of_zombies_are_queried(self) -> None:
        zombies = make_zombies(3)
        source = all_finished(zombies)
        run(zombies, cluster_of(zombies, {}, make_pod(task_id="other")), source)
        plain = zombies[0].workload.key._replace(map_index=UNMAPPED)  # it may have adopted the pod of a map index
        assert source.queries == [[plain, *(zombie.workload.key for zombie in zombies)]]

    def test_each_batch_has_a_query_of_its_own_and_reads_each_record_once(self) -> None:
        zombies = make_zombies(2 * BATCH + 1)
        source = all_finished(zombies)
        assert count_outcomes(run(zombies, source=source)) == {"deleted": len(zombies)}
        assert [len(keys) - 1 for keys in source.queries] == [BATCH, BATCH, 1]  # without the plain task
        assert sorted(source.records_read) == sorted(zombie.workload.key for zombie in zombies)

    @pytest.mark.parametrize("response", [GONE, HELD, TERMINATING, FORBIDDEN], ids=outcome_of)
    def test_a_pod_that_cannot_be_deleted_does_not_stop_the_others(self, response: Response) -> None:
        zombies = make_zombies(3)
        results = run(zombies, cluster_of(zombies, {"z0001": response}))
        assert outcomes(results) == {"z0000": "deleted", "z0001": outcome_of(response), "z0002": "deleted"}

    def test_the_detail_of_a_pod_that_awaits_its_finalizer_names_the_finalizer(self) -> None:
        zombies = make_zombies(1)
        results = run(zombies, cluster_of(zombies, {"z0000": HELD}))
        assert details(results, Outcome.AWAITING_FINALIZER) == {"held by example.com/hold"}

    def test_the_error_of_a_failed_deletion_keeps_its_type(self) -> None:
        zombies = make_zombies(1)
        assert run(zombies, cluster_of(zombies, {"z0000": FORBIDDEN}))[0].error is FORBIDDEN

    def test_each_deletion_is_logged_with_its_evidence(self, caplog: pytest.LogCaptureFixture) -> None:
        zombies = make_zombies(2)
        with caplog.at_level(logging.INFO):
            run(zombies, cluster_of(zombies, {"z0001": FORBIDDEN}))
        by_level = {
            level: [record.getMessage() for record in caplog.records if record.levelname == level]
            for level in ("INFO", "ERROR")
        }
        task = "    orders.extract try 1 of run run_1"
        evidence = "task instance failed (try 1) 60 min ago; base running 2 h"
        assert by_level["INFO"][:4] == [
            "2 zombies to verify in 1 namespace",
            *("deleted: 1 orphaned pod", task, f"        [0] airflow/z0000: {evidence}"),
        ]
        assert by_level["ERROR"] == [
            "failed: 1 orphaned pod",
            "    403 Forbidden",
            task,
            f"        [1] airflow/z0001: {evidence}",
        ]

    def test_a_deletion_is_logged_with_the_link_to_its_task_instance_unless_its_labels_name_another_one_now(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        linked, changed = (zombie._replace(link=f"http://airflow/{n}") for n, zombie in enumerate(make_zombies(2)))
        with caplog.at_level(logging.INFO):
            results = run([linked, changed._replace(raw_ids=RawIds("orders", "extract", "run_2"))])
        assert [result.verdict.link for result in results] == ["http://airflow/0", ""]
        assert [message.strip() for message in caplog.messages if "http" in message] == ["http://airflow/0"]

    def test_the_last_log_lines_are_logged_before_the_deletion_and_stored_with_the_result(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        never_started = make_pod(name="new", phase="Pending", containers=(Container("base", "waiting"),))
        zombies = zombies_of(never_started, make_pod(name="old", map_index=1))
        cluster = cluster_of(zombies)
        cluster.before_deletion = lambda pod: logging.getLogger("cluster").info("deleting %s", pod.name)
        with caplog.at_level(logging.INFO):
            results = run(zombies, cluster, last_log_lines=2)
        assert {r.verdict.workload.name: r.log for r in results} == {
            "new": (),
            "old": ("line 0 of old", "line 1 of old"),
        }
        lines = ["last log lines of airflow/old:", "    | line 0 of old", "    | line 1 of old", "deleting old"]
        assert [message for message in caplog.messages if message in lines] == lines

    @pytest.mark.parametrize(
        "settings", [{}, {"last_log_lines": 2, "dry_run": True}], ids=["by default", "in a dry run"]
    )
    def test_no_log_is_requested(self, settings: dict[str, Any]) -> None:
        zombies, requested = make_zombies(2), list[str]()

        class Recording(FakeCluster):
            def read_log(self, pod: Workload, lines: int) -> list[str]:
                requested.append(pod.name)
                return []

        run(zombies, Recording(zombie.workload for zombie in zombies), **settings)
        assert requested == []

    def test_logs_that_cannot_be_read_do_not_prevent_the_deletion_and_each_cause_is_one_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        zombies = make_zombies(CONCURRENT_DELETES + 5)

        class Unreadable(FakeCluster):
            def read_log(self, pod: Workload, lines: int) -> list[str]:
                raise Forbidden("reading the log of a pod", cause="403 Forbidden", remedy="allow verb 'get'")

        cluster = Unreadable(zombie.workload for zombie in zombies)
        results = run(zombies, cluster, last_log_lines=2, retry_policy=replace(NO_DELAY))
        assert set(outcomes(results).values()) == {"deleted"}
        assert caplog.messages == [
            "reading the log of a pod: 403 Forbidden; allow verb 'get'; its last lines are not saved"
        ]

    def test_slow_logs_delay_all_batches_together_by_little_more_than_half_a_minute(self) -> None:
        zombies, seconds = make_zombies(9), [0.0]

        class Slow(FakeCluster):
            def read_log(self, pod: Workload, lines: int) -> list[str]:
                seconds[0] += 10
                return super().read_log(pod, lines)

        cluster = Slow(zombie.workload for zombie in zombies)
        results = run(zombies, cluster, last_log_lines=1, batch_size=1, monotonic=lambda: seconds[0])
        assert set(outcomes(results).values()) == {"deleted"}
        assert seconds == [MAX_LOG_SECONDS + 10]

    def test_an_outage_is_one_warning_however_many_pods_and_attempts_fail(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        zombies = make_zombies(5)
        run(
            zombies,
            cluster_of(zombies, {zombie.workload.name: LOST for zombie in zombies}),
            retry_policy=replace(NO_DELAY),
        )
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == ["deleting the pod: no response from the API server; retrying"]

    def test_failures_in_several_batches_are_logged_together_after_the_deletions(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        zombies = make_zombies(2 * BATCH)
        with caplog.at_level(logging.INFO):
            run(zombies, cluster_of(zombies, {"z0000": FORBIDDEN, f"z0{BATCH}": FORBIDDEN}))
        deleted = f"deleted: {BATCH - 1} orphaned pods"
        headings = [message for message in caplog.messages if message.endswith("orphaned pods")]
        assert headings == [deleted, deleted, "failed: 2 orphaned pods"]

    @pytest.mark.parametrize(
        ("max_deletes", "response", "lines"),
        [
            pytest.param(500, DELETED, ["100 pods deleted so far, 101 to go", "200 pods deleted so far, 1 to go"]),
            pytest.param(150, DELETED, ["100 pods deleted so far, 50 to go"]),
            pytest.param(150, [LOST, DELETED], ["99 pods deleted so far, 51 to go"]),
        ],
        ids=["of all", "within max_deletes", "with one that may be deleted already"],
    )
    def test_progress_is_logged_after_each_batch(
        self, max_deletes: int, response: Responses, lines: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        zombies = make_zombies(2 * BATCH + 1)
        with caplog.at_level(logging.INFO):
            run(zombies, cluster_of(zombies, {"z0000": response}), max_deletes=max_deletes)
        assert [message for message in caplog.messages if "so far" in message] == lines

    def test_progress_names_the_kind(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            run(zombies_of(*(make_pod(kind="SparkApplication", map_index=index) for index in range(2))), batch_size=1)
        assert "1 SparkApplication deleted so far, 1 to go" in caplog.messages

    @pytest.mark.parametrize(
        "error", [ConnectionError("odd"), KubernetesError("reading", cause="503"), ValueError("bad")], ids=repr
    )
    def test_any_exception_fails_one_pod_and_is_reported(self, error: Exception) -> None:
        zombies = make_zombies(3)
        cluster = cluster_of(zombies)

        def fail(pod: Workload) -> None:
            if pod.name == "z0001":
                raise error

        cluster.before_deletion = fail
        results = run(zombies, cluster)
        assert outcomes(results) == {"z0000": "deleted", "z0001": "failed", "z0002": "deleted"}
        assert str(error) in errors(results).pop()


class TestDryRun:
    @pytest.mark.parametrize("settings", [{}, {"max_deletes": 1}, {"grace_period_seconds": -1}], ids=str)
    def test_a_dry_run_deletes_nothing(self, settings: dict[str, Any]) -> None:
        zombies = make_zombies(3)
        cluster = cluster_of(zombies)
        results = run(zombies, cluster, dry_run=True, **settings)
        assert cluster.deletions == []
        assert {result.outcome for result in results} <= {Outcome.WOULD_DELETE, Outcome.LEFT_FOR_NEXT_RUN}

    def test_a_dry_run_has_the_outcomes_of_a_real_run(self) -> None:
        zombies = make_zombies(4)
        source = FakeSource({zombie.workload.key: FINISHED for zombie in zombies[1:]})
        dry = outcomes(run(zombies, source=source, dry_run=True, max_deletes=2))
        real = outcomes(run(zombies, source=source, max_deletes=2))
        assert dry == {name: outcome.replace("deleted", "would_delete") for name, outcome in real.items()}
        assert set(dry.values()) == {"spared", "would_delete", "left_for_next_run"}

    @pytest.mark.parametrize(
        ("pod", "grace_period", "deadline"),
        [
            pytest.param({}, 0, None, id="it is forced"),
            pytest.param({}, 300, NOW + 300, id="it has a grace period"),
            pytest.param({"grace_period": 60}, -1, NOW + 60, id="it has its own grace period"),
            pytest.param({"containers": ()}, 300, None, id="it has not started"),
            pytest.param({"phase": "Succeeded"}, 300, None, id="it has ended"),
        ],
    )
    def test_a_dry_run_has_the_deadline_that_a_pod_would_have_when(
        self, pod: dict[str, Any], grace_period: int, deadline: int | None
    ) -> None:
        zombies = zombies_of(make_pod(**pod))
        (result,) = run(zombies, dry_run=True, grace_period_seconds=grace_period)
        assert (result.outcome, result.deadline) == (Outcome.WOULD_DELETE, deadline)


class TestListingAgain:
    """The pods are listed again, so that what ``classify`` knew of them does not count."""

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            pytest.param({"protected_by": "kpo-cleanup/protect=true"}, Reason.PROTECTED, id="it is protected"),
            pytest.param({"controller": JOB}, Reason.OWNED, id="it has a controller"),
            pytest.param({"phase": "Failed"}, Reason.COMPLETED, id="it has failed, and failed pods are kept"),
            pytest.param({"deletion_deadline": NOW + 30}, Reason.TERMINATING, id="it is being deleted"),
            pytest.param({"label_problem": "label x is missing"}, Reason.BAD_LABELS, id="it has lost a label"),
            pytest.param(
                {"key": TaskInstanceKey("orders", "other", "run_1")},
                Reason.UNMATCHED,
                id="its labels name another task",
            ),
        ],
    )
    def test_a_pod_is_spared_when(self, changes: dict[str, Any], reason: Reason) -> None:
        zombies = make_zombies(2)
        cluster = cluster_of(zombies)
        cluster.change(zombies[0].workload, **changes)
        results = run(zombies, cluster)
        assert outcomes(results) == {"z0000": "spared", "z0001": "deleted"}
        assert cluster.deleted == {"z0001"}
        assert the_spared(results).reason is reason

    def test_a_pod_that_is_no_longer_listed_is_already_gone(self) -> None:
        zombies = make_zombies(2)
        assert outcomes(run(zombies, cluster_of(zombies[1:]))) == {"z0000": "already_gone", "z0001": "deleted"}

    def test_a_new_pod_with_the_name_of_the_old_one_stays(self) -> None:
        zombies = make_zombies(1)
        cluster = FakeCluster([replace(zombies[0].workload, uid="new")])
        assert outcomes(run(zombies, cluster)) == {"z0000": "already_gone"}
        assert cluster.deletions == []

    def test_a_zombie_whose_uid_was_modified_is_not_deleted(self) -> None:
        zombies = make_zombies(1)
        modified = [zombies[0]._replace(workload=replace(zombies[0].workload, uid="null"))]
        cluster = cluster_of(zombies)
        assert outcomes(run(modified, cluster)) == {"z0000": "already_gone"}
        assert cluster.deletions == []

    @pytest.mark.parametrize(
        ("namespaces", "settings", "outcome"),
        [
            pytest.param(["other"], {}, "failed", id="the run covers another namespace"),
            pytest.param(["*"], {}, "deleted", id="the run covers all namespaces"),
            pytest.param(["*"], {"exclude_namespaces": "airflow"}, "failed", id="the namespace is excluded"),
        ],
    )
    def test_only_pods_in_the_scope_of_the_run_are_deleted(
        self, namespaces: list[str], settings: dict[str, Any], outcome: str
    ) -> None:
        zombies = make_zombies(1)
        cluster = cluster_of(zombies)
        assert outcomes(run(zombies, cluster, namespaces=namespaces, **settings)) == {"z0000": outcome}
        assert bool(cluster.deletions) == (outcome == "deleted")

    def test_a_namespace_that_cannot_be_listed_does_not_stop_the_others(self) -> None:
        zombies = zombies_of(
            make_pod(name="a", namespace="airflow"), make_pod(name="b", namespace="other", map_index=1)
        )
        cluster = cluster_of(zombies)
        cluster.errors_by_namespace["other"] = NOT_LISTED
        results = run(zombies, cluster)
        assert outcomes(results) == {"a": "deleted", "b": "failed"}
        assert results[1].error is NOT_LISTED

    @pytest.mark.parametrize("error", [KubernetesError("listing", cause="no response"), RuntimeError("odd")], ids=repr)
    def test_all_pods_fail_when_no_namespace_can_be_listed(self, error: Exception) -> None:
        class Broken(FakeCluster):
            def list_workloads(self, *_: object, **__: object) -> Listing:
                raise error

        zombies = make_zombies(2)
        results = run(zombies, Broken([]))
        assert count_outcomes(results) == {"failed": 2}
        assert all(str(error) in text for text in errors(results))


class TestConflicts:
    """The resource version is a precondition, so that only the pod that was classified is deleted."""

    @pytest.mark.parametrize(
        ("times", "outcome"), [(1, "deleted"), (MAX_CONFLICTS, "deleted"), (MAX_CONFLICTS + 1, "failed")]
    )
    def test_a_pod_that_changed_is_read_and_classified_again_a_few_times(self, times: int, outcome: str) -> None:
        zombies = make_zombies(1)
        cluster, changes = cluster_of(zombies), itertools.count()

        def change(pod: Workload) -> None:
            if next(changes) < times:
                cluster.change(pod, phase_reason="changed again")

        cluster.before_deletion = change
        assert outcomes(run(zombies, cluster)) == {"z0000": outcome}

    def test_a_pod_that_changed_is_spared_if_it_is_no_longer_a_zombie(self) -> None:
        zombies = make_zombies(2)
        cluster = cluster_of(zombies)

        def protect(pod: Workload) -> None:
            if pod.name == "z0000" and not cluster.workloads[pod.uid].protected_by:
                cluster.change(pod, protected_by="kpo-cleanup/protect=true")

        cluster.before_deletion = protect
        assert outcomes(run(zombies, cluster)) == {"z0000": "spared", "z0001": "deleted"}
        assert zombies[0].workload.uid in cluster.workloads

    def test_the_task_instance_is_queried_when_the_pod_was_relabelled_to_another_one(self) -> None:
        zombies = make_zombies(1)
        cluster = cluster_of(zombies)
        running = zombies[0].workload.key._replace(task_id="other")
        source = FakeSource({zombies[0].workload.key: FINISHED, running: RUNNING})

        def relabel(pod: Workload) -> None:
            if pod.task_id != "other":
                cluster.change(pod, key=running)

        cluster.before_deletion = relabel
        results = run(zombies, cluster, source, delete_unmatched_pods=True)
        assert outcomes(results) == {"z0000": "spared"}
        assert the_spared(results).reason is Reason.ACTIVE

    @pytest.mark.parametrize(
        ("uids", "outcome"),
        [
            pytest.param([], "already_gone", id="it is gone"),
            pytest.param(["new"], "spared", id="another pod has its name"),
        ],
    )
    def test_nothing_is_deleted_when_the_pod_was_removed_meanwhile_and(self, uids: list[str], outcome: str) -> None:
        zombies = make_zombies(1)
        cluster = cluster_of(zombies, {"z0000": CONFLICT})

        def replace_it(pod: Workload) -> None:
            cluster.workloads = {uid: replace(pod, uid=uid) for uid in uids}

        cluster.before_deletion = replace_it
        assert outcomes(run(zombies, cluster)) == {"z0000": outcome}

    def test_a_conflict_on_a_pod_that_has_not_changed_is_a_failure(self) -> None:
        zombies = make_zombies(1)
        (result,) = run(zombies, cluster_of(zombies, {"z0000": CONFLICT}))
        assert (result.outcome, result.error) == (Outcome.FAILED, CONFLICT)


class TestQueryingTaskInstancesAgain:
    @pytest.mark.parametrize(
        ("ti", "reason"),
        [
            pytest.param(RUNNING, Reason.ACTIVE, id="it is running again"),
            pytest.param(make_ti(state=None), Reason.ACTIVE, id="it was cleared"),
            pytest.param(make_ti(ended=NOW), Reason.SETTLING, id="it has ended again a moment ago"),
            pytest.param(None, Reason.UNMATCHED, id="it no longer exists"),
        ],
    )
    def test_a_pod_is_spared_if_its_task_instance_has_changed(self, ti: TaskInstance | None, reason: Reason) -> None:
        zombies = make_zombies(2)
        cluster = cluster_of(zombies)
        results = run(zombies, cluster, FakeSource({zombies[0].workload.key: ti, zombies[1].workload.key: FINISHED}))
        assert outcomes(results) == {"z0000": "spared", "z0001": "deleted"}
        assert cluster.deleted == {"z0001"}
        assert the_spared(results).reason is reason

    def test_a_pod_is_spared_if_the_record_names_another_pod(self) -> None:
        zombies = make_zombies(1)
        source = all_finished(zombies, records={zombies[0].workload.key: LOST_RECORD})
        assert the_spared(run(zombies, source=source)).reason is Reason.UNMATCHED

    def test_a_pod_is_deleted_if_the_record_names_that_of_a_later_try_although_no_retry_adopts_it(self) -> None:
        """Use a source that does not know the try, so that only the newer pod shows that it is a later one."""
        old, new = make_pod(name="old"), make_pod(name="new", try_number=2, already_checked=True)
        ti, records = TaskInstance("failed"), {old.key: Record(frozenset({str(new)}))}
        zombies = [zombie for zombie in zombies_of(old, new, ti=ti, records=records) if zombie.workload is old]
        source = FakeSource({old.key: ti}, records=records)
        assert outcomes(run(zombies, FakeCluster([old, new]), source)) == {"old": "deleted"}

    @pytest.mark.parametrize("map_index", [UNMAPPED, 1], ids=["its own", "of another map index"])
    def test_a_pod_is_deleted_if_its_task_is_no_longer_mapped_and_has_recorded_a_pod(self, map_index: int) -> None:
        pod, used = make_pod(name="old", map_index=0), make_pod(name="used", map_index=map_index)
        plain = pod.key._replace(map_index=UNMAPPED)
        source = FakeSource({pod.key: FINISHED, plain: RUNNING}, records={plain: Record(frozenset({str(used)}))})
        assert outcomes(run(zombies_of(pod), FakeCluster([pod, used]), source)) == {"old": "deleted"}

    def test_the_current_time_decides_whether_a_task_instance_has_settled(self) -> None:
        zombies = make_zombies(1)
        ended_again = FakeSource({zombies[0].workload.key: make_ti(ended=NOW)})
        assert outcomes(run(zombies, source=ended_again, clock=lambda: NOW + 299)) == {"z0000": "spared"}
        assert outcomes(run(zombies, source=ended_again, clock=lambda: NOW + 300)) == {"z0000": "deleted"}

    def test_the_result_has_the_latest_verdict(self) -> None:
        zombies = make_zombies(1)
        removed = FakeSource({zombies[0].workload.key: make_ti(state="removed")})
        assert run(zombies, source=removed)[0].verdict.evidence != zombies[0].evidence

    def test_nothing_is_deleted_if_the_query_fails(self) -> None:
        zombies = make_zombies(3)
        cluster = cluster_of(zombies)
        results = run(zombies, cluster, all_finished(zombies, fails_after=0))
        assert cluster.deletions == []
        assert count_outcomes(results) == {"failed": 3}
        assert errors(results) == {"the database is down"}

    def test_a_source_that_no_longer_answers_ends_the_run_after_some_queries(self) -> None:
        zombies = make_zombies(3 * BATCH)
        cluster = cluster_of(zombies)
        results = run(zombies, cluster, all_finished(zombies, fails_after=1))
        assert count_outcomes(results) == {
            "deleted": BATCH,
            "failed": MAX_QUERY_FAILURES,
            "left_for_next_run": 2 * BATCH - MAX_QUERY_FAILURES,
        }
        assert cluster.deleted == {zombie.workload.name for zombie in zombies[:BATCH]}
        assert details(results, Outcome.LEFT_FOR_NEXT_RUN) == {NO_ANSWERS}

    def test_nothing_more_is_deleted_once_the_task_of_reap_was_marked_as_failed(self) -> None:
        class Marked(FakeSource):
            def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
                if self.queries:
                    raise CallerNotRunning("rejected", cause="this task is 'failed' there instead of 'running'")
                return super().fetch(keys)

        zombies = make_zombies(2 * BATCH)
        cluster = cluster_of(zombies)
        results = run(zombies, cluster, Marked(all_finished(zombies).found))
        assert count_outcomes(results) == {"deleted": BATCH, "left_for_next_run": BATCH}
        assert errors(results) == {ENDED.summary}

    def test_a_source_that_does_not_answer_ends_the_run_sooner_if_each_query_takes_long(self) -> None:
        seconds = itertools.count(step=25)

        class Silent(FakeSource):
            def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
                self.queries.append(list(keys))
                raise TaskInstanceSourceError("timed out")

        source = Silent({})
        results = run(make_zombies(2 * BATCH), source=source, monotonic=seconds.__next__)
        assert count_outcomes(results) == {"failed": 3, "left_for_next_run": 2 * BATCH - 3}
        assert [len(keys) - 1 for keys in source.queries] == [BATCH, 1, 1, 1]  # without the plain task

    def test_a_slow_source_is_queried_for_fewer_pods_at_a_time(self) -> None:
        """Simulate 60 ms for each task instance."""
        seconds = [0.0]

        class Slow(FakeSource):
            def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
                seconds[0] += 0.06 * len(keys)
                return super().fetch(keys)

        zombies = make_zombies(2 * BATCH)
        source = Slow({zombie.workload.key: FINISHED for zombie in zombies})
        assert count_outcomes(run(zombies, source=source, monotonic=lambda: seconds[0])) == {"deleted": 2 * BATCH}
        # Without the plain task. Each query is sent twice, because it is repeated after the records.
        assert [len(keys) - 1 for keys in source.queries] == [100] * 2 + [50] * 8

    def test_a_source_that_was_slow_once_is_soon_queried_for_as_many_pods_as_before(self) -> None:
        seconds = [0.0]

        class SlowOnce(FakeSource):
            def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
                seconds[0] += EXPIRED if len(self.queries) < 2 else 0
                return super().fetch(keys)

        zombies = make_zombies(250)
        source = SlowOnce({zombie.workload.key: FINISHED for zombie in zombies})
        assert count_outcomes(run(zombies, source=source, monotonic=lambda: seconds[0])) == {"deleted": 250}
        # Without the plain task; the first one is repeated after the records.
        assert [len(keys) - 1 for keys in source.queries] == [100] * 2 + [50, 100, 100]

    @pytest.mark.parametrize(
        ("size", "others"), [(1, 1), (1, 2 * BATCH), (5, 2 * BATCH), (2 * MAX_QUERY_FAILURES, 2 * BATCH)]
    )
    def test_a_dag_that_cannot_be_queried_does_not_stop_the_others(self, size: int, others: int) -> None:
        class Partial(FakeSource):
            def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
                if any(key.dag_id == "broken" for key in keys):
                    raise TaskInstanceSourceError("500 for DAG broken")
                return super().fetch(keys)

        broken = [make_pod(name=f"b{n}", dag_id="broken", map_index=n, created=NOW - DAY + n) for n in range(size)]
        good = [make_pod(name=f"g{n}", dag_id=f"dag_{n % 50}", map_index=n) for n in range(others)]
        zombies = zombies_of(*broken, *good)
        results = outcomes(run(zombies, source=Partial({zombie.workload.key: FINISHED for zombie in zombies})))
        assert {name for name, outcome in results.items() if outcome == "deleted"} == {pod.name for pod in good}
        assert list(results.values()).count("failed") == min(size, MAX_QUERY_FAILURES + 1)

    def test_a_query_that_fails_with_any_exception_is_reported(self) -> None:
        class Broken(FakeSource):
            def fetch(self, _keys: Collection[TaskInstanceKey]) -> TaskInstances:
                raise RuntimeError("odd")

        results = run(make_zombies(2), source=Broken({}))
        assert count_outcomes(results) == {"failed": 2}
        assert errors(results) == {"RuntimeError: odd"}


class TestExpiredSnapshots:
    """Nothing is deleted on an answer about a task instance that is older than a few seconds."""

    def test_a_new_query_spares_what_was_restarted_meanwhile(self) -> None:
        zombies = make_zombies(BATCH)
        cluster, source = cluster_of(zombies), all_finished(zombies)
        seconds = [0.0]

        def restart_all_tasks(_pod: Workload) -> None:
            """Clear all tasks, whose retries adopt the pods, and let a second pass."""
            seconds[0] += 1
            source.found = dict.fromkeys(source.found, RUNNING)

        cluster.before_deletion = restart_all_tasks
        results = run(zombies, cluster, source, monotonic=lambda: seconds[0])
        assert len(cluster.deletions) <= MAX_SNAPSHOT_AGE + CONCURRENT_DELETES  # those in flight when it expired
        assert set(outcomes(results).values()) == {"deleted", "spared"}

    def test_a_retry_has_a_new_query(self) -> None:
        zombies = make_zombies(1)
        cluster = cluster_of(zombies, {"z0000": [TOO_MANY, DELETED]})
        source = all_finished(zombies)

        def restart(_pod: Workload) -> None:
            source.found = dict.fromkeys(source.found, RUNNING)

        cluster.before_deletion = restart
        assert outcomes(run(zombies, cluster, source)) == {"z0000": "spared"}
        assert len(cluster.deletions) == 1

    def test_nothing_is_deleted_on_an_answer_that_took_too_long(self) -> None:
        zombies = make_zombies(1)
        cluster = cluster_of(zombies)
        results = run(zombies, cluster, monotonic=itertools.count(step=EXPIRED).__next__)
        assert outcomes(results) == {"z0000": "failed"}
        assert "took longer than 5 s" in errors(results).pop()
        assert cluster.deletions == []


class TestSupersededPods:
    """A superseded pod is deleted only while the newer pod exists: otherwise a retry would adopt it."""

    OLD = make_pod(name="old", resource_version="1")
    NEW = make_pod(name="new", try_number=2, uid="new")
    TRY_2 = RUNNING._replace(try_number=2)
    RECORDS: ClassVar = {NEW.key: Record(frozenset({str(NEW)}))}

    def reap(self, *pods: Workload, ti: TaskInstance = TRY_2) -> dict[str, str]:
        """Reap the old pod while these pods exist."""
        zombies = zombies_of(self.OLD, self.NEW, ti=self.TRY_2, records=self.RECORDS)
        assert [(zombie.workload.name, zombie.reason) for zombie in zombies] == [("old", Reason.SUPERSEDED)]
        cluster = FakeCluster(pods)
        result = outcomes(run(zombies, cluster, FakeSource({self.OLD.key: ti}, records=self.RECORDS)))
        assert cluster.deleted == {name for name, outcome in result.items() if outcome == "deleted"}
        return result

    def test_it_is_deleted_while_the_newer_pod_exists(self) -> None:
        assert self.reap(self.OLD, self.NEW) == {"old": "deleted"}

    def test_all_older_pods_of_one_try_are_deleted_while_the_newer_pod_exists(self) -> None:
        older = [make_pod(name=f"old-{n}", created=NOW - DAY + n) for n in range(3)]
        zombies = zombies_of(*older, self.NEW, ti=self.TRY_2, records=self.RECORDS)
        source = FakeSource({self.NEW.key: self.TRY_2}, records=self.RECORDS)
        assert count_outcomes(run(zombies, FakeCluster([*older, self.NEW]), source)) == {"deleted": 3}

    @pytest.mark.parametrize(
        "newer",
        [
            pytest.param([], id="is gone"),
            pytest.param([replace(NEW, already_checked=True)], id="was already checked"),
            pytest.param([replace(NEW, deletion_deadline=NOW)], id="is being deleted"),
        ],
    )
    def test_it_is_spared_when_the_newer_pod(self, newer: list[Workload]) -> None:
        assert self.reap(self.OLD, *newer) == {"old": "spared"}

    @pytest.mark.parametrize(
        ("seconds", "changes", "outcome"),
        [
            pytest.param(EXPIRED, {"deletion_deadline": NOW}, "spared", id="it is being deleted by now"),
            pytest.param(EXPIRED, {"already_checked": True}, "spared", id="it was already checked meanwhile"),
            pytest.param(EXPIRED, {"name": "another"}, "spared", id="it is gone by now"),
            pytest.param(EXPIRED, {}, "deleted", id="it has not changed"),
            pytest.param(MAX_SNAPSHOT_AGE, {"deletion_deadline": NOW}, "deleted", id="the listing is recent enough"),
        ],
    )
    def test_the_newer_pod_is_read_again_if_the_listing_is_old_and(
        self, seconds: float, changes: dict[str, Any], outcome: str
    ) -> None:
        """Simulate a slow listing, which shows the cluster as it was at its first page."""
        times = itertools.chain([START], itertools.repeat(START + seconds))

        class Slow(FakeCluster):
            def list_workloads(self, *arguments: Any, **more: Any) -> Listing:
                listing = super().list_workloads(*arguments, **more)
                self.workloads["new"] = replace(self.workloads["new"], **changes)
                return listing

        cluster = Slow([self.OLD, self.NEW])
        zombies = zombies_of(self.OLD, self.NEW, ti=self.TRY_2, records=self.RECORDS)
        source = FakeSource({self.OLD.key: self.TRY_2}, records=self.RECORDS)
        assert outcomes(run(zombies, cluster, source, monotonic=lambda: next(times))) == {"old": outcome}

    def test_all_pods_with_the_same_newer_pod_are_spared_once_it_is_known_to_be_terminating(self) -> None:
        """Use more pods than are deleted at once, so that the last ones do not read the newer pod again."""
        count = 2 * CONCURRENT_DELETES
        older = [make_pod(name=f"old-{n}", created=NOW - DAY + n) for n in range(count)]
        zombies = zombies_of(*older, self.NEW, ti=self.TRY_2, records=self.RECORDS)
        times = itertools.chain([START], itertools.repeat(START + EXPIRED))

        class Slow(FakeCluster):
            reads = 0

            def list_workloads(self, *arguments: Any, **more: Any) -> Listing:
                listing = super().list_workloads(*arguments, **more)
                self.change(self.workloads["new"], deletion_deadline=NOW)
                return listing

            def get(self, *arguments: Any, **more: Any) -> Workload | None:
                self.reads += 1
                return super().get(*arguments, **more)

        cluster = Slow([*older, self.NEW])
        source = FakeSource({self.NEW.key: self.TRY_2}, records=self.RECORDS)
        results = run(zombies, cluster, source, monotonic=lambda: next(times))
        assert count_outcomes(results) == {"spared": count}
        assert cluster.reads <= CONCURRENT_DELETES

    def test_it_is_deleted_as_orphaned_if_its_task_instance_has_ended_meanwhile(self) -> None:
        assert self.reap(self.OLD, self.NEW, ti=make_ti(try_number=2)) == {"old": "deleted"}

    def test_a_checked_pod_of_an_earlier_try_is_deleted_without_a_newer_pod(self) -> None:
        checked = make_pod(name="checked", already_checked=True)
        zombies = zombies_of(checked, ti=self.TRY_2)
        assert outcomes(run(zombies, source=FakeSource({checked.key: self.TRY_2}))) == {"checked": "deleted"}


class TestMaxDeletes:
    def test_the_oldest_pods_are_deleted_first_whatever_their_dags(self) -> None:
        dags = ["first", "second", "first", "second"]
        pods = [make_pod(name=f"p{n}", dag_id=dag, created=NOW - 9 * HOUR + n) for n, dag in enumerate(dags)]
        results = outcomes(run(zombies_of(*pods), max_deletes=2))
        assert [name for name, outcome in results.items() if outcome == "deleted"] == ["p0", "p1"]

    def test_the_youngest_pods_are_left_for_the_next_run(self) -> None:
        zombies = make_zombies(5)
        cluster = cluster_of(zombies)
        results = run(zombies, cluster, max_deletes=2)
        assert outcomes(results) == {
            "z0000": "deleted",
            "z0001": "deleted",
            **dict.fromkeys(("z0002", "z0003", "z0004"), "left_for_next_run"),
        }
        assert cluster.deleted == {"z0000", "z0001"}
        assert details(results, Outcome.LEFT_FOR_NEXT_RUN) == {"max_deletes=2 was reached"}

    @pytest.mark.parametrize("response", [GONE, FORBIDDEN], ids=outcome_of)
    def test_a_pod_that_was_certainly_not_deleted_does_not_count(self, response: Response) -> None:
        zombies = make_zombies(6)
        cluster = cluster_of(zombies, dict.fromkeys(("z0000", "z0001", "z0003"), response))
        assert count_outcomes(run(zombies, cluster, max_deletes=2)) == {
            "deleted": 2,
            outcome_of(response): 3,
            "left_for_next_run": 1,
        }

    @pytest.mark.parametrize("accepted", [HELD, TERMINATING], ids=outcome_of)
    def test_a_pod_whose_deletion_was_accepted_counts(self, accepted: DeleteResult) -> None:
        zombies = make_zombies(3)
        cluster = cluster_of(zombies, dict.fromkeys(("z0000", "z0001"), accepted))
        assert count_outcomes(run(zombies, cluster, max_deletes=2)) == {outcome_of(accepted): 2, "left_for_next_run": 1}

    def test_a_deletion_whose_response_was_lost_counts(self) -> None:
        """Simulate a gateway that answers 502 after each deletion."""
        zombies = make_zombies(20)
        cluster = cluster_of(zombies, {zombie.workload.name: [LOST, GONE] for zombie in zombies})
        results = run(zombies, cluster, max_deletes=2)
        assert count_outcomes(results) == {"deleted": 2, "left_for_next_run": 18}
        assert cluster.deleted == {"z0000", "z0001"}

    def test_a_deletion_whose_response_is_not_from_an_api_server_counts_until_the_pod_was_read(self) -> None:
        zombies = make_zombies(4)
        cluster = cluster_of(zombies, {"z0000": GARBLED})
        read = cluster.get

        def get(workload: Workload, *_: object, **__: object) -> Workload | None:
            assert cluster.deleted == {"z0000", "z0001"}
            return read(workload)

        cluster.get = get  # type: ignore[method-assign]
        assert count_outcomes(run(zombies, cluster, max_deletes=2)) == {
            "deleted": 2,
            "failed": 1,
            "left_for_next_run": 1,
        }
        assert cluster.deleted == {"z0000", "z0001", "z0002"}

    def test_a_deletion_that_failed_with_any_exception_counts_until_the_pod_was_read(self) -> None:
        zombies = make_zombies(3)
        cluster = cluster_of(zombies)
        attempts: list[str] = []
        read_after: list[list[str]] = []

        def fail(pod: Workload) -> None:
            attempts.append(pod.name)
            raise ValueError("odd")

        def get(workload: Workload, *_: object, **__: object) -> Workload | None:
            read_after.append([*attempts])
            return read(workload)

        cluster.before_deletion, read = fail, cluster.get
        cluster.get = get  # type: ignore[method-assign]
        run(zombies, cluster, max_deletes=1)
        assert read_after[:2] == [["z0000"], ["z0000", "z0001"]]

    def test_a_pod_whose_deletion_failed_with_any_exception_is_read_once_it_cannot_be_carried_out_any_more(
        self,
    ) -> None:
        zombies, times = make_zombies(1), list[float]()
        cluster = cluster_of(zombies)

        def fail(_: Workload) -> None:
            times.append(time.monotonic())
            raise ValueError("odd")

        def get(workload: Workload, *_: object, **__: object) -> Workload | None:
            times.append(time.monotonic())
            return read(workload)

        cluster.before_deletion, read = fail, cluster.get
        cluster.get = get  # type: ignore[method-assign]
        run(zombies, cluster, monotonic=time.monotonic, delete_timeout=0.05)
        assert times[1] - times[0] >= 0.05

    def test_a_spared_pod_does_not_count(self) -> None:
        zombies = make_zombies(4)
        cluster = cluster_of(zombies)
        run(zombies, cluster, FakeSource({zombie.workload.key: FINISHED for zombie in zombies[2:]}), max_deletes=2)
        assert cluster.deleted == {"z0002", "z0003"}

    @pytest.mark.parametrize("limit", [1, BATCH - 1, BATCH, BATCH + 1])
    def test_no_more_pods_are_deleted_than_max_deletes(self, limit: int) -> None:
        zombies = make_zombies(2 * BATCH)
        cluster = cluster_of(zombies)
        assert count_outcomes(run(zombies, cluster, max_deletes=limit))["deleted"] == limit
        assert len(cluster.deletions) == limit

    def test_nothing_is_left_if_there_are_exactly_max_deletes_zombies(self) -> None:
        assert count_outcomes(run(make_zombies(3), max_deletes=3)) == {"deleted": 3}


# How a pod looks after a deletion that was carried out although its response was lost.
CARRIED_OUT = [
    pytest.param(None, "deleted", id="is gone"),
    pytest.param({"uid": "another"}, "deleted", id="was replaced by another with its name"),
    pytest.param({"deletion_deadline": NOW + 30}, "terminating", id="terminates within its grace period"),
    pytest.param({"deletion_deadline": NOW, "finalizers": ("a/b",)}, "awaiting_finalizer", id="is held by a finalizer"),
]


class TestRetries:
    def test_a_retry_waits_as_long_as_the_api_server_asked_for(self) -> None:
        zombies, times = make_zombies(1), list[float]()
        busy = RetryableApiError(DELETING, cause="429 Too Many Requests", outcome_unknown=False, retry_after=0.1)
        cluster = cluster_of(zombies, {"z0000": [busy, DELETED]})
        cluster.before_deletion = lambda _pod: times.append(time.monotonic())
        policy = RetryPolicy(max_backoff=0.1)
        results = run(zombies, cluster, monotonic=time.monotonic, retry_policy=policy, max_deletes=1)
        assert outcomes(results) == {"z0000": "deleted"}
        first, second = times
        assert second - first >= 0.1

    def test_a_retry_is_sent_at_once_if_its_delay_passes_while_other_work_is_done(self) -> None:
        zombies = make_zombies(1)
        busy = RetryableApiError(DELETING, cause="429 Too Many Requests", retry_after=2)
        cluster = cluster_of(zombies, {"z0000": [busy, DELETED]})
        policy = RetryPolicy(max_backoff=2)
        results = run(zombies, cluster, monotonic=itertools.count(START, 0.9).__next__, retry_policy=policy)
        assert outcomes(results) == {"z0000": "deleted"}

    @pytest.mark.parametrize("error", [LOST, TOO_MANY], ids=lambda error: error.cause)
    def test_a_deletion_fails_after_the_last_attempt(self, error: RetryableApiError) -> None:
        zombies = make_zombies(2)
        cluster = cluster_of(zombies, {"z0000": error})
        results = run(zombies, cluster)
        assert outcomes(results) == {"z0000": "failed", "z0001": "deleted"}
        assert [name for name, _ in cluster.deletions].count("z0000") == NO_DELAY.attempts
        assert results[0].error is error

    def test_a_deletion_fails_at_the_deadline(self) -> None:
        zombies = make_zombies(1)
        too_many = RetryableApiError(DELETING, cause="429 Too Many Requests", retry_after=20)
        cluster = cluster_of(zombies, {"z0000": too_many})
        seconds = [START]

        def time_passes(_pod: Workload) -> None:
            seconds[0] += 40

        cluster.before_deletion = time_passes
        policy = RetryPolicy(deadline=50, max_backoff=0)
        results = run(zombies, cluster, monotonic=lambda: seconds[0], retry_policy=policy)
        assert outcomes(results) == {"z0000": "failed"}
        assert len(cluster.deletions) == 2

    def test_a_pod_that_is_gone_was_deleted_by_this_run_only_if_a_response_was_lost(self) -> None:
        zombies = make_zombies(3)
        responses: dict[str, Responses] = {"z0000": [LOST, GONE], "z0001": [TOO_MANY, GONE], "z0002": GONE}
        assert outcomes(run(zombies, cluster_of(zombies, responses))) == {
            "z0000": "deleted",
            "z0001": "already_gone",
            "z0002": "already_gone",
        }

    @pytest.mark.parametrize(
        ("finalizers", "outcome"),
        [
            pytest.param((), "terminating", id="terminates within its grace period"),
            pytest.param(("example.com/backup",), "awaiting_finalizer", id="is held by a finalizer"),
        ],
    )
    def test_after_a_lost_response_the_retry_finds_that_the_pod(
        self, finalizers: tuple[str, ...], outcome: str
    ) -> None:
        zombies = make_zombies(1, finalizers=finalizers)
        cluster = cluster_of(zombies, {"z0000": LOST})

        def carry_out_the_first_attempt(pod: Workload) -> None:
            if cluster.deletions:
                cluster.change(pod, deletion_deadline=NOW + 30)

        cluster.before_deletion = carry_out_the_first_attempt
        assert outcomes(run(zombies, cluster)) == {"z0000": outcome}
        assert len(cluster.deletions) == 2

    @pytest.mark.parametrize(
        ("left", "outcome"),
        [*CARRIED_OUT, pytest.param({}, "spared", id="has not changed")],
    )
    def test_after_a_lost_response_and_a_restart_of_the_task_reading_the_pod_shows_that_it(
        self, left: dict[str, Any] | None, outcome: str
    ) -> None:
        zombies = make_zombies(1)
        source = all_finished(zombies)

        class Deaf(FakeCluster):
            def delete(self, pod: Workload, grace_period_seconds: int) -> DeleteResult:
                super().delete(pod, grace_period_seconds)
                self.workloads = {} if left is None else {"left": replace(pod, **left)}
                source.found[pod.key] = RUNNING
                raise LOST

        cluster = Deaf(zombie.workload for zombie in zombies)
        assert outcomes(run(zombies, cluster, source)) == {"z0000": outcome}
        assert len(cluster.deletions) == 1

    @pytest.mark.parametrize(
        ("left", "outcome"),
        [*CARRIED_OUT, pytest.param({}, "failed", id="has not changed")],
    )
    def test_after_the_last_attempt_whose_response_was_lost_reading_the_pod_shows_that_it(
        self, left: dict[str, Any] | None, outcome: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        zombies = make_zombies(1)
        cluster = cluster_of(zombies, {"z0000": LOST})

        def change(pod: Workload) -> None:
            cluster.workloads = {} if left is None else {str(left.get("uid", pod.uid)): replace(pod, **left)}

        cluster.before_deletion = change
        with caplog.at_level(logging.INFO):
            assert outcomes(run(zombies, cluster, retry_policy=replace(NO_DELAY, attempts=1))) == {"z0000": outcome}
        assert [m.partition(":")[0] for m in caplog.messages if m.endswith("orphaned pod")] == [outcome]

    def test_an_overdue_pod_that_has_not_changed_after_a_lost_response_is_not_terminating(self) -> None:
        zombies = zombies_of(make_pod(name="z0000", deletion_deadline=NOW - DAY))
        assert outcomes(run(zombies, cluster_of(zombies, {"z0000": LOST}))) == {"z0000": "failed"}

    @pytest.mark.parametrize(
        ("error", "reads"), [(WEBHOOK_DOWN, 2 * CONCURRENT_DELETES), (LOST, CONCURRENT_DELETES)], ids=["500", "silence"]
    )
    def test_a_pod_that_cannot_be_read_after_a_lost_response_is_unknown_and_counts(
        self, error: RetryableApiError, reads: int
    ) -> None:
        class Unreadable(FakeCluster):
            reads = 0

            def get(self, *_: object, **__: object) -> Workload | None:
                self.reads += 1
                raise error

        zombies = make_zombies(4 * CONCURRENT_DELETES)
        half = 2 * CONCURRENT_DELETES
        cluster = Unreadable(
            (zombie.workload for zombie in zombies), dict.fromkeys((z.workload.name for z in zombies), WEBHOOK_DOWN)
        )
        results = run(zombies, cluster, max_deletes=half, retry_policy=replace(NO_DELAY, attempts=1))
        assert count_outcomes(results) == {"unknown": half, "left_for_next_run": half}
        assert cluster.reads == reads

    def test_pods_whose_responses_were_lost_are_read_although_the_api_server_no_longer_answered(self) -> None:
        zombies = make_zombies(2 * BATCH)

        class Mute(FakeCluster):
            def delete(self, pod: Workload, grace_period_seconds: int) -> DeleteResult:
                self.workloads.pop(pod.uid, None)
                raise LOST

        results = run(zombies, Mute(zombie.workload for zombie in zombies))
        assert count_outcomes(results)["deleted"] >= CONCURRENT_DELETES
        assert set(outcomes(results).values()) == {"deleted", "left_for_next_run"}

    def test_after_a_lost_response_a_new_pod_with_the_same_name_means_that_the_old_one_was_deleted(self) -> None:
        zombies = make_zombies(1)
        cluster = cluster_of(zombies, {"z0000": [LOST, CONFLICT]})

        def replace_it(pod: Workload) -> None:
            if cluster.deletions:
                cluster.workloads = {"another": replace(pod, uid="another")}

        cluster.before_deletion = replace_it
        assert outcomes(run(zombies, cluster)) == {"z0000": "deleted"}


def test_after_sigterm_nothing_is_read_and_a_deletion_whose_response_was_lost_is_unknown() -> None:
    zombies = make_zombies(3 * CONCURRENT_DELETES)
    cluster = cluster_of(zombies, {"z0000": LOST})

    def terminate(pod: Workload) -> None:
        if pod.name == "z0001":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    cluster.before_deletion = terminate
    with raise_on_sigterm():
        results = reap(
            zombies, cluster, all_finished(zombies), Settings(), NAMESPACES, lambda: NOW, retry_policy=ONE_ATTEMPT
        )
    by_name = outcomes(results)
    assert by_name["z0000"] == "unknown"
    assert by_name[zombies[-1].workload.name] == "left_for_next_run"


class TestRefusals:
    def test_a_namespace_in_which_deletions_are_refused_is_left_after_a_few_of_them(self) -> None:
        zombies = make_zombies(60)
        cluster = cluster_of(zombies, {zombie.workload.name: FORBIDDEN for zombie in zombies})
        results = run(zombies, cluster, max_deletes=1)
        counts = count_outcomes(results)
        assert counts["failed"] == len(cluster.deletions) < MAX_FAILURES + 2 * CONCURRENT_DELETES
        assert counts["left_for_next_run"] == 60 - counts["failed"]
        assert details(results, Outcome.LEFT_FOR_NEXT_RUN) == {"deletions in the same namespace fail: 403 Forbidden"}

    def test_what_is_left_in_the_namespace_has_the_latest_cause(self) -> None:
        zombies = make_zombies(60)
        responses = {**{zombie.workload.name: FORBIDDEN for zombie in zombies}, "z0000": WEBHOOK_DOWN}
        results = run(zombies, cluster_of(zombies, responses), retry_policy=ONE_ATTEMPT)
        assert details(results, Outcome.LEFT_FOR_NEXT_RUN) == {"deletions in the same namespace fail: 403 Forbidden"}

    def test_refusals_that_alternate_with_deletions_do_not_stop_their_namespace(self) -> None:
        zombies = make_zombies(6 * CONCURRENT_DELETES)
        refused = [zombie.workload.name for zombie in zombies[::2]]
        results = run(zombies, cluster_of(zombies, dict.fromkeys(refused, FORBIDDEN)))
        assert Outcome.LEFT_FOR_NEXT_RUN not in {result.outcome for result in results}

    def test_refusals_in_one_namespace_do_not_stop_another(self) -> None:
        forbidden = [make_pod(name=f"f{n:02d}", map_index=n, created=NOW - DAY + n) for n in range(20)]
        allowed = make_pod(name="allowed", namespace="other", map_index=99)
        zombies = zombies_of(*forbidden, allowed)
        cluster = cluster_of(zombies, {pod.name: FORBIDDEN for pod in forbidden})
        assert count_outcomes(run(zombies, cluster))["deleted"] == 1

    def test_pods_that_an_admission_policy_protects_do_not_stop_the_others_in_their_namespace(self) -> None:
        zombies = make_zombies(50)
        denied = {zombie.workload.name: DENIED for zombie in zombies[: 2 * CONCURRENT_DELETES]}
        assert count_outcomes(run(zombies, cluster_of(zombies, denied))) == {"deleted": 30, "failed": 20}


class TestAnApiServerThatDoesNotRespond:
    def test_the_run_ends_and_leaves_the_rest(self) -> None:
        zombies = make_zombies(2 * BATCH)
        cluster = cluster_of(zombies, {zombie.workload.name: LOST for zombie in zombies})
        results = run(zombies, cluster)
        counts = count_outcomes(results)
        assert MAX_SILENT <= counts.pop("failed") < MAX_SILENT + CONCURRENT_DELETES
        assert list(counts) == ["left_for_next_run"]
        assert details(results, Outcome.LEFT_FOR_NEXT_RUN) == {NO_RESPONSE}
        assert len(cluster.deletions) < (MAX_SILENT + CONCURRENT_DELETES) * NO_DELAY.attempts

    def test_the_rest_of_a_batch_waits_for_a_new_query_after_several_pods_without_a_response(self) -> None:
        pods = [make_pod(name=f"p{n}", namespace=f"n{n}", map_index=n) for n in range(BATCH)]
        zombies, namespaces = zombies_of(*pods), {pod.namespace for pod in pods}
        cluster = cluster_of(zombies, {pod.name: [LOST, DELETED] for pod in pods})
        source = all_finished(zombies)
        by_query: dict[int, set[str]] = {}
        cluster.before_deletion = lambda pod: by_query.setdefault(len(source.queries), set()).add(pod.name)
        run(zombies, cluster, source, namespaces=namespaces)
        assert CONCURRENT_DELETES <= len(by_query[1]) < 2 * CONCURRENT_DELETES

    def test_the_run_continues_if_only_some_pods_get_no_response(self) -> None:
        zombies = make_zombies(2 * BATCH)
        silent = zombies[1:CONCURRENT_DELETES]
        cluster = cluster_of(zombies, {zombie.workload.name: LOST for zombie in silent})
        assert count_outcomes(run(zombies, cluster)) == {"deleted": 2 * BATCH - len(silent), "failed": len(silent)}

    @pytest.mark.parametrize(
        "respond",
        [
            pytest.param(lambda _name: DELETED, id="deleted"),
            pytest.param(lambda _name: GONE, id="already gone"),
            pytest.param(lambda _name: DENIED, id="denied"),
        ],
    )
    def test_the_run_continues_without_a_new_query_if_other_pods_are_in_between(
        self, respond: Callable[[str], Response]
    ) -> None:
        zombies = make_zombies(2 * BATCH)
        silent = {zombie.workload.name: LOST for zombie in zombies[::3]}
        others = {zombie.workload.name: respond(zombie.workload.name) for zombie in zombies}
        source = all_finished(zombies)
        results = run(zombies, cluster_of(zombies, {**others, **silent}), source, retry_policy=RetryPolicy(attempts=1))
        assert {name for name, outcome in outcomes(results).items() if outcome == "failed"} >= silent.keys()
        assert Outcome.LEFT_FOR_NEXT_RUN not in {result.outcome for result in results}
        assert len(source.queries) == 2

    @pytest.mark.parametrize("response", [pytest.param(WEBHOOK_DOWN, id="500"), pytest.param(TOO_MANY, id="429")])
    def test_the_run_continues_without_a_new_query_if_errors_are_in_between(self, response: Response) -> None:
        pods = [make_pod(name=f"p{n}", namespace=f"n{n}", map_index=n, created=NOW - DAY + n) for n in range(BATCH)]
        responses = {pod.name: LOST if n % 3 == 0 else response for n, pod in enumerate(pods)}
        zombies = zombies_of(*pods)
        source, namespaces = all_finished(zombies), {pod.namespace for pod in pods}
        results = run(zombies, cluster_of(zombies, responses), source, namespaces=namespaces, retry_policy=ONE_ATTEMPT)
        assert count_outcomes(results) == {"failed": BATCH}
        assert len(source.queries) == 1

    def test_all_pods_are_deleted_if_it_responds_again_later(self) -> None:
        zombies = make_zombies(2 * BATCH)
        cluster = cluster_of(zombies, {zombie.workload.name: [LOST, DELETED] for zombie in zombies})
        assert count_outcomes(run(zombies, cluster)) == {"deleted": 2 * BATCH}


class TestANamespaceInWhichDeletionsFail:
    """A webhook that is down answers 500, after ten seconds."""

    def test_it_does_not_stop_the_others(self) -> None:
        failing = [make_pod(name=f"f{n:03d}", map_index=n, created=NOW - DAY + n) for n in range(2 * BATCH)]
        healthy = [make_pod(name=f"h{n:03d}", namespace="other", map_index=n) for n in range(2 * BATCH)]
        zombies = zombies_of(*failing, *healthy)
        cluster = cluster_of(zombies, {pod.name: WEBHOOK_DOWN for pod in failing})
        results = run(zombies, cluster)
        counts = count_outcomes(results)
        assert counts["deleted"] == len(healthy)
        assert MAX_PROBES <= counts["failed"] < MAX_FAILURES + CONCURRENT_DELETES + MAX_PROBES
        assert details(results, Outcome.LEFT_FOR_NEXT_RUN) == {
            "deletions in the same namespace fail: 500 Internal Server Error"
        }

    def test_the_pods_of_other_namespaces_are_deleted_first(self) -> None:
        failing = [make_pod(name=f"f{n:03d}", map_index=n, created=NOW - DAY + n) for n in range(BATCH)]
        healthy = [make_pod(name=f"h{n:03d}", namespace="other", map_index=n) for n in range(BATCH)]
        zombies = zombies_of(*failing, *healthy)
        cluster = cluster_of(zombies, {pod.name: WEBHOOK_DOWN for pod in failing})
        run(zombies, cluster)
        last_healthy = max(i for i, (name, _) in enumerate(cluster.deletions) if name.startswith("h"))
        assert last_healthy < len(healthy) + MAX_FAILURES + CONCURRENT_DELETES

    @pytest.mark.parametrize("attempts", [1, NO_DELAY.attempts])
    def test_pods_that_do_not_fail_are_found_behind_those_that_do(self, attempts: int) -> None:
        zombies = make_zombies(BATCH)
        failing = [zombie.workload.name for zombie in zombies[: 2 * CONCURRENT_DELETES]]
        cluster = cluster_of(zombies, dict.fromkeys(failing, WEBHOOK_DOWN))
        results = run(zombies, cluster, retry_policy=replace(NO_DELAY, attempts=attempts))
        assert count_outcomes(results) == {"deleted": BATCH - len(failing), "failed": len(failing)}


class TestStarvation:
    """What cannot be deleted keeps nothing else from being deleted, in this run or a later one."""

    @pytest.mark.parametrize(
        "response", [DENIED, FORBIDDEN, WEBHOOK_DOWN, GARBLED, LOST], ids=lambda error: error.cause
    )
    @pytest.mark.parametrize("max_deletes", [1, 5, 500])
    def test_all_pods_behind_failing_ones_are_deleted_within_a_few_runs(
        self, response: KpoCleanupError, max_deletes: int
    ) -> None:
        """Put 20 failing pods in front of 5 others in the same namespace."""
        zombies = make_zombies(25)
        failing = {zombie.workload.name for zombie in zombies[:20]}
        cluster = cluster_of(zombies, dict.fromkeys(failing, response))
        runs = 0
        while {pod.name for pod in cluster.workloads.values()} > failing:
            left = [zombie for zombie in zombies if zombie.workload.uid in cluster.workloads]
            run(left, cluster, max_deletes=max_deletes, retry_policy=replace(NO_DELAY, attempts=1))
            runs += 1
            assert runs <= 20 + 5 // max_deletes
        assert {pod.name for pod in cluster.workloads.values()} == failing

    def test_pods_behind_those_of_dags_whose_queries_fail_are_deleted_within_a_few_runs(self) -> None:
        class Partial(FakeSource):
            def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
                if any(key.dag_id.startswith("broken") for key in keys):
                    raise TaskInstanceSourceError("500")
                return super().fetch(keys)

        broken = [make_pod(name=f"b{n}", dag_id=f"broken_{n}", created=NOW - DAY + n) for n in range(20)]
        good = [make_pod(name=f"g{n}", dag_id=f"good_{n}") for n in range(20)]
        zombies = zombies_of(*broken, *good)
        cluster, runs = cluster_of(zombies), 0
        while any(pod.name.startswith("g") for pod in cluster.workloads.values()):
            left = [zombie for zombie in zombies if zombie.workload.uid in cluster.workloads]
            run(left, cluster, Partial({zombie.workload.key: FINISHED for zombie in zombies}))
            runs += 1
            assert runs <= 20

    def test_a_failure_of_many_namespaces_costs_one_attempt_in_any_other(self) -> None:
        pods = [
            make_pod(name=f"n{n:02d}-{m}", namespace=f"ns-{n}", map_index=10 * n + m)
            for n in range(40)
            for m in range(10)
        ]
        zombies = zombies_of(*pods)
        namespaces = {pod.namespace for pod in pods}
        seconds = [START]
        cluster = cluster_of(zombies, {pod.name: WEBHOOK_DOWN for pod in pods})

        def time_passes(_pod: Workload) -> None:
            seconds[0] += 1

        cluster.before_deletion = time_passes
        results = run(
            zombies, cluster, namespaces=namespaces, monotonic=lambda: seconds[0], max_seconds=200, max_deletes=500
        )
        assert details(results, Outcome.LEFT_FOR_NEXT_RUN) == {OUT_OF_TIME}
        assert errors(results) == {str(WEBHOOK_DOWN)}  # of those that were tried
        assert {name.partition("-")[0] for name in cluster.deleted} == {f"n{n:02d}" for n in range(40)}
        assert 200 <= len(cluster.deletions) < 200 + CONCURRENT_DELETES


def test_the_computing_time_for_the_pods_of_one_task_instance_does_not_grow_with_the_square_of_their_number() -> None:
    def seconds_for(number: int) -> float:
        zombies = zombies_of(*(make_pod(created=NOW - DAY + n) for n in range(number)))
        start = time.process_time()
        assert count_outcomes(run(zombies, max_deletes=number)) == {"deleted": number}
        return time.process_time() - start

    seconds_for(100)
    assert seconds_for(2000) < 10 * seconds_for(500)  # 4 times as long if it grows linearly, 16 times with the square


class TestGracePeriod:
    @pytest.mark.parametrize(
        ("pod", "settings", "seconds"),
        [
            pytest.param({}, {}, 0, id="is the configured one"),
            pytest.param({}, {"grace_period_seconds": -1}, -1, id="is the pod's own if -1 is configured"),
            pytest.param(
                {"deletion_deadline": NOW - DAY}, {"grace_period_seconds": 30}, 0, id="is 0 after its deletion deadline"
            ),
            pytest.param(
                {"deletion_deadline": NOW - DAY}, {"grace_period_seconds": -1}, 0, id="is 0 then even with -1"
            ),
        ],
    )
    def test_the_grace_period_of_a_pod(self, pod: dict[str, Any], settings: dict[str, Any], seconds: int) -> None:
        zombies = zombies_of(make_pod(name="pod", **pod))
        cluster = cluster_of(zombies)
        run(zombies, cluster, **settings)
        assert cluster.deletions == [("pod", seconds)]

    @pytest.mark.parametrize(
        ("pod", "settings", "seconds"),
        [
            pytest.param({}, {}, 300, id="is settle_seconds"),
            pytest.param({}, {"grace_period_seconds": 900}, 900, id="is the configured one if that is longer"),
            pytest.param({}, {"grace_period_seconds": -1}, 300, id="is settle_seconds if the pod's own is shorter"),
            pytest.param(
                {"grace_period": 86_400}, {"grace_period_seconds": -1}, 86_400, id="is the pod's own if that is longer"
            ),
            pytest.param({}, {"settle_seconds": 0}, 0, id="is 0 if settle_seconds is 0"),
            pytest.param({"deletion_deadline": NOW - DAY}, {}, 0, id="is 0 after its deletion deadline"),
        ],
    )
    def test_the_grace_period_of_a_pod_whose_task_ended_at_an_unknown_time(
        self, pod: dict[str, Any], settings: dict[str, Any], seconds: int
    ) -> None:
        ti = TaskInstance("failed")
        zombies = zombies_of(make_pod(name="pod", **pod), ti=ti)
        cluster = cluster_of(zombies)
        run(zombies, cluster, FakeSource({zombies[0].workload.key: ti}), **settings)
        assert cluster.deletions == [("pod", seconds)]


def test_a_pod_is_deleted_although_its_main_container_has_ended_since_it_was_classified() -> None:
    pod = make_pod(name="pod", containers=(Container("base", "running", NOW - HOUR),))
    cluster = FakeCluster(
        [replace(pod, resource_version="2", containers=(Container("base", "terminated", ended=NOW),))]
    )
    assert outcomes(run(zombies_of(pod), cluster)) == {"pod": "deleted"}


class StatesFirst(FakeSource):
    """A source that returns tries and ends only for single task instances, like the Task SDK."""

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        found = super().fetch(keys).found
        return answer({key: TaskInstance(ti.state) for key, ti in found.items()})

    def complete(self, task_instances: TaskInstances, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        completed = {key: ti for key in keys if (ti := self.found[key])}
        return replace(task_instances, found={**task_instances.found, **completed})


class TestCompletingTaskInstances:
    @pytest.mark.parametrize(
        ("ti", "reason"),
        [
            pytest.param(make_ti(ended=NOW), Reason.SETTLING, id="ended a moment ago"),
            pytest.param(make_ti(ended=NOW - DAY), Reason.UNMATCHED, id="ended before the pod was created"),
            pytest.param(make_ti(try_number=0), Reason.UNMATCHED, id="did not have the pod's try"),
        ],
    )
    def test_a_pod_is_spared_if_its_task_instance(self, ti: TaskInstance, reason: Reason) -> None:
        zombies = zombies_of(make_pod(), ti=TaskInstance("failed"))
        assert the_spared(run(zombies, source=StatesFirst({zombies[0].workload.key: ti}))).reason is reason

    def test_a_pod_whose_task_instance_has_settled_is_deleted_without_a_grace_period(self) -> None:
        zombies = zombies_of(make_pod(name="pod"), ti=TaskInstance("failed"))
        cluster = cluster_of(zombies)
        run(zombies, cluster, StatesFirst({zombies[0].workload.key: FINISHED}))
        assert cluster.deletions == [("pod", 0)]

    def test_nothing_is_deleted_on_states_that_have_expired_meanwhile(self) -> None:
        now = [0.0]

        class Slow(StatesFirst):
            def complete(self, task_instances: TaskInstances, keys: Collection[TaskInstanceKey]) -> TaskInstances:
                now[0] += EXPIRED
                return super().complete(task_instances, keys)

        zombies = zombies_of(make_pod(), ti=TaskInstance("failed"))
        cluster = cluster_of(zombies)
        run(zombies, cluster, Slow({zombies[0].workload.key: FINISHED}), monotonic=lambda: now[0])
        assert cluster.deletions == []
