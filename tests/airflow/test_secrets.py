"""Secrets of connections and kube configs are in no error, whatever is wrong with them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, BaseHook
from include.kpo_cleanup.errors import KpoCleanupError
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.task_instances.sql import metadata_connection

SECRET = "CANARY"
# Values that something rejects: a header, a URL, a port, YAML.
FORMS = {
    "plain": "CANARY",
    "of two lines": "CANARY\nx",
    "that is not ASCII": "CANARY…",
    "with an @": "CANARY@x",
    "with a slash": "CANARY/x",
    "with a bracket": "[CANARY",
    "with a percent sign": "%zzCANARY",
    "like an alias of YAML": "*CANARY",
    "like a tag of YAML": "!CANARY x",
}
QUICK = RetryPolicy(attempts=1, connect_timeout=1, read_timeout=0.2)
EXEC = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": "false",
    "args": [SECRET],
    "env": [{"name": "TOKEN", "value": SECRET}],
    "interactiveMode": "Never",
}
USERS = {
    "a token": {"token": SECRET},
    "a password": {"username": "admin", "password": SECRET},
    "a client key": {"client-certificate-data": "YQ==", "client-key-data": SECRET},
    "a client certificate": {"client-certificate-data": SECRET, "client-key-data": "YQ=="},
    "an exec plugin": {"exec": EXEC},
}


@pytest.fixture(scope="module")
def silent_server() -> Iterator[str]:
    """Yield the address of a server that accepts connections but sends nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def with_secret(value: Any, secret: str) -> Any:
    """Return the same JSON with another secret."""
    return json.loads(json.dumps(value).replace(json.dumps(SECRET)[1:-1], json.dumps(secret)[1:-1]))


def kube_config(server: str, user: Mapping[str, Any], **cluster: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": deepcopy(user)}],
    }


def error_of_kubernetes(monkeypatch: pytest.MonkeyPatch, connection: Mapping[str, Any]) -> str:
    monkeypatch.setenv("AIRFLOW_CONN_SECRETIVE", json.dumps({"conn_type": "kubernetes", **connection}))
    with pytest.raises(KpoCleanupError) as error:
        KubeClient("secretive", replace(QUICK)).list_workloads(["airflow"])
    return json.dumps([str(error.value), error.value.fields], ensure_ascii=False)


@pytest.mark.filterwarnings("ignore:Query string argument")  # SQLite opens its file all the same
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
class TestASecret:
    @pytest.mark.parametrize("user", USERS.values(), ids=USERS)
    def test_of_a_user_in_a_kube_config_is_in_no_error(
        self, silent_server: str, monkeypatch: pytest.MonkeyPatch, form: str, user: Mapping[str, Any]
    ) -> None:
        config = kube_config(f"http://{silent_server}", with_secret(user, form))
        error = error_of_kubernetes(monkeypatch, {"extra": json.dumps({"kube_config": config})})
        assert SECRET not in error

    @pytest.mark.parametrize("field", ["server", "proxy-url"])
    def test_in_a_url_of_a_kube_config_is_in_no_error(
        self, silent_server: str, monkeypatch: pytest.MonkeyPatch, form: str, field: str
    ) -> None:
        urls = {"server": f"http://{silent_server}", field: f"http://admin:{form}@{silent_server}"}
        config = kube_config(urls.pop("server"), {}, **urls)
        error = error_of_kubernetes(monkeypatch, {"extra": json.dumps({"kube_config": config})})
        assert SECRET not in error

    def test_in_a_kube_config_that_cannot_be_read_is_in_no_error(
        self, monkeypatch: pytest.MonkeyPatch, form: str
    ) -> None:
        error = error_of_kubernetes(monkeypatch, {"extra": json.dumps({"kube_config": f"users: {form}"})})
        assert SECRET not in error

    @pytest.mark.parametrize("field", ["login", "password", "host", "schema", "extra"])
    @pytest.mark.parametrize("conn_type", ["kubernetes", "postgres", "sqlite"])
    def test_of_a_database_connection_is_in_no_error(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str, field: str, conn_type: str
    ) -> None:
        if (conn_type, field, AIRFLOW_RELEASE) == ("sqlite", "host", (2, 9)):
            pytest.skip("it is the path of a file, and becomes a URI there, which SQLite quotes")
        monkeypatch.chdir(tmp_path)  # where SQLite creates its file
        url = f"//admin:{form}@127.0.0.1" if field == "host" else form
        value = json.dumps({"token": form, "key": {"secret": form}}) if field == "extra" else url
        connection = {"conn_type": conn_type, "host": "127.0.0.1", "port": 1, field: value}
        monkeypatch.setenv("AIRFLOW_CONN_SECRETIVE", json.dumps(connection))
        try:
            with metadata_connection("secretive")():
                pass
        except KpoCleanupError as error:
            shown = json.dumps([str(error), error.fields], ensure_ascii=False)
        except Exception as error:  # the driver's, which SqlSource converts
            shown = json.dumps(KpoCleanupError("reading", cause=str(error)).fields, ensure_ascii=False)
        else:  # SQLite opens whatever there is
            shown = ""
        assert SECRET not in shown

    def test_in_a_connection_uri_is_in_no_error(self, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_SECRETIVE", f"kubernetes://admin:{form}@127.0.0.1:1/")
        with pytest.raises(KpoCleanupError) as error:
            KubeClient("secretive", QUICK).list_workloads(["airflow"])
        assert SECRET not in str(error.value)

    @pytest.mark.parametrize("field", ["login", "password", "host", "extra"])
    def test_of_a_rest_connection_is_in_no_error(
        self, silent_server: str, monkeypatch: pytest.MonkeyPatch, form: str, field: str
    ) -> None:
        pytest.importorskip("httpx", reason="a dependency of Airflow 3")
        from include.kpo_cleanup.task_instances.rest_api import RestApi

        url = f"http://admin:{form}@{silent_server}"
        value = {"host": url, "extra": json.dumps({"token": form})}.get(field, form)
        connection = {"conn_type": "http", "host": f"http://{silent_server}", "password": "token", field: value}
        monkeypatch.setenv("AIRFLOW_CONN_SECRETIVE", json.dumps(connection))
        with pytest.raises(KpoCleanupError) as error:
            RestApi("secretive", BaseHook.get_connection("secretive"), QUICK).get("/version")
        assert SECRET not in json.dumps([str(error.value), error.value.fields], ensure_ascii=False)


def test_the_credentials_in_a_url_are_masked_wherever_they_are_in_an_error() -> None:
    text = "no answer from https://admin:a/b@c@airflow.example.org/api: refused"
    error = KpoCleanupError(text, cause=text, remedy=text, server_message=text)
    assert set(error.fields.values()) == {"no answer from https://***@airflow.example.org/api: refused"}
