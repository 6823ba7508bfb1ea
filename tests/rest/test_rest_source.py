"""The REST API as a source: verification, permissions, records, tokens and addresses."""

from __future__ import annotations

import json
import logging
import re
import traceback
from io import StringIO
from typing import Any, ClassVar

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
from tests.rest.conftest import QUICK, Connect
from tests.rest.database import CALLER, Database
from tests.rest.servers import PASSWORD, PATH, Servers
from tests.unit.worlds import ODD_ID, SCHEDULED, Row

pytestmark = pytest.mark.rest

ORDERS_TI = Row("orders", "a", SCHEDULED, UNMAPPED, "running")
INVOICES_TI = Row("invoices", "a", SCHEDULED, UNMAPPED, "running")  # only some users may read its DAG
HASHED_DAG_TI = Row("commandes_à_faire", "a", SCHEDULED, UNMAPPED, "running")
# Its dag_id is the label value of the other's dag_id.
LABEL_DAG_TI = HASHED_DAG_TI._replace(dag_id=to_label_value(HASHED_DAG_TI.dag_id), task_id="b")
GONE_DAG_TI = Row("gone", "a", SCHEDULED, UNMAPPED, "running")
NOT_FOUND = faults.answer(404, "<h1>Not Found</h1>")  # from a gateway, not from Airflow
BATCH = r"POST .*/taskInstances/list$"


def token_of(url: str, user: str, password: str) -> str:
    import httpx

    answer = httpx.post(f"{url}/auth/token", json={"username": user, "password": password}, trust_env=False)
    return str(answer.raise_for_status().json()["access_token"])


def render_with_variables(error: BaseException) -> str:
    """Render a traceback with the variables of all frames, as some consoles do, except for the frame of the test."""
    assert error.__traceback__
    console = Console(file=StringIO(), width=1000)
    console.print(
        Traceback.from_exception(
            type(error), error, error.__traceback__.tb_next, show_locals=True, locals_max_string=10_000
        )
    )
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


class TestVerification:
    @pytest.mark.parametrize(
        ("change", "wrong"),
        [
            pytest.param("DELETE FROM task_instance WHERE dag_id = 'kpo_cleanup'", "is missing there", id="is missing"),
            pytest.param(
                "UPDATE task_instance SET id = '0197a3b1c0de7000800000000000abcd' WHERE dag_id = 'kpo_cleanup'",
                "has id .* there instead of .*",
                id="has another id because of another try or another Airflow with the same run",
            ),
            pytest.param(
                "UPDATE task_instance SET state = 'queued' WHERE dag_id = 'kpo_cleanup'",
                "is 'queued' there instead of 'running'",
                id="has an outdated state",
            ),
        ],
    )
    def test_answers_are_rejected_if_the_calling_task_instance(
        self, connect: Connect, database: Database, change: str, wrong: str
    ) -> None:
        database.fill([ORDERS_TI])
        source = connect()
        database.execute(change)
        with pytest.raises(TaskInstanceSourceError, match="the answers of test were rejected") as caught:
            source.fetch([ORDERS_TI.key])
        run = re.escape(repr(CALLER.run_id))
        assert re.fullmatch(f"this task, kpo_cleanup.fetch_active_tis of run {run}, {wrong}", caught.value.cause)
        assert "read DAG 'kpo_cleanup'" in caught.value.remedy

    def test_the_calling_task_instance_can_be_one_of_the_keys(self, connect: Connect, database: Database) -> None:
        database.fill([])
        assert connect().fetch([CALLER.key]).found[CALLER.key].state == "running"


class TestPermissions:
    """Users of the server with the FAB auth manager; their names describe what they may read."""

    def fetch(self, connect: Connect, servers: Servers, user: str, *rows: Row) -> TaskInstances:
        return connect(servers.fab, user, user).fetch([row.key for row in rows])

    def test_every_key_is_resolved_if_the_user_may_read_all_dags(
        self, connect: Connect, servers: Servers, database: Database
    ) -> None:
        database.fill([ORDERS_TI, INVOICES_TI, HASHED_DAG_TI])
        answer = self.fetch(connect, servers, "reads_all", ORDERS_TI, INVOICES_TI, HASHED_DAG_TI, GONE_DAG_TI)
        assert set(answer.found) == {ORDERS_TI.key, INVOICES_TI.key, HASHED_DAG_TI.key}
        assert not answer.unresolved

    @pytest.mark.skipif(AIRFLOW_RELEASE < (3, 1), reason="Airflow 3.0 rejects the batch query of such a user")
    def test_keys_of_other_dags_are_unresolved_if_the_user_may_read_two_dags(
        self, connect: Connect, servers: Servers, database: Database
    ) -> None:
        readable = ORDERS_TI._replace(task_id=ODD_ID)
        database.fill([readable, INVOICES_TI, HASHED_DAG_TI])
        answer = self.fetch(connect, servers, "reads_two", ORDERS_TI, readable, INVOICES_TI, HASHED_DAG_TI, GONE_DAG_TI)
        assert set(answer.found) == {readable.key}
        assert answer.unresolved == {
            INVOICES_TI.key: "the user of the REST API may not read its DAG",
            GONE_DAG_TI.key: "the user of the REST API may not read its DAG",
            HASHED_DAG_TI.key: "the user of the REST API may not read all DAGs, and its dag_id is hashed",
        }

    @pytest.mark.skipif(AIRFLOW_RELEASE < (3, 1), reason="Airflow 3.0 rejects the batch query of such a user")
    def test_a_key_is_unresolved_if_the_user_may_read_only_the_dag_whose_id_equals_its_label(
        self, connect: Connect, servers: Servers, database: Database
    ) -> None:
        database.fill([HASHED_DAG_TI, LABEL_DAG_TI])
        answer = self.fetch(connect, servers, "reads_namesake", HASHED_DAG_TI, LABEL_DAG_TI)
        assert set(answer.found) == {LABEL_DAG_TI.key}
        assert set(answer.unresolved) == {HASHED_DAG_TI.key}

    @pytest.mark.skipif(AIRFLOW_RELEASE < (3, 1), reason="Airflow 3.0 rejects the batch query of such a user")
    @pytest.mark.parametrize("exists", [True, False], ids=["the DAG exists", "the DAG does not exist"])
    def test_a_task_instance_that_does_not_exist_is_absent_if_the_user_may_read_its_dag_and(
        self, connect: Connect, servers: Servers, database: Database, exists: bool
    ) -> None:
        database.fill([])
        if exists:
            database.add_dags("orders")
        assert self.fetch(connect, servers, "reads_two", ORDERS_TI) == TaskInstances()

    @pytest.mark.parametrize(
        "user",
        [
            "reads_nothing",
            "reads_no_runs",
            "reads_no_task_instances",
            pytest.param(
                "reads_two",
                marks=pytest.mark.skipif(AIRFLOW_RELEASE >= (3, 1), reason="allowed from Airflow 3.1 on"),
            ),
        ],
    )
    def test_a_missing_permission_is_an_error_that_names_what_to_allow(
        self, connect: Connect, servers: Servers, database: Database, user: str
    ) -> None:
        database.fill([ORDERS_TI])
        with pytest.raises(
            TaskInstanceSourceError,
            match=r"POST .*/taskInstances/list\): 403 Forbidden; "
            "allow the user of connection 'airflow_api' to read DAGs, DAG runs, task instances and XComs; "
            "server message: Forbidden",
        ):
            self.fetch(connect, servers, user, ORDERS_TI)

    def test_a_record_has_a_problem_if_the_user_may_not_read_xcoms(
        self, connect: Connect, servers: Servers, database: Database
    ) -> None:
        database.fill([ORDERS_TI])
        source = connect(servers.fab, "reads_no_xcoms", "reads_no_xcoms")
        record = source.read_records(source.fetch([ORDERS_TI.key]), [ORDERS_TI.key])[ORDERS_TI.key]
        assert record.workloads == frozenset()
        assert "403 Forbidden" in record.problem
        assert "to read DAGs, DAG runs, task instances and XComs" in record.problem


class TestMisleadingAnswers:
    """Answers of something in front of Airflow, such as a gateway, never count as "there is none"."""

    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param(NOT_FOUND, id="a 404 that is not Airflow's"),
            pytest.param(faults.answer(200, '{"dag_id": "other"}', "application/json"), id="another DAG"),
            pytest.param(faults.answer(200, "{}", "application/json"), id="not a DAG"),
        ],
    )
    def test_a_task_instance_is_not_absent_if_the_answer_about_its_dag_is(
        self, connect: Connect, database: Database, proxy: FaultProxy, fault: faults.Fault
    ) -> None:
        database.fill([])
        proxy.spoil(f"GET .*/dags/{GONE_DAG_TI.dag_id}$", fault)
        with pytest.raises(TaskInstanceSourceError):
            connect(proxy.url + PATH).fetch([GONE_DAG_TI.key])

    @pytest.mark.parametrize(
        ("fault", "cause"),
        [
            pytest.param(NOT_FOUND, "404 Not Found", id="a 404 that is not Airflow's"),
            pytest.param(
                faults.answer(200, '{"key": "x"}', "application/json"),
                "the REST API returned an unexpected object with keys ['key']",
                id="not an XCom",
            ),
        ],
    )
    def test_a_record_has_a_problem_if_the_answer_about_its_xcom_is(
        self, connect: Connect, database: Database, proxy: FaultProxy, fault: faults.Fault, cause: str
    ) -> None:
        database.fill([ORDERS_TI])
        proxy.spoil("/xcomEntries/", fault)
        source = connect(proxy.url + PATH)
        record = source.read_records(source.fetch([ORDERS_TI.key]), [ORDERS_TI.key])[ORDERS_TI.key]
        assert record.problem.startswith(f"its XCom pod_name cannot be read: {cause}")

    def test_the_pages_of_a_mapped_task_are_rejected_if_the_caller_has_ended_in_the_meantime(
        self, connect: Connect, database: Database, proxy: FaultProxy
    ) -> None:
        rows = [ORDERS_TI._replace(run_id="run_1", map_index=index) for index in range(6)]
        database.fill(rows)

        def limit(answer: dict[str, Any]) -> None:
            answer["task_instances"] = answer["task_instances"][:4]

        def end_caller() -> None:
            database.execute("UPDATE task_instance SET state = 'failed' WHERE dag_id = 'kpo_cleanup'")

        # The query for all keys and that for the first page are limited; before the second page, the caller ends.
        proxy.spoil(BATCH, faults.edited(limit), times=2)
        proxy.spoil(BATCH, faults.first(end_caller), times=1)
        with pytest.raises(TaskInstanceSourceError, match="the answers of test were rejected"):
            connect(proxy.url + PATH).fetch([row.key for row in rows])


class TestFailingDags:
    """Three DAGs, and Airflow fails on requests that contain the id of one of them."""

    ROWS: ClassVar = [ORDERS_TI._replace(dag_id=f"dag_{number}") for number in range(3)]

    def failing_for(self, *dag_ids: str, status: int = 500) -> faults.Fault:
        async def fault(request: Any, forward: Any) -> Any:
            whole = request.path + await request.text()
            fails = any(dag_id in whole for dag_id in dag_ids)
            return await (faults.answer(status, "Internal Server Error")(request, forward) if fails else forward())

        return fault

    @pytest.mark.parametrize("status", [500, 403])
    @pytest.mark.parametrize("number", range(3))
    def test_the_keys_of_a_failing_dag_are_unresolved_with_the_reason(
        self, connect: Connect, database: Database, proxy: FaultProxy, number: int, status: int
    ) -> None:
        database.fill(self.ROWS)
        failing = self.ROWS[number]
        proxy.spoil(BATCH, self.failing_for(failing.dag_id, status=status))
        answer = connect(proxy.url + PATH).fetch([row.key for row in self.ROWS])
        assert set(answer.found) == {row.key for row in self.ROWS if row != failing}
        assert set(answer.unresolved) == {failing.key}
        assert answer.unresolved[failing.key].startswith(f"its DAG could not be queried: {status} ")

    def test_the_query_fails_if_the_requests_for_all_dags_fail(
        self, connect: Connect, database: Database, proxy: FaultProxy
    ) -> None:
        database.fill(self.ROWS)
        proxy.spoil(BATCH, self.failing_for(*(row.dag_id for row in self.ROWS)))
        with pytest.raises(TaskInstanceSourceError, match="500 Internal Server Error"):
            connect(proxy.url + PATH).fetch([row.key for row in self.ROWS])

    def test_the_query_fails_if_the_caller_cannot_be_queried(
        self, connect: Connect, database: Database, proxy: FaultProxy
    ) -> None:
        database.fill(self.ROWS)
        proxy.spoil(BATCH, self.failing_for(CALLER.dag_id))
        with pytest.raises(TaskInstanceSourceError, match="500 Internal Server Error"):
            connect(proxy.url + PATH).fetch([row.key for row in self.ROWS])
        assert len(proxy.requests) == 1 + 2 * QUICK.attempts  # for the token, for all keys, and for the caller

    def test_the_records_of_a_failing_dag_have_a_problem(
        self, connect: Connect, database: Database, proxy: FaultProxy
    ) -> None:
        database.fill(self.ROWS)
        for row in self.ROWS:
            database.add_xcom(row, "pod_name", f"{row.dag_id}-x7".replace("_", "-"))
            database.add_xcom(row, "pod_namespace", "airflow")
        proxy.spoil("/xcomEntries/", self.failing_for("dag_1"))
        source, keys = connect(proxy.url + PATH), [row.key for row in self.ROWS]
        records = source.read_records(source.fetch(keys), keys)
        assert records[keys[1]].workloads == frozenset()
        assert "its XCom pod_name cannot be read: 500 Internal Server Error" in records[keys[1]].problem
        assert records[keys[0]] == Record(frozenset({"airflow/dag-0-x7"}))
        assert records[keys[2]] == Record(frozenset({"airflow/dag-2-x7"}))

    def test_reading_records_fails_if_the_token_is_rejected(
        self, connect: Connect, database: Database, servers: Servers, proxy: FaultProxy
    ) -> None:
        database.fill([ORDERS_TI])
        source = connect(proxy.url + PATH, None, token_of(servers.simple, USER, PASSWORD))
        task_instances = source.fetch([ORDERS_TI.key])
        proxy.spoil("/xcomEntries/", faults.answer(401, '{"detail": "Token Expired"}', "application/json"))
        with pytest.raises(TaskInstanceSourceError, match="renew the token of connection"):
            source.read_records(task_instances, [ORDERS_TI.key])


class TestRecords:
    @pytest.mark.parametrize(
        "ids",
        [
            pytest.param({}, id="has plain ids"),
            pytest.param({"map_index": 3}, id="is mapped"),
            pytest.param({"run_id": "my run!"}, id="has a custom run_id"),
            pytest.param({"dag_id": "commandes_à_faire", "task_id": ODD_ID}, id="has ids that are not ASCII"),
            pytest.param({"dag_id": "d" * 250, "task_id": "t" * 250, "run_id": "r" * 250}, id="has the longest ids"),
        ],
    )
    def test_a_record_is_read_if_the_task_instance(
        self, connect: Connect, database: Database, ids: dict[str, Any]
    ) -> None:
        row = ORDERS_TI._replace(**ids)
        database.fill([row, ORDERS_TI._replace(task_id="other")])
        database.add_xcom(row, "pod_name", "load-x7")
        database.add_xcom(row, "pod_namespace", "airflow")
        database.add_xcom(ORDERS_TI._replace(task_id="other"), "pod_name", "other-y8")
        source = connect()
        assert source.read_records(source.fetch([row.key]), [row.key]) == {
            row.key: Record(frozenset({"airflow/load-x7"}))
        }

    def test_a_record_may_have_no_namespace(self, connect: Connect, database: Database) -> None:
        database.fill([ORDERS_TI])
        database.add_xcom(ORDERS_TI, "pod_name", "load-x7")
        source = connect()
        records = source.read_records(source.fetch([ORDERS_TI.key]), [ORDERS_TI.key])
        assert records == {ORDERS_TI.key: Record(frozenset({"load-x7"}))}

    def test_a_record_that_was_encoded_twice_is_decoded(self, connect: Connect, database: Database) -> None:
        database.fill([ORDERS_TI])
        database.add_xcom(ORDERS_TI, "pod_name", '"load-x7"')
        database.add_xcom(ORDERS_TI, "pod_namespace", '"airflow"')
        source = connect()
        records = source.read_records(source.fetch([ORDERS_TI.key]), [ORDERS_TI.key])
        assert records == {ORDERS_TI.key: Record(frozenset({"airflow/load-x7"}))}

    @pytest.mark.parametrize(
        "xcoms",
        [
            pytest.param({"pod_namespace": "airflow"}, id="it has no name"),
            pytest.param({"pod_name": {"a": 1}, "pod_namespace": "airflow"}, id="its name is an object"),
            pytest.param(
                {"pod_name": "s3://x/y", "pod_namespace": "airflow"}, id="a custom backend stored a reference"
            ),
            pytest.param({"pod_name": None, "pod_namespace": None}, id="its values are null"),
        ],
    )
    def test_a_record_has_a_problem_if(self, connect: Connect, database: Database, xcoms: dict[str, Any]) -> None:
        database.fill([ORDERS_TI])
        for key, value in xcoms.items():
            database.add_xcom(ORDERS_TI, key, value)
        source = connect()
        record = source.read_records(source.fetch([ORDERS_TI.key]), [ORDERS_TI.key])[ORDERS_TI.key]
        assert record.workloads == frozenset()
        assert "XCom" in record.problem

    def test_there_is_no_record_without_xcoms(self, connect: Connect, database: Database) -> None:
        database.fill([ORDERS_TI])
        source = connect()
        assert source.read_records(source.fetch([ORDERS_TI.key]), [ORDERS_TI.key]) == {}


class TestToken:
    def test_a_token_without_a_login_is_accepted(self, connect: Connect, servers: Servers, database: Database) -> None:
        database.fill([ORDERS_TI])
        for login in (None, ""):
            token = token_of(servers.simple, USER, PASSWORD)
            assert ORDERS_TI.key in connect(login=login, password=f"{token}\n").fetch([ORDERS_TI.key]).found

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            pytest.param(401, "Token Expired", id="has expired"),
            pytest.param(
                403, "Invalid JWT token", id="was signed with the secret that the server used before a restart"
            ),
        ],
    )
    def test_a_token_from_a_login_is_renewed_if_it(
        self, connect: Connect, database: Database, proxy: FaultProxy, status: int, message: str
    ) -> None:
        database.fill([ORDERS_TI])
        source = connect(proxy.url + PATH)
        source.fetch([ORDERS_TI.key])
        proxy.spoil(BATCH, faults.answer(status, json.dumps({"detail": message}), "application/json"), times=1)
        assert ORDERS_TI.key in source.fetch([ORDERS_TI.key]).found
        assert sum("/auth/token" in line for line in proxy.requests) == 2

    @pytest.mark.parametrize(
        ("login", "password", "message"),
        [
            pytest.param(
                None,
                "no.token.at-all",
                r"POST .*/list\): 403 Forbidden; renew the token of connection 'airflow_api'; "
                "server message: Invalid JWT token",
                id="the token is invalid",
            ),
            pytest.param(
                USER,
                "wrong",
                r"POST .*/auth/token\): 401 Unauthorized; renew login and password of connection 'airflow_api'; "
                "server message: Invalid credentials",
                id="the password is wrong",
            ),
        ],
    )
    def test_the_error_names_the_connection_if(
        self, connect: Connect, database: Database, login: str | None, password: str, message: str
    ) -> None:
        database.fill([ORDERS_TI])
        with pytest.raises(TaskInstanceSourceError, match=message):
            connect(login=login, password=password).fetch([ORDERS_TI.key])

    def test_the_error_names_the_connection_if_a_token_without_a_login_expires(
        self, connect: Connect, database: Database, servers: Servers, proxy: FaultProxy
    ) -> None:
        database.fill([ORDERS_TI])
        source = connect(proxy.url + PATH, None, token_of(servers.simple, USER, PASSWORD))
        source.fetch([ORDERS_TI.key])
        proxy.spoil(BATCH, faults.answer(401, '{"detail": "Token Expired"}', "application/json"))
        with pytest.raises(TaskInstanceSourceError, match="renew the token of connection"):
            source.fetch([ORDERS_TI.key])

    @pytest.mark.parametrize("status", [200, 401, 403, 418, 429, 500, None])
    @pytest.mark.parametrize("has_login", [True, False])
    def test_tokens_and_passwords_appear_in_no_log_and_no_error(
        self,
        connect: Connect,
        servers: Servers,
        database: Database,
        proxy: FaultProxy,
        caplog: pytest.LogCaptureFixture,
        status: int | None,
        has_login: bool,
    ) -> None:
        database.fill([ORDERS_TI])
        token = token_of(servers.simple, USER, PASSWORD)
        created: list[str] = []
        proxy.spoil("POST .*/auth/token", faults.edited(lambda answer: created.append(answer["access_token"])))

        async def repeat_secrets(request: Any, _forward: Any) -> Any:
            body = {"detail": f"bad: {request.headers['Authorization']} {await request.text()} {PASSWORD}"}
            return await faults.answer(status or 200, json.dumps(body), "application/json")(request, _forward)

        proxy.spoil(BATCH, repeat_secrets if status else faults.reset)
        source = connect(proxy.url + PATH, *((USER, PASSWORD) if has_login else (None, token)))
        with caplog.at_level(logging.DEBUG), pytest.raises(TaskInstanceSourceError) as caught:
            source.fetch([ORDERS_TI.key])
        shown = caplog.text + "".join(traceback.format_exception(caught.value))
        if not status:
            shown += render_with_variables(caught.value)
        # A message may be truncated within a token, and the beginning of a token is not secret.
        for secret in (PASSWORD, *(each[50:80] for each in (token, *created))) if has_login else (token[50:80],):
            assert secret not in shown


class TestAddress:
    def test_a_wrong_path_is_an_error_that_names_the_host(
        self, connect: Connect, database: Database, servers: Servers
    ) -> None:
        database.fill([ORDERS_TI])
        wrong = servers.simple.removesuffix(PATH) + "/elsewhere"
        for login, password in ((USER, PASSWORD), (None, token_of(servers.simple, USER, PASSWORD))):
            with pytest.raises(
                TaskInstanceSourceError,
                match=r"POST .*/elsewhere/.*\): 405 Method Not Allowed; correct the connection's host: "
                "it must be the base URL of Airflow's API server, with its path",
            ):
                connect(wrong, login, password).fetch([ORDERS_TI.key])

    def test_a_trailing_slash_is_ignored(self, connect: Connect, database: Database, servers: Servers) -> None:
        database.fill([ORDERS_TI])
        assert ORDERS_TI.key in connect(servers.simple + "/").fetch([ORDERS_TI.key]).found
