"""The proofs that the REST API as a source accepts, and its errors if it cannot prove itself."""

from __future__ import annotations

import json
import logging
import traceback
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.traceback import Traceback

from demo.airflow_settings import USER
from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE
from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import UNMAPPED, to_label_value
from include.kpo_cleanup.task_instance import Record, TaskInstances
from tests import proxy as faults
from tests.proxy import FaultProxy
from tests.rest.conftest import Connect
from tests.rest.database import OWN, Database
from tests.rest.servers import PASSWORD, PATH, Servers
from tests.unit.worlds import ODD_ID, SCHEDULED, Row

pytestmark = pytest.mark.rest

MINE = Row("orders", "a", SCHEDULED, UNMAPPED, "running")
SECRET_DAG = Row("invoices", "a", SCHEDULED, UNMAPPED, "running")  # not for users who may read two
CLEANED_DAG = Row("commandes_à_faire", "a", SCHEDULED, UNMAPPED, "running")
LABEL_DAG = CLEANED_DAG._replace(dag_id=to_label_value(CLEANED_DAG.dag_id), task_id="b")
GONE_DAG = Row("gone", "a", SCHEDULED, UNMAPPED, "running")
BATCH = r"POST .*/taskInstances/list$"


def token_of(url: str, user: str, password: str) -> str:
    import httpx

    answer = httpx.post(f"{url}/auth/token", json={"username": user, "password": password}, trust_env=False)
    return str(answer.raise_for_status().json()["access_token"])


def with_all_variables(error: BaseException) -> str:
    """Show an error with all variables, as some consoles do, but without those of the test."""
    assert error.__traceback__
    console = Console(file=StringIO(), width=1000)
    console.print(
        Traceback.from_exception(
            type(error), error, error.__traceback__.tb_next, show_locals=True, locals_max_string=10_000
        )
    )
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


class TestOwnTaskInstance:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            pytest.param(
                "DELETE FROM task_instance WHERE dag_id = 'kpo_cleanup'",
                "the task instance that asks, kpo_cleanup.fetch_active_tis of run .* is not in the answer of "
                "Airflow's API at http.*: either this is another Airflow, .* its user may not read DAG 'kpo_cleanup'",
                id="in another Airflow",
            ),
            pytest.param(
                "UPDATE task_instance SET id = '0197a3b1c0de7000800000000000abcd' WHERE dag_id = 'kpo_cleanup'",
                "is running and has id .* has .*running.*: it is another Airflow's, or its answers are old",
                id="with another id, of its last try or of another Airflow with the same run",
            ),
            pytest.param(
                "UPDATE task_instance SET state = 'queued' WHERE dag_id = 'kpo_cleanup'",
                "is running and has id .* has .*queued.*: it is another Airflow's, or its answers are old",
                id="as it was some time ago",
            ),
        ],
    )
    def test_must_be_in_the_answer(self, connect: Connect, database: Database, change: str, message: str) -> None:
        database.fill([MINE])
        source = connect()
        database.execute(change)
        with pytest.raises(TaskInstanceSourceError, match=message):
            source.fetch([MINE.key])

    def test_may_be_asked_for_itself(self, connect: Connect, database: Database) -> None:
        database.fill([])
        assert connect().fetch([OWN.key]).found[OWN.key].state == "running"


class TestUser:
    """Users of the server with FAB."""

    def fetch(self, connect: Connect, servers: Servers, user: str, *rows: Row) -> TaskInstances:
        return connect(servers.fab, user, user).fetch([row.key for row in rows])

    def test_of_all_dags_has_all_told(self, connect: Connect, servers: Servers, database: Database) -> None:
        database.fill([MINE, SECRET_DAG, CLEANED_DAG])
        answer = self.fetch(connect, servers, "reads_all", MINE, SECRET_DAG, CLEANED_DAG, GONE_DAG)
        assert set(answer.found) == {MINE.key, SECRET_DAG.key, CLEANED_DAG.key}
        assert not answer.unresolved

    @pytest.mark.skipif(AIRFLOW_RELEASE < (3, 1), reason="cannot ask the batch question, see below")
    def test_of_two_dags_has_no_others_said_to_be_absent(
        self, connect: Connect, servers: Servers, database: Database
    ) -> None:
        there = MINE._replace(task_id=ODD_ID)
        # The user may read a DAG whose id equals the label of a DAG that the user may not read.
        database.fill([there, SECRET_DAG, CLEANED_DAG, LABEL_DAG])
        answer = self.fetch(connect, servers, "reads_two", MINE, there, SECRET_DAG, CLEANED_DAG, GONE_DAG)
        assert set(answer.found) == {there.key}
        assert answer.unresolved == {
            SECRET_DAG.key: "the user of the REST API may not read its DAG",
            GONE_DAG.key: "the user of the REST API may not read its DAG",
            CLEANED_DAG.key: "the user of the REST API may not read all DAGs, and its dag_id is not to be read from "
            "the label",
        }

    @pytest.mark.skipif(AIRFLOW_RELEASE < (3, 1), reason="cannot ask the batch question, see below")
    @pytest.mark.parametrize("is_known", [True, False], ids=["that exists", "that does not exist"])
    def test_of_two_dags_has_absent_what_is_not_in_a_dag_without_rows(
        self, connect: Connect, servers: Servers, database: Database, is_known: bool
    ) -> None:
        database.fill([])
        if is_known:
            database.add_dags("orders")
        assert self.fetch(connect, servers, "reads_two", MINE) == TaskInstances()

    @pytest.mark.parametrize(
        "user",
        [
            "reads_nothing",
            "reads_no_runs",
            "reads_no_task_instances",
            pytest.param(
                "reads_two",
                marks=pytest.mark.skipif(AIRFLOW_RELEASE >= (3, 1), reason="since 3.1 it may ask for its DAGs"),
            ),
        ],
    )
    def test_without_a_right_is_told_which(
        self, connect: Connect, servers: Servers, database: Database, user: str
    ) -> None:
        database.fill([MINE])
        with pytest.raises(
            TaskInstanceSourceError,
            match=r"403 Forbidden to POST .*/taskInstances/list: Forbidden; "
            "allow the user of connection 'airflow_api' to read DAGs, DAG runs, task instances and XComs",
        ):
            self.fetch(connect, servers, user, MINE)

    def test_without_xcoms_leaves_the_record_open(self, connect: Connect, servers: Servers, database: Database) -> None:
        database.fill([MINE])
        source = connect(servers.fab, "reads_no_xcoms", "reads_no_xcoms")
        record = source.read_records(source.fetch([MINE.key]), [MINE.key])[MINE.key]
        assert record.pods == frozenset()
        assert "403 Forbidden" in record.problem
        assert "to read DAGs, DAG runs, task instances and XComs" in record.problem


class TestRecord:
    @pytest.mark.parametrize(
        "ids",
        [
            pytest.param({}, id="plain ids"),
            pytest.param({"map_index": 3}, id="a mapped task"),
            pytest.param({"run_id": "my run!"}, id="a run_id of one's own"),
            pytest.param({"dag_id": "commandes_à_faire", "task_id": ODD_ID}, id="ids of other letters"),
            pytest.param({"dag_id": "d" * 250, "task_id": "t" * 250, "run_id": "r" * 250}, id="all at their longest"),
        ],
    )
    def test_is_read_for(self, connect: Connect, database: Database, ids: dict[str, Any]) -> None:
        row = MINE._replace(**ids)
        database.fill([row, MINE._replace(task_id="other")])
        database.add_xcom(row, "pod_name", "load-x7")
        database.add_xcom(row, "pod_namespace", "airflow")
        database.add_xcom(MINE._replace(task_id="other"), "pod_name", "other-y8")
        source = connect()
        assert source.read_records(source.fetch([row.key]), [row.key]) == {
            row.key: Record(frozenset({"airflow/load-x7"}))
        }

    def test_may_be_written_as_json(self, connect: Connect, database: Database) -> None:
        database.fill([MINE])
        database.add_xcom(MINE, "pod_name", '"load-x7"')
        database.add_xcom(MINE, "pod_namespace", '"airflow"')
        source = connect()
        records = source.read_records(source.fetch([MINE.key]), [MINE.key])
        assert records == {MINE.key: Record(frozenset({"airflow/load-x7"}))}

    @pytest.mark.parametrize(
        "xcoms",
        [
            pytest.param({"pod_name": "load-x7"}, id="without a namespace"),
            pytest.param({"pod_namespace": "airflow"}, id="without a name"),
            pytest.param({"pod_name": {"a": 1}, "pod_namespace": "airflow"}, id="that is an object"),
            pytest.param(
                {"pod_name": "s3://x/y", "pod_namespace": "airflow"}, id="that an XCom backend keeps elsewhere"
            ),
            pytest.param({"pod_name": None, "pod_namespace": None}, id="that is null"),
        ],
    )
    def test_is_open_if_it_is_one(self, connect: Connect, database: Database, xcoms: dict[str, Any]) -> None:
        database.fill([MINE])
        for key, value in xcoms.items():
            database.add_xcom(MINE, key, value)
        source = connect()
        record = source.read_records(source.fetch([MINE.key]), [MINE.key])[MINE.key]
        assert record.pods == frozenset()
        assert "XCom" in record.problem

    def test_is_empty_if_there_is_none(self, connect: Connect, database: Database) -> None:
        database.fill([MINE])
        source = connect()
        assert source.read_records(source.fetch([MINE.key]), [MINE.key]) == {}


class TestToken:
    def test_alone_is_enough(self, connect: Connect, servers: Servers, database: Database) -> None:
        database.fill([MINE])
        for login in (None, ""):
            token = token_of(servers.simple, USER, PASSWORD)
            assert MINE.key in connect(login=login, password=f"{token}\n").fetch([MINE.key]).found

    @pytest.mark.parametrize(
        "refusal",
        [
            pytest.param((401, {"detail": "Token Expired"}), id="has expired"),
            pytest.param((403, {"detail": "Invalid JWT token"}), id="is of before a restart with another secret"),
        ],
    )
    def test_made_of_a_password_is_renewed_if_it(
        self, connect: Connect, database: Database, proxy: FaultProxy, refusal: tuple[int, Any]
    ) -> None:
        database.fill([MINE])
        source = connect(proxy.url + PATH)
        source.fetch([MINE.key])
        proxy.spoil(BATCH, faults.answer(refusal[0], json.dumps(refusal[1]), "application/json"), times=1)
        assert MINE.key in source.fetch([MINE.key]).found
        assert sum("/auth/token" in line for line in proxy.requests) == 2

    @pytest.mark.parametrize(
        ("login", "password", "message"),
        [
            pytest.param(
                None,
                "no.token.at-all",
                "403 Forbidden to POST .*/list: Invalid JWT token; the token is wrong or expired: "
                "renew connection 'airflow_api'",
                id="a token that is none",
            ),
            pytest.param(
                USER,
                "wrong",
                "401 Unauthorized to POST .*/auth/token: Invalid credentials; login and password are wrong or expired: "
                "renew connection 'airflow_api'",
                id="a wrong password",
            ),
        ],
    )
    def test_that_is_refused_names_the_connection(
        self, connect: Connect, database: Database, login: str | None, password: str, message: str
    ) -> None:
        database.fill([MINE])
        with pytest.raises(TaskInstanceSourceError, match=message):
            connect(login=login, password=password).fetch([MINE.key])

    def test_that_expires_without_a_password_names_the_connection(
        self, connect: Connect, database: Database, servers: Servers, proxy: FaultProxy
    ) -> None:
        database.fill([MINE])
        source = connect(proxy.url + PATH, None, token_of(servers.simple, USER, PASSWORD))
        source.fetch([MINE.key])
        proxy.spoil(BATCH, faults.answer(401, '{"detail": "Token Expired"}', "application/json"))
        with pytest.raises(TaskInstanceSourceError, match="the token is wrong or expired: renew connection"):
            source.fetch([MINE.key])

    @pytest.mark.parametrize("status", [200, 401, 403, 418, 429, 500, None])
    @pytest.mark.parametrize("has_login", [True, False])
    def test_and_password_are_in_no_log_and_no_message(
        self,
        connect: Connect,
        servers: Servers,
        database: Database,
        proxy: FaultProxy,
        caplog: pytest.LogCaptureFixture,
        status: int | None,
        has_login: bool,
    ) -> None:
        database.fill([MINE])
        token = token_of(servers.simple, USER, PASSWORD)
        made: list[str] = []
        proxy.spoil("POST .*/auth/token", faults.edited(lambda answer: made.append(answer["access_token"])))

        async def repeat(request: Any, _forward: Any) -> Any:
            said = {"detail": f"bad: {request.headers['Authorization']} {await request.text()} {PASSWORD}"}
            return await faults.answer(status or 200, json.dumps(said), "application/json")(request, _forward)

        proxy.spoil(BATCH, repeat if status else faults.reset)
        source = connect(proxy.url + PATH, *((USER, PASSWORD) if has_login else (None, token)))
        with caplog.at_level(logging.DEBUG), pytest.raises(TaskInstanceSourceError) as caught:
            source.fetch([MINE.key])
        shown = caplog.text + "".join(traceback.format_exception(caught.value))
        if not status:
            shown += with_all_variables(caught.value)
        # A message may be cut off in the middle of a token. The beginning of a token is no secret.
        for secret in (PASSWORD, *(each[50:80] for each in (token, *made))) if has_login else (token[50:80],):
            assert secret not in shown


class TestAddress:
    def test_below_another_path_is_named(self, connect: Connect, database: Database, servers: Servers) -> None:
        database.fill([MINE])
        wrong = servers.simple.removesuffix(PATH) + "/elsewhere"
        for login, password in ((USER, PASSWORD), (None, token_of(servers.simple, USER, PASSWORD))):
            with pytest.raises(
                TaskInstanceSourceError,
                match=r"405 Method Not Allowed to POST .*/elsewhere/.*; "
                "the connection's host must be the base URL of Airflow's API server, with its path",
            ):
                connect(wrong, login, password).fetch([MINE.key])

    def test_with_a_slash_at_its_end_is_the_same(self, connect: Connect, database: Database, servers: Servers) -> None:
        database.fill([MINE])
        assert MINE.key in connect(servers.simple + "/").fetch([MINE.key]).found
