"""Deleting: the second look, the limits, and an account of every pod."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from include.kpo_cleanup.classify import Verdict, classify
from include.kpo_cleanup.errors import KubernetesError, TaskInstanceSourceError, Transient
from include.kpo_cleanup.identity import TaskInstanceKey
from include.kpo_cleanup.kube import CONCURRENT_DELETES, Deletion
from include.kpo_cleanup.pod import Container, Pod
from include.kpo_cleanup.reap import BATCH, Result, count_outcomes, reap
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import TaskInstance, TaskInstances
from include.kpo_cleanup.vocabulary import Outcome, Reason
from tests.unit.builders import HOUR, NOW, answer, make_pod, make_ti

DELETED = Deletion(Outcome.DELETED)
NO_ANSWER = Deletion(Outcome.FAILED, "no answer from the API server", is_passing=True)
FORBIDDEN = Deletion(Outcome.FAILED, "403 Forbidden")
FINISHED, RUNNING = make_ti(), make_ti(state="running", ended=None)


class Cluster:
    """The API server: what it says to each deletion, by the pod's name, and the pods that there are now."""

    def __init__(self, says: Mapping[str, Deletion] | None = None, pods: Iterable[Pod] = ()) -> None:
        self._says = says or {}
        self._pods = list(pods)
        self._lock = threading.Lock()
        self.deletions: list[tuple[str, int]] = []

    def siblings(self, pod: Pod) -> list[Pod]:
        return [other for other in self._pods if (other.namespace, other.key) == (pod.namespace, pod.key)]

    def delete(self, pod: Pod, grace_period_seconds: int) -> Deletion:
        with self._lock:
            self.deletions.append((pod.name, grace_period_seconds))
        return self._says.get(pod.name, DELETED)

    @property
    def deleted(self) -> set[str]:
        return {name for name, _ in self.deletions}


class Airflow:
    """The task instances as they are now; after ``fails_after`` looks it answers no more."""

    description = "test"

    def __init__(self, found: Mapping[TaskInstanceKey, TaskInstance | None], fails_after: int | None = None) -> None:
        self._found = found
        self._fails_after = fails_after
        self.looks: list[list[TaskInstanceKey]] = []

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        if self._fails_after is not None and len(self.looks) >= self._fails_after:
            raise TaskInstanceSourceError("the database is down")
        self.looks.append(list(keys))
        return answer({key: self._found.get(key) for key in keys})


def zombies_of(*pods: Pod, ti: TaskInstance = FINISHED, **settings: Any) -> list[Verdict]:
    verdicts = classify(pods, TaskInstances({pod.key: ti for pod in pods}), Settings(**settings), NOW)
    return [verdict for verdict in verdicts if verdict.is_zombie]


def make_zombies(count: int, **overrides: Any) -> list[Verdict]:
    """Pods ``z0000``, ``z0001``... of a task instance each, oldest first."""
    return zombies_of(
        *(
            make_pod(name=f"z{number:04d}", map_index=number, created=NOW - 9 * HOUR + number, **overrides)
            for number in range(count)
        )
    )


def now_finished(zombies: Iterable[Verdict], **more: Any) -> Airflow:
    return Airflow({verdict.pod.key: FINISHED for verdict in zombies}, **more)


def run(
    zombies: list[Verdict],
    cluster: Cluster,
    airflow: Airflow | None = None,
    clock: Callable[[], float] = lambda: NOW + 0.9,
    **settings: Any,
) -> list[Result]:
    results = reap(zombies, cluster, airflow or now_finished(zombies), Settings(**settings), clock)
    assert sorted(result.verdict.pod.name for result in results) == sorted(each.pod.name for each in zombies)
    return results


def outcomes(results: Iterable[Result]) -> dict[str, str]:
    return {result.verdict.pod.name: result.outcome.value for result in results}


class TestDeleting:
    def test_of_nothing_asks_nobody(self) -> None:
        cluster, airflow = Cluster(), Airflow({})
        assert run([], cluster, airflow) == []
        assert (cluster.deletions, airflow.looks) == ([], [])

    def test_deletes_every_zombie_once_with_the_grace_period_that_was_set(self) -> None:
        zombies, cluster = make_zombies(3), Cluster()
        assert count_outcomes(run(zombies, cluster, grace_period_seconds=7)) == {"deleted": 3}
        assert sorted(cluster.deletions) == [("z0000", 7), ("z0001", 7), ("z0002", 7)]

    def test_asks_for_the_task_instances_of_the_zombies_only(self) -> None:
        zombies = make_zombies(3)
        airflow = now_finished(zombies)
        run(zombies, Cluster(), airflow)
        assert airflow.looks == [[zombie.pod.key for zombie in zombies]]

    def test_looks_again_for_each_batch(self) -> None:
        zombies = make_zombies(2 * BATCH + 1)
        airflow, cluster = now_finished(zombies), Cluster()
        assert count_outcomes(run(zombies, cluster, airflow)) == {"deleted": len(zombies)}
        assert [len(look) for look in airflow.looks] == [BATCH, BATCH, 1]

    def test_keeps_the_order_of_the_zombies(self) -> None:
        zombies = make_zombies(BATCH + 5)
        results = run(zombies, Cluster(), max_deletes=BATCH + 3)
        assert [result.verdict.pod.name for result in results] == [zombie.pod.name for zombie in zombies]

    @pytest.mark.parametrize(
        "said",
        [
            Deletion(Outcome.ALREADY_GONE, "the API server has no such pod any more"),
            Deletion(Outcome.SPARED, "precondition: 409 Conflict"),
            FORBIDDEN,
        ],
        ids=lambda said: said.outcome.value,
    )
    def test_reports_what_the_api_server_said_and_goes_on(self, said: Deletion) -> None:
        zombies = make_zombies(3)
        results = run(zombies, Cluster({"z0001": said}))
        assert outcomes(results) == {"z0000": "deleted", "z0001": said.outcome.value, "z0002": "deleted"}
        assert [str(result.deletion) for result in results if result.verdict.pod.name == "z0001"] == [str(said)]

    def test_says_each_deletion_with_its_evidence(self, caplog: pytest.LogCaptureFixture) -> None:
        zombies = make_zombies(2)
        with caplog.at_level(logging.INFO):
            run(zombies, Cluster({"z0001": FORBIDDEN}))
        evidence = "orphaned: TI failed (try 1) 60 min ago; base running 2 h"
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            ("INFO", f"deleted airflow/z0000, {evidence}"),
            ("ERROR", f"failed airflow/z0001, 403 Forbidden ({evidence})"),
        ]


class TestDryRun:
    @pytest.mark.parametrize("settings", [{}, {"max_deletes": 1}, {"grace_period_seconds": -1}])
    def test_never_deletes(self, settings: dict[str, Any]) -> None:
        cluster = Cluster()
        results = run(make_zombies(3), cluster, dry_run=True, **settings)
        assert cluster.deletions == []
        assert {result.outcome for result in results} <= {Outcome.WOULD_DELETE, Outcome.LEFT_FOR_NEXT_RUN}

    def test_never_deletes_a_superseded_pod(self) -> None:
        old, new = make_pod(), make_pod(try_number=2)
        zombies, cluster = zombies_of(old, new, ti=RUNNING), Cluster(pods=[old, new])
        assert outcomes(run(zombies, cluster, Airflow({old.key: RUNNING}), dry_run=True)) == {old.name: "would_delete"}
        assert cluster.deletions == []

    def test_shows_what_a_real_run_would_do(self) -> None:
        zombies = make_zombies(4)
        airflow = Airflow({zombie.pod.key: FINISHED for zombie in zombies[1:]})
        dry = outcomes(run(zombies, Cluster(), airflow, dry_run=True, max_deletes=2))
        real = outcomes(run(zombies, Cluster(), airflow, max_deletes=2))
        assert dry == {name: outcome.replace("deleted", "would_delete") for name, outcome in real.items()}
        assert set(dry.values()) == {"spared", "would_delete", "left_for_next_run"}


class TestSecondLook:
    @pytest.mark.parametrize(
        ("ti", "why"),
        [
            pytest.param(RUNNING, "active now: TI running (try 1)", id="runs again"),
            pytest.param(make_ti(state=None), "active now: TI cleared (try 1)", id="was cleared"),
            pytest.param(make_ti(ended=NOW), "settling now: TI failed (try 1) 0 s ago", id="has just ended again"),
            pytest.param(None, "unmatched now: no task instance on record", id="is on record no more"),
        ],
    )
    def test_spares_a_pod_whose_task_instance(self, ti: TaskInstance | None, why: str) -> None:
        zombies, cluster = make_zombies(2), Cluster()
        airflow = Airflow({zombies[0].pod.key: ti, zombies[1].pod.key: FINISHED})
        results = run(zombies, cluster, airflow)
        assert outcomes(results) == {"z0000": "spared", "z0001": "deleted"}
        assert cluster.deleted == {"z0001"}
        assert next(result for result in results if result.outcome is Outcome.SPARED).deletion.status.startswith(why)

    def test_reads_the_clock_anew(self) -> None:
        zombies = make_zombies(1)
        ended_again = Airflow({zombies[0].pod.key: make_ti(ended=NOW)})
        assert outcomes(run(zombies, Cluster(), ended_again, clock=lambda: NOW + 299)) == {"z0000": "spared"}
        assert outcomes(run(zombies, Cluster(), ended_again, clock=lambda: NOW + 300)) == {"z0000": "deleted"}

    def test_reports_the_evidence_of_the_second_look(self) -> None:
        zombies = make_zombies(1)
        airflow = Airflow({zombies[0].pod.key: make_ti(state="removed")})
        assert run(zombies, Cluster(), airflow)[0].verdict.evidence.startswith("TI removed")

    def test_that_fails_deletes_nothing(self) -> None:
        zombies, cluster = make_zombies(3), Cluster()
        results = run(zombies, cluster, now_finished(zombies, fails_after=0))
        assert cluster.deletions == []
        assert {result.outcome for result in results} == {Outcome.FAILED}
        assert {str(result.deletion) for result in results} == {"the second look failed: the database is down"}

    def test_that_fails_later_fails_its_batch_and_leaves_the_rest(self) -> None:
        zombies, cluster = make_zombies(3 * BATCH), Cluster()
        results = run(zombies, cluster, now_finished(zombies, fails_after=1))
        assert count_outcomes(results) == {"deleted": BATCH, "failed": BATCH, "left_for_next_run": BATCH}
        assert cluster.deleted == {zombie.pod.name for zombie in zombies[:BATCH]}
        assert str(results[-1].deletion) == "the second look failed: the database is down"


class TestSuperseded:
    OLD = make_pod(name="old")
    NEW = make_pod(name="new", try_number=2, uid="new")

    def superseded(self) -> list[Verdict]:
        zombies = zombies_of(self.OLD, self.NEW, ti=RUNNING)
        assert [(zombie.pod.name, zombie.reason) for zombie in zombies] == [("old", Reason.SUPERSEDED)]
        return zombies

    def reap(self, *pods_now: Pod, ti: TaskInstance = RUNNING) -> dict[str, str]:
        cluster = Cluster(pods=pods_now)
        result = outcomes(run(self.superseded(), cluster, Airflow({self.OLD.key: ti})))
        assert cluster.deleted == {name for name, outcome in result.items() if outcome == "deleted"}
        return result

    def test_goes_while_its_successor_is_there(self) -> None:
        assert self.reap(self.OLD, self.NEW) == {"old": "deleted"}

    @pytest.mark.parametrize(
        "now",
        [
            pytest.param([], id="has vanished"),
            pytest.param([replace(NEW, is_checked=True)], id="was checked off"),
            pytest.param([replace(NEW, deletion_deadline=NOW)], id="is being deleted"),
        ],
    )
    def test_is_spared_when_its_successor(self, now: list[Pod]) -> None:
        assert self.reap(self.OLD, *now) == {"old": "spared"}

    def test_goes_when_its_task_instance_has_ended_meanwhile(self) -> None:
        assert self.reap(self.OLD, ti=FINISHED) == {"old": "deleted"}

    def test_is_spared_when_its_task_instance_is_on_record_no_more(self) -> None:
        cluster = Cluster(pods=[self.OLD, self.NEW])
        assert outcomes(run(self.superseded(), cluster, Airflow({}))) == {"old": "spared"}

    def test_goes_by_its_mark_alone_where_it_was_checked_off(self) -> None:
        checked = make_pod(name="checked", is_checked=True)
        second_try = make_ti(state="running", try_number=2, ended=None)
        zombies = zombies_of(checked, ti=second_try)
        cluster = Cluster(pods=[checked])
        assert outcomes(run(zombies, cluster, Airflow({checked.key: second_try}))) == {"checked": "deleted"}

    def test_fails_alone_when_its_successor_cannot_be_looked_up(self) -> None:
        class Forbidding(Cluster):
            def siblings(self, pod: Pod) -> list[Pod]:
                raise KubernetesError("listing pods", "403 Forbidden")

        zombies, cluster = [*self.superseded(), *make_zombies(1)], Forbidding()
        airflow = Airflow({self.OLD.key: RUNNING, zombies[1].pod.key: FINISHED})
        assert outcomes(run(zombies, cluster, airflow)) == {"old": "failed", "z0000": "deleted"}
        assert cluster.deleted == {"z0000"}

    def test_is_left_when_the_api_server_does_not_answer_any_more(self) -> None:
        looks: list[Pod] = []

        class Silent(Cluster):
            def siblings(self, pod: Pod) -> list[Pod]:
                looks.append(pod)
                raise Transient("listing pods", "no answer from the API server")

        pods = [make_pod(map_index=number, try_number=tries) for number in range(2 * BATCH) for tries in (1, 2)]
        zombies = zombies_of(*pods, ti=RUNNING)
        results = run(zombies, Silent(), Airflow({pod.key: RUNNING for pod in pods}))
        assert_few_failed_and_the_rest_is_left(results)
        assert len(looks) < 2 * CONCURRENT_DELETES


class TestMaxDeletes:
    def test_leaves_the_rest_for_the_next_run(self) -> None:
        zombies, cluster = make_zombies(5), Cluster()
        results = run(zombies, cluster, max_deletes=2)
        assert outcomes(results) == {
            "z0000": "deleted",
            "z0001": "deleted",
            "z0002": "left_for_next_run",
            "z0003": "left_for_next_run",
            "z0004": "left_for_next_run",
        }
        assert cluster.deleted == {"z0000", "z0001"}
        assert str(results[-1].deletion) == "max_deletes=2 was reached"

    @pytest.mark.parametrize(
        "said",
        [Deletion(Outcome.ALREADY_GONE), Deletion(Outcome.SPARED), FORBIDDEN],
        ids=lambda said: said.outcome.value,
    )
    def test_counts_deletions_only(self, said: Deletion) -> None:
        zombies = make_zombies(6)
        cluster = Cluster(dict.fromkeys(("z0000", "z0001", "z0003"), said))
        assert count_outcomes(run(zombies, cluster, max_deletes=2)) == {
            "deleted": 2,
            said.outcome.value: 3,
            "left_for_next_run": 1,
        }

    def test_does_not_count_what_the_second_look_spared(self) -> None:
        zombies, cluster = make_zombies(4), Cluster()
        airflow = Airflow({zombie.pod.key: FINISHED for zombie in zombies[2:]})
        run(zombies, cluster, airflow, max_deletes=2)
        assert cluster.deleted == {"z0002", "z0003"}

    @pytest.mark.parametrize("limit", [1, BATCH - 1, BATCH, BATCH + 1])
    def test_is_never_exceeded(self, limit: int) -> None:
        zombies, cluster = make_zombies(2 * BATCH), Cluster()
        assert count_outcomes(run(zombies, cluster, max_deletes=limit))["deleted"] == limit
        assert len(cluster.deletions) == limit

    def test_that_is_just_enough_leaves_nothing(self) -> None:
        assert count_outcomes(run(make_zombies(3), Cluster(), max_deletes=3)) == {"deleted": 3}


def assert_few_failed_and_the_rest_is_left(results: list[Result]) -> None:
    """As many as are under way at once, and then nothing more."""
    counts = count_outcomes(results)
    assert CONCURRENT_DELETES <= counts.pop("failed") < 2 * CONCURRENT_DELETES
    assert list(counts) == ["left_for_next_run"]
    assert str(results[-1].deletion) == "the API server does not answer any more"


class TestASilentApiServer:
    def test_stops_the_run_when_it_does_not_answer_any_more(self) -> None:
        zombies = make_zombies(2 * BATCH)
        cluster = Cluster({zombie.pod.name: NO_ANSWER for zombie in zombies})
        results = run(zombies, cluster)
        assert_few_failed_and_the_rest_is_left(results)
        assert len(cluster.deletions) < 2 * CONCURRENT_DELETES

    def test_does_not_stop_it_over_a_few_pods_that_it_chokes_on(self) -> None:
        zombies = make_zombies(2 * BATCH)
        choking = zombies[1:CONCURRENT_DELETES]
        cluster = Cluster({zombie.pod.name: NO_ANSWER for zombie in choking})
        assert count_outcomes(run(zombies, cluster)) == {
            "deleted": 2 * BATCH - len(choking),
            "failed": len(choking),
        }

    def test_is_not_one_that_refuses_every_deletion(self) -> None:
        zombies = make_zombies(2 * BATCH)
        cluster = Cluster({zombie.pod.name: FORBIDDEN for zombie in zombies})
        assert count_outcomes(run(zombies, cluster)) == {"failed": 2 * BATCH}
        assert len(cluster.deletions) == 2 * BATCH


def test_containers_that_ended_since_the_listing_do_not_matter() -> None:
    # The second look is about task instances: the pod is judged as it was listed, and its uid proves it the same.
    pod = make_pod(name="pod", containers=(Container("base", "running", NOW - HOUR),))
    cluster = Cluster(pods=[replace(pod, phase="Succeeded")])
    assert outcomes(run(zombies_of(pod), cluster)) == {"pod": "deleted"}
