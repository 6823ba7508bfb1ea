"""Listing and deleting pods."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.kpo_cleanup import collector
from include.kpo_cleanup.decode import decode_answer, keeps_little
from include.kpo_cleanup.errors import KubernetesError, SettingsError
from include.kpo_cleanup.kube import Refused, Transient, connect, request
from include.kpo_cleanup.pod import ID_LABELS, Pod
from include.kpo_cleanup.settings import ALL_NAMESPACES, Settings
from include.kpo_cleanup.vocabulary import Outcome

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

log = logging.getLogger(__name__)

PAGE_SIZE = 500  # kubectl's own; about 2 MB of JSON
CONCURRENT_DELETES = 10  # below what one client may do under the API server's default fairness limits
MAX_RESTARTS = 3  # of a listing whose continue token expired
PROGRESS_EVERY = 10  # pages
RBAC_FILE = "manifests/rbac.yaml"

_OWN_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Listing:
    """The pods that were found, and what went wrong in namespaces that could not be listed."""

    pods: list[Pod] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Deletion:
    """What the API server said to one deletion."""

    outcome: Outcome
    detail: str = ""
    is_transient: bool = False  # failed for a reason that has nothing to do with this pod


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

    def namespaces(self, settings: Settings) -> list[str]:
        """The namespaces to look into: the chosen ones, else the one in which KPO would start a pod."""
        return settings.namespace_list() or [self._connection[1] or _own_namespace() or "default"]

    @collector.paused()
    def list_pods(self, settings: Settings) -> Listing:
        """All pods that match the selector.

        A namespace that cannot be listed is a problem in the answer and does not stop the others.

        :raises KubernetesError: where not one namespace could be listed.
        :raises SettingsError: where the API server refuses the selector.
        """
        listing = Listing()
        namespaces = self.namespaces(settings)
        for namespace in namespaces:
            try:
                pods = self._list_namespace(namespace, settings.label_selector)
                log.info("%s pods in %s", len(pods), _place(namespace))
                listing.pods.extend(pods)
            except KubernetesError as problem:
                if isinstance(problem, Refused) and problem.status == 400:
                    selector = f"label_selector={settings.label_selector!r}"
                    raise SettingsError(f"{selector} was refused ({problem}); correct its syntax") from problem
                log.error("%s", problem)
                listing.problems.append(str(problem))
        if len(listing.problems) == len(namespaces):
            raise KubernetesError("no namespace could be listed: " + "; ".join(listing.problems))
        return listing

    def siblings(self, pod: Pod) -> list[Pod]:
        """All pods of the pod's task instance that exist now, found as the operator finds them: by its labels."""
        selector = ",".join(f"{name}={getattr(pod, name)}" for name in ID_LABELS)
        return [other for other in self._list_namespace(pod.namespace, selector) if other.key == pod.key]

    def delete(self, pod: Pod, grace_period_seconds: int) -> Deletion:
        """Delete this very pod: a newer one of the same name has another uid, and is spared."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": pod.uid}}
        if grace_period_seconds >= 0:
            body["gracePeriodSeconds"] = grace_period_seconds
        what = deleting(pod)
        call = partial(self._core.delete_namespaced_pod, pod.name, pod.namespace, body=body)
        try:
            answer = request(what, call, decode_answer)
        except Refused as refusal:
            if refusal.status == 404:
                return Deletion(Outcome.ALREADY_GONE, "the API server has no such pod any more")
            if refusal.status == 409:
                return Deletion(Outcome.SPARED, f"precondition: {refusal}")
            if refusal.status == 403:
                return Deletion(Outcome.FAILED, refusal.with_remedy(_rule("delete", pod.namespace)))
            return Deletion(Outcome.FAILED, str(refusal))
        except Transient as failure:
            return Deletion(Outcome.FAILED, str(failure), is_transient=True)
        if answer.get("kind") not in ("Pod", "Status"):
            return Deletion(Outcome.FAILED, f"{what}: the answer is a {answer.get('kind')!r}, not a Pod or Status")
        return Deletion(Outcome.DELETED)

    def _list_namespace(self, namespace: str, selector: str) -> list[Pod]:
        for restart in range(MAX_RESTARTS + 1):
            try:
                pods = [pod for page in self._pages(namespace, selector) for pod in page]
            except Refused as refusal:
                if refusal.status == 410 and restart < MAX_RESTARTS:
                    log.warning("%s; the listing starts again (%s of %s)", refusal, restart + 1, MAX_RESTARTS)
                    continue
                raise _explained(refusal, namespace) from refusal
            if not pods and namespace != ALL_NAMESPACES:
                self._check_exists(namespace)
            return pods
        raise AssertionError("unreachable")

    def _pages(self, namespace: str, selector: str) -> Iterator[list[Pod]]:
        if namespace == ALL_NAMESPACES:
            call: Callable[..., Any] = self._core.list_pod_for_all_namespaces
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
                        f"{what}: the same page was served twice; does a cache stand before the API server?"
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
        except Refused as refusal:
            if refusal.status == 404:
                raise KubernetesError(
                    f"namespace {namespace!r} does not exist; correct namespaces or the connection's namespace"
                ) from refusal
            log.info("No pods in namespace %r; whether it exists could not be checked: %s", namespace, refusal)


def deleting(pod: Pod) -> str:
    """How errors name the deletion of this pod."""
    return f"deleting pod {pod.namespace}/{pod.name}"


def _read_page(answer: dict[str, Any], what: str) -> list[Pod]:
    items = answer.get("items")
    if answer.get("kind") != "PodList" or not isinstance(items, list):
        raise KubernetesError(
            f"{what}: the answer is a {answer.get('kind')!r}, not a PodList; is the connection's host a "
            "Kubernetes API server?"
        )
    try:
        return [Pod.from_api(item) for item in items]
    except (AttributeError, TypeError, ValueError) as error:
        raise KubernetesError(f"{what}: {error}") from error


def _explained(refusal: Refused, namespace: str) -> KubernetesError:
    """Add the remedy to a refused listing."""
    if refusal.status == 401:
        return KubernetesError(refusal.with_remedy("the connection's credentials are missing, wrong or expired"))
    if refusal.status == 403:
        return KubernetesError(refusal.with_remedy(f"{_rule('list', namespace)}, and check that the namespace exists"))
    return refusal


def _rule(verb: str, namespace: str) -> str:
    kind = "ClusterRole" if namespace == ALL_NAMESPACES else "Role"
    return f"allow verb {verb!r} on resource 'pods' in a {kind} for {_place(namespace)} (see {RBAC_FILE})"


def _place(namespace: str) -> str:
    return "all namespaces" if namespace == ALL_NAMESPACES else f"namespace {namespace!r}"


def _own_namespace() -> str | None:
    try:
        return _OWN_NAMESPACE_FILE.read_text().strip() or None
    except OSError:
        return None
