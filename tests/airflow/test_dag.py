"""The DAGs that ``cleanup_dag`` makes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, DAG, Param
from include.kpo_cleanup.dag import cleanup_dag
from include.kpo_cleanup.settings import OPTIONS, Settings, is_run_param

PREFIX = "AIRFLOW__KPO_CLEANUP__"
FOR_A_RUN = [name for name in OPTIONS if is_run_param(name)]


def schedule_of(dag: DAG) -> Any:
    """Return the schedule that a DAG was made with; Airflow 2 keeps it under its old name."""
    return getattr(dag, "schedule", getattr(dag, "schedule_interval", None))


def params_of(dag: DAG) -> dict[str, Any]:
    return {name: dag.params.get_param(name).resolve() for name in dag.params}


class TestParams:
    def test_are_what_is_decided_for_a_run_with_the_defaults(self) -> None:
        assert params_of(cleanup_dag("a")) == {name: getattr(Settings(), name) for name in FOR_A_RUN}

    def test_have_the_configured_values_as_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SETTLE_SECONDS", "60")
        monkeypatch.setenv(PREFIX + "TTL_SECONDS_AFTER_FINISHED", "3600")
        params = params_of(cleanup_dag("a"))
        assert (params["settle_seconds"], params["ttl_seconds_after_finished"]) == (60, 3600)

    def test_are_not_what_the_file_fixes(self) -> None:
        assert list(params_of(cleanup_dag("a", settings={"dry_run": True, "kubernetes_conn_id": "b"}))) == FOR_A_RUN[1:]

    def test_of_the_caller_replace_ours_one_by_one(self) -> None:
        params = params_of(cleanup_dag("a", params={"settle_seconds": Param(5, type="integer")}))
        assert list(params) == FOR_A_RUN
        assert (params["settle_seconds"], params["max_deletes"]) == (5, 500)

    @pytest.mark.parametrize("value", [-1, "soon", 31_536_001])
    def test_refuse_what_the_run_would(self, value: Any) -> None:
        with pytest.raises(Exception, match=str(value)):  # its class differs between the versions
            cleanup_dag("a").params.get_param("settle_seconds").resolve(value)

    @pytest.mark.parametrize("name", FOR_A_RUN)
    def test_carry_their_description_for_the_trigger_form(self, name: str) -> None:
        param = cleanup_dag("a").params.get_param(name)
        assert param.description == OPTIONS[name].metadata["meaning"].replace("`", "")


class TestSchedule:
    @pytest.mark.parametrize(
        ("settings", "arguments", "expected"),
        [
            ({}, {}, "*/15 * * * *"),
            ({"schedule": "@daily"}, {}, "@daily"),
            ({}, {"schedule": "@hourly"}, "@hourly"),
            ({}, {"schedule": None}, None),
            ({}, {"schedule": timedelta(hours=1)}, timedelta(hours=1)),
            ({}, {"schedule": "@sometimes"}, "*/15 * * * *"),
            ({"dry_run": "perhaps"}, {"schedule": None}, None),
        ],
        ids=[
            "is every quarter of an hour by default",
            "is a setting",
            "is an argument",
            "may be none",
            "may be what only Airflow understands",
            "is the default if it is bad",
            "is kept if something else is bad",
        ],
    )
    def test_of_a_dag(self, settings: dict[str, Any], arguments: dict[str, Any], expected: Any) -> None:
        assert schedule_of(cleanup_dag("a", settings=settings, **arguments)) == expected

    @pytest.mark.parametrize(("text", "expected"), [("None", None), ("", None), ("@once", "@once")])
    def test_is_read_from_the_config(self, text: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SCHEDULE", text)
        assert schedule_of(cleanup_dag("a")) == expected


class TestArguments:
    def test_go_to_airflow_over_our_own(self) -> None:
        def call() -> None: ...

        dag = cleanup_dag("a", tags=["gpu"], on_failure_callback=call, is_paused_upon_creation=False, max_active_runs=2)
        assert (set(dag.tags), dag.on_failure_callback, dag.is_paused_upon_creation) == ({"gpu"}, call, False)
        assert dag.max_active_runs == 2
        assert not dag.catchup

    def test_for_all_tasks_are_merged_with_our_own(self) -> None:
        dag = cleanup_dag("a", default_args={"queue": "k8s", "retries": 5})
        assert {task.queue for task in dag.tasks} == {"k8s"}
        assert {task.retries for task in dag.tasks} == {5}
        assert {task.owner for task in dag.tasks} == {"kpo_cleanup"}

    def test_of_tasks_that_only_read_say_that_they_may_be_tried_again(self) -> None:
        retries = {task.task_id: task.retries for task in cleanup_dag("a").tasks}
        assert retries == {"list_pods": 2, "fetch_active_tis": 2, "classify": 0, "reap": 0}


class TestTasks:
    def test_come_one_after_the_other_without_edges_that_say_nothing(self) -> None:
        after = {task.task_id: task.downstream_task_ids for task in cleanup_dag("a").tasks}
        assert after == {
            "list_pods": {"fetch_active_tis"},
            "fetch_active_tis": {"classify"},
            "classify": {"reap"},
            "reap": set(),
        }

    @pytest.mark.skipif(AIRFLOW_RELEASE < (2, 9), reason="tasks have no other name there")
    @pytest.mark.parametrize(
        ("settings", "last"), [({}, "reap: delete zombies"), ({"dry_run": True}, "reap: what would be deleted")]
    )
    def test_say_what_they_do(self, settings: dict[str, Any], last: str) -> None:
        names = {task.task_id: task.task_display_name for task in cleanup_dag("a", settings=settings).tasks}
        assert names["reap"] == last
        assert [name for task_id, name in names.items() if not name.startswith(f"{task_id}: ")] == []


class TestDocumentation:
    def test_says_that_unpausing_deletes(self) -> None:
        dag = cleanup_dag("a")
        assert "To unpause it means: delete now" in str(dag.doc_md)
        assert "now, if you unpause it" in str(dag.description)

    def test_says_that_a_fixed_dry_run_deletes_nothing(self) -> None:
        dag = cleanup_dag("a", settings={"dry_run": "1", "namespaces": "ml"})
        assert "It deletes nothing" in str(dag.doc_md)
        assert "deletes nothing" in str(dag.description)
        assert "Fixed by this DAG's file: `dry_run='1', namespaces='ml'`" in str(dag.doc_md)

    def test_says_why_every_run_fails(self) -> None:
        dag = cleanup_dag("a", settings={"dryrun": True})
        assert "Every run fails" in str(dag.description)
        assert "- dryrun=True (the DAG file):\n  there is no such option; did you mean dry_run?" in str(dag.doc_md)
