"""The DAGs that ``cleanup_dag`` builds."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from airflow.timetables.interval import DeltaDataIntervalTimetable

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, DAG, Param
from include.kpo_cleanup.dag import cleanup_dag
from include.kpo_cleanup.settings import OPTIONS, Settings, is_run_param

try:
    from airflow.sdk import Asset, TaskGroup
except ImportError:
    from airflow.datasets import Dataset as Asset
    from airflow.utils.task_group import TaskGroup

PREFIX = "AIRFLOW__KPO_CLEANUP__"
HOURLY = DeltaDataIntervalTimetable(timedelta(hours=1))
ASSETS = [Asset("orders"), Asset("sales")]
RUN_PARAMS = [name for name in OPTIONS if is_run_param(name)]


def schedule_of(dag: DAG) -> Any:
    """Return the schedule that a DAG was built with; Airflow 2 stores it under its old name."""
    return getattr(dag, "schedule", getattr(dag, "schedule_interval", None))


def params_of(dag: DAG) -> dict[str, Any]:
    return {name: dag.params.get_param(name).resolve() for name in dag.params}


class TestParams:
    def test_the_params_are_the_options_of_scope_run_with_their_defaults(self) -> None:
        assert params_of(cleanup_dag("a")) == {name: getattr(Settings(), name) for name in RUN_PARAMS}

    def test_configured_values_are_the_defaults_of_the_params(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SETTLE_SECONDS", "60")
        monkeypatch.setenv(PREFIX + "TTL_SECONDS_AFTER_FINISHED", "3600")
        params = params_of(cleanup_dag("a"))
        assert (params["settle_seconds"], params["ttl_seconds_after_finished"]) == (60, 3600)

    def test_an_option_that_the_dag_file_fixes_is_not_a_param(self) -> None:
        assert (
            list(params_of(cleanup_dag("a", settings={"dry_run": True, "kubernetes_conn_id": "b"}))) == RUN_PARAMS[1:]
        )

    def test_a_param_of_the_dag_file_replaces_the_one_of_the_same_name(self) -> None:
        params = params_of(cleanup_dag("a", params={"settle_seconds": Param(5, type="integer")}))
        assert list(params) == RUN_PARAMS
        assert (params["settle_seconds"], params["max_deletes"]) == (5, 500)

    def test_a_param_of_the_dag_file_that_is_not_an_option_belongs_to_its_author(self) -> None:
        assert params_of(cleanup_dag("a", params={"ticket": "OPS-1"}))["ticket"] == "OPS-1"

    @pytest.mark.parametrize("value", [-1, "soon", 31_536_001])
    def test_a_param_rejects_an_invalid_value(self, value: Any) -> None:
        with pytest.raises(Exception, match=str(value)):  # the class differs between Airflow versions
            cleanup_dag("a").params.get_param("settle_seconds").resolve(value)

    @pytest.mark.parametrize("name", RUN_PARAMS)
    def test_each_param_has_the_description_of_its_option(self, name: str) -> None:
        param = cleanup_dag("a").params.get_param(name)
        assert str(param.description).startswith(OPTIONS[name].metadata["meaning"].replace("`", ""))


class TestSchedule:
    @pytest.mark.parametrize(
        ("settings", "arguments", "expected"),
        [
            ({}, {}, "*/15 * * * *"),
            ({"schedule": "@daily"}, {}, "@daily"),
            ({}, {"schedule": "@hourly"}, "@hourly"),
            ({}, {"schedule": None}, None),
            ({}, {"schedule": timedelta(hours=1)}, timedelta(hours=1)),
            ({"schedule": timedelta(hours=1)}, {}, timedelta(hours=1)),
            ({"schedule": "@daily"}, {"schedule": "@daily"}, "@daily"),
            ({}, {"schedule": "@sometimes"}, "*/15 * * * *"),
            ({"dry_run": "perhaps"}, {"schedule": None}, None),
        ],
        ids=[
            "nothing is set",
            "it is a setting",
            "it is an argument",
            "it is None",
            "it is a timedelta",
            "it is a timedelta and a setting",
            "it is a setting and an equal argument",
            "it is invalid and the default replaces it",
            "another setting is invalid",
        ],
    )
    def test_the_dag_has_the_expected_schedule_if(
        self, settings: dict[str, Any], arguments: dict[str, Any], expected: Any
    ) -> None:
        assert schedule_of(cleanup_dag("a", settings=settings, **arguments)) == expected

    @pytest.mark.parametrize("arguments", [{"schedule": HOURLY}, {"settings": {"schedule": HOURLY}}])
    def test_the_schedule_can_be_a_timetable(self, arguments: dict[str, Any]) -> None:
        dag = cleanup_dag("a", **arguments)
        assert HOURLY in (schedule_of(dag), dag.timetable)
        assert "Deletes zombie" in str(dag.description)

    @pytest.mark.parametrize("arguments", [{"schedule": ASSETS}, {"settings": {"schedule": ASSETS}}])
    def test_the_schedule_can_be_assets(self, arguments: dict[str, Any]) -> None:
        dag = cleanup_dag("a", **arguments)
        assert type(dag.timetable).__name__ in ("AssetTriggeredTimetable", "DatasetTriggeredTimetable")
        assert "Deletes zombie" in str(dag.description)

    @pytest.mark.parametrize("schedule", [5, object(), ["@daily"]], ids=["a number", "an object", "a list of strings"])
    def test_the_dag_remains_and_its_documentation_shows_the_error_if_the_schedule_is(self, schedule: Any) -> None:
        dag = cleanup_dag("a", schedule=schedule)
        assert schedule_of(dag) == "*/15 * * * *"
        assert "set it to a cron expression of five fields such as */15 * * * *, a preset" in str(dag.doc_md)

    @pytest.mark.parametrize(("text", "expected"), [("None", None), ("", None), ("@once", "@once")])
    def test_the_schedule_can_be_configured(
        self, text: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "SCHEDULE", text)
        assert schedule_of(cleanup_dag("a")) == expected


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"settings": ["dry_run"]}, '- settings (the DAG file):\n  pass a dict of options, such as settings={"'),
            ({"settings": "dry_run"}, '- settings (the DAG file):\n  pass a dict of options, such as settings={"'),
            (
                {"settings": {"schedule": "@daily"}, "schedule": "@hourly"},
                "- schedule='@daily' (the DAG file):\n  remove it from settings, because the argument schedule='@",
            ),
            (
                {"settings": {"schedule": "@daily"}, "schedule": None},
                "- schedule='@daily' (the DAG file):\n  remove it from settings, because the argument schedule=None ",
            ),
            ({"settings": {"exclude_namespaces": "a"}}, "set namespaces to * as well"),
        ],
        ids=[
            "the settings are a list",
            "the settings are a string",
            "two schedules differ",
            "one of two schedules is None",
            "namespaces are excluded although none are set",
        ],
    )
    def test_the_dag_remains_and_its_documentation_shows_the_error_if(
        self, arguments: dict[str, Any], error: str
    ) -> None:
        dag = cleanup_dag("a", **arguments)
        assert len(dag.tasks) == 4
        assert "Every run fails" in str(dag.description)
        assert error in str(dag.doc_md)

    def test_what_is_not_an_option_is_not_shown_among_the_fixed_options(self) -> None:
        dag = cleanup_dag("a", settings={"namespaces": ["a", "b"], "passwd": "canary-7f3a"})
        assert "`namespaces=['a', 'b']`" in str(dag.doc_md)
        assert "canary" not in str(dag.doc_md)

    def test_a_call_inside_another_dag_and_its_task_group_builds_a_separate_dag(self) -> None:
        with DAG("outer", schedule=None, start_date=datetime(2024, 1, 1)) as outer, TaskGroup("group"):
            inner = cleanup_dag("inner")
        assert {task.task_id: task.dag_id for task in inner.tasks} == dict.fromkeys(
            ("list_pods", "fetch_active_tis", "classify", "reap"), "inner"
        )
        assert outer.tasks == []


class TestArguments:
    def test_arguments_of_the_caller_replace_ours(self) -> None:
        def call() -> None: ...

        dag = cleanup_dag("a", tags=["gpu"], on_failure_callback=call, is_paused_upon_creation=False, max_active_runs=2)
        assert (set(dag.tags), dag.on_failure_callback, dag.is_paused_upon_creation) == ({"gpu"}, call, False)
        assert dag.max_active_runs == 2
        assert not dag.catchup

    def test_default_args_of_the_caller_are_merged_with_ours(self) -> None:
        dag = cleanup_dag("a", default_args={"queue": "k8s", "retries": 5})
        assert {task.queue for task in dag.tasks} == {"k8s"}
        assert {task.retries for task in dag.tasks} == {5}
        assert {task.owner for task in dag.tasks} == {"kpo_cleanup"}

    def test_only_tasks_that_do_not_delete_have_retries(self) -> None:
        retries = {task.task_id: task.retries for task in cleanup_dag("a").tasks}
        assert retries == {"list_pods": 2, "fetch_active_tis": 2, "classify": 0, "reap": 0}


class TestTasks:
    def test_each_task_is_directly_downstream_of_only_the_one_before_it(self) -> None:
        after = {task.task_id: task.downstream_task_ids for task in cleanup_dag("a").tasks}
        assert after == {
            "list_pods": {"fetch_active_tis"},
            "fetch_active_tis": {"classify"},
            "classify": {"reap"},
            "reap": set(),
        }

    @pytest.mark.skipif(AIRFLOW_RELEASE < (2, 9), reason="tasks have no display name there")
    @pytest.mark.parametrize(
        ("settings", "last"), [({}, "reap: delete zombies"), ({"dry_run": True}, "reap: what would be deleted")]
    )
    def test_the_display_name_of_each_task_describes_it(self, settings: dict[str, Any], last: str) -> None:
        names = {task.task_id: task.task_display_name for task in cleanup_dag("a", settings=settings).tasks}
        assert names["reap"] == last
        assert [name for task_id, name in names.items() if not name.startswith(f"{task_id}: ")] == []


class TestDocumentation:
    def test_the_documentation_warns_that_unpausing_starts_deleting(self) -> None:
        dag = cleanup_dag("a")
        assert "Unpausing starts deleting immediately" in str(dag.doc_md)
        assert "immediately when it is unpaused" in str(dag.description)

    def test_the_documentation_of_a_fixed_dry_run_states_that_nothing_is_deleted(self) -> None:
        dag = cleanup_dag("a", settings={"dry_run": "1", "namespaces": "ml"})
        assert "### Report zombie" in str(dag.doc_md)
        assert "**Deletes nothing**" in str(dag.doc_md)
        assert "deleted" not in str(dag.doc_md).partition("reap green")[2].partition("would be deleted")[0]
        assert "deletes nothing" in str(dag.description)
        assert "`dry_run='1', namespaces='ml'`" in str(dag.doc_md)

    def test_the_documentation_shows_invalid_settings_and_that_every_run_fails(self) -> None:
        dag = cleanup_dag("a", settings={"dryrun": True})
        assert "Every run fails" in str(dag.description)
        assert "- dryrun (the DAG file):\n  no such option: did you mean dry_run?" in str(dag.doc_md)
