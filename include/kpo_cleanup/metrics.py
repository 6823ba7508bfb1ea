"""The figures of a run that go to Airflow's metrics, for alerts.

They are tagged with the id of the cleanup's own DAG, so that teams and clusters can be told apart. They are not tagged
with the DAGs of the pods. If all pods of a DAG are gone, no later run knows of it. Its gauge would keep its last value
for ever. The report has those counts.

A dry run sets no gauge. Nothing would ever take back what a look by hand has found, and an alert would not end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .airflow_compat import add_to_counters, set_gauges
from .classify import Verdict, count_reasons
from .constants import Outcome, Reason
from .results import Result, count_outcomes
from .settings import Settings

_STAYS = frozenset({Outcome.FAILED, Outcome.LEFT_FOR_NEXT_RUN})


def send_verdicts(dag_id: str, verdicts: Sequence[Verdict], settings: Settings, now: int) -> None:
    """Send how many pods there are of each reason, and how old the oldest zombie is."""
    if settings.dry_run:
        return
    counts = count_reasons(verdicts)
    held = [v for v in verdicts if v.reason is Reason.TERMINATING and v.warning]
    # Each reason, also one without pods: else its gauge would keep the last run's value.
    set_gauges(dag_id, {f"pods.{reason.value}": counts.get(reason.value, 0) for reason in Reason})
    set_gauges(dag_id, {"held_by_finalizers": len(held)})
    _send_oldest(dag_id, (v for v in verdicts if v.is_zombie), now)


def send_results(dag_id: str, results: Sequence[Result], settings: Settings, now: int) -> None:
    """Send what became of the zombies, and how old the oldest one is that stays."""
    counts = count_outcomes(results)
    # Each outcome: a server sees an increase only of a counter that it knows already.
    add_to_counters(dag_id, {f"outcome.{outcome.value}": counts.get(outcome.value, 0) for outcome in Outcome})
    if not settings.dry_run:
        _send_oldest(dag_id, (result.verdict for result in results if result.outcome in _STAYS), now)


def _send_oldest(dag_id: str, zombies: Iterable[Verdict], now: int) -> None:
    set_gauges(dag_id, {"oldest_zombie_seconds": max((now - zombie.pod.created for zombie in zombies), default=0)})
