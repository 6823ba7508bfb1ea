"""Verify each zombie again right before deleting it, and account for all of them.

The main thread owns all state. A worker thread sends one request and returns the response.

``reaper`` lists the zombies again, and takes batches from ``schedule``. For each batch, ``pod_logs`` saves the last log
lines, ``snapshot`` queries Airflow, and ``deleter`` processes the pods concurrently, by means of ``steps``. ``known``
holds the workloads as they were last read, and ``ledger`` the results.
"""

from .reaper import reap

__all__ = ["reap"]
