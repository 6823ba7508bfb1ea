"""What people read: the table of a classification and the report of a reaping."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Sized
from datetime import datetime, timezone
from typing import Any

from tabulate import tabulate

from .classify import Verdict, count_reasons
from .evidence import duration
from .identity import UNMAPPED
from .pod import Pod
from .reap import Result, count_outcomes
from .settings import Settings
from .vocabulary import Outcome, Reason

MAX_PROBLEMS = 5  # in the message of a failed run
MAX_ROWS = 100  # of the table; all zombies are in the XCom
# Airflow's log view has room for 100 characters of a message on a usual screen, and does not wrap them. So long names
# are shortened (they are whole in the log of `reap` and in the XCom), and the evidence goes below.
COLUMNS = ("age", "reason", "task", "pod")
NAME_WIDTH = 40


def summary_line(verdicts: Sequence[Verdict]) -> str:
    """A classification in one line: the zombies and the kept pods, counted by reason."""
    zombies = count_reasons(verdict for verdict in verdicts if verdict.is_zombie)
    kept = count_reasons(verdict for verdict in verdicts if not verdict.is_zombie)
    total = sum(zombies.values())
    of_which = f" ({key_values(zombies)})" if zombies else ""
    return (
        f"{total} {'zombie' if total == 1 else 'zombies'} among {count(verdicts, 'pod')}{of_which}; "
        f"kept: {key_values(kept) or 'none'}"
    )


def zombie_lines(verdicts: Sequence[Verdict], now: int) -> list[str]:
    """A table of the zombies, each with its evidence below it; nothing where there are none."""
    zombies = [verdict for verdict in verdicts if verdict.is_zombie]
    shown = zombies[:MAX_ROWS]
    if not shown:
        return []
    several_namespaces = len({verdict.pod.namespace for verdict in verdicts}) > 1
    rows = [_row(verdict, now, several_namespaces) for verdict in shown]
    header, rule, *table = tabulate(rows, COLUMNS, disable_numparse=True).splitlines()
    indent = " " * (rule.index(" ") + 2)
    lines = [header, rule]
    for line, verdict in zip(table, shown):
        lines += [line, f"{indent}{verdict.evidence}"]
    if len(zombies) > MAX_ROWS:
        lines.append(f"... and {len(zombies) - MAX_ROWS} more; all are in the XCom of this task")
    return lines


def warnings_of(verdicts: Sequence[Verdict], settings: Settings) -> list[str]:
    """Say what somebody should look at although nothing is deleted for it."""
    lines = []
    for verdict in verdicts:
        if verdict.warning:
            lines.append(f"{verdict.reason.value}: {task_of(verdict.pod)}: {verdict.evidence}; pod {verdict.pod}")
            lines.append(f"    {verdict.warning}")  # a line of its own, for Airflow's log view does not wrap
    unmatched = [v for v in verdicts if v.reason is Reason.UNMATCHED and not v.is_zombie]
    if unmatched and not settings.delete_unmatched_pods:
        lines.append(
            f"kept {count(unmatched, 'unmatched pod')}: this Airflow cannot account for them; "
            "delete_unmatched_pods=True removes such pods, if no other Airflow uses these namespaces"
        )
    by_cause: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.reason is Reason.UNRESOLVED:
            by_cause[verdict.evidence.partition(";")[0]].append(verdict)
    lines += [f"kept {count(alike, 'unresolved pod')}: {cause}" for cause, alike in by_cause.items()]
    spark = [v for v in verdicts if v.reason is Reason.BAD_LABELS and "Spark" in v.evidence]
    if spark:
        lines.append(f"kept {count(spark, 'pod')} of the SparkKubernetesOperator, which is not supported")
    return lines


def due_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Say when the pods that are only kept for now will go."""
    lines = []
    for reason, now in ((Reason.SETTLING, "; settle_seconds=0 deletes them now"), (Reason.TERMINATING, "")):
        due = [v.due for v in verdicts if v.reason is reason and v.due is not None]
        if due:
            when = datetime.fromtimestamp(max(due), timezone.utc).strftime("%H:%M:%S UTC")
            lines.append(f"{len(due)} {reason.value}: a run after {when} deletes them{now}")
    return lines


def reap_lines(results: Sequence[Result]) -> list[str]:
    """The log of a reaping, apart from the deletions, which were logged one by one."""
    would = [r for r in results if r.outcome is Outcome.WOULD_DELETE]
    lines = [f"would delete {r.verdict.pod}, {r.verdict.reason.value}: {r.verdict.evidence}" for r in would]
    if would:
        lines.append(f"DRY RUN: {count(would, 'pod')} would be deleted, none was")
    left = [r for r in results if r.outcome is Outcome.LEFT_FOR_NEXT_RUN]
    if left:
        lines.append(f"left for the next run: {count(left, 'zombie')}, for {left[0].deletion}")
    return lines


def reap_report(results: Sequence[Result], problems: Sequence[str] = ()) -> dict[str, Any]:
    """The report of a run: counters, what was freed, what went wrong, and every zombie with its outcome."""
    outcomes = count_outcomes(results)
    freed = _freed(results)
    cpu, memory = freed.get("cpu", 0.0), int(freed.get("memory", 0))
    verb = "would free" if Outcome.WOULD_DELETE.value in outcomes else "freed"
    requests = f"; {verb} cpu={cpu:g} memory={_memory(memory)}" if cpu or memory else ""
    return {
        "summary": f"{key_values(outcomes) or 'no zombies'}{requests}",
        **({"problems": list(problems)} if problems else {}),
        "outcomes": outcomes,
        "freed": freed,
        "zombies": [
            {
                "pod": str(r.verdict.pod),
                "outcome": r.outcome.value,
                "reason": r.verdict.reason.value,
                "evidence": r.verdict.evidence,
                **({"detail": str(r.deletion)} if str(r.deletion) else {}),
            }
            for r in results
        ],
    }


def _freed(results: Iterable[Result]) -> dict[str, float]:
    """Add up the requests of the pods that went, or would go, by resource name."""
    totals: dict[str, float] = defaultdict(float)
    for result in results:
        if result.outcome in (Outcome.DELETED, Outcome.WOULD_DELETE):
            for resource, quantity in result.verdict.pod.requests:
                totals[resource] += quantity
    return {resource: round(total, 3) for resource, total in totals.items()}


def failures(results: Iterable[Result]) -> list[str]:
    """What kept pods from being deleted: one line for each cause, however many pods have it."""
    by_cause: dict[tuple[str, ...], list[Result]] = defaultdict(list)
    for result in results:
        if result.outcome is Outcome.FAILED:
            by_cause[result.deletion.cause].append(result)
    return [
        f"{count(alike, 'pod')} not deleted: {alike[0].deletion}; such as {alike[0].verdict.pod}"
        for alike in by_cause.values()
    ]


def failure_message(summary: str, problems: Sequence[str]) -> str:
    """What a failed run ends with: short, for it is shown in one piece; all of it is in the log and the report."""
    more = [f"and {len(problems) - MAX_PROBLEMS} more, see the log"] if len(problems) > MAX_PROBLEMS else []
    return "\n- ".join([summary, *problems[:MAX_PROBLEMS], *more])


def count(things: Sized, noun: str) -> str:
    """Such as ``1 pod`` or ``2 pods``."""
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def key_values(counts: Mapping[str, int]) -> str:
    """Counters as ``key=value`` words."""
    return " ".join(f"{name}={count}" for name, count in counts.items())


def _row(verdict: Verdict, now: int, several_namespaces: bool) -> tuple[str, ...]:
    pod = verdict.pod
    place = f"{pod.namespace}/" if several_namespaces else ""
    return duration(now - pod.created), verdict.reason.value, _shortened(task_of(pod)), _shortened(f"{place}{pod.name}")


def task_of(pod: Pod) -> str:
    """The task instance of a pod, without its run: such as ``orders.load[3] try 2``."""
    index = "" if pod.map_index == UNMAPPED else f"[{pod.map_index}]"
    return f"{pod.dag_id}.{pod.task_id}{index} try {pod.try_number}"


def _memory(size: int) -> str:
    """Bytes as Kubernetes writes them, in a unit that people can imagine."""
    return f"{size / 2**20:.0f}Mi" if size < 2**30 else f"{round(size / 2**30, 1):g}Gi"


def _shortened(text: str) -> str:
    """Without its middle, where it is too long: what tells it from others may be at either end."""
    if len(text) <= NAME_WIDTH:
        return text
    half = (NAME_WIDTH - 2) // 2
    return f"{text[:half]}..{text[-half:]}"
