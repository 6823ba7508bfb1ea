"""The metrics of a run, as a StatsD server receives them. The test of the real scheduler covers whole runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import promql_parser
import pytest

from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.identity import to_label_value
from tests.alerts import RULES, selectors_of
from tests.conftest import REPO
from tests.dag.pods import wait_until
from tests.documents import block, section
from tests.statsd import Sample, StatsdServer

pytestmark = pytest.mark.long

SEND = """
from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, add_to_counters
from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.identity import to_label_value
from include.kpo_cleanup.metrics import send_results, send_verdicts
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.workloads.workload import Container
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import RawIds, TaskInstance
from include.kpo_cleanup.verdict import Evidence, Rule
from tests.unit.builders import HOUR, NOW, make_pod, make_verdict

if AIRFLOW_RELEASE == (3, 2):  # in which only the task runner sets the metrics up
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
    from airflow.sdk.observability.stats import Stats

    Stats.initialize(factory=get_stats_factory(Stats))


def aged(hours, dag_id="orders", **values):
    main = Container("base", "terminated", exit_code=0, ended=NOW - hours * HOUR // 2)
    requests = (("cpu", 0.5), ("memory", 2.0**31), ("nvidia.com/gpu", 1.0))
    pod = make_pod(created=NOW - hours * HOUR, dag_id=dag_id, containers=(main,), requests=requests)
    return make_verdict(workload=pod, **values)


def kept(rule):
    return aged(9, is_zombie=False, reason=rule.reason, evidence=Evidence(rule, NOW))


def result(hours, outcome, **values):
    return Result(aged(hours, **values), outcome)


def undated(ti, **values):
    pod = make_pod(containers=(Container("base", "running"),), requests=(("cpu", 2.0),), **values)
    verdict = make_verdict(workload=pod, evidence=Evidence(Rule.ORPHANED, NOW, ti))
    return Result(verdict, Outcome.DELETED)


found = [aged(2), aged(3), aged(1, "sales", reason=Reason.SUPERSEDED)]
verdicts = [*found, *map(kept, (Rule.ACTIVE, Rule.TERMINATING, Rule.HELD_BY_FINALIZERS))]
results = [
    result(6, Outcome.DELETED),
    result(2, Outcome.DELETED),
    result(2, Outcome.DELETED, dag_id="sales", reason=Reason.SUPERSEDED),
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
undated_results = [
    undated(TaskInstance("failed", ended=NOW - 3 * HOUR), dag_id="by_the_task"),
    undated(TaskInstance("failed"), dag_id="unknown"),
    undated(TaskInstance("failed", ended=NOW - 3 * HOUR), dag_id="completed", phase="Succeeded"),
]
send_results("undated", undated_results, Settings(), NOW)
for outcome in Outcome:
    send_results(f"only_{outcome.value}", [result(2, outcome)], Settings(), NOW)
many = [aged(2, f"dag_{number:02}") for number in range(25)] + [aged(2, f"dag_{number}") for number in range(18, 25)]
send_verdicts("many", many, Settings(), NOW)
long_ids, other_ids = (RawIds(dag_id, "extract", "run_1") for dag_id in ("x" * 70, "commandes_à_faire"))
hashed = [aged(2, to_label_value(raw.dag_id), raw_ids=raw) for raw in (long_ids, other_ids)]
send_verdicts("hashed", hashed, Settings(), NOW)
add_to_counters({"end": 1}, {})
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
        command = [sys.executable, "-c", SEND]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
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


def by_series(samples: list[Sample], dag_id: str, name: str) -> dict[tuple[str, str], float]:
    """Return the values of a counter of one cleanup, by the pods' DAG and the reason."""
    of_dag = [sample for sample in samples if sample.name == f"airflow.kpo_cleanup.{name}"]
    of_dag = [sample for sample in of_dag if sample.tags["dag_id"] == dag_id]
    assert {(sample.kind, sample.tags["kind"], len(sample.tags)) for sample in of_dag} <= {("c", "pod", 4)}
    return {(sample.tags["pod_dag_id"], sample.tags["reason"]): sample.value for sample in of_dag}


ORDERS, SALES = ("orders", "orphaned"), ("sales", "superseded")
NO_PODS = {**{f"pods.{reason.value}": 0 for reason in Reason}, "held_by_finalizers": 0, "oldest_zombie_seconds": 0}
NO_RESULTS = {f"outcome.{outcome.value}": 0 for outcome in Outcome}


class TestMetrics:
    def test_a_classification_sends_the_pods_of_every_reason_and_the_age_of_the_oldest_zombie(
        self, tagged: list[Sample]
    ) -> None:
        counts = {"orphaned": 2, "superseded": 1, "active": 1, "terminating": 2}
        found = {**{f"pods.{reason}": count for reason, count in counts.items()}, "held_by_finalizers": 1}
        assert values(tagged, "classified", "g") == {**NO_PODS, **found, "oldest_zombie_seconds": 3 * 3600}

    def test_a_classification_of_no_pods_resets_what_an_earlier_one_found(self, tagged: list[Sample]) -> None:
        assert values(tagged, "empty", "g") == NO_PODS

    def test_a_reaping_sends_every_outcome_and_the_age_of_the_oldest_zombie_that_stays(
        self, tagged: list[Sample]
    ) -> None:
        outcomes = {"deleted": 3, "awaiting_finalizer": 1, "failed": 1, "left_for_next_run": 1, "spared": 2}
        counts = {f"outcome.{outcome}": count for outcome, count in outcomes.items()}
        assert values(tagged, "reaped", "c") == {**NO_RESULTS, **counts}
        assert values(tagged, "reaped", "g") == {"oldest_zombie_seconds": 4 * 3600}

    def test_a_classification_counts_the_zombies_by_their_dag_and_reason(self, tagged: list[Sample]) -> None:
        assert by_series(tagged, "classified", "zombies") == {ORDERS: 2, SALES: 1}
        assert by_series(tagged, "dry", "zombies") == {}

    def test_a_reaping_counts_what_was_deleted_and_freed_by_dag_and_reason(self, tagged: list[Sample]) -> None:
        expected = {
            "deleted": (2, 1),
            "freed.cpu_cores": (1, 0.5),
            "freed.memory_gib": (4, 2),
            "idle.cpu_core_hours": (2, 0.5),
            "idle.memory_gib_hours": (8, 2),
        }
        for name, (orders, sales) in expected.items():
            assert by_series(tagged, "reaped", name) == {ORDERS: orders, SALES: sales}, name

    @pytest.mark.parametrize(
        ("dag_id", "freed", "idle"),
        [
            pytest.param("by_the_task", 2, 6, id="while the main container runs, the end of the task counts"),
            pytest.param("unknown", 2, 0, id="an unknown end adds no idle time"),
            pytest.param("completed", 0, 0, id="a completed pod had nothing reserved"),
        ],
    )
    def test_idle_time_is_only_counted_if_it_is_known(
        self, tagged: list[Sample], dag_id: str, freed: float, idle: float
    ) -> None:
        assert by_series(tagged, "undated", "freed.cpu_cores")[dag_id, "orphaned"] == freed
        assert by_series(tagged, "undated", "idle.cpu_core_hours")[dag_id, "orphaned"] == idle

    def test_only_the_dags_with_the_most_zombies_are_named(self, tagged: list[Sample]) -> None:
        found = {dag_id: count for (dag_id, _), count in by_series(tagged, "many", "zombies").items()}
        assert len(found) == 21
        assert found.pop("other") == 5
        assert {dag_id for dag_id, count in found.items() if count == 2} == {f"dag_{n}" for n in range(18, 25)}

    def test_a_dag_is_named_as_in_airflow_or_by_its_label_if_it_has_characters_that_no_metric_can_have(
        self, tagged: list[Sample]
    ) -> None:
        found = {dag_id for dag_id, _ in by_series(tagged, "hashed", "zombies")}
        assert found == {"x" * 70, to_label_value("commandes_à_faire")}

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
    def test_the_alerts_are_those_that_the_document_explains(self) -> None:
        explained = re.findall(r"^### (KpoCleanup\w+)$", section("docs/operating.md", "When an alert fires"), re.M)
        assert explained == [rule["alert"] for rule in RULES]

    def test_each_alert_links_to_its_section_in_the_users_copy_of_the_document(self, tmp_path: Path) -> None:
        (tmp_path / "docs").symlink_to(REPO / "docs")
        command = block("docs/operating.md", "Prometheus")
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
        copy = (tmp_path / "kpo_cleanup-rules.yaml").read_text()
        address = re.findall("^RUNBOOKS=(.+)$", command, re.M)[0]
        linked = re.findall(rf"runbook_url: {re.escape(address)}/docs/operating\.md#(\w+)$", copy, re.M)
        assert linked == [rule["alert"].lower() for rule in RULES]

    def test_the_alert_about_zombies_that_stay_names_each_outcome_with_which_they_stay(
        self, tagged: list[Sample]
    ) -> None:
        outcomes = {outcome.value for outcome in Outcome}
        stay = {name for name in outcomes if values(tagged, f"only_{name}", "g")["oldest_zombie_seconds"]}
        (rule,) = (rule for rule in RULES if rule["alert"] == "KpoCleanupZombiesStay")
        for text in (rule["annotations"]["description"], section("docs/operating.md", "KpoCleanupZombiesStay")):
            assert outcomes & set(re.findall(r"\w+", text)) == stay

    @pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
    def test_an_alert_is_a_prometheus_rule_that_selects_metrics_of_airflow(self, rule: dict[str, object]) -> None:
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert selectors_of(str(rule["expr"]))

    def test_the_expressions_are_promql(self) -> None:
        for rule in RULES:
            promql_parser.parse(rule["expr"])
