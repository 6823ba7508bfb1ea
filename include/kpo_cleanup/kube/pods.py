"""Listing and deleting pods."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..constants import ALL_NAMESPACES, Outcome
from ..errors import ApiStatusError, KubernetesError, RetryableApiError, SettingsError, UnexpectedResponse
from ..pod import KPO_LABEL, Pod
from ..retry import RetryPolicy
from . import CONCURRENT_DELETES, DeleteResult, Listing, accepted
from .client import attempt, connect, request
from .parse import answer_decoder, finalizers_of, read_pod

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

log = logging.getLogger(__name__)

PAGE_SIZE = 500  # kubectl's own; about 2 MB of JSON
MAX_RESTARTS = 3  # of a listing whose continue token expired
PROGRESS_EVERY = 10  # pages
SILENT_NAMESPACES = 2  # in a row, after which no other one is tried
RBAC_FILE = "manifests/rbac.yaml"

_OWN_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class PodClient:
    """The pods of one cluster, seen through an Airflow connection.

    :param page_size: pods that the API server is asked for at once.
    """

    def __init__(self, conn_id: str, patience: RetryPolicy | None = None, page_size: int = PAGE_SIZE) -> None:
        self._conn_id = conn_id
        self._patience = patience or RetryPolicy()
        self._page_size = page_size
        self._decode = answer_decoder()

    @cached_property
    def _connection(self) -> tuple[CoreV1Api, str | None]:
        return connect(self._conn_id, CONCURRENT_DELETES)

    @property
    def _core(self) -> CoreV1Api:
        return self._connection[0]

    def own_namespace(self) -> str:
        """Give the namespace in which the operator would start a pod: the connection's, else the worker's own."""
        return self.own_namespace_and_origin()[0]

    def own_namespace_and_origin(self) -> tuple[str, str]:
        """Give that namespace, and say where it comes from."""
        if self._connection[1]:
            return self._connection[1], f"connection {self._conn_id!r}"
        worker = _worker_namespace()
        return (worker, "the worker's own") if worker else ("default", "nothing else")

    def _own_but_for(self, excluded: Sequence[str]) -> str:
        namespace, origin = self.own_namespace_and_origin()
        if namespace in excluded:
            raise SettingsError(
                f"exclude_namespaces has {namespace!r}, which comes from {origin}, for namespaces is empty; "
                "set namespaces, or leave it out of exclude_namespaces"
            )
        return namespace

    def list_pods(
        self,
        namespaces: Sequence[str],
        label_selector: str = "",
        excluded: Sequence[str] = (),
        *,
        must_exist: bool = True,
        keep: Callable[[Pod], bool] | None = None,
    ) -> Listing:
        """List all pods of the operator.

        A namespace that cannot be listed is a problem in the answer and does not stop the others. If the API server
        does not answer for several in a row, the rest is given up: each of them would take minutes.

        :param namespaces: empty for the operator's own.
        :param label_selector: narrows.
        :param excluded: namespaces to leave out of all.
        :param must_exist: tell a missing namespace from an empty one.
        :param keep: tells which pods are wanted, so that a large cluster does not fill the memory; all if not given.
        :raises KubernetesError: if not one namespace could be listed.
        :raises SettingsError: if the API server refuses the selector, or the operator's own namespace is excluded.
        """
        pods: list[Pod] = []
        errors: dict[str, KubernetesError] = {}
        silent = 0
        namespaces = namespaces or [self._own_but_for(excluded)]
        for namespace in namespaces:
            try:
                if silent == SILENT_NAMESPACES:
                    raise RetryableApiError(_listing(namespace), cause="not tried, for the API server does not answer")
                terms = _selector(label_selector), _but_for(namespace, excluded)
                found = self._list_namespace(namespace, *terms, keep=keep)
                if must_exist and not found and namespace != ALL_NAMESPACES:
                    self._check_exists(namespace)
            except KubernetesError as error:
                if isinstance(error, ApiStatusError) and error.status == 400:
                    selector = f"label_selector={label_selector!r}"
                    raise SettingsError(f"{selector} was refused ({error}); correct its syntax") from error
                log.error("%s", error)
                errors[namespace] = error
                silent += isinstance(error, RetryableApiError) and silent < SILENT_NAMESPACES
            else:
                log.info("%s pods %sin %s", len(found), "that matter " if keep else "", _place(namespace))
                pods.extend(found)
                silent = 0
        errors_by_namespace = {namespace: str(error) for namespace, error in errors.items()}
        if len(errors) == len(namespaces):
            nothing = KubernetesError("no namespace could be listed", cause="; ".join(errors_by_namespace.values()))
            nothing.is_retryable = any(error.is_retryable for error in errors.values())
            raise nothing
        return Listing(pods, errors_by_namespace)

    def get(self, pod: Pod, label_selector: str) -> Pod | None:
        """See :class:`Cluster`; by lists, which need no other right than listing."""
        of_its_name = f"metadata.name={pod.name}"
        selected = self._list_namespace(pod.namespace, _selector(label_selector), of_its_name)
        if selected:
            return selected[0]
        # Somebody may have taken it out of the selection, which is no less than protecting it.
        others = self._list_namespace(pod.namespace, "", of_its_name)
        if not others:
            return None
        why = others[0].label_problem or f"label_selector={label_selector!r} does not match it any more"
        return replace(others[0], label_problem=why)

    def delete(self, pod: Pod, grace_period_seconds: int) -> DeleteResult:
        """See :class:`Cluster`."""
        body: dict[str, Any] = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": pod.uid, "resourceVersion": pod.resource_version},
        }
        if grace_period_seconds >= 0:
            body["gracePeriodSeconds"] = grace_period_seconds
        call = partial(self._core.delete_namespaced_pod, pod.name, pod.namespace, body=body)
        try:
            answer = attempt(f"deleting pod {pod}", call, self._patience, self._decode)
        except KubernetesError as error:
            return _deletion_of(error, pod)
        if answer.get("kind") not in ("Pod", "Status"):
            problem = f"the answer is a {answer.get('kind')!r}, not a Pod or Status"
            return DeleteResult(Outcome.FAILED, problem, outcome_unknown=True)
        return accepted(finalizers_of(answer))

    def _list_namespace(
        self, namespace: str, selector: str, field_selector: str = "", keep: Callable[[Pod], bool] | None = None
    ) -> list[Pod]:
        for restart in range(MAX_RESTARTS + 1):
            try:
                pages = self._pages(namespace, selector, field_selector)
                return [pod for page in pages for pod in page if keep is None or keep(pod)]
            except ApiStatusError as refusal:
                if refusal.status != 410 or restart == MAX_RESTARTS:
                    raise _explained(refusal, namespace) from refusal
                log.warning("%s; the listing starts again (%s of %s)", refusal, restart + 1, MAX_RESTARTS)
        raise AssertionError("unreachable")

    def _pages(self, namespace: str, selector: str, field_selector: str) -> Iterator[list[Pod]]:
        if namespace == ALL_NAMESPACES:
            call: Callable[..., Any] = self._core.list_pod_for_all_namespaces
        else:
            call = partial(self._core.list_namespaced_pod, namespace)
        given = {"label_selector": selector, "field_selector": field_selector}
        selectors = {name: text for name, text in given.items() if text}
        what = _listing(namespace)

        def answers() -> Iterator[dict[str, Any]]:
            token: str | None = None
            while True:
                paging = {"_continue": token} if token else {}
                page_of_it = partial(call, **selectors, limit=self._page_size, **paging)
                answer = request(what, page_of_it, self._patience, self._decode)
                yield answer
                previous, token = token, _paging(answer).get("continue")
                if not token:
                    return
                if token == previous:
                    raise KubernetesError(
                        what, cause="the same page was served twice", remedy="does a cache stand before the API server?"
                    )

        count = 0
        for number, answer in enumerate(_ahead(answers()), 1):
            page = _read_page(answer, what)
            count, paging = count + len(page), _paging(answer)
            if paging.get("continue") and number % PROGRESS_EVERY == 0:
                # The server does not count what remains of a selection.
                remaining = paging.get("remainingItemCount")
                log.info("%s: %s so far%s", what, count, f", {remaining} to go" if remaining else "")
            yield page

    def _check_exists(self, namespace: str) -> None:
        """Tell a missing namespace from an empty one: the API server lists both alike."""
        what = f"reading namespace {namespace!r}"
        try:
            request(what, partial(self._core.read_namespace, namespace), self._patience)
        except (ApiStatusError, UnexpectedResponse) as refusal:
            if isinstance(refusal, ApiStatusError) and refusal.status == 404:
                raise KubernetesError(
                    what,
                    cause=f"namespace {namespace!r} does not exist",
                    remedy="correct namespaces or the connection's namespace",
                ) from refusal
            log.info("No pods in namespace %r; whether it exists could not be checked: %s", namespace, refusal)


def _deletion_of(error: KubernetesError, pod: Pod) -> DeleteResult:
    """Tell what an error in place of an answer says about the pod."""
    if isinstance(error, RetryableApiError):
        return DeleteResult(
            Outcome.FAILED,
            error.cause,
            said=error.server_message,
            is_retryable=True,
            retry_after=error.retry_after,
            outcome_unknown=error.outcome_unknown,
        )
    status = error.status if isinstance(error, ApiStatusError) else None
    if status == 404:
        return DeleteResult(Outcome.ALREADY_GONE, "the API server has no such pod any more")
    if status == 409:
        return DeleteResult(Outcome.FAILED, error.cause, said=error.server_message, is_conflict=True)
    remedy = _rule("delete", pod.namespace) if status == 403 else ""
    # A gateway before the API server may have passed the request on.
    return DeleteResult(Outcome.FAILED, error.cause, remedy, error.server_message, outcome_unknown=status is None)


def _listing(namespace: str) -> str:
    return f"listing pods in {_place(namespace)}"


def _but_for(namespace: str, excluded: Sequence[str]) -> str:
    """Make the field selector that leaves namespaces out of all."""
    return ",".join(f"metadata.namespace!={name}" for name in excluded) if namespace == ALL_NAMESPACES else ""


def _selector(*terms: str) -> str:
    return ",".join(filter(None, [f"{KPO_LABEL}=True", *terms]))


def _ahead(answers: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give each answer while the next one is fetched.

    Server and client work about equally long on a page. On two cores shared with a real kube-apiserver, this saves 11
    to 28 % of a listing of 10,000 pods. It was measured in five blocks of five rounds each way, in turn.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="list") as pool:
        following = pool.submit(next, answers, None)
        while (answer := following.result()) is not None:
            following = pool.submit(next, answers, None)
            yield answer


def _paging(answer: dict[str, Any]) -> dict[str, Any]:
    paging: dict[str, Any] = answer.get("metadata") or {}
    return paging


def _read_page(answer: dict[str, Any], what: str) -> list[Pod]:
    items = answer.get("items")
    host = "is the connection's host a Kubernetes API server?"
    if answer.get("kind") != "PodList":
        raise KubernetesError(what, cause=f"the answer is a {answer.get('kind')!r}, not a PodList", remedy=host)
    if not isinstance(items, list):
        raise KubernetesError(
            what, cause=f"the answer is a PodList whose items are {items!r:.80}, not a list", remedy=host
        )
    try:
        return [read_pod(item) for item in items]
    except (AttributeError, TypeError, ValueError) as error:
        raise KubernetesError(what, cause=str(error)) from error


def _explained(refusal: ApiStatusError, namespace: str) -> ApiStatusError:
    """Add the remedy to a refused listing."""
    remedies = {
        401: "the connection's credentials are missing, wrong or expired",
        403: f"{_rule('list', namespace)}, and check that the namespace exists",
    }
    return ApiStatusError(
        refusal.status,
        refusal.summary,
        cause=refusal.cause,
        remedy=remedies.get(refusal.status, ""),
        server_message=refusal.server_message,
    )


def _rule(verb: str, namespace: str) -> str:
    kind = "ClusterRole" if namespace == ALL_NAMESPACES else "Role"
    return f"allow verb {verb!r} on resource 'pods' in a {kind} for {_place(namespace)} (see {RBAC_FILE})"


def _place(namespace: str) -> str:
    return "all namespaces" if namespace == ALL_NAMESPACES else f"namespace {namespace!r}"


def _worker_namespace() -> str | None:
    try:
        return _OWN_NAMESPACE_FILE.read_text().strip() or None
    except OSError:
        return None
