"""Isolate a DAG that cannot be queried, so that the others are answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection

from ..errors import SourceUnusable, TaskInstanceSourceError
from ..identity import TaskInstanceKey
from ..task_instance import TaskInstances
from .records import describe

Fetch = Callable[[list[TaskInstanceKey]], TaskInstances]


def fetch_isolated(
    fetch: Fetch, keys: Collection[TaskInstanceKey], verify: Callable[[], object], one_by_one: bool = False
) -> TaskInstances:
    """Return the task instances of these keys; those of a DAG whose query fails are unresolved, with the reason.

    A query that fails is split by DAG, because it does not show which of its DAGs fails.

    :param fetch: sends one query.
    :param verify: queries only the cleanup's own task instance; a source that fails to return it answers nothing.
    :param one_by_one: query each DAG separately from the start.
    :raises TaskInstanceSourceError: if the source is unusable, or if the query fails for every DAG.
    """
    by_dag: dict[str, list[TaskInstanceKey]] = defaultdict(list)
    for key in sorted(set(keys)):
        by_dag[key.dag_id].append(key)
    dags = list(by_dag.values())
    pending = [[dag] for dag in reversed(dags)] if one_by_one else [dags]
    answers: list[TaskInstances] = []
    unresolved: dict[TaskInstanceKey, str] = {}
    while pending:
        part = pending.pop()
        try:
            answers.append(fetch([key for dag in part for key in dag]))
        except SourceUnusable:
            raise
        except TaskInstanceSourceError as error:
            if len(part) > 1:
                pending += [part[len(part) // 2 :], part[: len(part) // 2]]
            else:
                unresolved.update(dict.fromkeys(part[0], f"its DAG could not be queried: {describe(error)}"))
            if len(unresolved) == sum(map(len, dags)):
                raise
            verify()
    return TaskInstances(
        {key: ti for answer in answers for key, ti in answer.found.items()},
        {**unresolved, **{key: why for answer in answers for key, why in answer.unresolved.items()}},
        {key: ids for answer in answers for key, ids in answer.raw_ids.items()},
        any(answer.try_number_may_lag for answer in answers),
    )
