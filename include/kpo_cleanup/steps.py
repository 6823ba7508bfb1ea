"""The four tasks of the DAG, each from its settings and inputs to its XCom."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from . import __version__, report, xcom
from .airflow_compat import (
    AirflowFailException,
    AirflowSkipException,
    count_metric,
    get_current_context,
    reject_long_xcom,
)
from .classify import Facts, classify, count_reasons, keys_in_doubt
from .config import read_settings
from .errors import KpoCleanupError
from .kube.pods import PodApi
from .reap import count_outcomes, reap
from .settings import Settings
from .task_instances.choice import choose_source

log = logging.getLogger(__name__)


@contextmanager
def without_collector() -> Iterator[None]:
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
def failing_for_good() -> Iterator[None]:
    """Have Airflow not try again what another try would not better; also as a decorator."""
    try:
        yield
    except KpoCleanupError as error:
        if error.is_passing:
            raise
        raise AirflowFailException(str(error)) from error


class Cleanup:
    """The tasks of one DAG, which share what its file fixes."""

    def __init__(self, fixed: Mapping[str, Any]) -> None:
        """Remember the options that neither params nor conf may change."""
        self._fixed = fixed

    @without_collector()
    @failing_for_good()
    def list_pods(self) -> dict[str, Any]:
        """List the pods. Before the task instances are asked for: a pod born in between would look like a zombie."""
        settings = self._settings(is_first=True)
        api = PodApi(settings.kubernetes_conn_id)
        listing = api.list_pods(settings.namespace_list(), settings.label_selector, settings.excluded())
        answer = xcom.dump_listing(listing)
        reject_long_xcom(answer, f"{len(listing.pods)} pods")
        return answer

    @without_collector()
    @failing_for_good()
    def fetch_active_tis(self, listing: dict[str, Any]) -> dict[str, Any]:
        """Ask Airflow for the task instances of the pods. Any failure fails the run: no answer is not "none"."""
        settings, pods = self._settings(), xcom.load_listing(listing).pods
        source = choose_source(settings.airflow_conn_id, get_current_context()["ti"])
        task_instances = source.fetch({pod.key for pod in pods if not pod.label_problem})
        doubted = keys_in_doubt(Facts(pods, task_instances, settings, int(time.time())))
        records = source.read_records(task_instances, doubted) if doubted else {}
        answer = xcom.dump_task_instances(task_instances, records)
        log.info("%s", answer["summary"])
        return answer

    @without_collector()
    @failing_for_good()
    def classify(self, listing: dict[str, Any], task_instances: dict[str, Any]) -> dict[str, Any]:
        """Judge every pod, and show the verdicts."""
        settings, now = self._settings(), int(time.time())
        pods, (told, records) = xcom.load_listing(listing).pods, xcom.load_task_instances(task_instances)
        verdicts = classify(Facts(pods, told, settings, now, records))
        for line in report.zombie_lines(verdicts, now):
            log.info("%s", line)
        for line in report.warnings_of(verdicts, settings):
            log.warning("%s", line)
        for verdict in verdicts:
            if not verdict.is_zombie:
                log.debug("kept %s, %s: %s", verdict.pod, verdict.reason.value, verdict.evidence)
        due = report.due_lines(verdicts)
        for line in due:
            log.info("%s", line)
        summary = report.summary_line(verdicts)
        log.info("%s", summary)  # last, for that is where Airflow opens a log
        count_metric("reason", count_reasons(verdicts))
        return {
            "summary": summary,
            "due": due,
            "zombies_by_reason": count_reasons(v for v in verdicts if v.is_zombie),
            "kept_by_reason": count_reasons(v for v in verdicts if not v.is_zombie),
            "zombies": xcom.dump_zombies(verdicts),
        }

    @without_collector()
    @failing_for_good()
    def reap(self, listing: dict[str, Any], classification: dict[str, Any]) -> dict[str, Any]:
        """Delete the zombies and report; skipped if there is nothing to do.

        :raises AirflowFailException: if a pod could not be deleted or a namespace not be listed, after all the rest
            was done and reported.
        """
        settings, context = self._settings(), get_current_context()
        zombies, unlisted = xcom.load_zombies(classification), xcom.load_listing(listing).unlisted
        if not zombies and not unlisted:
            nothing = "\n".join([f"Nothing to reap: {classification['summary']}", *classification["due"]])
            for line in nothing.splitlines():
                log.info("%s", line)  # the exception's own text is folded away in the UI
            raise AirflowSkipException(nothing)
        cluster = PodApi(settings.kubernetes_conn_id)
        source = choose_source(settings.airflow_conn_id, context["ti"])
        namespaces = settings.namespace_list() or [cluster.own_namespace()]
        results = reap(zombies, cluster, source, settings, namespaces)
        problems = [*unlisted.values(), *report.failures(results)]
        answer = report.reap_report(results, problems)
        for line in report.reap_lines(results):
            log.info("%s", line)
        log.info("%s", answer["summary"])
        count_metric("outcome", count_outcomes(results))
        if problems:
            # A failing task returns nothing, but what it did must still be on record.
            context["ti"].xcom_push(key="return_value", value=answer)
            raise AirflowFailException(report.failure_message(answer["summary"], problems))
        return answer

    def _settings(self, *, is_first: bool = False) -> Settings:
        """This run's settings, and what the log says of them.

        :raises SettingsError: for any bad value, wherever it is.
        """
        context: Any = get_current_context()
        reading = read_settings(self._fixed, dict(context["params"]), context["dag_run"].conf)
        settings = reading.checked()
        if is_first:
            for line in reading.describe(__version__):
                log.info("%s", line)
            if not settings.dry_run:
                log.info("This run deletes zombies; to pause the DAG stops that")
        if settings.dry_run:
            log.warning("DRY RUN: nothing will be deleted")
        return settings
