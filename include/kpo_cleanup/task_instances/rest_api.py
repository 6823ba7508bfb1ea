"""Send one request to Airflow's REST API v2: token, timeouts, retries and typed errors.

``httpx`` is a dependency of the Task SDK and therefore installed with every Airflow 3. Unlike ``requests``, it does not
replace the token with credentials from a ``.netrc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from ..errors import SettingsError, SourceUnusable, TaskInstanceSourceError
from ..retry import RetryPolicy, retry_after
from ..text import printable

API = "/api/v2"
TOKEN_URL = "/auth/token"
MAX_MESSAGE = 200  # maximum characters of a server's message
CORRECT_HOST = "correct the connection's host: it must be the base URL of Airflow's API server, with its path"


class AirflowApiError(TaskInstanceSourceError):
    """A final error of Airflow's API, which a retry will not change.

    :param status: the HTTP status code.
    """

    is_retryable = False

    def __init__(self, status: int, summary: str, **fields: str) -> None:
        super().__init__(summary, **fields)
        self.status = status


class TokenRejected(AirflowApiError, SourceUnusable):
    """The token, or the login from which it would come, is not accepted."""


class _Secret(str):
    """A string that hides itself: ``airflow dags test`` of Airflow 3.0 prints the variables of a failed frame."""

    def __repr__(self) -> str:
        return "'***'"


class RestApi:
    """The REST API of an Airflow connection of type ``http``.

    :param connection: its host is the base URL; its password is a token, or the password of its login.
    :raises SettingsError: if the connection has no such host or no password.
    """

    def __init__(self, conn_id: str, connection: Any, policy: RetryPolicy | None = None) -> None:
        self._name = f"connection {conn_id!r}"
        self.url = (connection.host or "").rstrip("/")
        if connection.port or not _is_base_url(self.url):
            host = "a URL with credentials" if "@" in self.url else repr(connection.host)
            raise SettingsError(
                f"the host of {self._name} is {host}",
                remedy="set it to the base URL of Airflow's API server with scheme, port and path, such as "
                "https://airflow.example.org/prod, and leave the port field empty",
            )
        self._login, self._password = connection.login, connection.password or ""
        token = self._password.strip()
        # httpx would show a token that is not a valid header value in its error.
        if not self._password or not (self._login or (token.isascii() and token.isprintable())):
            raise SettingsError(
                f"{self._name} has no usable password",
                remedy="set it to a token, or to the password of the connection's login",
            )
        self._token: str | None = None if self._login else token
        self._secrets = {token}
        self._policy = policy or RetryPolicy()
        timeout = httpx.Timeout(self._policy.read_timeout, connect=self._policy.connect_timeout)
        self._client = httpx.Client(timeout=timeout)

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """Return the object at this path, in which ids are quoted."""
        return self._policy.call(self._send_with_token, "GET", path, {"params": parameters})

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of a query that is sent as a body; it changes nothing."""
        return self._policy.call(self._send_with_token, "POST", path, {"json": body})

    def _send_with_token(self, method: str, path: str, options: Mapping[str, Any]) -> dict[str, Any]:
        is_new = self._token is None
        self._token = self._token or self._fetch_token()
        authorization = {"Authorization": _Secret(f"Bearer {self._token}")}
        response = self._send(method, API + path, headers=authorization, **options)
        if _is_token_rejected(response) and self._login:
            self._token = None  # the token expired, or the server was restarted with another secret
            if not is_new:
                return self._send_with_token(method, path, options)
        return self._parse(response)

    def _fetch_token(self) -> str:
        login = {"username": self._login, "password": _Secret(self._password)}
        token = self._parse(self._send("POST", TOKEN_URL, json=login)).get("access_token")
        if not isinstance(token, str):
            raise AirflowApiError(0, f"{self.url}{TOKEN_URL} returned no access_token", remedy=CORRECT_HOST)
        self._secrets.add(token)
        return token

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._client.request(method, self.url + path, **options)
        except httpx.HTTPError as error:
            cause = f"no response ({type(error).__name__}) {self._sanitize(str(error))}".rstrip()
            remedy = "check the load of Airflow's API server, and the network"
            if "CERTIFICATE" in cause:
                remedy = "set SSL_CERT_FILE on the workers to a file with its CA"
            elif isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
                remedy = f"check that Airflow's API server is running, or correct the host of {self._name}"
            # Not chained: the frames of httpx hold the token, and some logs show the variables of frames.
            raise TaskInstanceSourceError(_summary(method, self.url + path), cause=cause, remedy=remedy) from None

    def _parse(self, response: httpx.Response) -> dict[str, Any]:
        """Return the JSON object of a response.

        :raises TaskInstanceSourceError: if it has none.
        """
        summary = _summary(response.request.method, str(response.url.copy_with(query=None)))
        cause = f"{response.status_code} {response.reason_phrase}"
        body: Any = None
        try:
            body = response.json()
        except ValueError:
            message = self._sanitize(response.text)
        else:
            message = self._sanitize(str(body.get("detail", body) if isinstance(body, dict) else body))
        if response.status_code == 429 or response.is_server_error:
            error = TaskInstanceSourceError(summary, cause=cause, server_message=message)
            error.retry_after = retry_after(response.headers)
            raise error
        if not response.is_success or not isinstance(body, dict):
            kind = TokenRejected if _is_token_rejected(response) else AirflowApiError
            remedy = self._remedy(kind, response)
            raise kind(response.status_code, summary, cause=cause, remedy=remedy, server_message=message)
        return body

    def _remedy(self, kind: type[AirflowApiError], response: httpx.Response) -> str:
        if kind is TokenRejected:
            return f"renew {'login and password' if self._login else 'the token'} of {self._name}"
        if response.status_code == 403:
            return f"allow the user of {self._name} to read DAGs, DAG runs, task instances and XComs"
        if response.is_redirect:
            target = urlsplit(response.headers.get("Location", ""))
            return f"{CORRECT_HOST} (this one redirects to {target.netloc}{target.path})"
        return CORRECT_HOST

    def _sanitize(self, message: str) -> str:
        """Shorten a server's message, and mask secrets that it repeats."""
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return printable(message, MAX_MESSAGE)


def _summary(method: str, url: str) -> str:
    return f"querying Airflow's API ({method} {url})"


def _is_base_url(url: str) -> bool:
    """Return whether a URL has a scheme, a host and no credentials."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.username
    except ValueError:  # the port is not a number
        return False


def _is_token_rejected(response: httpx.Response) -> bool:
    """Return whether the token was rejected. Airflow answers 403 if its signature is wrong."""
    return response.status_code == 401 or (response.status_code == 403 and "Invalid JWT token" in response.text)
