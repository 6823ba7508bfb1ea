"""One request to the Kubernetes API, and its errors.

The provider's own helpers are not used for requests: its ``delete_pod`` sends no preconditions, and it retries after
409, although a pod that fails a precondition has changed and must not be deleted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..airflow_compat import AirflowException, AirflowNotFoundException
from ..errors import (
    AdmissionDenied,
    ApiStatusError,
    BadRequest,
    Conflict,
    Expired,
    Forbidden,
    KubernetesError,
    NotFound,
    RetryableApiError,
    UnexpectedResponse,
    safe_message,
)
from ..retry import RetryPolicy, retry_after
from ..text import printable

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

_STATUS_ERRORS = {400: BadRequest, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Expired}

# Matches the message of a denial by admission control, but not one by the authorizer: "… is forbidden: User …".
_DENIED = re.compile(
    r"""(?:[a-z.]+ "[^"]*" is forbidden: (?!User ")|(?=admission webhook "))"""
    r"""(?P<by>admission webhook "[^"]*"|ValidatingAdmissionPolicy '[^']*')?"""
)
_FAILED_WEBHOOK = re.compile(
    r"""failed calling (?P<admission>webhook "[^"]{1,253}")|(?P<conversion>conversion webhook for [\w./-]{1,253})"""
)

# urllib3 puts the representation of the connection pool before the reason of an error.
_CLIENT_PREFIX = re.compile(r"^\w+\(host=.*?\): (Failed to establish a new connection: \[Errno \d+\] )?")
# Remedies if there is no response, by a substring of the reason. {connection} stands for Airflow's connection.
_OUTAGES = {
    "refused": "check that the API server is running, or correct the host of {connection}",
    "resolve": "check that DNS works, or correct the host of {connection}",
    "not valid for": "use a name that is in the API server's certificate",
    "certificate verify failed": "put the cluster's CA, which may be a new one, into the kubeconfig of the connection",
    "SSL": "correct the host of {connection}",
    "timed out": "check the load of the API server, and the network",
    "redirects": "check that the connection's host is a Kubernetes API server",
}
_CHECK_NETWORK = "check the network, the load balancer and any proxies"


def connect(conn_id: str, concurrency: int) -> tuple[CoreV1Api, str | None]:
    """Return the client of an Airflow connection, and the connection's namespace.

    :raises KubernetesError: if the connection provides no client.
    """
    import urllib3
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from kubernetes.config import KUBE_CONFIG_DEFAULT_LOCATION, ConfigException
    from yaml import YAMLError

    path = KUBE_CONFIG_DEFAULT_LOCATION
    exists = True
    try:
        hook = KubernetesHook(conn_id=conn_id)
        connection = hook.get_connection(conn_id)
        if connection.conn_type not in (None, "", "kubernetes"):
            raise ConfigException(f"its type is {connection.conn_type!r}, not 'kubernetes'")
        path = connection.extra_dejson.get("kube_config_path") or path
        # The hook replaces a missing default connection with an empty one.
        exists = bool(connection.conn_type or connection.extra_dejson)
        core, namespace = hook.core_v1_client, hook.get_namespace()
    except Exception as error:  # the hook, its connection and its kube config can raise anything
        cause = safe_message(error, YAMLError)
        remedy = "check the connection (in_cluster, kube_config_path or kube_config) or correct kubernetes_conn_id"
        if isinstance(error, AirflowNotFoundException):
            remedy = f"create connection {conn_id!r}, or correct kubernetes_conn_id"
        elif "No configuration found" in cause and not exists:
            cause = f"it does not exist, and this worker has neither a service account nor a kubeconfig at {path!r}"
            remedy = f"create connection {conn_id!r}, with kube_config_path or kube_config"
        elif "No configuration found" in cause:
            cause = f"there is no kubeconfig at {path!r} on this worker"
        problem = KubernetesError(f"connection {conn_id!r} provides no Kubernetes client", cause=cause, remedy=remedy)
        problem.is_retryable = not isinstance(error, (AirflowException, ConfigException, ValueError, YAMLError))
        raise problem from error
    # By default, the client itself retries three times and without a delay, on top of the retry policy.
    core.api_client.rest_client.pool_manager.connection_pool_kw.update(retries=urllib3.Retry(0), maxsize=concurrency)
    return core, namespace


def send(
    operation: str, call: Callable[..., Any], policy: RetryPolicy, conn_id: str, decode: Callable[[bytes], Any]
) -> dict[str, Any]:
    """Send one request, and return the JSON object of the response.

    :param operation: what errors report as failed, such as ``listing pods``.
    :param call: a method of the Kubernetes client.
    :param conn_id: the connection of that client, which errors name.
    :param decode: decodes the body, and raises ValueError if it is not JSON.
    :raises ApiStatusError: if the API server refuses the request.
    :raises UnexpectedResponse: if something other than an API server responds.
    :raises RetryableApiError: if there is no response, or one that is not JSON or asks to retry later.
    """
    from kubernetes.client.rest import ApiException
    from urllib3.exceptions import HTTPError

    try:
        # Building typed models would take most of the time of a listing.
        response = call(_preload_content=False, _request_timeout=(policy.connect_timeout, policy.read_timeout))
        body = response.data
    except ApiException as error:
        raise _to_api_error(operation, error) from error
    except HTTPError as error:
        raise _to_outage(operation, conn_id, error) from error
    except UnicodeDecodeError as error:  # the client decodes the body of every error as UTF-8
        raise RetryableApiError(operation, cause="the response is an error whose body is not text") from error
    except Exception as error:  # from the client itself, such as a token that could not be refreshed
        failed = f"the client failed: {safe_message(error)}"
        raise RetryableApiError(operation, cause=failed, has_response=False) from error
    try:
        content = decode(body)
    except ValueError as error:
        raise RetryableApiError(operation, cause=f"the response is not JSON: {bytes(body[:80])!r}") from error
    if not isinstance(content, dict):
        raise RetryableApiError(operation, cause=f"the response is not a JSON object: {bytes(body[:80])!r}")
    return content


def _to_outage(operation: str, conn_id: str, error: Any) -> RetryableApiError:
    """Convert an exception of urllib3 to an error of this package, without the URL, which differs from pod to pod."""
    pool = getattr(error, "pool", None)
    server = f"{pool.scheme}://{pool.host}:{pool.port}" if pool else "the API server"
    inner = getattr(error, "reason", None) or error
    inner = next((each for each in inner.args if isinstance(each, Exception)), inner)
    reason = _CLIENT_PREFIX.sub("", getattr(inner, "strerror", None) or safe_message(inner))
    reason = re.sub("^[A-Z](?=[a-z]+ )", lambda capital: capital[0].lower(), reason.replace(". (", " ("))
    remedy = next((remedy for part, remedy in _OUTAGES.items() if part in reason), _CHECK_NETWORK)
    return RetryableApiError(
        operation,
        cause=f"no answer from {server}: {reason}",
        remedy=remedy.format(connection=f"connection {conn_id!r}"),
        has_response=False,
    )


def _to_api_error(operation: str, error: Any) -> KubernetesError:
    """Convert an exception of the client to an error of this package, with the server's own message."""
    content = None
    with suppress(TypeError, ValueError):  # the body is not JSON, so it is not the API server's
        content = json.loads(error.body)
    status: dict[str, Any] = content if isinstance(content, dict) else {}
    message = str(status.get("message") or "") or printable(error.body or "")
    cause = f"{error.status} {error.reason}"
    denial = _DENIED.match(message) if status.get("kind") == "Status" else None
    if denial:  # checked before the status, because a webhook may deny a request with any status, even 404
        by = denial["by"] or "the admission plugin"
        return AdmissionDenied(operation, cause=f"{cause}, by {by}", denied_by=by, server_message=message)
    if error.status == 429 or error.status >= 500 or error.status == 0:
        failed = _FAILED_WEBHOOK.search(message)
        webhook = failed and (failed["admission"] or failed["conversion"])
        return RetryableApiError(
            operation,
            cause=f"{cause}, because {webhook} fails" if webhook else cause,
            remedy="restore the service of this webhook; the next run tries again" if webhook else "",
            server_message=message,
            retry_after=retry_after(error.headers or {}),
            outcome_unknown=error.status != 429,  # a server that sends 429 has done nothing
            has_response=error.status != 0,
        )
    if status.get("kind") != "Status":
        # Only the API server knows whether an object is gone or replaced. A gateway's 404 means a wrong address.
        return UnexpectedResponse(operation, cause=f"{cause}, not from an API server", server_message=message)
    remedy = "renew the connection's credentials, which are missing, wrong or expired" if error.status == 401 else ""
    kind = _STATUS_ERRORS.get(error.status, ApiStatusError)
    return kind(operation, cause=cause, remedy=remedy, server_message=message)
