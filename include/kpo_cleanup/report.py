"""What people read: the table of a classification and the report of a reaping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from tabulate import tabulate

from include.kpo_cleanup.classify import Verdict, count_reasons
from include.kpo_cleanup.evidence import duration
from include.kpo_cleanup.identity import UNMAPPED
from include.kpo_cleanup.reap import Result, count_outcomes
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.vocabulary import Outcome, Reason

MAX_PROBLEMS = 5  # in the message of a failed run
MAX_ROWS = 100  # of the table; all zombies are in the XCom
COLUMNS = ("pod", "namespace", "DAG", "task", "map", "try", "phase", "age", "reason")


def classification_lines(verdicts: Sequence[Verdict], now: int) -> list[str]:
    """The log of a classification: a table of the zombies with why, then the kept pods counted by reason."""
    zombies = [verdict for verdict in verdicts if verdict.is_zombie]
    kept = [verdict for verdict in verdicts if not verdict.is_zombie]
    lines = [f"{count(zombies, 'zombie')} among {count(verdicts, 'pod')}"]
    if zombies:
        table = tabulate([_row(verdict, now) for verdict in zombies[:MAX_ROWS]], COLUMNS, disable_numparse=True)
        lines += table.splitlines()
        lines += [f"why {v.pod.name}: {v.reason.value}: {v.evidence}" for v in zombies[:MAX_ROWS]]
        if len(zombies) > MAX_ROWS:
            lines.append(f"... and {len(zombies) - MAX_ROWS} more; all are in the XCom of this task")
    lines.append("kept: " + (key_values(count_reasons(kept)) or "none"))
    return lines


def warnings_of(verdicts: Sequence[Verdict], settings: Settings) -> list[str]:
    """What somebody should look at although nothing is deleted for it."""
    lines = [
        f"stalled: {v.pod.namespace}/{v.pod.name} of {v.pod.dag_id}.{v.pod.task_id}: {v.evidence}"
        for v in verdicts
        if v.reason is Reason.STALLED
    ]
    unknown = [v for v in verdicts if v.reason is Reason.UNKNOWN and not v.is_zombie]
    if unknown and not settings.delete_unknown_pods:
        lines.append(
            f"kept {count(unknown, 'unknown pod')}: this Airflow has no task instance for them. "
            "If no other Airflow uses these namespaces, delete_unknown_pods=True removes them"
        )
    unresolved = [v for v in verdicts if v.reason is Reason.UNRESOLVED]
    if unresolved:
        lines.append(
            f"kept {count(unresolved, 'unresolved pod')}: their dag_id label does not tell the dag_id; "
            "set metadata_conn_id to find their task instances in the database"
        )
    return lines


def reap_lines(results: Sequence[Result]) -> list[str]:
    """The log of a reaping, apart from the deletions, which were logged one by one."""
    would = [r for r in results if r.outcome is Outcome.DRY_RUN]
    lines = [
        f"would delete {r.verdict.pod.namespace}/{r.verdict.pod.name}, {r.verdict.reason.value}: {r.verdict.evidence}"
        for r in would
    ]
    if would:
        lines.append(f"DRY RUN: {count(would, 'pod')} would be deleted, none was")
    left = [r for r in results if r.outcome is Outcome.LEFT_FOR_NEXT_RUN]
    if left:
        lines.append(f"left for the next run: {count(left, 'zombie')}, for {left[0].detail}")
    return lines


def reap_report(results: Sequence[Result], freed: tuple[float, int]) -> dict[str, Any]:
    """The report of a run: counters, what was freed, and every zombie with its outcome."""
    outcomes = count_outcomes(results)
    cpu, memory = freed
    verb = "would free" if Outcome.DRY_RUN.value in outcomes else "freed"
    requests = f"; {verb} cpu={cpu:g} memory={memory / 2**20:.0f}Mi" if cpu or memory else ""
    return {
        "summary": f"{key_values(outcomes) or 'nothing to do'}{requests}",
        "outcomes": outcomes,
        "freed": {"cpu_cores": cpu, "memory_bytes": memory},
        "pods": [
            {
                "pod": f"{r.verdict.pod.namespace}/{r.verdict.pod.name}",
                "outcome": r.outcome.value,
                "reason": r.verdict.reason.value,
                "evidence": r.verdict.evidence,
                **({"detail": r.detail} if r.detail else {}),
            }
            for r in results
        ],
    }


def failures(results: Iterable[Result]) -> list[str]:
    """One line for each pod that should have gone and did not."""
    failed = [r for r in results if r.outcome is Outcome.FAILED]
    return [f"{r.verdict.pod.namespace}/{r.verdict.pod.name}: {r.detail}" for r in failed]


def failure_message(summary: str, problems: Sequence[str]) -> str:
    """What a failed run ends with: short, for it is shown in one piece; all of it is in the log and the report."""
    more = [f"and {len(problems) - MAX_PROBLEMS} more, see the log"] if len(problems) > MAX_PROBLEMS else []
    return f"{summary}; problems: " + "; ".join([*problems[:MAX_PROBLEMS], *more])


def count(things: Sized, noun: str) -> str:
    """Such as ``1 pod`` or ``2 pods``."""
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def key_values(counts: Mapping[str, int]) -> str:
    """Counters as ``key=value`` words."""
    return " ".join(f"{name}={count}" for name, count in counts.items())


def _row(verdict: Verdict, now: int) -> tuple[str, ...]:
    pod = verdict.pod
    map_index = "" if pod.map_index == UNMAPPED else str(pod.map_index)
    age = duration(now - pod.created)
    ids = (pod.name, pod.namespace, pod.dag_id, pod.task_id, map_index, str(pod.try_number))
    return (*ids, pod.phase, age, verdict.reason.value)
