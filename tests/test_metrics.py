"""The metrics of a run, received as by a StatsD server. The test of the real scheduler covers whole runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import promql_parser
import pytest

from include.kpo_cleanup.constants import Outcome, Reason
from tests.alerts import RULES, selectors_of
from tests.conftest import REPO
from tests.dag.pods import wait_until
from tests.documents import section
from tests.statsd import Sample, StatsdServer

SEND = """
from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, add_to_counters
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.metrics import send_results, send_verdicts
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.verdict import Evidence, Rule
from tests.unit.builders import HOUR, NOW, make_pod, make_verdict

if AIRFLOW_RELEASE == (3, 2):  # in which only the task runner sets the metrics up
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
    from airflow.sdk.observability.stats import Stats

    Stats.initialize(factory=get_stats_factory(Stats))


def aged(hours, **values):
    return make_verdict(pod=make_pod(created=NOW - hours * HOUR), **values)


def kept(rule):
    return aged(9, is_zombie=False, reason=rule.reason, evidence=Evidence(rule, NOW))


def result(hours, outcome):
    return Result(aged(hours), outcome)


verdicts = [aged(2), aged(3), kept(Rule.ACTIVE), kept(Rule.TERMINATING), kept(Rule.HELD_BY_FINALIZERS)]
results = [
    result(6, Outcome.DELETED),
    result(7, Outcome.AWAITING_FINALIZER),
    result(3, Outcome.FAILED),
    result(4, Outcome.LEFT_FOR_NEXT_RUN),
    result(5, Outcome.SPARED),
    result(5, Outcome.SPARED),
]
send_verdicts("classified", verdicts, Settings(), NOW)
send_results("reaped", results, Settings(), NOW)
send_verdicts("empty", [], Settings(), NOW)
send_results("skipped", [], Settings(), NOW)
send_verdicts("dry", verdicts, Settings(dry_run=True), NOW)
send_results("dry", [result(6, Outcome.WOULD_DELETE)], Settings(dry_run=True), NOW)
add_to_counters("last", {"end": 1})
"""


def sent(*, tags: bool) -> list[Sample]:
    with StatsdServer() as statsd:
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPO),
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": str(tags),
        }
        subprocess.run([sys.executable, "-c", SEND], env=environment, check=True, capture_output=True, timeout=120)
        wait_until(lambda: any(sample.name == "airflow.kpo_cleanup.end" for sample in statsd.samples))
        return statsd.samples


@pytest.fixture(scope="module")
def tagged() -> list[Sample]:
    return sent(tags=True)


def values(samples: list[Sample], dag_id: str, kind: str) -> dict[str, float]:
    """Return the metrics of one DAG, without their common prefix."""
    of_dag = [sample for sample in samples if sample.tags == {"dag_id": dag_id} and sample.kind == kind]
    assert all(sample.name.startswith("airflow.kpo_cleanup.") for sample in of_dag)
    return {sample.name.removeprefix("airflow.kpo_cleanup."): sample.value for sample in of_dag}


NO_PODS = {**{f"pods.{reason.value}": 0 for reason in Reason}, "held_by_finalizers": 0, "oldest_zombie_seconds": 0}
NO_RESULTS = {f"outcome.{outcome.value}": 0 for outcome in Outcome}


class TestMetrics:
    def test_a_classification_sends_the_pods_of_every_reason_and_the_age_of_the_oldest_zombie(
        self, tagged: list[Sample]
    ) -> None:
        found = {"pods.orphaned": 2, "pods.active": 1, "pods.terminating": 2, "held_by_finalizers": 1}
        assert values(tagged, "classified", "g") == {**NO_PODS, **found, "oldest_zombie_seconds": 3 * 3600}

    def test_a_classification_of_no_pods_resets_what_an_earlier_one_found(self, tagged: list[Sample]) -> None:
        assert values(tagged, "empty", "g") == NO_PODS

    def test_a_reaping_sends_every_outcome_and_the_age_of_the_oldest_zombie_that_stays(
        self, tagged: list[Sample]
    ) -> None:
        outcomes = {"deleted": 1, "awaiting_finalizer": 1, "failed": 1, "left_for_next_run": 1, "spared": 2}
        counts = {f"outcome.{outcome}": count for outcome, count in outcomes.items()}
        assert values(tagged, "reaped", "c") == {**NO_RESULTS, **counts}
        assert values(tagged, "reaped", "g") == {"oldest_zombie_seconds": 4 * 3600}

    def test_a_skipped_reaping_sends_all_counters_so_that_they_exist_before_they_increase(
        self, tagged: list[Sample]
    ) -> None:
        assert values(tagged, "skipped", "c") == NO_RESULTS
        assert values(tagged, "skipped", "g") == {"oldest_zombie_seconds": 0}

    def test_a_dry_run_sets_no_gauge_because_nothing_would_reset_it(self, tagged: list[Sample]) -> None:
        assert values(tagged, "dry", "c") == {**NO_RESULTS, "outcome.would_delete": 1}
        assert values(tagged, "dry", "g") == {}

    def test_the_metrics_keep_their_names_if_airflow_sends_no_tags(self, tagged: list[Sample]) -> None:
        plain = sent(tags=False)
        assert {sample.name for sample in plain} == {sample.name for sample in tagged}
        assert not any(sample.tags for sample in plain)


class TestAlerts:
    def test_are_those_that_the_document_explains(self) -> None:
        explained = re.findall(r"^\| `(KpoCleanup\w+)` \|", section("docs/operating.md", "When an alert fires"), re.M)
        assert explained == [rule["alert"] for rule in RULES]

    @pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
    def test_an_alert_is_a_prometheus_rule_that_selects_metrics_of_airflow(self, rule: dict[str, object]) -> None:
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert selectors_of(str(rule["expr"]))

    def test_the_expressions_are_promql(self) -> None:
        for rule in RULES:
            promql_parser.parse(rule["expr"])
