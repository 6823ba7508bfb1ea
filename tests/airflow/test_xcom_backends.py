"""Records, whatever backend stores the XComs: read from the metadata database and through the REST API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, IS_AIRFLOW_3
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.task_instance import RawIds, Record, TaskInstances
from include.kpo_cleanup.task_instances.rest import RestSource
from include.kpo_cleanup.task_instances.rest_api import RestApi
from tests import proxy as faults
from tests.airflow.test_sql_source import CALLER, Database, row
from tests.proxy import FaultProxy

if IS_AIRFLOW_3:
    from airflow.sdk.execution_time import xcom as airflow_xcom
else:
    from airflow.models import xcom as airflow_xcom
BaseXCom: Any = airflow_xcom.BaseXCom

MINE = row()
ANSWER = TaskInstances(raw_ids={MINE.key: (RawIds(*MINE[:3]),)})
RECORD = {MINE.key: Record(frozenset({"airflow/load-x1"}))}
Stored = dict[str, Any]  # what the metadata database has, by XCom key
Read = Callable[[Stored], Any]


class Vault(BaseXCom):  # type: ignore[misc]
    """A backend that stores values elsewhere, and a reference in the metadata database."""

    values: ClassVar[dict[str, Any]] = {}

    @staticmethod
    def serialize_value(
        value: Any,
        *,
        key: str | None = None,
        task_id: str | None = None,
        dag_id: str | None = None,
        run_id: str | None = None,
        map_index: int | None = None,
    ) -> Any:
        reference = f"vault://{key}"
        Vault.values[reference] = value
        return BaseXCom.serialize_value(reference)

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        return Vault.values[BaseXCom.deserialize_value(result)]


class SealedVault(Vault):
    """The same backend, while its server does not answer."""

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        raise ConnectionError(f"the vault\n is sealed: {result.dag_id}.{result.task_id} {result.key}")


def serialize(backend: Any, name: Any = "load-x1", namespace: Any = "airflow") -> Stored:
    values = {"pod_name": name, "pod_namespace": namespace}
    ids = {"dag_id": MINE.dag_id, "task_id": MINE.task_id, "run_id": MINE.run_id}
    return {key: backend.serialize_value(value=value, key=key, **ids) for key, value in values.items()}


def read_from_database(stored: Stored) -> Any:
    database = Database()
    database.fill([MINE])
    column = {key: json.dumps(value).encode() if IS_AIRFLOW_3 else value for key, value in stored.items()}
    database.push(MINE, **column)
    return database.source.read_records(ANSWER, [MINE.key])


def read_by_rest(stored: Stored) -> Any:
    ids = {"dag_id": MINE.dag_id, "task_id": MINE.task_id, "run_id": MINE.run_id, "map_index": MINE.map_index}
    with FaultProxy("http://127.0.0.1:9") as proxy:
        for key, value in stored.items():
            body = json.dumps({**ids, "key": key, "value": value})
            proxy.spoil(rf"GET .*/xcomEntries/{key}\?", faults.answer(200, body, "application/json"))
        connection = SimpleNamespace(host=proxy.url, port=None, login=None, password="a token")
        api = RestApi("airflow_api", connection, RetryPolicy(attempts=1))
        return RestSource(api, CALLER, "test").read_records(ANSWER, [MINE.key])


@pytest.fixture(params=[read_from_database, read_by_rest], ids=["the database", "the REST API"])
def read(request: pytest.FixtureRequest) -> Read:
    if request.param is read_by_rest and not IS_AIRFLOW_3:
        pytest.skip("Airflow 2 has no REST API v2")
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def use_backend(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    def use(backend: type) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", f"{backend.__module__}.{backend.__name__}")
        # Airflow does this once, when it imports the module.
        monkeypatch.setattr(airflow_xcom, "XCom", airflow_xcom.resolve_xcom_backend())

    return use


def test_a_record_of_the_default_backend_is_read(read: Read) -> None:
    assert read(serialize(BaseXCom)) == RECORD


@pytest.mark.skipif(IS_AIRFLOW_3, reason="Airflow 3 does not pickle XComs")
def test_a_pickled_record_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__ENABLE_XCOM_PICKLING", "True")
    stored = serialize(BaseXCom)
    assert stored["pod_name"].startswith(b"\x80")
    assert read_from_database(stored) == RECORD


def test_a_record_that_a_custom_backend_stored_elsewhere_is_read(
    read: Read, use_backend: Callable[[type], None]
) -> None:
    use_backend(Vault)
    assert read(serialize(Vault)) == RECORD


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bucket")  # one for all tests, because the provider remembers it


@pytest.mark.skipif(AIRFLOW_RELEASE < (2, 9), reason="Airflow 2.8 does not support this backend")
def test_a_record_in_object_storage_is_read(
    read: Read, use_backend: Callable[[type], None], bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = pytest.importorskip("airflow.providers.common.io.xcom.backend").XComObjectStorageBackend
    monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH", f"file://{bucket}")
    monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD", "1")
    use_backend(backend)
    stored = serialize(backend)
    assert "load-x1" not in str(stored)
    assert read(stored) == RECORD


def test_a_record_has_a_problem_with_the_reason_if_its_backend_is_down(
    read: Read, use_backend: Callable[[type], None]
) -> None:
    use_backend(SealedVault)
    problem = "its XCom pod_name cannot be read: the vault is sealed: orders.a pod_name"
    assert read(serialize(Vault)) == {MINE.key: Record(problem=problem)}


@pytest.mark.parametrize("value", [["load-x1"], {"a": 1}, 5, 1.5, True])
def test_a_record_has_a_problem_if_its_value_is_not_text(
    read: Read, use_backend: Callable[[type], None], value: Any
) -> None:
    use_backend(Vault)
    problem = f"its XCom pod_name is a {type(value).__name__}, not a Kubernetes name"
    assert read(serialize(Vault, value)) == {MINE.key: Record(problem=problem)}


def test_a_record_has_a_problem_if_the_worker_has_another_backend_than_the_operator(read: Read) -> None:
    problem = "its XCom pod_name is not a valid Kubernetes name: 'vault://pod_…'"
    assert read(serialize(Vault)) == {MINE.key: Record(problem=problem)}


@pytest.mark.skipif(
    IS_AIRFLOW_3 or AIRFLOW_RELEASE < (2, 8), reason="Airflow 3 does not pickle XComs, and 2.7 always reads pickles"
)
def test_a_pickled_record_has_a_problem_if_pickling_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as configured:
        configured.setenv("AIRFLOW__CORE__ENABLE_XCOM_PICKLING", "True")
        stored = serialize(BaseXCom)
    assert re.match("its XCom pod_name cannot be read: .+", read_from_database(stored)[MINE.key].problem)
