"""Find the raw ids behind label values, which are hashed if the id does not fit into a label."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache

from ..identity import CACHE_SIZE, HASH_LENGTH, MAX_LABEL, to_label_value

_HASHED = re.compile(rf".*-[0-9a-f]{{{HASH_LENGTH}}}", re.DOTALL)
# An ISO timestamp without its colons and its plus sign, anywhere in a run_id: after scheduled__, manual__, backfill__,
# dataset_triggered__, asset_triggered__ or the prefix of a timetable, and before any suffix.
_FLATTENED_TIME = re.compile(r"(.*?\d{4}-\d\d-\d\dT\d\d)(\d\d)(\d\d)((?:\.\d+)?)(-?)(\d\d)(\d\d)(.*)")
_RANDOM = string.ascii_letters + string.digits  # the characters of the random suffix of Airflow's run_ids


@lru_cache(maxsize=CACHE_SIZE)
def may_be_hashed(label: str) -> bool:
    """Return whether this label value ends with what looks like a hash, so that the raw id may differ from it."""
    return _HASHED.fullmatch(label) is not None


@lru_cache(maxsize=CACHE_SIZE)
def rebuild_run_id(label: str) -> str | None:
    """Return the run_id behind a hashed label if it can be rebuilt from the label's text and matches its hash."""
    if not may_be_hashed(label):
        return None
    match = _FLATTENED_TIME.fullmatch(label[: -HASH_LENGTH - 1])
    if match is None:
        return None
    date_and_hour, minute, second, fraction, minus, zone_hour, zone_minute, rest = match.groups()
    candidate = f"{date_and_hour}:{minute}:{second}{fraction}{minus or '+'}{zone_hour}:{zone_minute}{rest}"
    # Airflow 3's asset_triggered__ run_ids with a random suffix are one character too long for a label.
    suffixes = ("", *_RANDOM) if len(label) == MAX_LABEL else ("",)
    prefix_digest = hashlib.md5(candidate.encode(), usedforsecurity=False)
    for suffix in suffixes:
        digest = prefix_digest.copy()
        digest.update(suffix.encode())
        run_id: str = candidate + suffix
        if digest.hexdigest().startswith(label[-HASH_LENGTH:]) and to_label_value(run_id) == label:
            return run_id
    return None


def find_runs(
    labels: Collection[tuple[str, str]],
    list_dag_ids: Callable[[], Iterable[str]],
    list_runs: Callable[[list[str]], Iterable[tuple[str, str]]],
) -> list[tuple[str, str]]:
    """Return every raw (dag_id, run_id) that these pairs of label values may stand for.

    :param list_dag_ids: returns all dag_ids; called only if the label of a dag_id may be hashed.
    :param list_runs: returns every (dag_id, run_id) of these DAGs; called only for those with a hashed run_id that
        cannot be rebuilt.
    """
    dag_ids: dict[str, set[str]] = {dag: {dag} for dag, _ in labels}
    hashed_dags = set(filter(may_be_hashed, dag_ids))
    for dag_id in list_dag_ids() if hashed_dags else ():
        if to_label_value(dag_id) in hashed_dags:
            dag_ids[to_label_value(dag_id)].add(dag_id)

    runs, hashed_runs = set(), set()
    for dag, run in labels:
        rebuilt = rebuild_run_id(run)
        for dag_id in dag_ids[dag]:
            runs.add((dag_id, run))
            if rebuilt:
                runs.add((dag_id, rebuilt))
            elif may_be_hashed(run):
                hashed_runs.add((dag_id, run))
    for dag_id, run_id in list_runs(sorted({dag_id for dag_id, _ in hashed_runs})) if hashed_runs else ():
        if (dag_id, to_label_value(run_id)) in hashed_runs:
            runs.add((dag_id, run_id))
    return sorted(runs)
