"""Find raw dag_ids in the DAG files on the worker's disk, for labels that hold only a hash of them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path

from ..identity import MAX_LABEL, to_label_value

MAX_SECONDS = 2.0  # enough for 30 MB, and too short to make a source's answers too old for `reap`
MAX_BYTES = 1_000_000  # size limit of a file; people do not write longer ones
_SUFFIXES = (".py", ".yaml", ".yml", ".json")  # extensions of DAG files, and of what DAG factories read
_WORD = re.compile(r"[\w.-]+")  # Airflow allows no other dag_id


def find_dag_ids(folders: Iterable[Path], labels: Collection[str], max_seconds: float = MAX_SECONDS) -> dict[str, str]:
    """Return, by label, the dag_ids behind hashed labels that are words of the files in folders. No code is executed.

    The hash in a label proves that a word is the dag_id. An id that code composes, such as ``f"orders_{team}"``,
    does not occur literally in a file and is not found.

    :param max_seconds: seconds after which no further file is read.
    """
    found: dict[str, str] = {}
    for word in _words(folders, time.monotonic() + max_seconds):
        if (label := to_label_value(word)) in labels:
            found[label] = word
            if len(found) == len(labels):
                break
    return found


def _words(folders: Iterable[Path], deadline: float) -> Iterator[str]:
    """Yield the words that do not fit into a label."""
    for path in chain.from_iterable(map(_files, folders)):
        if time.monotonic() > deadline:
            return
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.stat().st_size <= MAX_BYTES else ""
        except OSError:
            continue  # a newer version of the DAGs may have replaced it in the meantime
        yield from filter(_is_hashed, set(_WORD.findall(text)))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(parent, name) for name in names if name.endswith(_SUFFIXES))


def _is_hashed(word: str) -> bool:
    """Return whether a label cannot hold this word, without building the label, which takes longer."""
    return len(word) > MAX_LABEL or not word.isascii() or not (word[0].isalnum() and word[-1].isalnum())
