"""One request to the Kubernetes API: timeout, retries and explained errors.

The provider's own helpers are not used for the calls: its ``delete_pod`` sends no preconditions, and its retry takes
409 for transient, which for a failed precondition is the opposite of what is wanted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import isnan
from typing import TYPE_CHECKING, Any

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from ..airflow_compat import AirflowException
from ..errors import KubernetesError, NotKubernetes, Refused, Transient

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

log = logging.getLogger(__name__)

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds; the API server itself gives up on a request after 60
ATTEMPTS = 5
GIVE_UP_AFTER = 90  # seconds, after which no further attempt is made
MAX_WAIT = 30  # seconds between two attempts; also the longest Retry-After that is honoured


def connect(conn_id: str, concurrency: int) -> tuple[CoreV1Api, str | None]:
    """Give the client of an Airflow connection, and the connection's namespace.

    :raises KubernetesError: if it gives none.
    """
    import urllib3
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from kubernetes.config import ConfigException

    try:
        hook = KubernetesHook(conn_id=conn_id)
        _check_type(hook.get_connection(conn_id).conn_type)
        core, namespace = hook.core_v1_client, hook.get_namespace()
    except Exception as error:  # whatever the hook, its connection or its kube config can raise
        problem = KubernetesError(
            f"connection {conn_id!r} gives no Kubernetes client",
            str(error),
            "check the connection (in_cluster, kube_config_path or kube_config) "
            "or set kubernetes_conn_id to another one",
        )
        problem.is_passing = not isinstance(error, (AirflowException, ConfigException, ValueError))
        raise problem from error
    # The client would retry by itself, at once and three times over, on top of the attempts made here.
    core.api_client.rest_client.pool_manager.connection_pool_kw.update(retries=urllib3.Retry(0), maxsize=concurrency)
    return core, namespace


def _check_type(conn_type: str | None) -> None:
    if conn_type not in (None, "", "kubernetes"):
        raise ValueError(f"its type is {conn_type!r}, not 'kubernetes'")


def request(what: str, call: Callable[..., Any], decode: Callable[[bytes], Any] = json.loads) -> dict[str, Any]:
    """Make one API call with timeout and retries, and give its body as JSON.

    :param decode: raises ValueError for what is not JSON.
    :raises Refused: for an answer that is final.
    :raises NotKubernetes: for an answer of something else than an API server.
    :raises Transient: if all attempts were in vain.
    """
    attempts = Retrying(
        stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(GIVE_UP_AFTER),
        wait=_wait,
        retry=retry_if_exception_type(Transient),
        before_sleep=_log_retry,
        reraise=True,
    )
    answer: dict[str, Any] = attempts(_attempt, what, call, decode)
    return answer


_backoff = wait_random_exponential(multiplier=0.5, max=MAX_WAIT)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, Transient) and error.retry_after is not None:
        return min(error.retry_after, MAX_WAIT)
    return _backoff(state)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("%s; attempt %s of %s", error, state.attempt_number + 1, ATTEMPTS)


def _attempt(what: str, call: Callable[..., Any], decode: Callable[[bytes], Any]) -> dict[str, Any]:
    from kubernetes.client.rest import ApiException
    from urllib3.exceptions import HTTPError

    try:
        # Typed models are what makes a listing slow, so the body is taken as it comes.
        response = call(_preload_content=False, _request_timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
        body = response.data
    except ApiException as error:
        raise _explained(what, error) from error
    except HTTPError as error:
        raise Transient(what, f"no answer from the API server: {error}") from error
    except UnicodeDecodeError as error:  # the client decodes the body of every error as UTF-8
        raise Transient(what, "an error whose body is not text") from error
    try:
        answer = decode(body)
    except ValueError as error:
        raise Transient(what, f"the answer is not JSON: {bytes(body[:80])!r}") from error
    if not isinstance(answer, dict):
        raise Transient(what, f"the answer is not a JSON object: {bytes(body[:80])!r}")
    return answer


def _explained(what: str, error: Any) -> KubernetesError:
    """Make our error of the client's exception, with the API server's own words."""
    status = None
    with suppress(TypeError, ValueError):  # not from the API server; what it is goes into the message
        status = json.loads(error.body)
    answer: dict[str, Any] = status if isinstance(status, dict) else {}
    said = answer.get("message") or str(error.body or "").strip()[:200]
    problem = f"{error.status} {error.reason}"
    if error.status == 429 or error.status >= 500 or error.status == 0:
        return Transient(what, problem, said, _retry_after(error.headers or {}))
    if answer.get("kind") != "Status":
        # Only the API server can say that a pod is gone or replaced; a gateway's 404 says that the address is wrong.
        return NotKubernetes(what, f"{problem}: {said} (this does not come from a Kubernetes API server)")
    return Refused(error.status, what, problem, said=said)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read the header's seconds; None for what is no number of them (the API server sends no dates)."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return None if isnan(seconds) else max(seconds, 0)
