"""What people read: the log of a classification, and the log and the report of a reaping."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .constants import Outcome, Reason
from .diagnosis import diagnose
from .errors import KpoCleanupError, SettingsError
from .evidence import PodWarning, duration, phrases, warning_of
from .results import Result, count_outcomes
from .settings import Settings
from .text import INDENT, count, fill, pluralize, wrap
from .verdict import Verdict, count_reasons
from .workloads.workload import Workload, common_noun

MAX_PROBLEMS = 5  # in the message of a failed run
MAX_ROWS = 100  # zombies in the log; all are in the XCom
MAX_NAMES = 5  # pods that a warning names
MAX_DAGS = 5  # in a summary
DRY_RUN = "DRY RUN: "

_GONE = (Outcome.DELETED, Outcome.WOULD_DELETE)


def classification_summary(verdicts: Sequence[Verdict], settings: Settings) -> str:
    """Summarize a classification in one line, for the log and the list of XComs."""
    zombies = [v for v in verdicts if v.is_zombie]
    workloads = count(verdicts, common_noun(v.workload for v in verdicts))
    candidates = sum(verdict.awaits_record for verdict in verdicts)
    more = f"; {_more_candidates(candidates)}" if candidates else ""
    dry_run = DRY_RUN if settings.dry_run else ""
    if not zombies:
        return f"{dry_run}nothing to delete among {workloads}{more}"
    found = (
        f"{dry_run}would delete {len(zombies):,} of {workloads}"
        if dry_run
        else f"{count(zombies, 'zombie')} of {workloads}"
    )
    limit = f"; at most {settings.max_deletes:,} per run (max_deletes)" if len(zombies) > settings.max_deletes else ""
    return f"{found}: {_by_dag(v.workload for v in zombies)}{limit}{more}"


def classification_lines(verdicts: Sequence[Verdict], summary: str) -> list[str]:
    """Summarize a classification in the log, with the summary last, where Airflow opens a log."""
    zombies = count_reasons(v for v in verdicts if v.is_zombie)
    kept = count_reasons(v for v in verdicts if not (v.is_zombie or v.awaits_record))
    reasons = [f"zombies by reason: {_key_values(zombies)}"] if zombies else []
    return [line for topic in (*reasons, f"kept: {_key_values(kept) or 'none'}", summary) for line in wrap(topic)]


def zombie_lines(verdicts: Sequence[Verdict], now: int) -> list[str]:
    """List the zombies by their diagnosis, each with one line of advice, and the evidence for each pod."""
    zombies = [verdict for verdict in verdicts if verdict.is_zombie]
    by_diagnosis = defaultdict(list)
    for verdict in zombies:
        by_diagnosis[diagnose(verdict.workload)].append(verdict)
    lines, room = [], MAX_ROWS
    for diagnosis, alike in by_diagnosis.items():
        lines += wrap(f"{count(alike, 'zombie')}: {diagnosis.problem}")
        lines += wrap(f"advice: {diagnosis.advice}", INDENT)
        for verdict in alike[: max(room, 0)]:
            age = duration(now - verdict.workload.created)
            lines += fill((f"{age}, {verdict.reason.value}:", *verdict.workload.task_name), INDENT)
            workload = verdict.workload
            lines += wrap(f"{workload.noun} {workload.place}{_and_pods(workload)}", INDENT * 2)
            lines += fill(phrases(verdict), INDENT * 2, ";")
        room -= len(alike)
    if len(zombies) > MAX_ROWS:
        lines.append(f"... and {len(zombies) - MAX_ROWS:,} more; the XCom of this task has all of them")
    return lines


def warning_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """List what needs attention although the pods are kept: each problem once, with some names."""
    by_warning: dict[PodWarning, list[Workload]] = defaultdict(list)
    for verdict in verdicts:
        warning = warning_of(verdict)
        if warning:
            by_warning[warning].append(verdict.workload)
    lines = []
    for warning, workloads in by_warning.items():
        if warning.reason is Reason.UNMATCHED:
            lines += wrap(f"kept {count(workloads, common_noun(workloads))} with no matching task instance")
        else:
            noun = common_noun(workloads)
            lines += wrap(f"kept {count(workloads, f'{warning.reason.value} {noun}')}: {warning.problem}")
        lines += wrap(warning.remedy, INDENT)
        for workload in workloads[:MAX_NAMES]:
            lines += fill((f"{workload}:", *workload.task_name), INDENT * 2)
        if len(workloads) > MAX_NAMES:
            lines.append(f"{INDENT * 2}and {pluralize(len(workloads) - MAX_NAMES, f'more {common_noun(workloads)}')}")
    return lines


def kept_lines(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """Yield a line for each kept pod, for debugging."""
    kept = (verdict for verdict in verdicts if not (verdict.is_zombie or verdict.awaits_record))
    return (f"kept {v.workload}, {v.reason.value}: {'; '.join(phrases(v))}" for v in kept)


def due_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return when the pods that are only kept for now will be deleted."""
    lines = []
    for reason, hint in ((Reason.SETTLING, "; settle_seconds=0 deletes them now"), (Reason.TERMINATING, "")):
        due = [v.eligible_at for v in verdicts if v.reason is reason and v.eligible_at is not None]
        if due:
            when = datetime.fromtimestamp(max(due), timezone.utc).strftime("%H:%M:%S UTC")
            lines.append(f"{len(due)} {reason.value}: a run after {when} deletes them{hint}")
    return lines


def error_lines(error: KpoCleanupError, indent: str = "", bullet: str = "") -> list[str]:
    """Render an error: what failed and why, with the remedy and the server's message in lines of their own below."""
    lines = wrap(f"{bullet}{error.summary}: {error.cause}" if error.cause else f"{bullet}{error.summary}", indent)
    if isinstance(error, SettingsError):
        for setting in error.errors:
            lines += wrap(f"- {setting.assignment}:", indent + INDENT)
            lines += wrap(setting.remedy, indent + INDENT * 2)
    server_message = f"server message: {error.server_message}" if error.server_message else ""
    return [*lines, *wrap(error.remedy, indent + INDENT), *wrap(server_message, indent + INDENT)]


def result_lines(result: Result) -> list[str]:
    """Render one result: the outcome, the pod and its task instance, the problem, and the evidence."""
    verdict, now = result.verdict, "" if result.verdict.is_zombie else " now"
    workload = verdict.workload
    first, *others = phrases(verdict) or ("",)
    return [
        *fill((f"{result.outcome.value} {workload}{_and_pods(workload)}:", *workload.task_name)),
        *wrap(result.detail, INDENT),
        *wrap(_deadline(result), INDENT),
        *(error_lines(result.error, INDENT) if result.error else []),
        *fill((f"{verdict.reason.value}{now}: {first}", *others), INDENT, ";"),
    ]


def reap_summary(
    results: Sequence[Result], settings: Settings, workloads: int, candidates: int = 0, noun: str = "pod"
) -> list[str]:
    """Summarize a reaping by topic: what was deleted, the other outcomes, what was freed, and what is left to do.

    :param workloads: the number of workloads that were listed.
    :param candidates: the number of those whose record was not read, because there are enough zombies without them.
    :param noun: what people call all of the workloads.
    """
    outcomes = count_outcomes(results)
    done = outcomes.pop((Outcome.WOULD_DELETE if settings.dry_run else Outcome.DELETED).value, 0)
    if settings.dry_run:
        head = f"{DRY_RUN}would delete {done:,} of {pluralize(workloads, noun)}"
    else:
        head = f"deleted {done:,} of {count(results, 'zombie')}"
    by_dag = _by_dag(r.verdict.workload for r in results if r.outcome in _GONE)
    freed = _amounts(_freed(results))
    verb = "would free" if settings.dry_run else "freed"
    ending = sum(r.outcome is Outcome.WOULD_DELETE and r.deadline is not None for r in results)
    topics = [
        f"{head}: {by_dag}" if by_dag else head,
        f"{ending:,} of them would end within a grace period" if ending else "",
        _key_values(outcomes),
        f"{verb} {freed}" if freed else "",
        _more_candidates(candidates) if candidates else "",
    ]
    return list(filter(None, topics))


def _and_pods(workload: Workload) -> str:
    """Render such as `` and its 3 pods``; empty for a pod."""
    return f" and its {pluralize(workload.links.pods, 'pod')}" if workload.links.pods else ""


def _more_candidates(number: int) -> str:
    return f"and {pluralize(number, 'more candidate')} for later runs"


def reap_lines(results: Sequence[Result], settings: Settings) -> list[str]:
    """List what the lines of the single pods do not show: what is left, and what each DAG's pods had requested."""
    lines = [line for r in results if r.outcome is Outcome.WOULD_DELETE for line in result_lines(r)]
    left = Counter(r.detail for r in results if r.outcome is Outcome.LEFT_FOR_NEXT_RUN)
    for detail, number in left.most_common():
        lines += wrap(f"left for the next run: {pluralize(number, 'zombie')} ({detail})")
    verb = "would free" if settings.dry_run else "freed"
    by_dag = {dag_id: _amounts(_freed(of_dag)) for dag_id, of_dag in _group_by_dag(results).items()}
    freed = [f"{verb} by pods of {dag_id}: {amounts}" for dag_id, amounts in by_dag.items() if amounts]
    return [*lines, *(line for dag in _first_dags(freed) for line in wrap(dag))]


def reap_report(results: Sequence[Result], summary: str, errors: Sequence[KpoCleanupError] = ()) -> dict[str, Any]:
    """Build the report of a run: counters, freed requests, what went wrong, and each zombie with its outcome."""
    return {
        "summary": summary,
        **({"undone": [error.fields for error in errors]} if errors else {}),
        "outcomes": count_outcomes(results),
        "freed": _freed(results),
        "totals_by_dag": {
            dag_id: {"outcomes": count_outcomes(of_dag), "freed": _freed(of_dag)}
            for dag_id, of_dag in _group_by_dag(results).items()
        },
        "zombies": [
            {
                **r.verdict.workload.reference,
                "outcome": r.outcome.value,
                "reason": r.verdict.reason.value,
                "evidence": list(phrases(r.verdict)),
                **({"detail": r.detail} if r.detail else {}),
                **({"deadline": _time(r.deadline)} if r.deadline is not None else {}),
                **({"error": r.error.fields} if r.error else {}),
                **r.verdict.workload.ids,
            }
            for r in results
        ],
    }


def failures(results: Iterable[Result]) -> list[KpoCleanupError]:
    """Return why pods were not deleted, or may not have been: one error for each cause, however many pods have it."""
    by_cause: dict[tuple[str, str], list[tuple[Workload, KpoCleanupError]]] = defaultdict(list)
    for result in results:
        if result.error:
            what = "may or may not have been deleted" if result.outcome is Outcome.UNKNOWN else "not deleted"
            # The numbers of one cause differ, such as the bytes that a broken connection has transferred.
            cause = re.sub("[0-9]+", "0", result.error.cause or result.error.summary)
            by_cause[what, cause].append((result.verdict.workload, result.error))
    errors = []
    for (what, _), alike in by_cause.items():
        workload, error = alike[0]
        namespaces = len({workload.namespace for workload, _ in alike})
        place = f" in {namespaces:,} namespaces" if namespaces > 1 else ""
        noun = common_noun(workload for workload, _ in alike)
        summary = f"{count(alike, noun)}{place} {what}"
        example = str(workload) if len(alike) == 1 else f"such as {workload}"
        cause = f"{error.cause or error.summary} ({example})"
        errors.append(KpoCleanupError(**{**error.fields, "summary": summary, "cause": cause}))
    return errors


def failure_lines(summary: Sequence[str], errors: Sequence[KpoCleanupError], untried: int = 0) -> list[str]:
    """Render the end of a failed run. It is short, because Airflow shows it in one piece; the report has all of it.

    Airflow puts the name of the exception before the first line.

    :param untried: the number of zombies that are left for the next run.
    """
    left = len(errors) - MAX_PROBLEMS
    rest = f"{pluralize(untried, 'zombie')} left for the next run" if untried else "everything else was done"
    return [
        f"{count(errors, 'problem')}; {rest}",
        *(line for error in errors[:MAX_PROBLEMS] for line in error_lines(error, bullet="- ")),
        *([f"- and {pluralize(left, 'more problem')}"] if left > 0 else []),
        *summary_lines(summary),
    ]


def summary_lines(topics: Sequence[str]) -> list[str]:
    """Render several topics, each in a line of its own, and all but the first one indented."""
    head, *others = topics
    return [*wrap(head), *(line for topic in others for line in wrap(topic, INDENT))]


def _deadline(result: Result) -> str:
    """Render when the pod ends, or return an empty string if it has no grace period."""
    if result.deadline is None:
        return ""
    verb = "would be asked" if result.outcome is Outcome.WOULD_DELETE else "was asked"
    return f"{verb} to end by {_time(result.deadline)}"


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _freed(results: Iterable[Result]) -> dict[str, float]:
    """Add up, by resource name, the requests of the pods that are gone, or would be, and not within a grace period."""
    totals: dict[str, float] = defaultdict(float)
    for result in results:
        if result.outcome in _GONE and result.deadline is None:
            for resource, quantity in result.verdict.workload.held_requests:
                totals[resource] += quantity
    return {resource: round(total, 3) for resource, total in totals.items()}


def _amounts(requests: Mapping[str, float]) -> str:
    """Render requests such as ``cpu=1.5 memory=512Mi``."""
    amounts = {
        name: _bytes(quantity) if name in ("memory", "ephemeral-storage") or name.startswith("hugepages-") else quantity
        for name, quantity in requests.items()
        if quantity
    }
    return " ".join(f"{name}={v if isinstance(v, str) else format(v, 'g')}" for name, v in amounts.items())


def _bytes(size: float) -> str:
    """Render bytes in one of Kubernetes' units."""
    return f"{size / 2**20:.0f}Mi" if size < 2**30 else f"{round(size / 2**30, 1):g}Gi"


def _key_values(counts: Mapping[str, int]) -> str:
    """Render counters as ``key=value`` words."""
    return " ".join(f"{name}={number}" for name, number in counts.items())


def _first_dags(texts: Sequence[str]) -> list[str]:
    """Return the texts about the first DAGs, and how many more there are."""
    left = len(texts) - MAX_DAGS
    return [*texts[:MAX_DAGS], f"and {pluralize(left, 'more DAG')}"] if left > 0 else list(texts)


def _by_dag(workloads: Iterable[Workload]) -> str:
    """Render such as ``orders 6, sales 2``."""
    counts = Counter(workload.dag_id for workload in workloads).most_common()
    return ", ".join(_first_dags([f"{dag_id} {number:,}" for dag_id, number in counts]))


def _group_by_dag(results: Iterable[Result]) -> dict[str, list[Result]]:
    by_dag: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_dag[result.verdict.workload.dag_id].append(result)
    return by_dag
