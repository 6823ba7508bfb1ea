"""
### Remove zombie KubernetesPodOperator pods

Deletes pods that are still in the cluster although their task instance is over. **To try it**, trigger it with
*dry_run* on. **To stop it**, pause it.

#### How to read a run

- **reap green**: pods were deleted (or, in a dry run, would be). Its log has a line for each.
- **reap skipped**: there was nothing to do.
- **reap red**: something could not be listed or deleted; all else was done. The error says what to do.
- **classify** shows each zombie with the evidence, and counts what was kept.

#### What is never touched

- a pod that a live task uses; a retry may be attached to the pod of an earlier try
- a pod with a controller, such as a Job
- a pod with the annotation or label *kpo-cleanup/protect: "true"*
- a pod of which this Airflow knows nothing, unless *delete_unmatched_pods* is on

#### Settings

"Trigger" shows them all, and changes them for one run. For all runs they are options of Airflow's config section
*[kpo_cleanup]*, such as `AIRFLOW__KPO_CLEANUP__DRY_RUN=True`.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from include.kpo_cleanup import steps
from include.kpo_cleanup.airflow_compat import dag, task
from include.kpo_cleanup.dag_options import params, schedule


@dag(  # type: ignore[untyped-decorator]
    dag_id="kpo_cleanup",
    schedule=schedule(),
    start_date=datetime(2024, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    tags=["maintenance", "kubernetes"],
    default_args={"owner": "kpo_cleanup", "retries": 0, "execution_timeout": timedelta(minutes=30)},
    params=params(),
    doc_md=__doc__,
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
