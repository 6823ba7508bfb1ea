"""Identify a task instance by the labels of its pods, which often differ from its raw ids."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import NamedTuple

UNMAPPED = -1  # Airflow's map_index of a task that is not mapped

CACHE_SIZE = 16_384  # number of ids: many task instances share their DAG, task and run

MAX_LABEL = 63  # Kubernetes' limit
HASH_LENGTH = 9


class TaskInstanceKey(NamedTuple):
    """The ids of a task instance as label values, with its map index."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int = UNMAPPED


@lru_cache(maxsize=CACHE_SIZE)
def to_label_value(value: str) -> str:
    """Return the label value that the operator writes for an id.

    Follows the provider's ``pod_generator.make_safe_label_value``: remove the characters that Kubernetes does not
    allow. If the result differs from the id or is too long, truncate it and append the first digits of the id's md5.
    """
    safe = re.sub(r"^[^a-z0-9A-Z]*|[^a-zA-Z0-9_\-.]|[^a-z0-9A-Z]*$", "", value)
    if len(safe) <= MAX_LABEL and safe == value:
        return safe
    digest = hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()[:HASH_LENGTH]
    return f"{safe[: MAX_LABEL - HASH_LENGTH - 1]}-{digest}"


def make_key(dag_id: str, task_id: str, run_id: str, map_index: int) -> TaskInstanceKey:
    """Return the key of the task instance with these raw ids."""
    return TaskInstanceKey(to_label_value(dag_id), to_label_value(task_id), to_label_value(run_id), map_index)
