"""The four tasks of the DAG, each from its settings and inputs to its XCom."""

from __future__ import annotations

import logging
import time
from typing import Any

from include.kpo_cleanup import report, xcom
from include.kpo_cleanup.airflow_compat import (
    AirflowFailException,
    AirflowSkipException,
    count_metric,
    get_current_context,
    read_config,
)
from include.kpo_cleanup.classify import classify as judge_all
from include.kpo_cleanup.classify import count_reasons
from include.kpo_cleanup.errors import SettingsError
from include.kpo_cleanup.kube import total_requests
from include.kpo_cleanup.pods import PodApi
from include.kpo_cleanup.reap import count_outcomes
from include.kpo_cleanup.reap import reap as delete_all
from include.kpo_cleanup.settings import OPTIONS, Settings
from include.kpo_cleanup.sources import choose_source
from include.kpo_cleanup.vocabulary import Outcome

log = logging.getLogger(__name__)


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


def list_pods() -> dict[str, Any]:
    """List the pods. Before the task instances are asked for: a pod born in between would look like a zombie."""
    settings = effective_settings()
    log.info("Settings: %s", settings.describe())
    if settings.dry_run:
        log.warning("DRY RUN: nothing will be deleted")
    try:
        listing = PodApi(settings.kubernetes_conn_id).list_pods(settings)
    except SettingsError as error:
        raise AirflowFailException(str(error)) from error
    return xcom.dump_listing(listing)


def fetch_active_tis(listing: dict[str, Any]) -> dict[str, Any]:
    """Ask Airflow for the task instances of the pods. Any failure fails the run: no answer is not "none"."""
    source = choose_source(effective_settings(), get_current_context()["ti"])
    keys = {pod.key for pod in xcom.load_listing(listing).pods if not pod.unidentified}
    answer = xcom.dump_task_instances(source.fetch(keys))
    log.info("%s", answer["summary"])
    return answer


def classify(listing: dict[str, Any], task_instances: dict[str, Any]) -> dict[str, Any]:
    """Judge every pod, and show the verdicts."""
    settings, now = effective_settings(), int(time.time())
    verdicts = judge_all(xcom.load_listing(listing).pods, xcom.load_task_instances(task_instances), settings, now)
    for line in report.zombie_lines(verdicts, now):
        log.info("%s", line)
    for line in report.warnings_of(verdicts, settings):
        log.warning("%s", line)
    for verdict in verdicts:
        if not verdict.is_zombie:
            pod = verdict.pod
            log.debug("kept %s/%s, %s: %s", pod.namespace, pod.name, verdict.reason.value, verdict.evidence)
    summary = report.summary_line(verdicts)
    log.info("%s", summary)  # last, for that is where Airflow opens a log
    count_metric("reason", count_reasons(verdicts))
    return {
        "summary": summary,
        "zombies_by_reason": count_reasons(v for v in verdicts if v.is_zombie),
        "kept_by_reason": count_reasons(v for v in verdicts if not v.is_zombie),
        "zombies": xcom.dump_zombies(verdicts),
    }


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
    results = delete_all(zombies, api, choose_source(settings, context["ti"]), settings, time.time)
    gone = [r.verdict.pod for r in results if r.outcome in (Outcome.DELETED, Outcome.WOULD_DELETE)]
    problems = [*loaded.problems, *report.failures(results)]
    answer = report.reap_report(results, total_requests(gone), problems)
    for line in report.reap_lines(results):
        log.info("%s", line)
    log.info("%s", answer["summary"])
    count_metric("outcome", count_outcomes(results))
    if problems:
        # A failing task returns nothing, but what it did must still be on record.
        context["ti"].xcom_push(key="return_value", value=answer)
        raise AirflowFailException(report.failure_message(answer["summary"], problems))
    return answer
