"""One request to the Kubernetes API: timeout, retries and explained errors.

The provider's own helpers are not used for the calls: its ``delete_pod`` sends no preconditions, and its retry
sends a request again after 409. After a failed precondition that is the opposite of what is wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..airflow_compat import AirflowException
from ..errors import ApiStatusError, KubernetesError, RetryableApiError, UnexpectedResponse
from ..retry import RetryPolicy, retry_after

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api


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
            cause=str(error),
            remedy="check the connection (in_cluster, kube_config_path or kube_config) "
            "or set kubernetes_conn_id to another one",
        )
        problem.is_retryable = not isinstance(error, (AirflowException, ConfigException, ValueError))
        raise problem from error
    # The client would retry by itself, at once and three times over, on top of the attempts made here.
    core.api_client.rest_client.pool_manager.connection_pool_kw.update(retries=urllib3.Retry(0), maxsize=concurrency)
    return core, namespace


def _check_type(conn_type: str | None) -> None:
    if conn_type not in (None, "", "kubernetes"):
        raise ValueError(f"its type is {conn_type!r}, not 'kubernetes'")


def request(
    what: str, call: Callable[..., Any], patience: RetryPolicy, decode: Callable[[bytes], Any] = json.loads
) -> dict[str, Any]:
    """Make one API call, again if need be, and give its body as JSON; see :func:`attempt`.

    :raises RetryableApiError: if all attempts were in vain.
    """
    answer: dict[str, Any] = patience.retrying()(attempt, what, call, patience, decode)
    return answer


def attempt(
    what: str, call: Callable[..., Any], patience: RetryPolicy, decode: Callable[[bytes], Any] = json.loads
) -> dict[str, Any]:
    """Make one API call once, and give its body as JSON.

    :param decode: raises ValueError for what is not JSON.
    :raises ApiStatusError: for an answer that is final.
    :raises UnexpectedResponse: for an answer of something else than an API server.
    :raises RetryableApiError: if there was no answer, or one that says to come back later.
    """
    from kubernetes.client.rest import ApiException
    from urllib3.exceptions import HTTPError

    try:
        # Typed models are what makes a listing slow, so the body is taken as it comes.
        response = call(_preload_content=False, _request_timeout=(patience.connect_timeout, patience.read_timeout))
        body = response.data
    except ApiException as error:
        raise _explained(what, error) from error
    except HTTPError as error:
        raise RetryableApiError(what, cause=f"no answer from the API server: {error}") from error
    except UnicodeDecodeError as error:  # the client decodes the body of every error as UTF-8
        raise RetryableApiError(what, cause="an error whose body is not text") from error
    except Exception as error:  # of the client itself, such as a token that could not be refreshed
        raise RetryableApiError(what, cause=f"the client failed: {type(error).__name__}: {error}") from error
    try:
        answer = decode(body)
    except ValueError as error:
        raise RetryableApiError(what, cause=f"the answer is not JSON: {bytes(body[:80])!r}") from error
    if not isinstance(answer, dict):
        raise RetryableApiError(what, cause=f"the answer is not a JSON object: {bytes(body[:80])!r}")
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
        # A server that sends 429 has done nothing; of any other one nobody knows.
        wait = retry_after(error.headers or {})
        return RetryableApiError(
            what, cause=problem, server_message=said, retry_after=wait, outcome_unknown=error.status != 429
        )
    if answer.get("kind") != "Status":
        # Only the API server can say that a pod is gone or replaced; a gateway's 404 says that the address is wrong.
        return UnexpectedResponse(what, cause=f"{problem}: {said} (this does not come from a Kubernetes API server)")
    return ApiStatusError(error.status, what, cause=problem, server_message=said)
