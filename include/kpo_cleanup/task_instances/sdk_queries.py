"""The queries that a task of Airflow 3 can send with the Task SDK, whatever its release."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Optional

from ..errors import TaskInstanceSourceError
from ..identity import UNMAPPED
from ..task_instance import RawIds, TaskInstance
from ..termination import without_sigterm

States = dict[str, Optional[str]]  # states of one run, by task_id or task_id_mapindex

MAX_HISTORY = 500  # task instances that the API server may load to return one of them: some 0.5 ms each
# The SDK inserts ids into paths as they are, and these characters would change the path.
_CHANGES_PATH = re.compile(r"[/?#%]|^\.{1,2}$")


class SdkQueries:
    """The queries of one running task, which need no credentials and may be about any DAG.

    No query may make the API server load many rows. While the server processes it, the supervisor sends no heartbeat,
    and after ``[workers] execution_api_timeout``, 5 seconds by default, it sends the query again.

    :param running_task_instance: the context's ``ti``.
    :param fetch_dag_run: returns Airflow's DAG run of a raw dag_id and run_id.
    :param reads_history: whether ``get_previous_ti`` makes the API server load all earlier task instances of a task.
    """

    def __init__(
        self, running_task_instance: Any, fetch_dag_run: Callable[[str, str], Any], reads_history: bool = False
    ) -> None:
        self._ti = running_task_instance
        self._logical_date = cache(lambda dag_id, run_id: fetch_dag_run(dag_id, run_id).logical_date)
        self._history = cache(self.count) if reads_history else lambda *_: 0

    def states(self, dag_id: str, task_ids: Collection[str], run_ids: Collection[str]) -> dict[str, States]:
        """Return the states of task instances of one DAG by run_id.

        Index 1 of a mapped task ``a`` and a task ``a_1`` share a name in the answer, which holds only one of them.

        :param task_ids: empty for all.
        :param run_ids: empty for all.
        :raises TaskInstanceSourceError: if there is no answer, or none of this form.
        """
        # The API server takes an empty list for "all", like None.
        query = {"dag_id": dag_id, "task_ids": sorted(task_ids) or None, "run_ids": sorted(run_ids) or None}
        answer = _answer_to(query, self._ti.get_task_states, "task states")
        if not isinstance(answer, dict) or not all(map(_are_states, answer.values())):
            raise TaskInstanceSourceError(f"the Task SDK returned {str(answer)[:200]!r} as task states for {query}")
        return answer

    def count(self, dag_id: str, task_ids: Collection[str], map_index: int = UNMAPPED, state: str | None = None) -> int:
        """Count task instances of one DAG, which is one query to the database, however many there are.

        :param task_ids: empty for all.
        :param map_index: UNMAPPED for all, because the SDK ignores a negative one.
        :param state: None for all.
        :raises TaskInstanceSourceError: if there is no answer.
        """
        states = [state] if state else None
        query = {"dag_id": dag_id, "task_ids": sorted(task_ids) or None, "map_index": map_index, "states": states}
        return int(_answer_to(query, self._ti.get_ti_count, "the number of task instances"))

    def with_try_and_end(self, ids: RawIds, map_index: int, ti: TaskInstance) -> TaskInstance:
        """Return a task instance with its try and its end, or as it is if this Airflow cannot return them.

        The SDK returns the latest task instance before a logical date, and no two runs of a DAG share one. A run that
        has no logical date cannot be queried in this way, nor can any run before Airflow 3.2.

        :param ti: its state in an earlier answer.
        :raises LookupError: if it is no longer in that state.
        :raises Exception: of any class, if there is no answer.
        """
        if not hasattr(self._ti, "get_previous_ti") or _CHANGES_PATH.search(ids.run_id):
            return ti
        try:
            logical_date = self._logical_date(ids.dag_id, ids.run_id)
            if logical_date is None or self._history(ids.dag_id, (ids.task_id,), map_index, ti.state) > MAX_HISTORY:
                return ti
            found = self._ti.model_copy(update={"dag_id": ids.dag_id, "task_id": ids.task_id}).get_previous_ti(
                state=ti.state, logical_date=logical_date + timedelta(microseconds=1), map_index=map_index
            )
        except Exception as error:  # the classes differ between versions
            if _is_refusal(error):
                return ti
            raise
        if found is None or (found.run_id, found.map_index, found.state) != (ids.run_id, map_index, ti.state):
            raise LookupError("its state has changed in the meantime")
        return ti._replace(try_number=found.try_number, ended=_to_epoch(found.end_date))


def fetch_dag_run(dag_id: str, run_id: str) -> Any:
    """Return a DAG run, for which Airflow 3.2 and 3.3 have a message, but no public method."""
    from airflow.sdk.execution_time.comms import GetDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    return SUPERVISOR_COMMS.send(GetDagRun(dag_id=dag_id, run_id=run_id))


def _answer_to(query: dict[str, Any], send: Callable[..., Any], what: str) -> Any:
    try:
        with without_sigterm():
            return send(**query)
    except Exception as error:  # the classes differ between versions; all of them mean that there is no answer
        raise TaskInstanceSourceError(
            f"the Task SDK could not read {what} for {query}",
            cause=str(error),
            remedy="see the log of Airflow's API server",
        ) from error


def _are_states(value: Any) -> bool:
    return isinstance(value, dict) and all(state is None or isinstance(state, str) for state in value.values())


def _is_refusal(error: Exception) -> bool:
    """Return whether the API server responded that it does not answer such a query; an outage is not a refusal."""
    detail = getattr(getattr(error, "error", None), "detail", None)
    status = detail.get("status_code") if isinstance(detail, dict) else None
    return status is not None and 400 <= status < 500


def _to_epoch(value: datetime | None) -> int | None:
    return None if value is None else int(value.timestamp())
