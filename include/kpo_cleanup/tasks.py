"""The four tasks of the DAG, each from its settings and inputs to its XCom."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from . import __version__, metrics, report, xcom
from .airflow_compat import (
    AirflowException,
    AirflowFailException,
    get_current_context,
    is_too_long,
    link_to,
    reject_long_xcom,
    skip_tasks,
    ui_url,
)
from .candidates import with_records
from .classify import Snapshot, classify, with_plain_tasks
from .config import ResolvedSettings
from .constants import Outcome
from .errors import KpoCleanupError
from .kube.interface import Listing
from .kube.workloads import KubeClient
from .reap import reap
from .results import Result
from .settings import Settings
from .surge import find_surge
from .task_instances.choice import choose_source
from .termination import raise_on_sigterm
from .text import count, pluralize
from .verdict import Verdict
from .workloads.registry import KINDS
from .workloads.workload import POD, common_noun
from .xcom_retention import delete_previous_inputs

log = logging.getLogger(__name__)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Disable the cyclic garbage collector while building large, long-lived object graphs; also as a decorator.

    Otherwise it scans all objects of Airflow repeatedly while thousands of pods are created, and finds no garbage.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def pull_return_values(*task_ids: str) -> list[Any]:
    """Return the return values of earlier tasks of this run.

    :raises KpoCleanupError: if one of them is missing.
    """
    ti = get_current_context()["ti"]
    values = [ti.xcom_pull(task_ids=task_id) for task_id in task_ids]
    for task_id, value in zip(task_ids, values):
        if value is None:
            raise KpoCleanupError(
                f"this run has no XCom of {task_id}",
                cause="a later run or an XCom cleanup deleted it",
                remedy="clear list_pods and its downstream tasks, or trigger a new run",
            )
    return values


class Cleanup:
    """The tasks of one DAG, which share the settings that its file fixes."""

    def __init__(self, read: Callable[..., ResolvedSettings]) -> None:
        """Store the function that reads the settings of this DAG, with the params and the conf of a run."""
        self._read = read

    def run(self, task: Callable[..., dict[str, Any]], *upstream: str) -> dict[str, Any]:
        """Run a task with the return values of earlier ones, and let Airflow retry only what is retryable.

        Airflow logs the exception with its traceback, which is the end of the log on Airflow 2. It contains all that
        the person on call needs, so nothing else is logged, and is raised here, so that the traceback is short.

        :raises AirflowException: instead of the errors of this package.
        """
        try:
            with gc_paused():
                return task(*pull_return_values(*upstream))
        except AirflowFailException as error:
            failure: AirflowException = error.with_traceback(None)
        except KpoCleanupError as error:
            ti: Any = get_current_context()["ti"]
            will_retry = error.is_retryable and ti.try_number <= ti.max_tries
            lines = [self._consequence(will_retry), *report.error_lines(error)]
            lines += [report.NEXT_RUN] if error.is_retryable and not will_retry else []
            failure = (AirflowException if error.is_retryable else AirflowFailException)("\n".join(lines))
        raise failure

    def _consequence(self, will_retry: bool) -> str:
        """Return what an error means for this run, in a short line because Airflow puts the exception's name before it.

        It introduces the error, which Airflow may show on the same line.
        """
        stopped = "dry run stopped" if self._resolve().settings.dry_run else "stopped before deleting anything"
        return f"{stopped}{' and will be retried' if will_retry else ''}:"

    def list_pods(self) -> dict[str, Any]:
        """List the pods, before the task instances are queried: a pod created in between would look like a zombie.

        If there are none, the tasks after this one are skipped.
        """
        resolved = self._resolve()
        settings = resolved.validated()
        _log(logging.INFO, resolved.describe(__version__))
        if not settings.dry_run:
            log.info("This run deletes zombies. Pause the DAG to prevent further runs.")
        _warn_if_dry(settings)
        delete_previous_inputs(get_current_context())
        client = _client(settings)
        listing = client.list_workloads(settings.namespace_list(), settings.label_selector, settings.excluded())
        listing = _with_errors_of_kinds(listing, is_explicit="kinds" in resolved.origins)
        for error in report.unlisted(listing.errors_by_namespace):
            _log(logging.WARNING, report.error_lines(error))
        if not listing.workloads:
            _warn_of_no_pods(settings, client, resolved.origins)
        answer = {**xcom.dump_listing(listing), "dry_run": settings.dry_run}
        reject_long_xcom(answer, count(listing.workloads, common_noun(listing.workloads)))
        if not listing.workloads and not listing.errors_by_namespace:
            metrics.send_verdicts(get_current_context()["ti"].dag_id, [], settings, int(time.time()))
            _push_summary(report.classification_summary([], settings))
            _finish_early(settings, answer, "fetch_active_tis", "classify", "reap")
        return answer

    def fetch_active_tis(self, listing: dict[str, Any]) -> dict[str, Any]:
        """Query Airflow for the task instances of the pods. Any error fails the run: no answer does not mean none."""
        settings, pods = self._settings(listing), xcom.load_listing(listing).workloads
        source = choose_source(settings.airflow_conn_id, get_current_context()["ti"])
        task_instances = source.fetch(with_plain_tasks(pod.key for pod in pods if not pod.label_problem))
        snapshot = with_records(Snapshot(pods, task_instances, settings, int(time.time())), source)
        answer = {
            **xcom.dump_task_instances(snapshot.task_instances, snapshot.records),
            "unread": snapshot.unread,
        }
        log.info("%s", answer["summary"])
        return answer

    def classify(self, listing: dict[str, Any], task_instances: dict[str, Any]) -> dict[str, Any]:
        """Classify every pod, and log the verdicts. If there is nothing to delete or report, ``reap`` is skipped."""
        settings, now = self._settings(listing), int(time.time())
        listed, (found, records) = xcom.load_listing(listing), xcom.load_task_instances(task_instances)
        unread = [*map(tuple, task_instances["unread"])]
        snapshot = Snapshot(listed.workloads, found, settings, now, records, unread)
        verdicts = _with_links(classify(snapshot))
        summary = report.classification_summary(verdicts, settings)
        _log(logging.INFO, report.zombie_lines(verdicts))
        _log(logging.WARNING, report.warning_lines(verdicts))
        _log(logging.DEBUG, report.kept_lines(verdicts))
        _log(logging.INFO, [*report.due_lines(verdicts, now), *report.classification_lines(verdicts, summary)])
        metrics.send_verdicts(get_current_context()["ti"].dag_id, verdicts, settings, now)
        _push_summary(summary)
        answer = {
            "summary": summary,
            "dry_run": settings.dry_run,
            **xcom.dump_classification(verdicts, listed.errors_by_namespace),
        }
        if is_too_long(answer):
            log.warning("The XCom omits the kept pods, because the metadata database cannot store it with them")
            answer["untouched"] = []
        reject_long_xcom(answer, pluralize(len(answer["zombies"]), "zombie"))
        if not answer["zombies"] and not listed.errors_by_namespace:
            _finish_early(settings, answer, "reap")
        return answer

    def reap(self, classification: dict[str, Any]) -> dict[str, Any]:
        """Delete the zombies and report.

        :raises AirflowFailException: if a pod could not be deleted or a namespace could not be listed, after everything
            else was done and reported; or if there are too many zombies, before anything is deleted.
        """
        settings, context = self._settings(classification), get_current_context()
        zombies, errors_by_namespace, found, candidates, noun = xcom.load_classification(classification)
        surge = find_surge(zombies, candidates, found, settings, noun)
        errors = report.unlisted(errors_by_namespace)
        if surge and settings.dry_run:
            _log(logging.WARNING, ["A run that is not a dry run would fail:", *report.error_lines(surge, "    ")])
        if surge and not settings.dry_run:
            errors.insert(0, surge)
            why = "max_delete_percent was exceeded"
            results = [Result(zombie, Outcome.LEFT_FOR_NEXT_RUN, why) for zombie in zombies]
        else:
            results = _reap(zombies, settings, context["ti"])
        errors += report.failures(results)
        topics = report.reap_summary(results, settings, found, candidates, noun)
        summary = "; ".join(topics)
        answer = report.reap_report(results, summary, errors)
        _log(logging.INFO, report.reap_lines(results, settings))
        metrics.send_results(context["ti"].dag_id, results, settings, int(time.time()))
        _push_summary(summary)
        if errors:
            # A failing task returns nothing, but what it did must be recorded all the same.
            context["ti"].xcom_push(key="return_value", value=answer)
            lines = report.failure_lines(
                topics, errors, sum(result.outcome is Outcome.LEFT_FOR_NEXT_RUN for result in results)
            )
            raise AirflowFailException("\n".join(lines))
        _log(logging.INFO, report.summary_lines(topics))
        return answer

    def _resolve(self) -> ResolvedSettings:
        context: Any = get_current_context()
        return self._read(dict(context["params"]), context["dag_run"].conf)

    def _settings(self, earlier: Mapping[str, Any]) -> Settings:
        """Return the settings of this run, and warn if it is a dry run.

        :param earlier: the return value of an earlier task. If that was a dry run, this one is as well: the
            configuration of this worker may differ.
        :raises SettingsError: if any setting is invalid.
        """
        settings = self._resolve().validated()
        settings = replace(settings, dry_run=settings.dry_run or bool(earlier.get("dry_run")))
        _warn_if_dry(settings)
        return settings


def _finish_early(settings: Settings, answer: Mapping[str, Any], *task_ids: str) -> None:
    """Skip the tasks after this one, because there is nothing to reap: no worker starts for them.

    :param answer: the return value of this task.
    """
    # As reap would have done, because a monitoring system misses the first increase of a counter that is new to it.
    metrics.send_results(get_current_context()["ti"].dag_id, [], settings, int(time.time()))
    skip_tasks(get_current_context(), answer, *task_ids)


def _with_links(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts, each with the link to its task instance, if there is one."""
    base_url = ui_url()
    return [v._replace(link=link_to(base_url, *v.raw_ids, v.workload.map_index)) if v.raw_ids else v for v in verdicts]


def _reap(zombies: Sequence[Verdict], settings: Settings, ti: Any) -> list[Result]:
    cluster = _client(settings)
    source = choose_source(settings.airflow_conn_id, ti)
    namespaces = settings.namespace_list() or [cluster.own_namespace()]
    timeout = ti.task.execution_timeout
    # The rest of the time is for the report, before Airflow's timeout ends the task.
    max_seconds = math.inf if timeout is None else 0.8 * float(timeout.total_seconds())
    with raise_on_sigterm():
        return reap(zombies, cluster, source, settings, namespaces, max_seconds=max_seconds)


def _client(settings: Settings) -> KubeClient:
    return KubeClient(settings.kubernetes_conn_id, kinds=settings.kind_list())


def _with_errors_of_kinds(listing: Listing, *, is_explicit: bool) -> Listing:
    """Return the listing with errors about whole kinds if the kinds were set explicitly; otherwise only warn."""
    if is_explicit:
        return replace(listing, errors_by_namespace={**listing.errors_by_namespace, **listing.errors_by_kind})
    for kind, error in listing.errors_by_kind.items():
        lines = [f"some {kind}s could not be listed, and their pods are kept:", *report.error_lines(error, "    ")]
        _log(logging.WARNING, lines)
    return listing


def _log(level: int, lines: Iterable[str]) -> None:
    if log.isEnabledFor(level):
        for line in lines:
            log.log(level, "%s", line)


def _warn_if_dry(settings: Settings) -> None:
    if settings.dry_run:
        log.warning("DRY RUN: nothing will be deleted")


def _warn_of_no_pods(settings: Settings, client: KubeClient, origins: Mapping[str, str]) -> None:
    """Warn that no pods were found, and where, because the settings usually name the wrong namespaces."""
    if settings.namespace_list():
        place, origin = f"namespaces {settings.namespaces!r}", f"namespaces is set by {origins['namespaces']}"
    else:
        namespace, source = client.own_namespace_and_origin()
        place, origin = f"namespace {namespace!r}", f"taken from {source} because namespaces is empty"
    if settings.excluded():
        place += f" except {', '.join(settings.excluded())}"
    selector = f" with label_selector {settings.label_selector!r}" if settings.label_selector else ""
    remedy = "if there should be some, correct namespaces, exclude_namespaces, label_selector or kubernetes_conn_id"
    what = "pods" if KINDS[POD] in settings.kind_list() else settings.kinds
    lines = report.summary_lines([f"No operator {what} were found in {place}{selector}", f"({origin})", remedy])
    _log(logging.WARNING, lines)


def _push_summary(summary: str) -> None:
    """Push one line under its own key, which the list of XComs shows in full, run by run."""
    get_current_context()["ti"].xcom_push(key="summary", value=summary)
