"""The labels that the operator and its provider write on pods, and how the cleanup parses them."""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from hypothesis import example, given
from hypothesis import strategies as st

from include.kpo_cleanup.identity import make_key, to_label_value
from include.kpo_cleanup.workloads.labels import CHECKED_LABEL
from include.kpo_cleanup.workloads.pod import parse_pod
from include.kpo_cleanup.workloads.workload import MAIN_CONTAINER
from tests.unit.builders import make_item
from tests.unit.test_identity import any_id, default_run_ids


@given(any_id)
@example("")
@example("a" * 63)
@example("a" * 64)
@example("a" * 250)
@example("-a-")
@example("!" * 250)
@example("a\n")
@example("tâche")
def test_the_label_value_of_an_id_is_the_one_that_the_provider_writes(value: str) -> None:
    assert to_label_value(value) == make_safe_label_value(value)


@given(dag_id=any_id, task_id=any_id, run_id=st.one_of(any_id, default_run_ids()), map_index=st.integers(-1, 2**31 - 1))
def test_the_labels_of_any_ids_lead_to_the_key_of_these_ids(
    dag_id: str, task_id: str, run_id: str, map_index: int
) -> None:
    ids: dict[str, Any] = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id, "try_number": 1}
    if map_index >= 0:  # the operator writes this label for mapped tasks only
        ids["map_index"] = map_index
    labels = {name: make_safe_label_value(str(value)) for name, value in ids.items()}
    pod = parse_pod(make_item(labels=labels))
    assert not pod.label_problem
    assert pod.key == make_key(dag_id, task_id, run_id, map_index)


def test_the_main_container_and_the_checked_label_have_the_operators_names() -> None:
    assert KubernetesPodOperator.BASE_CONTAINER_NAME == MAIN_CONTAINER
    assert KubernetesPodOperator.POD_CHECKED_KEY == CHECKED_LABEL
