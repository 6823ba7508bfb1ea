"""
### Remove zombie KubernetesPodOperator pods

Finds pods of the `KubernetesPodOperator` that are still in the cluster although their task instance is over, and
deletes them. Never touched: a pod that a live task uses (a retry may be attached to the pod of an earlier try), a
pod with a controller such as a Job, a protected pod (annotation or label `kpo-cleanup/protect: "true"`), and a pod
of which this Airflow knows nothing.

**How to read a run.** `reap` green: pods were deleted, see its log or its XCom. `reap` skipped (pink): there was
nothing to do. `reap` red: something could not be listed or deleted; the last line of its log says what and what
to do. `classify` shows every zombie with its reason, and what was kept and why.

**How to try it.** Trigger with `dry_run`: it reports what it would delete. **To disable it**, pause the DAG.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from include.kpo_cleanup import steps
from include.kpo_cleanup.airflow_compat import dag, task
from include.kpo_cleanup.dag_options import params, schedule, settings_table


@dag(  # type: ignore[untyped-decorator]
    dag_id="kpo_cleanup",
    schedule=schedule(),
    start_date=datetime(2024, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    tags=["maintenance", "kubernetes"],
    default_args={"owner": "kpo_cleanup", "retries": 0, "execution_timeout": timedelta(minutes=30)},
    params=params(),
    doc_md=f"{__doc__}\n{settings_table()}",
)
def kpo_cleanup() -> None:
    """List, ask, judge, delete."""
    # Reading may be tried again; what reap leaves undone is for the next run, which looks afresh.
    reading = {"retries": 2, "retry_delay": timedelta(seconds=30)}
    # What they return is for the next task and the XCom page; in the log it would be a wall of text.
    plain = {"multiple_outputs": False, "show_return_value_in_logs": False}
    listing = task(**plain, **reading)(steps.list_pods)()
    task_instances = task(**plain, **reading)(steps.fetch_active_tis)(listing)
    classification = task(**plain)(steps.classify)(listing, task_instances)
    task(**plain)(steps.reap)(listing, classification)


kpo_cleanup()
