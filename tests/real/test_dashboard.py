"""The shipped dashboard on a real Prometheus, with the metrics that a real Airflow sends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from include.kpo_cleanup.constants import Outcome, Reason
from tests.real.dashboard import BROKEN, CLEANUP, EVERY_CLEANUP, PANELS, MonitoredAirflow, fill, legend
from tests.real.monitoring import Monitoring

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

TARGETS = {panel["title"]: panel["targets"] for panel in PANELS}
QUERIES = [
    pytest.param(target["expr"], id=f"{title} ({target['legendFormat']})")
    for title, targets in TARGETS.items()
    for target in targets
]
DAGS = ("orders", "sales")
DELETED = f'airflow_kpo_cleanup_outcome_deleted{{dag_id="{CLEANUP}"}}'
FAILED = f'airflow_dagrun_duration_failed_count{{dag_id="{BROKEN}"}}'


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    """Return Prometheus after two rounds of cleanups, because it sees no increase when a series first appears."""
    with ExitStack() as stack:
        airflow = MonitoredAirflow(stack, tmp_path_factory.mktemp("airflow"))
        for number in (1, 2):
            airflow.run(*DAGS)
            airflow.run(CLEANUP, BROKEN)
            for metric, total in ((DELETED, number * len(DAGS)), (FAILED, number)):
                is_scraped = partial(airflow.monitoring.has_value, metric, total)
                airflow.wait_for(f"Prometheus has scraped {metric}", is_scraped)
        yield airflow.monitoring


def values(monitoring: Monitoring, title: str) -> dict[str, float]:
    """Return the values that a panel shows for all cleanups, by their legend."""
    shown = {}
    for target in TARGETS[title]:
        for labels, value in monitoring.query(fill(target["expr"], EVERY_CLEANUP)).items():
            shown[legend(target["legendFormat"], labels)] = value
    return shown


def increased(monitoring: Monitoring, title: str) -> set[str]:
    """Return the legends of the series of a panel that are above 0."""
    return {name for name, value in values(monitoring, title).items() if value > 0}


def test_the_zombies_are_shown_by_reason_and_by_dag(monitoring: Monitoring) -> None:
    assert increased(monitoring, "Zombies found per hour, by reason") == {"orphaned"}
    for title in ("Zombies found per hour, by DAG", "Deleted per hour, by DAG"):
        assert increased(monitoring, title) == set(DAGS), title


def test_every_outcome_is_shown_even_if_no_zombie_had_it(monitoring: Monitoring) -> None:
    assert set(values(monitoring, "Outcomes per hour")) == {outcome.value for outcome in Outcome}
    assert increased(monitoring, "Outcomes per hour") == {"deleted"}


@pytest.mark.parametrize("resource", ["CPU", "Memory"])
def test_what_was_wasted_is_shown_by_dag(monitoring: Monitoring, resource: str) -> None:
    assert increased(monitoring, f"{resource} wasted per day, by DAG") == set(DAGS)


def test_a_cleanup_that_leaves_no_zombie_has_an_oldest_age_of_0(monitoring: Monitoring) -> None:
    assert values(monitoring, "Age of the oldest zombie") == {CLEANUP: 0}


def test_only_cleanups_are_shown_as_failed_although_runs_of_other_dags_failed(monitoring: Monitoring) -> None:
    assert set(values(monitoring, "Failed runs per hour")) == {BROKEN}
    assert increased(monitoring, "Failed runs per hour") == {BROKEN}


def test_the_kept_pods_are_shown_by_reason(monitoring: Monitoring) -> None:
    assert values(monitoring, "Kept pods that need attention") == {
        "stalled": 0,
        "held by finalizers": 0,
        "unresolved": 0,
    }
    assert set(values(monitoring, "Pods by reason")) == {reason.value for reason in Reason}


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_selects_only_the_chosen_cleanups(monitoring: Monitoring, query: str) -> None:
    assert monitoring.query(fill(query, "another")) == {}


def test_the_panels_show_every_metric_of_the_cleanup_except_what_was_freed(monitoring: Monitoring) -> None:
    shown = " ".join(str(query.values[0]) for query in QUERIES)
    names = {name for name in monitoring.names() if name.startswith("airflow_kpo_cleanup_")}
    assert '"airflow_kpo_cleanup_pods_.+"' in shown
    missing = {name for name in names if name not in shown and "_pods_" not in name}
    assert missing == {"airflow_kpo_cleanup_freed_cpu_cores", "airflow_kpo_cleanup_freed_memory_gib"}
