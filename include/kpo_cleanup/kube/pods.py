"""Listing and deleting pods."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KubernetesError, NotKubernetes, Refused, SettingsError
from ..pod import ID_LABELS, KPO_LABEL, Pod
from ..vocabulary import ALL_NAMESPACES, Outcome
from . import CONCURRENT_DELETES, Deletion, Listing
from .client import connect, request
from .reading import decode_answer, keeps_little, read_pod

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

log = logging.getLogger(__name__)

PAGE_SIZE = 500  # kubectl's own; about 2 MB of JSON
MAX_RESTARTS = 3  # of a listing whose continue token expired
PROGRESS_EVERY = 10  # pages
RBAC_FILE = "manifests/rbac.yaml"

_OWN_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class PodApi:
    """The pods of one cluster, seen through an Airflow connection."""

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id

    @cached_property
    def _connection(self) -> tuple[CoreV1Api, str | None]:
        return connect(self._conn_id, CONCURRENT_DELETES)

    @property
    def _core(self) -> CoreV1Api:
        return self._connection[0]

    def own_namespace(self) -> str:
        """Give the namespace in which the operator would start a pod: the connection's, else the worker's own."""
        return self._connection[1] or _worker_namespace() or "default"

    def list_pods(self, namespaces: Sequence[str], label_selector: str = "", excluded: Sequence[str] = ()) -> Listing:
        """List all pods of the operator.

        A namespace that cannot be listed is a problem in the answer and does not stop the others.

        :param namespaces: empty for the operator's own.
        :param label_selector: narrows.
        :param excluded: namespaces to leave out of all.
        :raises KubernetesError: if not one namespace could be listed.
        :raises SettingsError: if the API server refuses the selector.
        """
        listing, errors = Listing(), []
        namespaces = namespaces or [self.own_namespace()]
        for namespace in namespaces:
            try:
                pods = self._list_namespace(namespace, _selector(label_selector), excluded)
                log.info("%s pods in %s", len(pods), _place(namespace))
                listing.pods.extend(pods)
            except KubernetesError as problem:
                if isinstance(problem, Refused) and problem.status == 400:
                    selector = f"label_selector={label_selector!r}"
                    raise SettingsError(f"{selector} was refused ({problem}); correct its syntax") from problem
                log.error("%s", problem)
                listing.problems.append(str(problem))
                errors.append(problem)
        if len(errors) == len(namespaces):
            error = KubernetesError("no namespace could be listed", "; ".join(listing.problems))
            error.is_passing = any(one.is_passing for one in errors)
            raise error
        return listing

    def siblings(self, pod: Pod) -> list[Pod]:
        """See :class:`PodDeleter`; found as the operator finds them, by its labels."""
        selector = ",".join(f"{name}={getattr(pod, name)}" for name in ID_LABELS)
        return [other for other in self._list_namespace(pod.namespace, selector) if other.key == pod.key]

    def delete(self, pod: Pod, grace_period_seconds: int) -> Deletion:
        """Delete this very pod: a newer one of the same name has another uid, and is spared."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": pod.uid}}
        if grace_period_seconds >= 0:
            body["gracePeriodSeconds"] = grace_period_seconds
        what = f"deleting pod {pod}"
        call = partial(self._core.delete_namespaced_pod, pod.name, pod.namespace, body=body)
        try:
            answer = request(what, call, decode_answer)
        except KubernetesError as error:
            return _deletion_of(error, pod)
        if answer.get("kind") not in ("Pod", "Status"):
            return Deletion(Outcome.FAILED, f"the answer is a {answer.get('kind')!r}, not a Pod or Status")
        return Deletion(Outcome.DELETED)

    def _list_namespace(self, namespace: str, selector: str, excluded: Sequence[str] = ()) -> list[Pod]:
        for restart in range(MAX_RESTARTS + 1):
            try:
                pods = [pod for page in self._pages(namespace, selector, excluded) for pod in page]
            except Refused as refusal:
                if refusal.status == 410 and restart < MAX_RESTARTS:
                    log.warning("%s; the listing starts again (%s of %s)", refusal, restart + 1, MAX_RESTARTS)
                    continue
                raise _explained(refusal, namespace) from refusal
            if not pods and namespace != ALL_NAMESPACES:
                self._check_exists(namespace)
            return pods
        raise AssertionError("unreachable")

    def _pages(self, namespace: str, selector: str, excluded: Sequence[str]) -> Iterator[list[Pod]]:
        if namespace == ALL_NAMESPACES:
            but_for = ",".join(f"metadata.namespace!={name}" for name in excluded)
            call: Callable[..., Any] = partial(self._core.list_pod_for_all_namespaces, field_selector=but_for)
        else:
            call = partial(self._core.list_namespaced_pod, namespace)
        what = f"listing pods in {_place(namespace)}"

        def fetch(token: str | None) -> dict[str, Any]:
            paging = {"_continue": token} if token else {}
            return request(what, partial(call, label_selector=selector, limit=PAGE_SIZE, **paging), decode_answer)

        with ThreadPoolExecutor(1, thread_name_prefix="list") as pool:
            answer, previous, count, pages = fetch(None), None, 0, 0
            while True:
                metadata = answer.get("metadata") or {}
                token, remaining = metadata.get("continue"), metadata.get("remainingItemCount")
                # The server prepares the next page meanwhile. Not where this one was decoded whole: there is never
                # more than one page of raw data at a time.
                following = pool.submit(fetch, token) if token and token != previous and keeps_little() else None
                page = _read_page(answer, what)
                del answer
                if token and token == previous:
                    raise KubernetesError(
                        what, "the same page was served twice", "does a cache stand before the API server?"
                    )
                count, pages = count + len(page), pages + 1
                yield page
                if not token:
                    return
                if pages % PROGRESS_EVERY == 0:
                    # The server does not count what remains of a selection.
                    log.info("%s: %s so far%s", what, count, f", {remaining} to go" if remaining else "")
                answer, previous = following.result() if following else fetch(token), token

    def _check_exists(self, namespace: str) -> None:
        """Tell a missing namespace from an empty one: the API server lists both alike."""
        what = f"reading namespace {namespace!r}"
        try:
            request(what, partial(self._core.read_namespace, namespace))
        except (Refused, NotKubernetes) as refusal:
            if isinstance(refusal, Refused) and refusal.status == 404:
                raise KubernetesError(
                    what,
                    f"namespace {namespace!r} does not exist",
                    "correct namespaces or the connection's namespace",
                ) from refusal
            log.info("No pods in namespace %r; whether it exists could not be checked: %s", namespace, refusal)


def _deletion_of(error: KubernetesError, pod: Pod) -> Deletion:
    """Tell what an error in place of an answer says about the pod."""
    status = error.status if isinstance(error, Refused) else None
    if status == 404:
        return Deletion(Outcome.ALREADY_GONE, "the API server has no such pod any more")
    if status == 409:
        return Deletion(Outcome.SPARED, f"precondition: {error.problem}", said=error.said)
    remedy = _rule("delete", pod.namespace) if status == 403 else ""
    return Deletion(Outcome.FAILED, error.problem, remedy, error.said, error.is_passing)


def _selector(*terms: str) -> str:
    return ",".join(filter(None, [f"{KPO_LABEL}=True", *terms]))


def _read_page(answer: dict[str, Any], what: str) -> list[Pod]:
    items = answer.get("items")
    if answer.get("kind") != "PodList" or not isinstance(items, list):
        raise KubernetesError(
            what,
            f"the answer is a {answer.get('kind')!r}, not a PodList",
            "is the connection's host a Kubernetes API server?",
        )
    try:
        return [read_pod(item) for item in items]
    except (AttributeError, TypeError, ValueError) as error:
        raise KubernetesError(what, str(error)) from error


def _explained(refusal: Refused, namespace: str) -> Refused:
    """Add the remedy to a refused listing."""
    remedies = {
        401: "the connection's credentials are missing, wrong or expired",
        403: f"{_rule('list', namespace)}, and check that the namespace exists",
    }
    return Refused(refusal.status, refusal.what, refusal.problem, remedies.get(refusal.status, ""), refusal.said)


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
