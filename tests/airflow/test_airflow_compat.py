"""Differences between Airflow releases."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from include.kpo_cleanup.airflow_compat import (
    AIRFLOW_RELEASE,
    IS_AIRFLOW_3,
    dag_folders,
    link_to,
    reject_long_xcom,
    ui_url,
)
from include.kpo_cleanup.errors import KpoCleanupError

MYSQL = "mysql+mysqldb://airflow@db.example.org/airflow"
LIMIT = 65_535
IS_LIMITED = AIRFLOW_RELEASE < (2, 9)


def listing_of(size: int) -> dict[str, str]:
    return {"tree": "é" * ((size - len('{"tree": ""}')) // 6) + "x" * ((size - len('{"tree": ""}')) % 6)}  # \u00e9


@pytest.mark.parametrize(
    ("url", "backend", "size", "is_rejected"),
    [
        pytest.param(MYSQL, None, LIMIT, False, id="it fills the column on MySQL"),
        pytest.param(MYSQL, None, LIMIT + 1, IS_LIMITED, id="it is one byte longer on MySQL"),
        pytest.param(
            "postgresql://airflow@db/airflow", None, LIMIT + 1, False, id="it is one byte longer on PostgreSQL"
        ),
        pytest.param(MYSQL, "example.ObjectStorage", LIMIT + 1, False, id="a custom backend stores it elsewhere"),
    ],
)
def test_a_long_xcom_is_rejected_only_on_mysql_before_airflow_2_9_if(
    monkeypatch: pytest.MonkeyPatch, url: str, backend: str | None, size: int, is_rejected: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
    if backend:
        monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", backend)
    with pytest.raises(KpoCleanupError) if is_rejected else nullcontext() as caught:
        reject_long_xcom(listing_of(size), "281 pods")
    if caught:
        assert caught.value.summary == "the XCom with 281 pods is too long"
        assert caught.value.cause.startswith(f"it has {size} bytes, and MySQL and MariaDB store at most {LIMIT} ")
        assert caught.value.remedy == "narrow namespaces or label_selector, or upgrade to Airflow 2.9"


@pytest.mark.skipif(not IS_AIRFLOW_3, reason="Airflow 2 has no DAG bundles")
def test_a_worker_reads_the_dag_files_of_its_own_bundle_of_local_bundles_and_of_downloaded_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    git = {"name": "git", "classpath": "airflow.providers.git.bundles.git.GitDagBundle", "kwargs": {"subdir": "dags"}}
    local = {"classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"}
    bundles = [git, {"name": "default", **local}, {"name": "team", **local, "kwargs": {"path": "/team"}}]
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", "/dags")
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", "/bundles")
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    own = SimpleNamespace(bundle_instance=SimpleNamespace(path=Path("/bundles/git/versions/1/dags")))
    others = ["/dags", "/team", "/bundles"]
    assert [*map(str, dag_folders(own))] == ["/bundles/git/versions/1/dags", *others]
    assert [*map(str, dag_folders(SimpleNamespace()))] == others


@pytest.mark.parametrize("base_url", ["https://airflow.example.com/team/", None], ids=["is set", "is not set"])
def test_a_link_to_a_task_instance_is_below_the_address_of_the_ui_with_quoted_ids_if_the_address(
    base_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = "API" if IS_AIRFLOW_3 else "WEBSERVER"
    if base_url:
        monkeypatch.setenv(f"AIRFLOW__{section}__BASE_URL", base_url)
    base = "https://airflow.example.com/team" if base_url else "http://localhost:8080"
    run_id, quoted = "manual__2026-11-24T03:00:00+00:00/ä?", "manual__2026-11-24T03:00:00%2B00:00%2F%C3%A4%3F"
    if IS_AIRFLOW_3:
        path, mapped = f"/dags/orders/runs/{quoted}/tasks/load", "/mapped/0"
    else:
        path, mapped = f"/dags/orders/grid?dag_run_id={quoted}&task_id=load", "&map_index=0"
    assert link_to(ui_url(), "orders", "load", run_id, -1) == base + path
    assert link_to(ui_url(), "orders", "load", run_id, 0) == base + path + mapped
