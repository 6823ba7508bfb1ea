"""List, read and delete pods."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..constants import ALL_NAMESPACES
from ..errors import (
    ApiStatusError,
    BadRequest,
    Expired,
    Forbidden,
    KubernetesError,
    NotFound,
    RetryableApiError,
    SettingsError,
    UnexpectedResponse,
)
from ..retry import RetryPolicy
from ..text import without_numbers, wrap
from ..workloads.workload import KPO_LABEL, Workload
from .client import connect, send
from .interface import CONCURRENT_DELETES, DELETE_TIMEOUT, DeleteResult, Listing
from .parse import make_decoder, parse_deletion, parse_pod

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

log = logging.getLogger(__name__)

PAGE_SIZE = 500  # that of kubectl; about 2 MB of JSON
MAX_RESTARTS = 3  # of a listing whose continue token expired
PROGRESS_EVERY = 10  # pages
MAX_SILENT_NAMESPACES = 2  # in a row, after which the others are skipped
RBAC_FILE = "manifests/rbac.yaml"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class PodClient:
    """The pods of one cluster, reached through an Airflow connection; see :class:`~.interface.Cluster`.

    :param page_size: pods per request of a listing.
    """

    def __init__(self, conn_id: str, retry_policy: RetryPolicy | None = None, page_size: int = PAGE_SIZE) -> None:
        self._conn_id = conn_id
        self._retry_policy = retry_policy or RetryPolicy()
        self._page_size = page_size
        self._decode = make_decoder()

    @cached_property
    def _connection(self) -> tuple[CoreV1Api, str | None]:
        return connect(self._conn_id, CONCURRENT_DELETES)

    @property
    def _core(self) -> CoreV1Api:
        return self._connection[0]

    def own_namespace(self) -> str:
        """Return the namespace in which the operator starts its pods by default."""
        return self.own_namespace_and_origin()[0]

    def own_namespace_and_origin(self) -> tuple[str, str]:
        """Return that namespace, and where it is configured: in the connection, or else in the worker's own pod."""
        if self._connection[1]:
            return self._connection[1], f"connection {self._conn_id!r}"
        try:
            worker = NAMESPACE_FILE.read_text().strip()
        except OSError:
            worker = ""
        return (worker, "the worker's own namespace") if worker else ("default", "the default of Kubernetes")

    def list_pods(
        self,
        namespaces: Sequence[str],
        label_selector: str = "",
        excluded: Sequence[str] = (),
        *,
        must_exist: bool = True,
        keep: Callable[[Workload], bool] | None = None,
    ) -> Listing:
        """See :class:`~.interface.Cluster`.

        Once the API server has not responded for several namespaces in a row, the others are skipped, because each
        would take minutes.
        """
        pods: list[Workload] = []
        errors: dict[str, KubernetesError] = {}
        silent = 0
        namespaces = namespaces or [self.own_namespace()]
        for namespace in namespaces:
            try:
                if silent == MAX_SILENT_NAMESPACES:
                    raise RetryableApiError(
                        _listing(namespace), cause="skipped because the API server does not respond"
                    )
                terms = _selector(label_selector), _excluding(namespace, excluded)
                found = self._list_namespace(namespace, *terms, keep=keep)
                if must_exist and not found and namespace != ALL_NAMESPACES:
                    self._check_exists(namespace)
            except BadRequest as error:
                raise SettingsError(
                    f"label_selector={label_selector!r} was rejected by the API server",
                    remedy="correct its syntax",
                    server_message=error.server_message,
                ) from error
            except KubernetesError as error:
                errors[namespace] = error
                silent += isinstance(error, RetryableApiError) and silent < MAX_SILENT_NAMESPACES
            else:
                log.info("%s %spods in %s", len(found), "candidate " if keep else "", _place(namespace))
                pods.extend(found)
                silent = 0
        if len(errors) == len(namespaces):
            raise _combine(list(errors.values()))
        return Listing(pods, errors)

    def get(self, pod: Workload, label_selector: str) -> Workload | None:
        """See :class:`~.interface.Cluster`. It lists, so that no further permission is needed."""
        by_name = f"metadata.name={pod.name}"
        selected = self._list_namespace(pod.namespace, _selector(label_selector), by_name)
        if selected:
            return selected[0]
        # Somebody may have changed its labels so that it is no longer selected, which protects it.
        others = self._list_namespace(pod.namespace, "", by_name)
        if not others:
            return None
        problem = others[0].label_problem or f"label_selector={label_selector!r} no longer matches it"
        return replace(others[0], label_problem=problem)

    def delete(self, pod: Workload, grace_period_seconds: int) -> DeleteResult:
        """See :class:`~.interface.Cluster`."""
        operation = "deleting the pod"
        body: dict[str, Any] = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": pod.uid, "resourceVersion": pod.resource_version},
        }
        if grace_period_seconds >= 0:
            body["gracePeriodSeconds"] = grace_period_seconds
        try:
            response = self._send(operation, partial(self._call_delete, pod, body))
        except Forbidden as error:
            error.remedy = _rule("delete", pod.namespace)
            raise
        if response.get("kind") not in ("Pod", "Status"):
            cause = f"the response is a {response.get('kind')!r}, not a Pod or Status"
            raise UnexpectedResponse(operation, cause=cause)
        return DeleteResult.from_accepted(*parse_deletion(response))

    def _call_delete(self, pod: Workload, body: dict[str, Any], **options: Any) -> Any:
        """Send the request in place of ``delete_namespaced_pod``, which does not let its timeout be set."""
        return self._core.api_client.call_api(
            "/api/v1/namespaces/{namespace}/pods/{name}",
            "DELETE",
            {"namespace": pod.namespace, "name": pod.name},
            [("timeout", f"{DELETE_TIMEOUT}s")],
            {"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            **options,
        )

    def _send(self, operation: str, call: Callable[..., Any]) -> dict[str, Any]:
        return send(operation, call, self._retry_policy, self._decode)

    def _request(self, operation: str, call: Callable[..., Any]) -> dict[str, Any]:
        return self._retry_policy.call(self._send, operation, call)

    def _list_namespace(
        self, namespace: str, selector: str, field_selector: str = "", keep: Callable[[Workload], bool] | None = None
    ) -> list[Workload]:
        restarts = 0
        while True:
            try:
                pages = self._pages(namespace, selector, field_selector)
                return [pod for page in pages for pod in page if keep is None or keep(pod)]
            except Expired as error:
                if restarts == MAX_RESTARTS:
                    raise
                restarts += 1
                self._retry_policy.warn_once(error, "restarting the listing")
            except Forbidden as error:
                error.remedy = f"{_rule('list', namespace)}, and check that the namespace exists"
                raise

    def _pages(self, namespace: str, selector: str, field_selector: str) -> Iterator[list[Workload]]:
        operation = _listing(namespace)
        count = 0
        for number, response in enumerate(_prefetch(self._responses(namespace, selector, field_selector)), 1):
            page = _parse_page(response, operation)
            count, paging = count + len(page), _paging(response)
            if paging.get("continue") and number % PROGRESS_EVERY == 0:
                # The server does not count the remaining pods of a listing with a selector.
                remaining = paging.get("remainingItemCount")
                log.info("%s: %s so far%s", operation, count, f", {remaining} to go" if remaining else "")
            yield page

    def _responses(self, namespace: str, selector: str, field_selector: str) -> Iterator[dict[str, Any]]:
        operation = _listing(namespace)
        if namespace == ALL_NAMESPACES:
            call: Callable[..., Any] = self._core.list_pod_for_all_namespaces
        else:
            call = partial(self._core.list_namespaced_pod, namespace)
        selectors = {"label_selector": selector, "field_selector": field_selector}
        call = partial(call, limit=self._page_size, **{name: text for name, text in selectors.items() if text})
        response = self._request(operation, call)
        yield response
        token = _paging(response).get("continue")
        while token:
            response = self._request(operation, partial(call, _continue=token))
            yield response
            previous, token = token, _paging(response).get("continue")
            if token == previous:
                cause, remedy = "the same page was returned twice", "bypass any cache in front of the API server"
                raise KubernetesError(operation, cause=cause, remedy=remedy)

    def _check_exists(self, namespace: str) -> None:
        """Raise an error if a namespace does not exist: the API server lists it like an empty one."""
        operation = f"reading namespace {namespace!r}"
        try:
            self._request(operation, partial(self._core.read_namespace, namespace))
        except NotFound as error:
            remedy = "correct namespaces or the connection's namespace"
            raise NotFound(f"namespace {namespace!r} does not exist", remedy=remedy) from error
        except (ApiStatusError, UnexpectedResponse) as error:
            log.info("No pods in namespace %r; whether it exists could not be checked: %s", namespace, error.cause)


def _combine(errors: Sequence[KubernetesError]) -> KubernetesError:
    """Return the one error for all namespaces. Those with another cause are logged."""
    first = errors[0]
    if len(errors) == 1:
        return first
    others = {without_numbers(error.cause): error for error in reversed(errors)}
    others.pop(without_numbers(first.cause))
    for line in (line for other in others.values() for line in wrap(str(other))):
        log.error("%s", line)
    fields = {**first.fields, "summary": f"none of {len(errors)} namespaces could be listed"}
    error = KubernetesError(**{**fields, "cause": ": ".join(filter(None, [first.summary, first.cause]))})
    error.is_retryable = any(error.is_retryable for error in errors)
    return error


def _listing(namespace: str) -> str:
    return f"listing pods in {_place(namespace)}"


def _place(namespace: str) -> str:
    return "all namespaces" if namespace == ALL_NAMESPACES else f"namespace {namespace!r}"


def _rule(verb: str, namespace: str) -> str:
    kind = "ClusterRole" if namespace == ALL_NAMESPACES else "Role"
    return f"allow verb {verb!r} on resource 'pods' in a {kind} for {_place(namespace)} (see {RBAC_FILE})"


def _selector(*terms: str) -> str:
    return ",".join(filter(None, [f"{KPO_LABEL}=True", *terms]))


def _excluding(namespace: str, excluded: Sequence[str]) -> str:
    """Return the field selector that leaves these namespaces out of all."""
    return ",".join(f"metadata.namespace!={name}" for name in excluded) if namespace == ALL_NAMESPACES else ""


def _prefetch(responses: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each response while the next one is fetched: server and client take about equally long for a page."""
    with ThreadPoolExecutor(1, thread_name_prefix="list") as pool:
        upcoming = pool.submit(next, responses, None)
        while (response := upcoming.result()) is not None:
            upcoming = pool.submit(next, responses, None)
            yield response


def _paging(response: dict[str, Any]) -> dict[str, Any]:
    paging: dict[str, Any] = response.get("metadata") or {}
    return paging


def _parse_page(response: dict[str, Any], operation: str) -> list[Workload]:
    kind, items = response.get("kind"), response.get("items")
    if kind != "PodList":
        raise UnexpectedResponse(operation, cause=f"the response is a {kind!r}, not a PodList")
    if not isinstance(items, list):
        raise UnexpectedResponse(operation, cause=f"the items of the PodList are {items!r:.80}, not a list")
    try:
        return [parse_pod(item) for item in items]
    except (AttributeError, TypeError, ValueError) as error:
        raise KubernetesError(operation, cause=str(error)) from error
