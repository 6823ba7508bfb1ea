"""What people read: the log of a classification, and the log and the report of a reaping."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .constants import Outcome, Reason
from .diagnosis import Diagnosis, diagnose
from .errors import KpoCleanupError, SettingsError
from .evidence import PodWarning, phrases, task_name, warning_of
from .identity import UNMAPPED
from .results import NOT_LISTED, Result, count_outcomes
from .settings import Settings
from .text import INDENT, LINE, count, fill, pluralize, printable, without_numbers, wrap
from .verdict import Verdict, count_reasons
from .workloads.workload import Workload, common_noun

MAX_PROBLEMS = 5  # problems in the message of a failed run
MAX_PODS = 25  # pods with the same cause that the log lists; the XCom has all of them
MAX_NAMES = 5  # pods named in a warning
MAX_WARNINGS = 2  # warnings that are repeated at the end of the log
MAX_WARNING = 170  # characters of each of these: two lines
MAX_DAGS = 5  # DAGs in a summary
DRY_RUN = "DRY RUN: "
NEXT_RUN = "the next run tries again"

_GONE = (Outcome.DELETED, Outcome.WOULD_DELETE)


def classification_summary(verdicts: Sequence[Verdict], settings: Settings) -> str:
    """Summarize a classification in one line, for the log and the list of XComs."""
    zombies = [v for v in verdicts if v.is_zombie]
    workloads = count(verdicts, _noun(verdicts))
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
    return f"{found}: {_by_dag(zombies)}{limit}{more}"


def classification_lines(verdicts: Sequence[Verdict], summary: str) -> list[str]:
    """Summarize a classification in the log, with the summary last, where Airflow opens a log."""
    zombies = count_reasons(v for v in verdicts if v.is_zombie)
    kept = count_reasons(v for v in verdicts if not (v.is_zombie or v.awaits_record))
    return [
        *wrap(f"zombies by reason: {_key_values(zombies)}" if zombies else ""),
        *wrap(f"kept: {_key_values(kept) or 'none'}"),
        *_warning_summary(verdicts),
        *wrap(summary),
    ]


def _warning_summary(verdicts: Iterable[Verdict]) -> list[str]:
    """Repeat the warnings about the most pods without their pods, so that the end of the log says what to do."""
    warnings = Counter(filter(None, map(warning_of, verdicts)))
    lines = []
    for warning, number in warnings.most_common(MAX_WARNINGS):
        what = "; ".join(filter(None, (warning.problem, warning.remedy)))
        lines += wrap(printable(f"{number:,} {warning.reason.value}: {what}", MAX_WARNING), INDENT)
    left = len(warnings) - MAX_WARNINGS
    return [*lines, *([f"{INDENT}and {pluralize(left, 'more warning')} above"] if left > 0 else [])]


def zombie_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """List the zombies by reason and diagnosis, each with one line of advice, and then by task and run."""
    by_cause: dict[tuple[Reason, Diagnosis], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.is_zombie:
            by_cause[verdict.reason, diagnose(verdict.workload)].append(verdict)
    lines = []
    for (reason, diagnosis), alike in by_cause.items():
        lines += wrap(f"{count(alike, f'{reason.value} zombie')}: {diagnosis.problem}")
        lines += wrap(f"advice: {diagnosis.advice}", INDENT)
        lines += _pods_by_run(alike)
    return lines


def _pods_by_run(verdicts: Sequence[Verdict], limit: int = MAX_PODS, known: str = "") -> list[str]:
    """List pods by run and try, in the order of their map indexes, and count those beyond a limit.

    :param known: the phrase of the evidence that the lines above contain.
    """
    by_run: dict[tuple[str, ...], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_run[task_name(verdict)].append(verdict)
    lines, room = [], limit
    left: Counter[str] = Counter()  # number of pods by DAG
    for name, of_run in by_run.items():
        listed = sorted(of_run, key=lambda verdict: verdict.workload.map_index)[:room]
        if listed:
            lines += fill(name, INDENT)
            lines += [INDENT * 2 + listed[0].link] if listed[0].link else []  # not broken, so that it can be clicked
        evidence = ""
        for verdict in listed:
            previous, evidence = evidence, "; ".join(phrase for phrase in phrases(verdict) if phrase != known)
            lines += _pod_lines(verdict.workload, evidence, without_numbers(evidence) == without_numbers(previous))
        room -= len(listed)
        left[of_run[0].dag_id] += len(of_run) - len(listed)
    if len(verdicts) > limit:
        lines += wrap(f"and {pluralize(len(verdicts) - limit, f'more {_noun(verdicts)}')}: {_counts(+left)}", INDENT)
    return lines


def _pod_lines(workload: Workload, evidence: str, is_repetition: bool) -> list[str]:
    """Render one pod with its evidence.

    Refer to the evidence of the pod above if that differs only in numbers and takes several lines.
    """
    index = "" if workload.map_index == UNMAPPED else f"[{workload.map_index}] "
    name = f"{index}{workload}{_and_pods(workload)}"
    first, *others = evidence.split("; ")
    lines = fill((f"{name}: {first}" if first else name, *others), INDENT * 2, ";")
    return wrap(f"{name}: as above", INDENT * 2) if is_repetition and len(lines) > 1 else lines


def warning_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """List what needs attention although the pods are kept: each problem once, with some pods."""
    by_warning: dict[PodWarning, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        warning = warning_of(verdict)
        if warning:
            by_warning[warning].append(verdict)
    lines = []
    for warning, alike in by_warning.items():
        if warning.reason is Reason.UNMATCHED:
            lines += wrap(f"kept {count(alike, _noun(alike))} with no matching task instance")
        else:
            lines += wrap(f"kept {count(alike, f'{warning.reason.value} {_noun(alike)}')}: {warning.problem}")
        lines += wrap(warning.remedy, INDENT)
        lines += _pods_by_run(alike, MAX_NAMES, warning.problem)
    return lines


def kept_lines(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """Yield the lines about each kept pod, for debugging."""
    for verdict in verdicts:
        if not (verdict.is_zombie or verdict.awaits_record):
            yield from wrap(f"kept {verdict.workload}, {verdict.reason.value}: {'; '.join(phrases(verdict))}")


_DUE = {  # what the times mean, and the hint below them
    Reason.SETTLING: ("due for deletion", "left for a later run, or for one with settle_seconds=0"),
    Reason.TERMINATING: ("due for another deletion", "a later run deletes what still exists then"),
}


def due_lines(verdicts: Sequence[Verdict], now: int) -> list[str]:
    """Return, for each reason, when the first and the last of the pods that are kept for now are due, and a hint."""
    by_reason: dict[Reason, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_reason[verdict.reason].append(verdict)
    lines = []
    for reason in filter(by_reason.__contains__, Reason):
        alike = by_reason[reason]
        expected, hint = _DUE.get(reason, ("due for deletion", "left for a later run"))
        due = [verdict.eligible_at for verdict in alike if verdict.eligible_at is not None]
        if due:
            first, last = (_time(time, now) for time in (min(due), max(due)))
            when = f"after {last}" if first == last else f"between {first} and {last}"
            some = f"{len(due):,} of " if len(due) < len(alike) else ""
            lines += wrap(f"{some}{count(alike, f'{reason.value} {_noun(alike)}')}: {expected} {when}")
            lines += wrap(hint, INDENT)
    return lines


def error_lines(error: KpoCleanupError, indent: str = "", bullet: str = "") -> list[str]:
    """Render an error: what failed and why, with the remedy and the server's message on separate lines below."""
    lines = wrap(f"{bullet}{error.summary}: {error.cause}" if error.cause else f"{bullet}{error.summary}", indent)
    if isinstance(error, SettingsError):
        for setting in error.errors:
            lines += wrap(f"- {setting.assignment}:", indent + INDENT)
            lines += wrap(setting.remedy, indent + INDENT * 2)
    server_message = f"server message: {error.server_message}" if error.server_message else ""
    return [*lines, *wrap(error.remedy, indent + INDENT), *wrap(server_message, indent + INDENT)]


def result_lines(results: Iterable[Result]) -> list[str]:
    """List results by outcome and cause, and then by task and run, with the evidence for each pod."""
    by_cause: dict[tuple[Outcome, str, bool, str], list[Result]] = defaultdict(list)
    for result in results:
        verdict, cause = result.verdict, _cause(result.error) or result.detail
        by_cause[result.outcome, verdict.reason.value, verdict.is_zombie, without_numbers(cause)].append(result)
    lines = []
    for (outcome, reason, is_zombie, _), alike in by_cause.items():
        first = alike[0]
        verdicts = [result.verdict for result in alike]
        noun = _noun(verdicts)
        pods = count(alike, f"{reason} {noun}") if is_zombie else f"{count(alike, noun)}, now {reason}"
        lines += wrap(f"{outcome.value}: {pods}")
        lines += wrap(first.detail, INDENT)
        lines += wrap(_cause(first.error), INDENT)
        lines += wrap(_deadline(alike), INDENT)
        lines += _pods_by_run(verdicts)
    return lines


def log_lines(workload: Workload, log: Iterable[str]) -> list[str]:
    """Render the last lines of a log, each cut to one line."""
    room = LINE - len(INDENT) - 2
    return [*wrap(f"last log lines of {workload}:"), *(f"{INDENT}| {printable(line, room)}".rstrip() for line in log)]


def _cause(error: KpoCleanupError | None) -> str:
    return (error.cause or error.summary) if error else ""


def reap_summary(
    results: Sequence[Result], settings: Settings, workloads: int, candidates: int = 0, noun: str = "pod"
) -> list[str]:
    """Summarize a reaping by topic: what was deleted, the other outcomes, what was freed, and what is left to do.

    :param workloads: the number of workloads that were listed.
    :param candidates: the number of those whose record was not read, because there are enough zombies without them.
    :param noun: common noun for the workloads.
    """
    outcomes = count_outcomes(results)
    done = outcomes.pop((Outcome.WOULD_DELETE if settings.dry_run else Outcome.DELETED).value, 0)
    if settings.dry_run:
        head = f"{DRY_RUN}would delete {done:,} of {pluralize(workloads, noun)}"
    else:
        head = f"deleted {done:,} of {count(results, 'zombie')}"
    by_dag = _by_dag(r.verdict for r in results if r.outcome in _GONE)
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


def _noun(verdicts: Iterable[Verdict]) -> str:
    return common_noun(verdict.workload for verdict in verdicts)


def _and_pods(workload: Workload) -> str:
    """Render a phrase such as `` and its 3 pods``; empty for a pod."""
    return f" and its {pluralize(workload.links.pods, 'pod')}" if workload.links.pods else ""


def _more_candidates(number: int) -> str:
    return f"and {pluralize(number, 'more candidate')} for later runs"


def reap_lines(results: Sequence[Result], settings: Settings) -> list[str]:
    """List what the lines about individual pods do not show: what each DAG's pods had requested, and what is left."""
    lines = result_lines(r for r in results if r.outcome is Outcome.WOULD_DELETE)
    verb = "would free" if settings.dry_run else "freed"
    by_dag = {dag_id: _amounts(_freed(of_dag)) for dag_id, of_dag in _group_by_dag(results).items()}
    freed = [f"{verb} by pods of {dag_id}: {amounts}" for dag_id, amounts in by_dag.items() if amounts]
    lines += [line for dag in _first_dags(freed) for line in wrap(dag)]
    if any(result.outcome is Outcome.AWAITING_FINALIZER for result in results):
        lines += wrap("awaiting_finalizer: repair the controllers that set these finalizers, or remove the finalizers")
    left = Counter(r.detail for r in results if r.outcome is Outcome.LEFT_FOR_NEXT_RUN)
    for detail, number in left.most_common():
        lines += wrap(f"left for the next run: {pluralize(number, 'zombie')} ({detail})")
    return lines


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
                **({"log": list(r.log)} if r.log else {}),
                **r.verdict.ids,
                **({"link": r.verdict.link} if r.verdict.link else {}),
            }
            for r in results
        ],
    }


def failures(results: Iterable[Result]) -> list[KpoCleanupError]:
    """Return why pods were not deleted, or may not have been: one error for each cause, however many pods have it."""
    by_cause: dict[tuple[str, ...], list[tuple[Workload, KpoCleanupError]]] = defaultdict(list)
    for result in results:
        if result.error:
            what = "may or may not have been deleted" if result.outcome is Outcome.UNKNOWN else "not deleted"
            what += f": {NOT_LISTED}" if result.detail == NOT_LISTED else ""
            workload, error = result.verdict.workload, result.error
            by_cause[(what, *_common_to(error, workload.namespace))].append((workload, error))
    errors = []
    for (what, *_), alike in by_cause.items():
        workload, error = alike[0]
        namespaces = len({workload.namespace for workload, _ in alike})
        place = f" in {namespaces:,} namespaces" if namespaces > 1 else ""
        noun = common_noun(workload for workload, _ in alike)
        example = str(workload) if len(alike) == 1 else f"such as {workload}"
        summary, cause = f"{count(alike, noun)}{place} ({example}) {what}", _cause(error)
        remedy = "; ".join(filter(None, [error.remedy, NEXT_RUN if error.is_retryable else ""]))
        errors.append(KpoCleanupError(**{**error.fields, "summary": summary, "cause": cause, "remedy": remedy}))
    return errors


def unlisted(errors_by_namespace: Mapping[str, KpoCleanupError]) -> list[KpoCleanupError]:
    """Return why namespaces could not be listed: one error for each cause, however many namespaces have it."""
    by_cause: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for namespace, error in errors_by_namespace.items():
        what = error.summary.replace(repr(namespace), "")  # an error about a kind of workload names no namespace
        by_cause[(what, *_common_to(error, namespace))].append(namespace)
    errors = []
    for namespaces in by_cause.values():
        error = errors_by_namespace[namespaces[0]]
        if len(namespaces) > 1:
            examples = ", ".join(map(printable, namespaces[:MAX_NAMES]))
            summary = f"listing pods in {len(namespaces):,} namespaces (such as {examples})"
            error = KpoCleanupError(**{**error.fields, "summary": summary, "cause": _cause(error)})
        errors.append(error)
    return errors


def _common_to(error: KpoCleanupError, namespace: str) -> tuple[str, str]:
    """Return the cause and the remedy of an error, without the numbers and the namespace, which may differ."""
    return without_numbers(_cause(error)), error.remedy.replace(repr(namespace), "")


def failure_lines(summary: Sequence[str], errors: Sequence[KpoCleanupError], untried: int = 0) -> list[str]:
    """Render the end of a failed run. It is short, because Airflow shows it as one message; the report has all errors.

    Airflow puts the name of the exception before the first line.

    :param untried: the number of zombies that are left for the next run.
    """
    left = len(errors) - MAX_PROBLEMS
    rest = f"{pluralize(untried, 'zombie')} left for the next run" if untried else "everything else was processed"
    return [
        f"{count(errors, 'problem')}; {rest}",
        *(line for error in errors[:MAX_PROBLEMS] for line in error_lines(error, bullet="- ")),
        *([f"- and {pluralize(left, 'more problem')}"] if left > 0 else []),
        *summary_lines(summary),
    ]


def summary_lines(topics: Sequence[str]) -> list[str]:
    """Render several topics, each on a line of its own, and all but the first one indented."""
    head, *others = topics
    return [*wrap(head), *(line for topic in others for line in wrap(topic, INDENT))]


def _deadline(results: Iterable[Result]) -> str:
    """Render when the last of these pods ends; return an empty string if none has a grace period."""
    deadlines = [(result.deadline, result.outcome) for result in results if result.deadline is not None]
    if not deadlines:
        return ""
    last, outcome = max(deadlines)
    return f"{'would be asked' if outcome is Outcome.WOULD_DELETE else 'asked'} to end by {_time(last)}"


def _time(seconds: int, now: int | None = None) -> str:
    """Render a time, without its date if that is today's."""
    time = _utc(seconds)
    is_today = now is not None and _utc(now).date() == time.date()
    return f"{time:%H:%M:%S} UTC" if is_today else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _freed(results: Iterable[Result]) -> dict[str, float]:
    """Add up the requests of the pods that are gone, or would be, by resource, without those within a grace period."""
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


def _by_dag(verdicts: Iterable[Verdict]) -> str:
    """Render a phrase such as ``orders 6, sales 2``."""
    return _counts(Counter(verdict.dag_id for verdict in verdicts))


def _counts(by_dag: Counter[str]) -> str:
    return ", ".join(_first_dags([f"{dag_id} {number:,}" for dag_id, number in by_dag.most_common()]))


def _group_by_dag(results: Iterable[Result]) -> dict[str, list[Result]]:
    by_dag: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_dag[result.verdict.dag_id].append(result)
    return by_dag
