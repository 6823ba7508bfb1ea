"""The Airflow DAGs that delete zombie pods.

- ``kpo_cleanup`` deletes zombie pods. Unpausing it starts deleting immediately, then on its schedule.
- ``kpo_cleanup_dry_run`` shows what would be deleted. It never deletes anything, whatever conf a run has.

For another cluster or team, call ``cleanup_dag`` in a DAG file of your own; see its docstring.
"""

from __future__ import annotations

try:
    # In the zip of `make dist` the package has a unique name: if another `include` is on the Python path or was already
    # imported by a plugin or a DAG file, Python would search that one instead of the zip.
    from _kpo_cleanup.dag import cleanup_dag
except ModuleNotFoundError:
    from include.kpo_cleanup.dag import cleanup_dag

cleanup_dag("kpo_cleanup")
cleanup_dag("kpo_cleanup_dry_run", settings={"dry_run": True}, schedule=None, is_paused_upon_creation=False)
