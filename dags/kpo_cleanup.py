"""The cleanup of zombie pods as two DAGs of Airflow.

- ``kpo_cleanup`` deletes. To unpause it means: delete now, and then by its schedule.
- ``kpo_cleanup_dry_run`` is for a look. Nobody can delete anything with it, whatever conf a run is given.

For another cluster or another team, call ``cleanup_dag`` in a DAG file of your own; its docstring says how.
"""

from __future__ import annotations

try:
    # In the zip of `make dist` the package has a name of its own. An `include` may be on the Python path already, or
    # imported by a plugin or by another DAG file; Python would look into that one and not into the zip.
    from _kpo_cleanup.dag import cleanup_dag
except ModuleNotFoundError:
    from include.kpo_cleanup.dag import cleanup_dag

cleanup_dag("kpo_cleanup")
cleanup_dag("kpo_cleanup_dry_run", settings={"dry_run": True}, schedule=None, is_paused_upon_creation=False)
