"""From pod labels to task instances and back: the operator's labels are often not the raw ids."""

from __future__ import annotations

import hashlib
import re
import string
from functools import lru_cache
from typing import NamedTuple

UNMAPPED = -1  # Airflow's map_index of a task that is not mapped

CACHED = 16_384  # ids: many task instances share their DAG, task and run

_MAX_LABEL = 63  # Kubernetes' limit
_HASH_LENGTH = 9
_CLEANED = re.compile(rf".*-[0-9a-f]{{{_HASH_LENGTH}}}", re.DOTALL)
# An ISO timestamp that lost its colons and its plus sign, anywhere in a run_id: scheduled__, manual__,
# backfill__, dataset_triggered__, asset_triggered__ and whatever a timetable puts before or after.
_FLATTENED_TIME = re.compile(r"(.*?\d{4}-\d\d-\d\dT\d\d)(\d\d)(\d\d)((?:\.\d+)?)(-?)(\d\d)(\d\d)(.*)")

_RANDOM = string.ascii_letters + string.digits  # of which Airflow makes the end of a run_id


class TaskInstanceKey(NamedTuple):
    """A task instance as its pods name it: ids as label values, and the map index."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int = UNMAPPED


@lru_cache(maxsize=CACHED)
def safe_label(value: str) -> str:
    """The label value that the operator writes for an id.

    The rule is the provider's ``pod_generator.make_safe_label_value``: drop what Kubernetes does not allow,
    and where that changed anything or the rest is too long, cut it and add the start of an md5 of the original.
    """
    safe = re.sub(r"^[^a-z0-9A-Z]*|[^a-zA-Z0-9_\-.]|[^a-z0-9A-Z]*$", "", value)
    if len(safe) <= _MAX_LABEL and safe == value:
        return safe
    digest = hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()[:_HASH_LENGTH]
    return f"{safe[: _MAX_LABEL - _HASH_LENGTH - 1]}-{digest}"


def key_of(dag_id: str, task_id: str, run_id: str, map_index: int) -> TaskInstanceKey:
    """The key under which the pods of a task instance with these raw ids are found."""
    return TaskInstanceKey(safe_label(dag_id), safe_label(task_id), safe_label(run_id), map_index)


@lru_cache(maxsize=CACHED)
def may_be_cleaned(label: str) -> bool:
    """Whether the raw id may differ from this label value (a raw id can end like a hash, too)."""
    return _CLEANED.fullmatch(label) is not None


@lru_cache(maxsize=CACHED)
def rebuild_run_id(label: str) -> str | None:
    """The raw run_id behind a cleaned label, where its text tells it and its hash proves it; else None."""
    if not may_be_cleaned(label):
        return None
    match = _FLATTENED_TIME.fullmatch(label[: -_HASH_LENGTH - 1])
    if match is None:
        return None
    date_and_hour, minute, second, fraction, minus, zone_hour, zone_minute, rest = match.groups()
    candidate = f"{date_and_hour}:{minute}:{second}{fraction}{minus or '+'}{zone_hour}:{zone_minute}{rest}"
    # The random end of an asset_triggered__ run_id of Airflow 3 is one character too long for a label.
    ends = ("", *_RANDOM) if len(label) == _MAX_LABEL else ("",)
    start = hashlib.md5(candidate.encode(), usedforsecurity=False)
    for end in ends:
        digest = start.copy()
        digest.update(end.encode())
        run_id: str = candidate + end
        if digest.hexdigest().startswith(label[-_HASH_LENGTH:]) and safe_label(run_id) == label:
            return run_id
    return None
