"""The metrics of a run, which go to Airflow's metrics for alerts.

They are tagged with the id of the cleanup's own DAG, so that teams and clusters can be distinguished, and not with the
DAGs of the pods: once all pods of a DAG are gone, no later run knows of it, and its gauge would keep its last value
forever. The report has those counts.

A dry run sets no gauge: nothing would ever reset what a manual run has found, and an alert would not end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .airflow_compat import add_to_counters, set_gauges
from .constants import Outcome, Reason
from .results import Result
from .settings import Settings
from .verdict import Rule, Verdict

_STAYS = frozenset({Outcome.FAILED, Outcome.UNKNOWN, Outcome.LEFT_FOR_NEXT_RUN})  # as far as is known


def send_verdicts(dag_id: str, verdicts: Sequence[Verdict], settings: Settings, now: int) -> None:
    """Send the number of pods of each reason, and the age of the oldest zombie."""
    if settings.dry_run:
        return
    counts = Counter(verdict.reason for verdict in verdicts)
    gauges = {
        # Each reason, including those without pods: otherwise the gauge would keep the last run's value.
        **{f"pods.{reason.value}": counts[reason] for reason in Reason},
        "held_by_finalizers": sum(verdict.rule is Rule.HELD_BY_FINALIZERS for verdict in verdicts),
        "oldest_zombie_seconds": _max_age((verdict for verdict in verdicts if verdict.is_zombie), now),
    }
    set_gauges(dag_id, gauges)


def send_results(dag_id: str, results: Sequence[Result], settings: Settings, now: int) -> None:
    """Send the number of zombies of each outcome, and the age of the oldest one that stays."""
    counts = Counter(result.outcome for result in results)
    oldest = _max_age((result.verdict for result in results if result.outcome in _STAYS), now)
    # Each outcome: a server sees an increase only of a counter that it already knows.
    add_to_counters(dag_id, {f"outcome.{outcome.value}": counts[outcome] for outcome in Outcome})
    if not settings.dry_run:
        set_gauges(dag_id, {"oldest_zombie_seconds": oldest})


def _max_age(zombies: Iterable[Verdict], now: int) -> int:
    return max((now - zombie.pod.created for zombie in zombies), default=0)
