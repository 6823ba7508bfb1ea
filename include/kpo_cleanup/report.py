"""Texts for people: the log of a classification, and the report of a reaping."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .classify import Verdict, count_reasons
from .constants import Outcome, Reason
from .diagnosis import cause_of
from .evidence import duration
from .pod import Pod
from .results import Result, count_outcomes
from .settings import Settings
from .text import INDENT, by_clause, count, first_few, key_values, packed, pluralize, wrapped

MAX_PROBLEMS = 5  # in the message of a failed run
MAX_ROWS = 100  # zombies in the log; all are in the XCom
MAX_NAMES = 5  # pods that a warning names
MAX_DAGS = 5  # in a summary
DRY_RUN = "DRY RUN: "

_GONE = (Outcome.DELETED, Outcome.WOULD_DELETE)  # what counts as freed


def count_dags(pods: Iterable[Pod]) -> dict[str, int]:
    """Count the pods of each DAG; those with most pods come first."""
    return dict(Counter(pod.dag_id for pod in pods).most_common())


def classification_summary(verdicts: Sequence[Verdict], settings: Settings) -> str:
    """Sum up a classification in one line, for the log and the list of XComs."""
    zombies, pods = [v for v in verdicts if v.is_zombie], count(verdicts, "pod")
    dry_run = DRY_RUN if settings.dry_run else ""
    if not zombies:
        return f"{dry_run}nothing to delete among {pods}"
    found = f"{dry_run}would delete {len(zombies):,} of {pods}" if dry_run else f"{count(zombies, 'zombie')} of {pods}"
    at_once = f"; {settings.max_deletes:,} a run (max_deletes)" if len(zombies) > settings.max_deletes else ""
    return f"{found}: {_by_dag(v.pod for v in zombies)}{at_once}"


def classification_lines(verdicts: Sequence[Verdict], summary: str) -> list[str]:
    """Sum up a classification in the log: a line for each topic, the summary last, where Airflow opens a log."""
    zombies = count_reasons(v for v in verdicts if v.is_zombie)
    kept = count_reasons(v for v in verdicts if not v.is_zombie)
    reasons = [f"zombies by reason: {key_values(zombies)}"] if zombies else []
    return [line for topic in (*reasons, f"kept: {key_values(kept) or 'none'}", summary) for line in wrapped(topic)]


def zombie_lines(verdicts: Sequence[Verdict], now: int) -> list[str]:
    """List the zombies by their cause, with one line of advice for each cause, and the evidence for each pod."""
    zombies = [verdict for verdict in verdicts if verdict.is_zombie]
    by_cause = defaultdict(list)
    for verdict in zombies:
        by_cause[cause_of(verdict.pod)].append(verdict)
    lines, room = [], MAX_ROWS
    for cause, alike in by_cause.items():
        lines += wrapped(f"{count(alike, 'zombie')}: {cause.problem}")
        lines += wrapped(f"advice: {cause.advice}", INDENT)
        for verdict in alike[: max(room, 0)]:
            age = duration(now - verdict.pod.created)
            lines += packed((f"{age}, {verdict.reason.value}:", *verdict.pod.task_name), INDENT)
            lines += wrapped(f"pod {verdict.pod}", INDENT * 2)
            lines += wrapped(verdict.evidence, INDENT * 2)
        room -= len(alike)
    if len(zombies) > MAX_ROWS:
        lines.append(f"... and {len(zombies) - MAX_ROWS:,} more; all are in the XCom of this task")
    return lines


def warning_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """Say what somebody should look at although nothing is deleted for it: each kind once, with some names."""
    by_kind: dict[tuple[Reason, str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.warning:
            by_kind[verdict.reason, verdict.warning, verdict.remedy].append(verdict)
    lines = []
    for (reason, warning, remedy), alike in by_kind.items():
        lines += by_clause(f"kept {count(alike, f'{reason.value} pod')}: {warning}")
        lines += wrapped(remedy, INDENT) if remedy else []
        for verdict in alike[:MAX_NAMES]:
            lines += packed((f"{verdict.pod}:", *verdict.pod.task_name), INDENT * 2)
        if len(alike) > MAX_NAMES:
            lines.append(f"{INDENT * 2}and {pluralize(len(alike) - MAX_NAMES, 'more pod')}")
    return lines


def due_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Say when the pods that are only kept for now will go."""
    lines = []
    for reason, now in ((Reason.SETTLING, "; settle_seconds=0 deletes them now"), (Reason.TERMINATING, "")):
        due = [v.eligible_at for v in verdicts if v.reason is reason and v.eligible_at is not None]
        if due:
            when = datetime.fromtimestamp(max(due), timezone.utc).strftime("%H:%M:%S UTC")
            lines.append(f"{len(due)} {reason.value}: a run after {when} deletes them{now}")
    return lines


def reap_summary(results: Sequence[Result], settings: Settings, pods: int) -> str:
    """Sum up a reaping in one line, for the log and the list of XComs.

    :param pods: how many were listed.
    """
    outcomes = count_outcomes(results)
    done = outcomes.pop((Outcome.WOULD_DELETE if settings.dry_run else Outcome.DELETED).value, 0)
    if settings.dry_run:
        head = f"{DRY_RUN}would delete {done:,} of {pluralize(pods, 'pod')}"
    else:
        head = f"deleted {done:,} of {count(results, 'zombie')}"
    by_dag = _by_dag(r.verdict.pod for r in results if r.outcome in _GONE)
    freed = _amounts(_freed(results))
    verb = "would free" if settings.dry_run else "freed"
    topics = [f"{head}: {by_dag}" if by_dag else head, key_values(outcomes), f"{verb} {freed}" if freed else ""]
    return "; ".join(filter(None, topics))


def reap_lines(results: Sequence[Result], settings: Settings) -> list[str]:
    """Say in the log what the lines of the single pods do not: what is left, and what each DAG's pods had requested."""
    lines = [line for r in results if r.outcome is Outcome.WOULD_DELETE for line in result_lines(r)]
    left = [r for r in results if r.outcome is Outcome.LEFT_FOR_NEXT_RUN]
    if left:
        lines += by_clause(f"left for the next run: {count(left, 'zombie')}, for {left[0].detail}")
    verb = "would free" if settings.dry_run else "freed"
    by_dag = {dag_id: _amounts(_freed(of_dag)) for dag_id, of_dag in _group_by_dag(results).items()}
    freed = [f"{verb} by pods of {dag_id}: {amounts}" for dag_id, amounts in by_dag.items() if amounts]
    return [*lines, *(line for dag in first_few(freed, MAX_DAGS, "DAG") for line in wrapped(dag))]


def result_lines(result: Result) -> list[str]:
    """Render what became of one zombie, whose it was, and why."""
    verdict, detail = result.verdict, _detail(result)
    return [
        *packed((f"{result.outcome.value} {verdict.pod}:", *verdict.pod.task_name)),
        *(by_clause(detail, INDENT) if detail else []),
        *wrapped(f"{verdict.reason.value}: {verdict.evidence}", INDENT),
    ]


def _detail(result: Result) -> str:
    return "; ".join(filter(None, [result.detail, str(result.error or "")]))


def reap_report(results: Sequence[Result], summary: str, problems: Sequence[str] = ()) -> dict[str, Any]:
    """Make the report of a run: counters, freed requests, what went wrong, and each zombie with its outcome."""
    return {
        "summary": summary,
        **({"undone": list(problems)} if problems else {}),
        "outcomes": count_outcomes(results),
        "freed": _freed(results),
        "totals_by_dag": {
            dag_id: {"outcomes": count_outcomes(of_dag), "freed": _freed(of_dag)}
            for dag_id, of_dag in _group_by_dag(results).items()
        },
        "zombies": [
            {
                "pod": str(r.verdict.pod),
                "outcome": r.outcome.value,
                "reason": r.verdict.reason.value,
                "evidence": r.verdict.evidence,
                **({"detail": _detail(r)} if _detail(r) else {}),
                **r.verdict.pod.ids,
            }
            for r in results
        ],
    }


def failures(results: Iterable[Result]) -> list[str]:
    """Say why pods were not deleted: once for each cause, however many pods have it."""
    by_cause: dict[tuple[str, ...], list[Result]] = defaultdict(list)
    for result in results:
        if result.error is not None:
            by_cause[result.error.signature].append(result)
    return [
        f"{count(alike, 'pod')} not deleted: {alike[0].error}; such as {alike[0].verdict.pod}"
        for alike in by_cause.values()
    ]


def failure_lines(summary: str, problems: Sequence[str]) -> list[str]:
    """Say how a failed run ended: short, for Airflow shows it in one piece; all of it is in the report.

    Airflow puts the name of the exception before the first line.
    """
    shown = first_few(problems, MAX_PROBLEMS, "problem")
    first = f"{count(problems, 'problem')}; all else was done"
    return [first, *(line for problem in shown for line in by_clause(f"- {problem}")), *by_clause(summary)]


def _freed(results: Iterable[Result]) -> dict[str, float]:
    """Add up the requests of the pods that went, or would go, by resource name."""
    totals: dict[str, float] = defaultdict(float)
    for result in results:
        if result.outcome in _GONE:
            for resource, quantity in result.verdict.pod.requests:
                totals[resource] += quantity
    return {resource: round(total, 3) for resource, total in totals.items()}


def _amounts(requests: Mapping[str, float]) -> str:
    """Write requests as people do, such as ``cpu=1.5 memory=512Mi``."""
    amounts = {
        name: _bytes(quantity) if name in ("memory", "ephemeral-storage") or name.startswith("hugepages-") else quantity
        for name, quantity in requests.items()
        if quantity
    }
    return " ".join(f"{name}={v if isinstance(v, str) else format(v, 'g')}" for name, v in amounts.items())


def _bytes(size: float) -> str:
    """Write bytes as Kubernetes does, in a unit that people can imagine."""
    return f"{size / 2**20:.0f}Mi" if size < 2**30 else f"{round(size / 2**30, 1):g}Gi"


def _by_dag(pods: Iterable[Pod]) -> str:
    """Say such as ``orders 6, sales 2``."""
    counts = count_dags(pods).items()
    return ", ".join(first_few([f"{dag_id} {number:,}" for dag_id, number in counts], MAX_DAGS, "DAG"))


def _group_by_dag(results: Iterable[Result]) -> dict[str, list[Result]]:
    by_dag: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_dag[result.verdict.pod.dag_id].append(result)
    return by_dag
