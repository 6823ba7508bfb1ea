"""When the shipped alerts fire, as Prometheus evaluates them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.alerts import RULES
from tests.promtool import has_result

pytestmark = pytest.mark.real

SUCCEEDED = 'airflow_dagrun_duration_success_count{dag_id="kpo_cleanup",run_type="scheduled"}'
OF_CLEANUP = 'airflow_dagrun_duration_failed_count{dag_id="kpo_cleanup"}'
OF_DRY_RUN = 'airflow_dagrun_duration_failed_count{dag_id="kpo_cleanup_gpu_dry_run"}'
DELETED, OLDEST, HELD, STALLED, UNRESOLVED = (
    f'airflow_kpo_cleanup_{name}{{dag_id="kpo_cleanup"}}'
    for name in ("outcome_deleted", "oldest_zombie_seconds", "held_by_finalizers", "pods_stalled", "pods_unresolved")
)
COUNTING = [*range(200)]

# By alert: series, each with a value for every 15 minutes; after how many hours; and whether it fires.
Series = dict[str, list[int | None]]
CASES = [
    pytest.param("KpoCleanupFailed", {OF_CLEANUP: [None] * 8 + [1]}, 2.2, True, id="the first run fails"),
    pytest.param("KpoCleanupFailed", {OF_CLEANUP: [1] * 8 + [2]}, 2.2, True, id="another run fails"),
    pytest.param("KpoCleanupFailed", {OF_CLEANUP: [1] * 20}, 4, False, id="no other run fails"),
    pytest.param("KpoCleanupFailed", {OF_DRY_RUN: COUNTING}, 2, False, id="dry runs fail"),
    pytest.param("KpoCleanupFailed", {OF_DRY_RUN: [None] * 8 + [1]}, 2.2, False, id="the first dry run fails"),
    pytest.param("KpoCleanupDoesNotRun", {SUCCEEDED: COUNTING}, 3, False, id="all scheduled runs succeed"),
    pytest.param("KpoCleanupDoesNotRun", {SUCCEEDED: [0, 1] + [2] * 10}, 3, True, id="no run succeeds any more"),
    pytest.param("KpoCleanupDoesNotRun", {DELETED: [0] * 12}, 3, True, id="no run has ever succeeded"),
    pytest.param("KpoCleanupZombiesStay", {OLDEST: [4000] * 12}, 2, True, id="a zombie stays"),
    pytest.param(
        "KpoCleanupZombiesStay", {OLDEST: [4000, 0] * 6}, 3, False, id="each zombie is deleted by the next run"
    ),
    pytest.param("KpoCleanupSurge", {DELETED: [*COUNTING[:100], 150]}, 25.2, True, id="many are deleted after few"),
    pytest.param("KpoCleanupSurge", {DELETED: [10 * n for n in COUNTING]}, 28, False, id="as many are deleted as ever"),
    pytest.param("KpoCleanupSurge", {DELETED: [0] * 100 + [12]}, 25.2, False, id="some are deleted after none"),
    pytest.param("KpoCleanupStalledTasks", {STALLED: [1] * 12}, 2, True, id="a task is stalled"),
    pytest.param(
        "KpoCleanupStalledTasks", {STALLED: [0] * 8 + [1, 1, 1]}, 2.5, False, id="a task has just been stalled"
    ),
    pytest.param("KpoCleanupHeldByFinalizers", {HELD: [2] * 12}, 2, True, id="pods are held"),
    pytest.param("KpoCleanupHeldByFinalizers", {HELD: [0] * 12}, 2, False, id="no pod is held"),
    pytest.param("KpoCleanupUnresolved", {UNRESOLVED: [3] * 12}, 2, True, id="pods are unresolved"),
    pytest.param("KpoCleanupUnresolved", {UNRESOLVED: [0] * 12}, 2, False, id="no pod is unresolved"),
]


@pytest.mark.parametrize(("alert", "series", "hours", "fires"), CASES)
def test_whether_an_alert_fires_if(tmp_path: Path, alert: str, series: Series, hours: float, fires: bool) -> None:
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    assert has_result(tmp_path, firing, series, int(hours * 60)) is fires


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    assert {case.values[0] for case in CASES if case.values[3]} == {rule["alert"] for rule in RULES}
