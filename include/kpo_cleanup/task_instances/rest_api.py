"""One request to Airflow's REST API v2: token, time-outs, retries and explained errors.

``httpx`` is what the Task SDK itself is made with, so it is in the workers of every Airflow 3. Unlike ``requests`` it
does not put what a ``.netrc`` says in the place of our token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import SettingsError, TaskInstanceSourceError
from ..retry import RetryPolicy, retry_after

if TYPE_CHECKING:
    import httpx

API = "/api/v2"
TOKEN_URL = "/auth/token"
SHOWN = 200  # characters of a server's own words


class AirflowRefused(TaskInstanceSourceError):
    """An answer that a second attempt will not change.

    :param status: the HTTP status code.
    :param said: the server's own words.
    """

    is_retryable = False

    def __init__(self, status: int, said: str, message: str) -> None:
        super().__init__(message)
        self.status, self.said = status, said


class AirflowSilent(TaskInstanceSourceError):
    """No answer, or one that says to come back later.

    :param retry_after: seconds, if the server named them.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _Secret(str):
    """Text that does not show itself: `airflow dags test` of Airflow 3.0 prints the variables where an error began."""

    def __repr__(self) -> str:
        return "'***'"


class RestApi:
    """The REST API behind an Airflow connection of type ``http``.

    :param connection: its host is the base URL, its password a token; or the password of its login.
    :raises SettingsError: if the connection has no such host or no password.
    """

    def __init__(self, conn_id: str, connection: Any, patience: RetryPolicy | None = None) -> None:
        self._name = f"connection {conn_id!r}"
        self.url = (connection.host or "").rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or connection.port:
            raise SettingsError(
                f"the host of {self._name} is {connection.host!r}; it must be the base URL of Airflow's API server "
                "with scheme, port and path, such as https://airflow.example.org/prod; the field for the port is empty"
            )
        self._login, self._password = connection.login, connection.password or ""
        token = self._password.strip()
        # The error of the HTTP library would show a token that no header can hold.
        if not self._password or not (self._login or (token.isascii() and token.isprintable())):
            raise SettingsError(
                f"{self._name} has no usable password; it must be a token, or the password of the connection's login"
            )
        self._token: str | None = None if self._login else token
        self._secrets = {token}
        self._patience = patience or RetryPolicy()
        self._client = self._connect()

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """Read what is at this path, whose ids are quoted."""
        return self._request("GET", path, {"params": parameters})

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask a question that needs a body; it changes nothing."""
        return self._request("POST", path, {"json": body})

    def _connect(self) -> httpx.Client:
        import httpx

        return httpx.Client(timeout=httpx.Timeout(self._patience.read_timeout, connect=self._patience.connect_timeout))

    def _request(self, method: str, path: str, options: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._patience.call(self._ask, method, path, options)
        return answer

    def _ask(self, method: str, path: str, options: Mapping[str, Any]) -> dict[str, Any]:
        is_new = self._token is None
        self._token = self._token or self._new_token()
        authorization = {"Authorization": _Secret(f"Bearer {self._token}")}
        answer = self._send(method, API + path, headers=authorization, **options)
        if _is_token_refused(answer) and self._login:
            self._token = None  # expired during the task, or the server has another secret since its restart
            if not is_new:
                return self._ask(method, path, options)
        return self._read(answer)

    def _new_token(self) -> str:
        login = {"username": self._login, "password": _Secret(self._password)}
        answer = self._read(self._send("POST", TOKEN_URL, json=login))
        if not isinstance(answer.get("access_token"), str):
            raise AirflowRefused(0, "", f"{self.url}{TOKEN_URL} gave no access_token; {_NOT_AIRFLOW}")
        self._secrets.add(answer["access_token"])
        return str(answer["access_token"])

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        import httpx

        try:
            return self._client.request(method, self.url + path, **options)
        except httpx.HTTPError as error:
            what = f"no answer from Airflow's API to {method} {self.url}{path}"
            # Not chained: the frames of the HTTP library have the token, and some logs show what is in frames.
            raise AirflowSilent(f"{what}: {type(error).__name__} {self._shown(str(error))}".rstrip()) from None

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        """Give an answer's JSON object.

        :raises TaskInstanceSourceError: if it has none; the message says what to do.
        """
        asked = f"{answer.request.method} {answer.url.copy_with(query=None)}"
        what = f"Airflow's API answers {answer.status_code} {answer.reason_phrase} to {asked}"
        body: Any = None
        try:
            body = answer.json()
        except ValueError:
            said = self._shown(answer.text)
        else:
            said = self._shown(str(body.get("detail", body) if isinstance(body, dict) else body))
        if answer.status_code == 429 or answer.is_server_error:
            raise AirflowSilent(f"{what}: {said}", retry_after(answer.headers))
        if not answer.is_success or not isinstance(body, dict):
            status = 401 if _is_token_refused(answer) else answer.status_code
            raise AirflowRefused(status, said, f"{what}: {said}; {self._remedy(answer)}")
        return body

    def _remedy(self, answer: httpx.Response) -> str:
        if _is_token_refused(answer):
            return f"{'login and password are' if self._login else 'the token is'} wrong or expired: renew {self._name}"
        if answer.status_code == 403:
            return f"allow the user of {self._name} to read DAGs, DAG runs, task instances and XComs"
        if answer.is_redirect:
            target = urlsplit(answer.headers.get("Location", ""))
            return f"it redirects to {target.netloc}{target.path}; {_NOT_AIRFLOW}"
        return _NOT_AIRFLOW

    def _shown(self, text: str) -> str:
        """Shorten a server's words, and take out what it may have repeated of our secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = " ".join(text.split())
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


_NOT_AIRFLOW = "the connection's host must be the base URL of Airflow's API server, with its path"


def _is_token_refused(answer: httpx.Response) -> bool:
    """Tell whether the answer is about the token. A 403 is, too, if the signature is wrong."""
    return answer.status_code == 401 or (answer.status_code == 403 and "Invalid JWT token" in answer.text)
