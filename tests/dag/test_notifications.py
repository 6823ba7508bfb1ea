"""The notifications that docs/configuration.md recommends, sent by Airflow's own notifier to an SMTP server."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator

import pytest

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE
from tests.conftest import TEST_DAGS
from tests.dag import airflow_runs
from tests.documents import section
from tests.proxy import FaultProxy
from tests.smtp import SmtpServer

pytest.importorskip("airflow.providers.smtp.notifications.smtp", reason="this Airflow has no SMTP provider")

EXAMPLES = re.findall(r"```python\n(.*?)```", section("docs/configuration.md", "More cleanups"), re.S)


@pytest.fixture(scope="module")
def _example(_proxy: FaultProxy) -> Iterator[None]:
    (code,) = [example for example in EXAMPLES if "Notifier" in example]
    path = TEST_DAGS / "teams.py"
    path.write_text(code)
    yield
    path.unlink()


@pytest.fixture
def smtp(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        extra = {"disable_ssl": True, "disable_tls": True}
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.server_address[1], "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        yield server


@pytest.mark.usefixtures("_example")
def test_a_failed_run_sends_one_email_with_the_cause_and_the_remedy(smtp: SmtpServer) -> None:
    run = airflow_runs.run("kpo_cleanup_reporting", config={"kubernetes_conn_id": "nowhere"})
    assert airflow_runs.states(run)["list_pods"] == "failed"
    (message,) = smtp.messages
    assert (message["To"], message["Subject"]) == ("reporting@example.com", "kpo_cleanup_reporting: list_pods failed")
    body = message.get_body(("html",))
    assert body is not None
    text = html.unescape(body.get_content())
    if (3, 0) <= AIRFLOW_RELEASE < (3, 3):  # there, `dag.test()` does not pass the exception to callbacks
        assert "see the log" in text
    else:
        assert "connection 'nowhere' provides no Kubernetes client" in text
        assert "create connection 'nowhere', or correct kubernetes_conn_id" in text
    if AIRFLOW_RELEASE != (3, 0):  # there, `dag.test()` does not pass a link either
        assert "list_pods" in re.findall(r'href="(http\S+)"', text)[0]
