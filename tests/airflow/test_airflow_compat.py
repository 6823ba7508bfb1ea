"""Differences between the releases of Airflow."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, reject_long_xcom
from include.kpo_cleanup.errors import KpoCleanupError

MYSQL = "mysql+mysqldb://airflow@db.example.org/airflow"
LIMIT = 65_535
IS_SHORT = AIRFLOW_RELEASE < (2, 9)


def listing_of(size: int) -> dict[str, str]:
    return {"tree": "é" * ((size - len('{"tree": ""}')) // 6) + "x" * ((size - len('{"tree": ""}')) % 6)}  # \u00e9


@pytest.mark.parametrize(
    ("url", "backend", "size", "is_refused"),
    [
        pytest.param(MYSQL, None, LIMIT, False, id="as much as MySQL's column holds"),
        pytest.param(MYSQL, None, LIMIT + 1, IS_SHORT, id="a byte more on MySQL"),
        pytest.param("postgresql://airflow@db/airflow", None, LIMIT + 1, False, id="a byte more on PostgreSQL"),
        pytest.param(MYSQL, "example.ObjectStorage", LIMIT + 1, False, id="a byte more for a backend elsewhere"),
    ],
)
def test_an_xcom_is_refused_before_airflow_2_9_if_it_is(
    monkeypatch: pytest.MonkeyPatch, url: str, backend: str | None, size: int, is_refused: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
    if backend:
        monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", backend)
    with pytest.raises(KpoCleanupError) if is_refused else nullcontext() as caught:
        reject_long_xcom(listing_of(size), "281 pods")
    if caught:
        assert str(caught.value).startswith(f"281 pods take {size} bytes as an XCom, and the metadata database takes ")
        assert str(caught.value).endswith("narrow namespaces or label_selector, or upgrade to Airflow 2.9")
