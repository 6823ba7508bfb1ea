"""The four tasks of the DAG, each from its settings and inputs to its XCom."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import classify as verdict
from . import reap as reaper
from . import report, xcom
from .airflow_compat import (
    AirflowFailException,
    AirflowSkipException,
    count_metric,
    get_current_context,
    read_config,
    reject_long_xcom,
)
from .errors import SettingsError
from .kube.pods import PodApi
from .settings import OPTIONS, Settings
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


def effective_settings() -> Settings:
    """This run's settings: the config, overridden by what the run was triggered with.

    :raises AirflowFailException: for any bad value in either; a retry would not change it.
    """
    context: Any = get_current_context()
    # Read from the run itself as well: with [core] dag_run_conf_overrides_params off, the params do not have it,
    # and somebody who triggered with {"dry_run": true} would see pods deleted.
    conf = context["dag_run"].conf or {}
    try:
        config = {name: value for name, value in read_config().items() if name in OPTIONS}
        Settings.from_options(config, "Airflow config [kpo_cleanup]")
        return Settings.from_options({**dict(context["params"]), **conf}, "params of this run")
    except SettingsError as error:
        raise AirflowFailException(str(error)) from error


@without_collector()
def list_pods() -> dict[str, Any]:
    """List the pods. Before the task instances are asked for: a pod born in between would look like a zombie."""
    settings = effective_settings()
    log.info("Settings: %s", settings.describe())
    if settings.dry_run:
        log.warning("DRY RUN: nothing will be deleted")
    try:
        listing = PodApi(settings.kubernetes_conn_id).list_pods(settings.namespace_list(), settings.label_selector)
    except SettingsError as error:
        raise AirflowFailException(str(error)) from error
    answer = xcom.dump_listing(listing)
    reject_long_xcom(answer, f"{len(listing.pods)} pods")
    return answer


@without_collector()
def fetch_active_tis(listing: dict[str, Any]) -> dict[str, Any]:
    """Ask Airflow for the task instances of the pods. Any failure fails the run: no answer is not "none"."""
    source = choose_source(effective_settings().airflow_conn_id, get_current_context()["ti"])
    keys = {pod.key for pod in xcom.load_listing(listing).pods if not pod.label_problem}
    answer = xcom.dump_task_instances(source.fetch(keys))
    log.info("%s", answer["summary"])
    return answer


@without_collector()
def classify(listing: dict[str, Any], task_instances: dict[str, Any]) -> dict[str, Any]:
    """Judge every pod, and show the verdicts."""
    settings, now = effective_settings(), int(time.time())
    verdicts = verdict.classify(
        xcom.load_listing(listing).pods, xcom.load_task_instances(task_instances), settings, now
    )
    for line in report.zombie_lines(verdicts, now):
        log.info("%s", line)
    for line in report.warnings_of(verdicts, settings):
        log.warning("%s", line)
    for each in verdicts:
        if not each.is_zombie:
            log.debug("kept %s, %s: %s", each.pod, each.reason.value, each.evidence)
    summary = report.summary_line(verdicts)
    log.info("%s", summary)  # last, for that is where Airflow opens a log
    count_metric("reason", verdict.count_reasons(verdicts))
    return {
        "summary": summary,
        "zombies_by_reason": verdict.count_reasons(v for v in verdicts if v.is_zombie),
        "kept_by_reason": verdict.count_reasons(v for v in verdicts if not v.is_zombie),
        "zombies": xcom.dump_zombies(verdicts),
    }


@without_collector()
def reap(listing: dict[str, Any], classification: dict[str, Any]) -> dict[str, Any]:
    """Delete the zombies and report; skipped where there is nothing to do.

    :raises AirflowFailException: where a pod could not be deleted or a namespace not be listed, after all the rest
        was done and reported.
    """
    settings, context = effective_settings(), get_current_context()
    loaded = xcom.load_listing(listing)
    zombies = xcom.load_zombies(classification["zombies"], loaded)
    if not zombies and not loaded.problems:
        nothing = f"Nothing to reap: {classification['summary']}"
        log.info("%s", nothing)  # the exception's own text is folded away in the UI
        raise AirflowSkipException(nothing)
    if settings.dry_run:
        log.warning("DRY RUN: nothing is deleted")
    api = PodApi(settings.kubernetes_conn_id)
    results = reaper.reap(zombies, api, choose_source(settings.airflow_conn_id, context["ti"]), settings, time.time)
    problems = [*loaded.problems, *report.failures(results)]
    answer = report.reap_report(results, problems)
    for line in report.reap_lines(results):
        log.info("%s", line)
    log.info("%s", answer["summary"])
    count_metric("outcome", reaper.count_outcomes(results))
    if problems:
        # A failing task returns nothing, but what it did must still be on record.
        context["ti"].xcom_push(key="return_value", value=answer)
        raise AirflowFailException(report.failure_message(answer["summary"], problems))
    return answer
