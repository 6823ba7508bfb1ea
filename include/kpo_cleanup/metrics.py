"""The metrics of a run, which are sent with Airflow's own metrics, for alerts and graphs.

All are tagged with the id of the cleanup's own DAG, so that teams and clusters can be distinguished. Only counters are
tagged with the DAGs of the pods: once all pods of a DAG are gone, no later run knows of it, and its gauge would keep
its last value forever.

A dry run sets no gauge: nothing would ever reset what a manual run has found, and an alert would not end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from .airflow_compat import add_to_counters, set_gauges
from .constants import Outcome, Reason
from .results import Result
from .settings import Settings
from .verdict import Evidence, Rule, Verdict

MAX_DAGS = 20  # DAGs per run, those with the most zombies: a monitoring system stores a series for each
OTHER = "other"  # stands for all other DAGs

_STAYS = frozenset({Outcome.FAILED, Outcome.UNKNOWN, Outcome.LEFT_FOR_NEXT_RUN})  # the zombie may still be there
# By resource: the counters of what was freed, and of how long it had been idle, and how much one unit is.
_RESOURCES = {
    "cpu": ("freed.cpu_cores", "idle.cpu_core_hours", 1),
    "memory": ("freed.memory_gib", "idle.memory_gib_hours", 2**30),
}


def send_verdicts(dag_id: str, verdicts: Sequence[Verdict], settings: Settings, now: int) -> None:
    """Send the number of pods of each reason, the zombies by DAG, and the age of the oldest zombie."""
    if settings.dry_run:
        return
    counts = Counter(verdict.reason for verdict in verdicts)
    zombies = [verdict for verdict in verdicts if verdict.is_zombie]
    gauges = {
        # Each reason, including those without pods: otherwise the gauge would keep the last run's value.
        **{f"pods.{reason.value}": counts[reason] for reason in Reason},
        "held_by_finalizers": sum(verdict.rule is Rule.HELD_BY_FINALIZERS for verdict in verdicts),
        "oldest_zombie_seconds": _max_age(zombies, now),
    }
    set_gauges(gauges, {"dag_id": dag_id})
    for tags, alike in _by_tags(zombies):
        add_to_counters({"zombies": len(alike)}, {"dag_id": dag_id, **tags})


def send_results(dag_id: str, results: Sequence[Result], settings: Settings, now: int) -> None:
    """Send the number of zombies of each outcome, what was deleted by DAG, and the age of the oldest that stays."""
    counts = Counter(result.outcome for result in results)
    oldest = _max_age((result.verdict for result in results if result.outcome in _STAYS), now)
    # Each outcome, even with 0, because a monitoring system misses the first increase of a counter that is new to it.
    add_to_counters({f"outcome.{outcome.value}": counts[outcome] for outcome in Outcome}, {"dag_id": dag_id})
    if not settings.dry_run:
        set_gauges({"oldest_zombie_seconds": oldest}, {"dag_id": dag_id})
    for tags, alike in _by_tags([r.verdict for r in results if r.outcome is Outcome.DELETED]):
        add_to_counters({"deleted": len(alike), **_amounts(alike, now)}, {"dag_id": dag_id, **tags})


def _max_age(zombies: Iterable[Verdict], now: int) -> int:
    return max((now - zombie.workload.created for zombie in zombies), default=0)


def _by_tags(zombies: Sequence[Verdict]) -> Iterator[tuple[dict[str, str], list[Verdict]]]:
    """Group zombies by DAG, reason and kind, each group with its tags."""
    dag_ids = [_dag_id(zombie) for zombie in zombies]
    named = {dag_id for dag_id, _ in Counter(dag_ids).most_common(MAX_DAGS)}
    groups: dict[tuple[str, str, str], list[Verdict]] = defaultdict(list)
    for dag_id, zombie in zip(dag_ids, zombies):
        groups[dag_id if dag_id in named else OTHER, zombie.reason.value, zombie.workload.kind.lower()].append(zombie)
    for (workload_dag_id, reason, kind), alike in groups.items():
        yield {"pod_dag_id": workload_dag_id, "reason": reason, "kind": kind}, alike


def _dag_id(zombie: Verdict) -> str:
    """Return the id of its DAG as Airflow shows it, or that of its label: StatsD's client fails on other characters."""
    return zombie.dag_id if zombie.dag_id.isascii() else zombie.workload.dag_id


def _amounts(deleted: Iterable[Verdict], now: int) -> dict[str, float]:
    """Add up the requests that were freed, and for how long they were reserved for nothing."""
    held = [(dict(verdict.workload.held_requests), _idle_seconds(verdict, now) / 3600) for verdict in deleted]
    amounts = {}
    for resource, (freed, idle, unit) in _RESOURCES.items():
        amounts[freed] = sum(requests.get(resource, 0.0) for requests, _ in held) / unit
        amounts[idle] = sum(requests.get(resource, 0.0) * hours for requests, hours in held) / unit
    return {name: round(amount, 6) for name, amount in amounts.items()}


def _idle_seconds(zombie: Verdict, now: int) -> int:
    """Return for how long its task's work has been over, or 0 if that is unknown."""
    main, evidence = zombie.workload.main, zombie.evidence
    ended = main.ended if main else None
    if ended is None and isinstance(evidence, Evidence) and evidence.task_instance:
        ended = evidence.task_instance.ended
    return 0 if ended is None else max(now - ended, 0)
