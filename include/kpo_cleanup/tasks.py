"""The four tasks of the DAG, each from its settings and inputs to its XCom."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from . import __version__, metrics, report, xcom
from .airflow_compat import (
    AirflowFailException,
    AirflowSkipException,
    get_current_context,
    is_too_long,
    reject_long_xcom,
)
from .classify import Snapshot, classify, count_reasons, keys_needing_records
from .config import ResolvedSettings, read_settings
from .errors import KpoCleanupError
from .kube.pods import PodClient
from .reap import reap
from .settings import Settings
from .task_instances.choice import choose_source
from .text import by_clause, message_lines, pluralize, wrapped
from .xcom_retention import delete_previous_inputs

log = logging.getLogger(__name__)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause Python's garbage collector while many things are made that all stay; also as a decorator.

    Thousands of pods have it run again and again. Each run looks through the pods so far and all of Airflow, to find
    nothing. It was a third of the cost of a listing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def translate_errors() -> Iterator[None]:
    """Say plainly what went wrong, and have Airflow not try again what is not passing; also as a decorator."""
    try:
        yield
    except KpoCleanupError as error:
        # Airflow's traceback follows; nobody who reads this at night needs it, nor the errors behind this one.
        for line in message_lines(str(error)):
            log.error("%s", line)
        log.error("This run deletes nothing, unless another try succeeds; the tasks after this are upstream_failed")
        if error.is_retryable:
            raise error from None
        raise AirflowFailException(str(error)) from None


@translate_errors()
def pull_return_values(*task_ids: str) -> list[Any]:
    """Give what earlier tasks of this run have returned.

    :raises AirflowFailException: if one of it is not there.
    """
    ti = get_current_context()["ti"]
    returned = [ti.xcom_pull(task_ids=task_id) for task_id in task_ids]
    for task_id, value in zip(task_ids, returned):
        if value is None:
            raise KpoCleanupError(
                f"there is no XCom of {task_id} in this run: a later run or a cleaning of XComs has removed it; "
                "clear list_pods with all that follows, or trigger a new run"
            )
    return returned


class Cleanup:
    """The tasks of one DAG, which share what its file fixes."""

    def __init__(self, fixed: Mapping[str, Any]) -> None:
        """Remember the options that neither params nor conf may change."""
        self._fixed = fixed

    @gc_paused()
    @translate_errors()
    def list_pods(self) -> dict[str, Any]:
        """List the pods. Before the task instances are asked for: a pod born in between would look like a zombie."""
        resolved = self._resolve()
        settings = resolved.validated()
        for line in resolved.describe(__version__):
            log.info("%s", line)
        if not settings.dry_run:
            log.info("This run deletes zombies; to pause the DAG stops that")
        _say_if_dry(settings)
        delete_previous_inputs(get_current_context())
        api = PodClient(settings.kubernetes_conn_id)
        listing = api.list_pods(settings.namespace_list(), settings.label_selector, settings.excluded())
        if not listing.pods:
            _warn_of_no_pods(settings, api, resolved.origins)
        answer = {**xcom.dump_listing(listing), "dry_run": settings.dry_run}
        reject_long_xcom(answer, f"{len(listing.pods)} pods")
        return answer

    @gc_paused()
    @translate_errors()
    def fetch_active_tis(self, listing: dict[str, Any]) -> dict[str, Any]:
        """Ask Airflow for the task instances of the pods. Any failure fails the run: no answer is not "none"."""
        settings, pods = self._settings(listing), xcom.load_listing(listing).pods
        source = choose_source(settings.airflow_conn_id, get_current_context()["ti"])
        task_instances = source.fetch({pod.key for pod in pods if not pod.label_problem})
        doubted = keys_needing_records(Snapshot(pods, task_instances, settings, int(time.time())))
        records = source.read_records(task_instances, doubted) if doubted else {}
        answer = xcom.dump_task_instances(task_instances, records)
        log.info("%s", answer["summary"])
        return answer

    @gc_paused()
    @translate_errors()
    def classify(self, listing: dict[str, Any], task_instances: dict[str, Any]) -> dict[str, Any]:
        """Classify every pod, and show the verdicts."""
        settings, now = self._settings(listing), int(time.time())
        listed, (told, records) = xcom.load_listing(listing), xcom.load_task_instances(task_instances)
        verdicts = classify(Snapshot(listed.pods, told, settings, now, records))
        due, summary = report.due_lines(verdicts), report.classification_summary(verdicts, settings)
        for line in report.zombie_lines(verdicts, now):
            log.info("%s", line)
        for line in report.warning_lines(verdicts):
            log.warning("%s", line)
        for verdict in verdicts:
            if not verdict.is_zombie:
                log.debug("kept %s, %s: %s", verdict.pod, verdict.reason.value, verdict.evidence)
        for line in [*due, *report.classification_lines(verdicts, summary)]:
            log.info("%s", line)
        metrics.send_verdicts(get_current_context()["ti"].dag_id, verdicts, settings, now)
        _push_summary(summary)
        answer = {
            "summary": summary,
            "due": due,
            "dry_run": settings.dry_run,
            "zombies_by_reason": count_reasons(v for v in verdicts if v.is_zombie),
            "kept_by_reason": count_reasons(v for v in verdicts if not v.is_zombie),
            "zombies_by_dag": report.count_dags(v.pod for v in verdicts if v.is_zombie),
            **xcom.dump_classification(verdicts, listed.errors_by_namespace),
        }
        if is_too_long(answer):
            log.warning("The XCom leaves out the kept pods, for the metadata database takes no more")
            answer["untouched"] = []
        reject_long_xcom(answer, pluralize(len(answer["zombies"]), "zombie"))
        return answer

    @gc_paused()
    @translate_errors()
    def reap(self, classification: dict[str, Any]) -> dict[str, Any]:
        """Delete the zombies and report; skipped if there is nothing to do.

        :raises AirflowFailException: if a pod could not be deleted or a namespace not be listed, after all the rest
            was done and reported.
        """
        settings, context = self._settings(classification), get_current_context()
        zombies, errors_by_namespace, pods = xcom.load_classification(classification)
        if not zombies and not errors_by_namespace:
            summary = classification["summary"]
            lines = [*classification["due"], *wrapped(f"Nothing to reap: {summary}")]
            for line in lines:
                log.info("%s", line)  # the exception's own text is folded away in the UI
            metrics.send_results(context["ti"].dag_id, [], settings, int(time.time()))
            _push_summary(summary)
            raise AirflowSkipException("\n".join(lines))
        cluster = PodClient(settings.kubernetes_conn_id)
        source = choose_source(settings.airflow_conn_id, context["ti"])
        namespaces = settings.namespace_list() or [cluster.own_namespace()]
        results = reap(zombies, cluster, source, settings, namespaces)
        problems = [*map(str, errors_by_namespace.values()), *report.failures(results)]
        summary = report.reap_summary(results, settings, pods)
        answer = report.reap_report(results, summary, problems)
        for line in report.reap_lines(results, settings):
            log.info("%s", line)
        metrics.send_results(context["ti"].dag_id, results, settings, int(time.time()))
        _push_summary(summary)
        if problems:
            # A failing task returns nothing, but what it did must still be on record.
            context["ti"].xcom_push(key="return_value", value=answer)
            lines = report.failure_lines(summary, problems)
            for line in lines:
                log.error("%s", line)
            raise AirflowFailException("\n".join(lines))
        for line in by_clause(summary):
            log.info("%s", line)
        return answer

    def _resolve(self) -> ResolvedSettings:
        context: Any = get_current_context()
        return read_settings(self._fixed, dict(context["params"]), context["dag_run"].conf)

    def _settings(self, earlier: Mapping[str, Any]) -> Settings:
        """Give this run's settings, and say so if nothing will be deleted.

        :param earlier: what a task before this one has returned. What that called a dry run stays one: this worker's
            configuration may be another.
        :raises SettingsError: for any bad value, wherever it is.
        """
        settings = self._resolve().validated()
        settings = replace(settings, dry_run=settings.dry_run or bool(earlier.get("dry_run")))
        _say_if_dry(settings)
        return settings


def _say_if_dry(settings: Settings) -> None:
    if settings.dry_run:
        log.warning("DRY RUN: nothing will be deleted")


def _warn_of_no_pods(settings: Settings, api: PodClient, origins: Mapping[str, str]) -> None:
    """Say where no pod was found: the usual reason is that somebody looks in the wrong place."""
    if settings.namespace_list():
        place, origin = f"namespaces {settings.namespaces!r}", origins["namespaces"]
    else:
        namespace, origin = api.own_namespace_and_origin()
        place, origin = f"namespace {namespace!r}", f"{origin}, for namespaces is empty"
    selector = f" with label_selector {settings.label_selector!r}" if settings.label_selector else ""
    for line in by_clause(
        f"No pod of the operator was found in {place}{selector}; which comes from {origin}; "
        "if there should be some, correct namespaces, label_selector or kubernetes_conn_id"
    ):
        log.warning("%s", line)


def _push_summary(summary: str) -> None:
    """Leave one line under a key of its own, which the list of XComs shows as it is, run by run."""
    get_current_context()["ti"].xcom_push(key="summary", value=summary)
