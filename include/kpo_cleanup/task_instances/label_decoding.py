"""The raw ids behind label values: a label is not always the id that the operator made it of."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache

from ..identity import CACHED, HASH_LENGTH, MAX_LABEL, TaskInstanceKey, to_label_value
from ..task_instance import RawIds, TaskInstance, TaskInstances, prefer_active

_CLEANED = re.compile(rf".*-[0-9a-f]{{{HASH_LENGTH}}}", re.DOTALL)
# An ISO timestamp that lost its colons and its plus sign, anywhere in a run_id: scheduled__, manual__,
# backfill__, dataset_triggered__, asset_triggered__ and whatever a timetable puts before or after.
_FLATTENED_TIME = re.compile(r"(.*?\d{4}-\d\d-\d\dT\d\d)(\d\d)(\d\d)((?:\.\d+)?)(-?)(\d\d)(\d\d)(.*)")
_RANDOM = string.ascii_letters + string.digits  # of which Airflow makes the end of a run_id


@lru_cache(maxsize=CACHED)
def may_be_hashed(label: str) -> bool:
    """Tell whether the raw id may differ from this label value (a raw id can end like a hash, too)."""
    return _CLEANED.fullmatch(label) is not None


@lru_cache(maxsize=CACHED)
def rebuild_run_id(label: str) -> str | None:
    """Rebuild the run_id behind a cleaned label, if its text tells it and its hash proves it; else None."""
    if not may_be_hashed(label):
        return None
    match = _FLATTENED_TIME.fullmatch(label[: -HASH_LENGTH - 1])
    if match is None:
        return None
    date_and_hour, minute, second, fraction, minus, zone_hour, zone_minute, rest = match.groups()
    candidate = f"{date_and_hour}:{minute}:{second}{fraction}{minus or '+'}{zone_hour}:{zone_minute}{rest}"
    # The random end of an asset_triggered__ run_id of Airflow 3 is one character too long for a label.
    ends = ("", *_RANDOM) if len(label) == MAX_LABEL else ("",)
    start = hashlib.md5(candidate.encode(), usedforsecurity=False)
    for end in ends:
        digest = start.copy()
        digest.update(end.encode())
        run_id: str = candidate + end
        if digest.hexdigest().startswith(label[-HASH_LENGTH:]) and to_label_value(run_id) == label:
            return run_id
    return None


def raw_runs(
    labels: Collection[tuple[str, str]],
    dag_ids: Callable[[], Iterable[str]],
    runs_of: Callable[[list[str]], Iterable[tuple[str, str]]],
) -> list[tuple[str, str]]:
    """Find all raw (dag_id, run_id) that these pairs of labels may stand for.

    :param dag_ids: gives all there are; asked only if a label may hide one.
    :param runs_of: gives all (dag_id, run_id) of these DAGs; asked only for those whose labels hide a run_id.
    """
    cleaned_dags = {dag for dag, _ in labels if may_be_hashed(dag)}
    raw_dags: dict[str, set[str]] = {dag: {dag} for dag, _ in labels}
    for dag_id in dag_ids() if cleaned_dags else ():
        if to_label_value(dag_id) in cleaned_dags:
            raw_dags[to_label_value(dag_id)].add(dag_id)

    runs, hidden = set(), set()
    for dag, run in labels:
        rebuilt = rebuild_run_id(run)
        for dag_id in raw_dags[dag]:
            runs.add((dag_id, run))
            if rebuilt:
                runs.add((dag_id, rebuilt))
            elif may_be_hashed(run):
                hidden.add((dag_id, run))
    for dag_id, run_id in runs_of(sorted({dag_id for dag_id, _ in hidden})) if hidden else ():
        if (dag_id, to_label_value(run_id)) in hidden:
            runs.add((dag_id, run_id))
    return sorted(runs)


def collect(
    rows: Iterable[tuple[TaskInstanceKey, RawIds, TaskInstance]], unresolved: Mapping[TaskInstanceKey, str]
) -> TaskInstances:
    """Make the answer of a source from what it found, which may come more than once."""
    found: dict[TaskInstanceKey, TaskInstance] = {}
    raw_ids: dict[TaskInstanceKey, tuple[RawIds, ...]] = {}
    for key, ids, ti in rows:
        if key in found:  # ids that clean to the same label, or one row in two answers
            found[key] = prefer_active(found[key], ti)
            raw_ids[key] = tuple(sorted({*raw_ids[key], ids}))
        else:
            found[key], raw_ids[key] = ti, (ids,)
    return TaskInstances(found, unresolved, raw_ids)
