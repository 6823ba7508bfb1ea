"""Build a DAG of four tasks from settings. A DAG file needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from .airflow_compat import DAG, Param, display_name, is_schedule, task
from .config import DAG_FILE, read_settings
from .errors import HIDDEN, SettingError
from .settings import OPTIONS, is_run_param, json_schema
from .tasks import Cleanup

_READ_ONLY_ARGS = {"retries": 2, "retry_delay": timedelta(seconds=30)}
_DEFAULT_ARGS = {"owner": "kpo_cleanup", "retries": 0, "execution_timeout": timedelta(minutes=30)}

_DOC = """
### {title}

Finds pods, Jobs and SparkApplications that are still in the cluster although their task instance has finished.

{what_it_does}

#### How to read a run

- **reap green**: {green}. The end of its log counts the outcomes.
- **reap skipped**: there was nothing to delete; if there were no pods, only *list_pods* ran.
- **reap red**: something could not be listed or deleted. The rest was processed, or is left for the next run. The log
  shows cause and remedy.
- **reap orange** (*upstream_failed*): an earlier task failed, and nothing was deleted. The log of that task shows why.
- **classify** lists each zombie with the evidence, and counts the pods that are kept.

#### What is never touched

- a pod that a live task uses; a retry may have adopted the pod of an earlier try
- a pod of a ReplicaSet or another controller, except for Jobs and SparkApplications, which are cleaned up themselves
- a Job whose operator did not wait for it
- a pod with the annotation or label *kpo-cleanup/protect*, with any value but *false*
- a pod that is unknown to this Airflow, unless *delete_unmatched_pods* is on

#### Settings

"Trigger" shows the settings that can be changed for one run. For all runs, settings are options of Airflow's config
section *kpo_cleanup*, such as `AIRFLOW__KPO_CLEANUP__MAX_DELETES=100`, on every component that parses or runs DAGs.
{fixed}
"""
# One line for the list of DAGs, the full text, the title, and what it means that reap is green.
_REPORTS = (
    "Reports zombie KubernetesPodOperator pods; deletes nothing.",
    """**Deletes nothing**, whoever triggers it and with whatever conf, because *dry_run* is fixed. Trigger it at any
time: the log of *classify* shows what would be deleted.""",
    "Report zombie KubernetesPodOperator pods",
    "there are zombies, which would be deleted",
)
_DELETES = (
    "Deletes zombie KubernetesPodOperator pods: immediately when it is unpaused, then on its schedule.",
    """**Unpausing starts deleting immediately**, then on the schedule. For a preview, leave it paused
and trigger *kpo_cleanup_dry_run*, or another DAG whose file sets *dry_run*. **Pause it to prevent further runs.** To
also stop a *reap* that is running, mark its run as failed.""",
    "Remove zombie KubernetesPodOperator pods",
    "the zombies were processed; in a dry run, nothing was deleted",
)


def cleanup_dag(dag_id: str, settings: Mapping[str, Any] | None = None, **dag_arguments: Any) -> DAG:
    """Build a DAG that finds zombie pods and deletes them.

    Call it in DAG files of your own to build several DAGs, such as one for each cluster or team::

        # Airflow reads only files that contain the words "airflow" and "dag".
        from include.kpo_cleanup.dag import cleanup_dag

        cleanup_dag("kpo_cleanup_gpu", settings={"kubernetes_conn_id": "gpu", "namespaces": "ml"}, schedule="@hourly")

    Invalid settings raise no error here, because that would make the DAG disappear. Instead, every run fails.

    :param settings: options that are fixed for this DAG. Neither its params nor a run's conf can change them. All
        others come from Airflow's config section ``kpo_cleanup``.
    :param dag_arguments: arguments of Airflow's ``DAG``, such as ``schedule``, ``tags`` or ``default_args``.
        They replace the defaults of this function; ``default_args`` and ``params`` do so key by key. Params whose names
        do not resemble an option are the author's own.
    """
    fixed: dict[str, Any] = dict(settings) if isinstance(settings, Mapping) else {}
    mistakes = []
    if settings is not None and not isinstance(settings, Mapping):
        remedy = 'pass a dict of options, such as settings={"namespaces": "team-a"}'
        mistakes.append(SettingError("settings", HIDDEN, DAG_FILE, remedy))
    if "schedule" in dag_arguments:  # moved to the settings, so that an invalid one fails the runs as well
        schedule = dag_arguments.pop("schedule")
        if fixed.setdefault("schedule", schedule) != schedule:
            remedy = f"remove it from settings, because the argument schedule={schedule!r} sets it as well"
            mistakes.append(SettingError("schedule", fixed["schedule"], DAG_FILE, remedy))
    if not isinstance(fixed.get("schedule"), (str, type(None))) and is_schedule(fixed["schedule"]):
        dag_arguments["schedule"] = fixed.pop("schedule")
    own_params = frozenset(dag_arguments.get("params") or ())
    read = partial(read_settings, fixed, own_params=own_params, mistakes=mistakes)
    resolved = read()
    only_reports = resolved.settings.dry_run and "dry_run" in fixed
    description, what_it_does, title, green = _REPORTS if only_reports else _DELETES
    if resolved.errors:
        description = "Every run fails until its settings are corrected."
        what_it_does = "\n- ".join([f"**{description}**\n", *map(str, resolved.errors)])
    default_args = dag_arguments.pop("default_args", None) or {}
    params = {
        name: Param(resolved.values[name], **json_schema(name))
        for name in OPTIONS
        if is_run_param(name) and name not in fixed
    }
    defaults = {
        "schedule": resolved.settings.schedule,
        "start_date": datetime(2024, 1, 1, tzinfo=timezone.utc),
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["maintenance", "kubernetes"],
        "description": description,
        "doc_md": _DOC.format(title=title, what_it_does=what_it_does, green=green, fixed=_fixed_here(fixed)),
    }
    merged = {
        "default_args": {**_DEFAULT_ARGS, **default_args},
        "params": {**params, **(dag_arguments.pop("params", None) or {})},
    }
    read_only_args = {name: value for name, value in _READ_ONLY_ARGS.items() if name not in default_args}
    # The tasks belong to the DAG itself, even if this function is called inside a task group of another DAG.
    with DAG(dag_id, **{**defaults, **dag_arguments, **merged}) as dag, dag.task_group:
        _add_tasks(Cleanup(read), only_reports, read_only_args)
    return dag


def _add_tasks(cleanup: Cleanup, only_reports: bool, read_only_args: Mapping[str, Any]) -> None:
    """Add the tasks one after the other.

    A task pulls the XComs that it needs when it runs. If they were arguments, the graph would draw an edge for each.

    :param only_reports: whether nothing is ever deleted.
    :param read_only_args: arguments of the tasks that only read, which may be retried. What reap leaves undone is left
        to the next run, which reads everything again.
    """
    # The return values are for the next task and the XCom page; in the log each would be a wall of text.
    plain = {"multiple_outputs": False, "show_return_value_in_logs": False}

    def list_pods() -> dict[str, Any]:
        return cleanup.run(cleanup.list_pods)

    def fetch_active_tis() -> dict[str, Any]:
        return cleanup.run(cleanup.fetch_active_tis, "list_pods")

    def classify() -> dict[str, Any]:
        return cleanup.run(cleanup.classify, "list_pods", "fetch_active_tis")

    def reap() -> dict[str, Any]:
        return cleanup.run(cleanup.reap, "classify")

    reads = {**plain, **read_only_args}
    listing = task(**reads, **display_name("list_pods: in the cluster"))(list_pods)()
    task_instances = task(**reads, **display_name("fetch_active_tis: their task instances"))(fetch_active_tis)()
    verdicts = task(**plain, **display_name("classify: which are zombies"))(classify)()
    what = "reap: what would be deleted" if only_reports else "reap: delete zombies"
    listing >> task_instances >> verdicts >> task(**plain, **display_name(what))(reap)()


def _fixed_here(fixed: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in fixed.items() if name in OPTIONS)
    return f"\nFixed by this DAG's file: `{options}`." if options else ""
