"""From pod labels to task instances and back: the operator's labels are often not the raw ids."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import NamedTuple

UNMAPPED = -1  # Airflow's map_index of a task that is not mapped

CACHED = 16_384  # ids: many task instances share their DAG, task and run

MAX_LABEL = 63  # Kubernetes' limit
HASH_LENGTH = 9


class TaskInstanceKey(NamedTuple):
    """A task instance as its pods name it: ids as label values, and the map index."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int = UNMAPPED


@lru_cache(maxsize=CACHED)
def to_label_value(value: str) -> str:
    """Make the label value that the operator writes for an id.

    The rule is the provider's ``pod_generator.make_safe_label_value``: drop what Kubernetes does not allow.
    If that changed anything, or the rest is too long, cut it and add the start of the original's md5.
    """
    safe = re.sub(r"^[^a-z0-9A-Z]*|[^a-zA-Z0-9_\-.]|[^a-z0-9A-Z]*$", "", value)
    if len(safe) <= MAX_LABEL and safe == value:
        return safe
    digest = hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()[:HASH_LENGTH]
    return f"{safe[: MAX_LABEL - HASH_LENGTH - 1]}-{digest}"


def make_key(dag_id: str, task_id: str, run_id: str, map_index: int) -> TaskInstanceKey:
    """Make the key under which the pods of a task instance with these raw ids are found."""
    return TaskInstanceKey(to_label_value(dag_id), to_label_value(task_id), to_label_value(run_id), map_index)
