"""Find the raw dag_ids behind hashed labels in DAG files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.kpo_cleanup.identity import to_label_value
from include.kpo_cleanup.task_instances.dag_files import MAX_BYTES, find_dag_ids

LONG = "orders_of_all_customers_" * 4


@pytest.mark.parametrize(
    ("name", "text", "dag_id"),
    [
        pytest.param("a.py", f'with DAG("{LONG}"): ...', LONG, id="a string"),
        pytest.param(
            "a.py",
            "with DAG('commandes_à_faire', schedule=None): ...",
            "commandes_à_faire",
            id="a string with an accent",
        ),
        pytest.param(
            "deep/er/a.py", f"@dag()\ndef {LONG}():\n    ...", LONG, id="the name of a function in a subfolder"
        ),
        pytest.param("a.py", 'DAG(dag_id="_private_")', "_private_", id="a string with an underscore at both ends"),
        pytest.param("dags.yaml", f"{LONG}:\n  schedule: daily\n", LONG, id="a YAML key"),
        pytest.param("dags.json", f'{{"dag_id": "{LONG}.v2"}}', f"{LONG}.v2", id="a JSON string with a dot"),
    ],
)
def test_a_dag_id_is_found_in(tmp_path: Path, name: str, text: str, dag_id: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# {LONG}x\n{text}\n", encoding="utf-8")
    labels = {to_label_value(dag_id), to_label_value("another_dag_id_" * 5)}
    assert find_dag_ids([tmp_path], labels) == {to_label_value(dag_id): dag_id}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("a.py", f'DAG(f"{LONG[:-1]}{{end}}")', id="only a part of it is written"),
        pytest.param("a.py", f'DAG("{to_label_value(LONG)}")', id="only its label is written"),
        pytest.param("a.md", f"`{LONG}`", id="it is in a file of another kind"),
        pytest.param(".git/a.py", f'DAG("{LONG}")', id="it is in a hidden folder"),
        pytest.param("a.py", f'DAG("{LONG}")\n' + "#" * MAX_BYTES, id="it is in a file that is too large"),
    ],
)
def test_a_dag_id_is_not_found_if(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    assert find_dag_ids([tmp_path], {to_label_value(LONG)}) == {}


def test_unreadable_files_and_files_in_another_encoding_do_not_stop_the_search(tmp_path: Path) -> None:
    (tmp_path / "broken.py").symlink_to(tmp_path / "gone")
    (tmp_path / "latin.py").write_bytes(b'DAG("\xe9t\xe9")')
    (tmp_path / "z.py").write_text(f'DAG("{LONG}")')
    assert find_dag_ids([tmp_path], {to_label_value(LONG)}) == {to_label_value(LONG): LONG}


def test_dag_ids_are_found_in_all_folders(tmp_path: Path) -> None:
    dag_ids = {"own": f"{LONG}1", "another": f"{LONG}2"}
    for folder, dag_id in dag_ids.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text(f'DAG("{dag_id}")')
    expected = {to_label_value(dag_id): dag_id for dag_id in dag_ids.values()}
    assert find_dag_ids([tmp_path / folder for folder in dag_ids], expected) == expected


def test_the_search_ends_once_all_dag_ids_are_found(tmp_path: Path) -> None:
    def folders() -> Iterator[Path]:
        yield tmp_path
        pytest.fail("the search continued although every dag_id had been found")

    (tmp_path / "a.py").write_text(f'DAG("{LONG}")')
    assert find_dag_ids(folders(), {to_label_value(LONG)}) == {to_label_value(LONG): LONG}


def test_a_folder_that_is_missing_has_no_dag_ids(tmp_path: Path) -> None:
    assert find_dag_ids([tmp_path / "gone"], {to_label_value(LONG)}) == {}


def test_the_search_stops_soon_after_max_seconds(tmp_path: Path) -> None:
    words = "\n".join(f'DAG("é{word}")' for word in range(20_000))
    for number in range(50):
        (tmp_path / f"{number}.py").write_text(words)
    started = time.process_time()
    find_dag_ids([tmp_path], {to_label_value(LONG)}, max_seconds=0.1)
    assert time.process_time() - started < 2
