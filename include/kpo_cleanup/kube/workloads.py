"""List, read and delete workloads of any kind. All are found through their pods."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from ..text import count, pluralize, printable, without_numbers, wrap
from ..workloads.kind import WorkloadKind
from ..workloads.labels import KPO_LABEL
from ..workloads.pod import parse_pod
from ..workloads.registry import KINDS, kind_of
from ..workloads.workload import POD, Owner, Workload, common_noun
from .client import connect, send
from .decode import make_decoder, parse_deletion
from .interface import CONCURRENT_DELETES, DELETE_TIMEOUT, LOG_TIMEOUT, DeleteResult, Listing

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

log = logging.getLogger(__name__)

PAGE_SIZE = 500  # pods per request, as in kubectl: about 2 MB of JSON
MAX_RESTARTS = 3  # restarts of a listing whose continue token expired
PROGRESS_EVERY = 10  # pages per line of the log
MAX_FAILING_NAMESPACES = 5  # consecutive namespaces that keep failing before the others are skipped
MAX_NAMES = 5  # namespaces with the same cause that an error names
SKIPPED = f"skipped because {MAX_FAILING_NAMESPACES} namespaces in a row could not be listed"
MAX_UNREADABLE = CONCURRENT_DELETES  # consecutive failures to read owners of a kind before the others are skipped
MAX_LOG_BYTES = 64 * 1024  # bytes of the log of one pod
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class _Reference(NamedTuple):
    """What a request for a single object needs."""

    kind: WorkloadKind
    namespace: str
    name: str
    uid: str


class KubeClient:
    """The workloads of one cluster, reached through an Airflow connection; see :class:`~.interface.Cluster`.

    :param page_size: pods per request of a listing.
    :param kinds: the kinds to list; other kinds are not even read.
    """

    def __init__(
        self,
        conn_id: str,
        retry_policy: RetryPolicy | None = None,
        page_size: int = PAGE_SIZE,
        kinds: Collection[WorkloadKind] = (KINDS[POD],),
    ) -> None:
        self._conn_id = conn_id
        self._retry_policy = retry_policy or RetryPolicy()
        self._page_size = page_size
        self._kinds = kinds
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

    def list_workloads(
        self,
        namespaces: Sequence[str],
        label_selector: str = "",
        excluded: Sequence[str] = (),
        *,
        must_exist: bool = True,
        keep: Callable[[Workload], bool] | None = None,
        known: Iterable[Workload] = (),
    ) -> Listing:
        """See :class:`~.interface.Cluster`.

        Once several namespaces in a row could not be listed although the requests were retried, the others are
        skipped, because each may take minutes. After the first failure, the order is random, so that runs skip
        different ones.
        """
        namespaces = namespaces or [self.own_namespace()]
        list_pods = partial(self._list_pods, label_selector=label_selector, excluded=excluded, keep=keep)
        pods, errors = list_pods(namespaces, KINDS[POD], must_exist=must_exist)
        if len(errors) == len(namespaces):
            raise _combine(errors)
        listed = [namespace for namespace in namespaces if namespace not in errors]
        unreadable: dict[str, KubernetesError] = {}
        for kind in self._kinds:
            if kind.pod_selector != KINDS[POD].pod_selector:
                others, problems = list_pods(listed, kind, must_exist=False)
                pods += [pod for pod in others if pod.controller]
                if problems:
                    unreadable[kind.api_kind] = next(iter(problems.values()))
        workloads, unread = self._read_owners(pods, known)
        for reference, error in unread.items():
            unreadable.setdefault(reference.kind.api_kind, error)
        if KINDS[POD] not in self._kinds:
            workloads = [workload for workload in workloads if workload.kind != POD]
        if keep is None:
            _log_found(listed, workloads, excluded)
        return Listing(workloads, errors, {reference.uid: error for reference, error in unread.items()}, unreadable)

    def _list_pods(
        self,
        namespaces: Sequence[str],
        kind: WorkloadKind,
        label_selector: str,
        excluded: Sequence[str],
        keep: Callable[[Workload], bool] | None,
        must_exist: bool,
    ) -> tuple[list[Workload], dict[str, KubernetesError]]:
        """List the pods through which a kind is found; return them, and the errors by namespace, causes first."""
        pods: list[Workload] = []
        errors: dict[str, KubernetesError] = {}
        remaining, in_a_row = [*namespaces], 0
        while remaining:
            namespace = remaining.pop(random.randrange(len(remaining)) if errors else 0)
            if in_a_row == MAX_FAILING_NAMESPACES:
                errors[namespace] = RetryableApiError(_listing(namespace), cause=SKIPPED)
                continue
            try:
                terms = _selector(kind, label_selector), _excluding(namespace, excluded)
                found = self._list_namespace(namespace, *terms, marker=kind.marker, keep=keep)
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
                in_a_row = in_a_row + 1 if error.is_retryable else 0
            else:
                pods.extend(found)
                in_a_row = 0
        failed = sorted(filter(errors.get, namespaces), key=lambda namespace: errors[namespace].cause == SKIPPED)
        return pods, {namespace: errors[namespace] for namespace in failed}

    def _read_owners(
        self, pods: Iterable[Workload], known: Iterable[Workload]
    ) -> tuple[list[Workload], dict[_Reference, KubernetesError]]:
        """Read the workloads that control pods, each of them once, and return them in place of these pods.

        A pod whose owner no longer exists is on its own. A pod whose owner could not be read stays owned.
        """
        kinds = {(kind.group, kind.api_kind): kind for kind in self._kinds if kind is not KINDS[POD]}
        workloads: list[Workload] = []
        by_owner: dict[_Reference, list[Workload]] = {
            _Reference(kind_of(each), each.namespace, each.name, each.uid): [] for each in known if each.kind != POD
        }
        expected = {*by_owner}
        for pod in pods:
            owner = pod.controller or pod.links.labelled_owner
            kind = kinds.get((owner.api_version.rpartition("/")[0], owner.kind)) if owner else None
            if owner is None or kind is None:
                workloads.append(pod)
            else:
                by_owner.setdefault(_Reference(kind, pod.namespace, owner.name, owner.uid), []).append(pod)
        unread = {}
        for reference, answer in self._read_all(list(by_owner)):
            of_owner = by_owner[reference]
            if answer is None:
                workloads += [_without_owner(pod, reference) for pod in of_owner]
                continue
            controlled = [pod for pod in of_owner if pod.controller]
            try:
                if isinstance(answer, KubernetesError):
                    raise answer
                if controlled or reference in expected:
                    workloads.append(_parse(reference.kind, answer, controlled))
                workloads += [pod for pod in of_owner if not pod.controller]
            except KubernetesError as error:
                unread[reference] = error
                problem = error.cause or error.summary
                workloads += [replace(pod, links=pod.links._replace(owner_problem=problem)) for pod in of_owner]
        return workloads, unread

    def _read_all(
        self, references: Sequence[_Reference]
    ) -> Iterator[tuple[_Reference, Mapping[str, Any] | KubernetesError | None]]:
        """Yield the objects; None for one that is gone or replaced, and the error for one that could not be read.

        If reading one is forbidden, or keeps failing, the others of its kind are not requested. The other kinds are
        read nevertheless: the conversion webhook of a custom resource may be down.
        """
        forbidden: dict[tuple[str, str], KubernetesError] = {}  # by kind and namespace
        in_a_row: Counter[str] = Counter()  # by kind: consecutive requests that failed although they were retried
        with ThreadPoolExecutor(CONCURRENT_DELETES, thread_name_prefix="read") as pool:
            for start in range(0, len(references), CONCURRENT_DELETES):
                part = references[start : start + CONCURRENT_DELETES]
                skipped = {each: error for each in part if (error := _why_skipped(each, forbidden, in_a_row))}
                wanted = [each for each in part if each not in skipped]
                answers = dict(zip(wanted, pool.map(self._read_or_error, wanted)))
                for (kind, namespace, *_), answer in answers.items():
                    in_a_row[kind.plural] = in_a_row[kind.plural] + 1 if isinstance(answer, RetryableApiError) else 0
                    if isinstance(answer, Forbidden):
                        forbidden[kind.plural, namespace] = answer
                yield from ((each, skipped.get(each) or answers[each]) for each in part)

    def _read_or_error(self, reference: _Reference) -> Mapping[str, Any] | KubernetesError | None:
        try:
            item = self._read(reference)
        except KubernetesError as error:
            return error
        return item if item and (item.get("metadata") or {}).get("uid") == reference.uid else None

    def _read(self, reference: _Reference) -> Mapping[str, Any] | None:
        """Read the object that has this name now, or return None if there is none."""
        kind, operation = reference.kind, _reading(reference.kind)
        try:
            item = self._request(operation, partial(self._call, "GET", kind, reference), json.loads)
        except NotFound:
            return None
        except Forbidden as error:
            error.remedy = _rule("get", kind.resource, reference.namespace)
            raise
        except UnexpectedResponse as error:  # for example for a resource that the API server does not serve
            error.remedy = f"check that the cluster serves {kind.resource}, or remove {kind.plural} from kinds"
            raise
        if item.get("kind") != kind.api_kind:
            raise UnexpectedResponse(operation, cause=f"{_named(item.get('kind'))}, not a {kind.api_kind}")
        return item

    def get(self, workload: Workload, label_selector: str) -> Workload | None:
        """See :class:`~.interface.Cluster`. A pod is read by listing it, so that no further permission is needed."""
        kind = kind_of(workload)
        if workload.kind != POD:
            item = self._read(_Reference(kind, workload.namespace, workload.name, workload.uid))
            is_same = item is not None and item["metadata"].get("uid") == workload.uid
            return None if item is None else _parse(kind, item, [workload] if is_same else [])
        if workload.links.lost_owner:
            kind = KINDS[workload.links.lost_owner.kind]
        by_name = f"metadata.name={workload.name}"
        selected = self._list_namespace(workload.namespace, _selector(kind, label_selector), by_name, kind.marker)
        if selected:
            pod = selected[0]
        else:
            # Somebody may have changed its labels so that it is no longer selected, which protects it.
            others = self._list_namespace(workload.namespace, "", by_name, kind.marker)
            if not others:
                return None
            problem = others[0].label_problem or f"label_selector={label_selector!r} no longer matches it"
            pod = replace(others[0], label_problem=problem)
        return replace(pod, links=workload.links) if pod.uid == workload.uid else pod

    def delete(self, workload: Workload, grace_period_seconds: int) -> DeleteResult:
        """See :class:`~.interface.Cluster`."""
        kind, operation = kind_of(workload), f"deleting the {workload.noun}"
        body: dict[str, Any] = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": workload.uid, "resourceVersion": workload.resource_version},
            **kind.delete_options(grace_period_seconds),
        }
        try:
            # The client's own method cannot set the server's timeout.
            query = [("timeout", f"{DELETE_TIMEOUT}s")]
            response = self._send(operation, partial(self._call, "DELETE", kind, workload, query, body))
        except Forbidden as error:
            error.remedy = _rule("delete", kind.resource, workload.namespace)
            raise
        if response.get("kind") not in (kind.api_kind, "Status"):
            cause = f"{_named(response.get('kind'))}, not a {kind.api_kind} or Status"
            raise UnexpectedResponse(operation, cause=cause)
        result = DeleteResult.from_accepted(*parse_deletion(response))
        if not workload.links.pods:
            return result
        pods = f"the garbage collector deletes its {pluralize(workload.links.pods, 'pod')}"
        return replace(result, detail="; ".join(filter(None, [result.detail, pods])))

    def read_log(self, workload: Workload, lines: int) -> list[str]:
        """See :class:`~.interface.Cluster`."""
        call = partial(
            self._core.read_namespaced_pod_log,
            workload.links.main_pod or workload.name,
            workload.namespace,
            container=workload.main_container,
            tail_lines=lines,
            limit_bytes=MAX_LOG_BYTES,
        )
        policy = replace(self._retry_policy, connect_timeout=LOG_TIMEOUT, read_timeout=LOG_TIMEOUT)
        try:
            response = send(
                "reading the log of a pod",
                call,
                policy,
                self._conn_id,
                lambda body: {"log": body.decode(errors="replace")},
            )
        except Forbidden as error:
            error.remedy = _rule("get", "'pods/log'", workload.namespace)
            raise
        return [printable(line) for line in response["log"].splitlines()[-lines:]]

    def _call(
        self,
        method: str,
        kind: WorkloadKind,
        named: Workload | _Reference,
        query: Sequence[tuple[str, str]] = (),
        body: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send a request about one object of any kind."""
        return self._core.api_client.call_api(
            kind.path,
            method,
            {"namespace": named.namespace, "name": named.name},
            query,
            {"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            **options,
        )

    def _send(
        self, operation: str, call: Callable[..., Any], decode: Callable[[bytes], Any] | None = None
    ) -> dict[str, Any]:
        return send(operation, call, self._retry_policy, self._conn_id, decode or self._decode)

    def _request(
        self, operation: str, call: Callable[..., Any], decode: Callable[[bytes], Any] | None = None
    ) -> dict[str, Any]:
        return self._retry_policy.call(self._send, operation, call, decode)

    def _list_namespace(
        self,
        namespace: str,
        selector: str,
        field_selector: str = "",
        marker: str = KPO_LABEL,
        keep: Callable[[Workload], bool] | None = None,
    ) -> list[Workload]:
        restarts = 0
        while True:
            try:
                pages = self._pages(namespace, selector, field_selector, marker)
                return [pod for page in pages for pod in page if keep is None or keep(pod)]
            except Expired as error:
                if restarts == MAX_RESTARTS:
                    raise
                restarts += 1
                self._retry_policy.warn_once(error, "restarting the listing")
            except Forbidden as error:
                check = "" if namespace == ALL_NAMESPACES else ", and check that the namespace exists"
                error.remedy = f"{_rule('list', KINDS[POD].resource, namespace)}{check}"
                raise

    def _pages(self, namespace: str, selector: str, field_selector: str, marker: str) -> Iterator[list[Workload]]:
        operation = _listing(namespace)
        count = 0
        for number, response in enumerate(_prefetch(self._responses(namespace, selector, field_selector)), 1):
            page = _parse_page(response, operation, marker)
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
            what = f"no pods in namespace {namespace!r}; whether it exists could not be checked"
            for line in wrap(f"{what}: {error.cause}"):
                log.info("%s", line)


def _combine(errors: Mapping[str, KubernetesError]) -> KubernetesError:
    """Return the one error for all namespaces, with each cause. Errors with another cause than the first are logged."""
    first = next(iter(errors.values()))
    if len(errors) == 1:
        return first
    by_cause: dict[str, list[str]] = defaultdict(list)
    for namespace, error in errors.items():
        by_cause[without_numbers(error.cause or error.summary)].append(namespace)
    causes = []
    for namespaces in by_cause.values():
        alike = errors[namespaces[0]]
        if alike is not first:
            for line in wrap(str(alike)):
                log.error("%s", line)
        places = ", ".join(namespaces[:MAX_NAMES]) + (", …" if len(namespaces) > MAX_NAMES else "")
        causes.append(f"{alike.cause} ({places})" if alike.cause else alike.summary)
    fields = {**first.fields, "summary": f"none of {len(errors)} namespaces could be listed"}
    combined = KubernetesError(**{**fields, "cause": ", ".join(causes)})
    combined.is_retryable = any(error.is_retryable for error in errors.values())
    return combined


def _log_found(namespaces: Iterable[str], workloads: Sequence[Workload], excluded: Sequence[str]) -> None:
    by_namespace: dict[str, list[Workload]] = defaultdict(list)
    for workload in workloads:
        by_namespace[workload.namespace].append(workload)
    for namespace in namespaces:
        is_all = namespace == ALL_NAMESPACES
        found = workloads if is_all else by_namespace[namespace]
        without = f" except {', '.join(excluded)}" if is_all and excluded else ""
        for line in wrap(f"{count(found, common_noun(found))} in {_place(namespace)}{without}"):
            log.info("%s", line)


def _listing(namespace: str) -> str:
    return f"listing pods in {_place(namespace)}"


def _place(namespace: str) -> str:
    return "all namespaces" if namespace == ALL_NAMESPACES else f"namespace {namespace!r}"


def _parse(kind: WorkloadKind, item: Mapping[str, Any], pods: Sequence[Workload]) -> Workload:
    try:
        return kind.parse(item, pods)
    except (AttributeError, TypeError, ValueError) as error:
        raise KubernetesError(_reading(kind), cause=str(error)) from error


def _why_skipped(
    reference: _Reference, forbidden: Mapping[tuple[str, str], KubernetesError], in_a_row: Mapping[str, int]
) -> KubernetesError | None:
    kind = reference.kind
    if in_a_row[kind.plural] < MAX_UNREADABLE:
        return forbidden.get((kind.plural, reference.namespace))
    return RetryableApiError(_reading(kind), cause=f"skipped because {MAX_UNREADABLE} in a row could not be read")


def _named(kind: object) -> str:
    return "the response has no kind" if kind is None else f"the response is a {kind!r}"


def _reading(kind: WorkloadKind) -> str:
    return f"reading a {kind.api_kind}"


def _rule(verb: str, resource: str, namespace: str) -> str:
    role, file = ("ClusterRole", "rbac-all-namespaces") if namespace == ALL_NAMESPACES else ("Role", "rbac")
    return f"allow verb {verb!r} on resource {resource} in a {role} for {_place(namespace)} (see manifests/{file}.yaml)"


def _selector(kind: WorkloadKind, label_selector: str) -> str:
    return ",".join(filter(None, [kind.pod_selector, label_selector]))


def _without_owner(pod: Workload, reference: _Reference) -> Workload:
    """Return a pod whose owner no longer exists. Its record is that of the owner."""
    kind, namespace, name, uid = reference
    owner = Owner(kind.api_kind, name, uid, f"{kind.group}/{kind.version}")
    recorded_as = kind.recorded_name(namespace, name)
    return replace(pod, links=pod.links._replace(lost_owner=owner, recorded_as=recorded_as))


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


def _parse_page(response: dict[str, Any], operation: str, marker: str) -> list[Workload]:
    kind, items = response.get("kind"), response.get("items")
    if kind != "PodList":
        raise UnexpectedResponse(operation, cause=f"{_named(kind)}, not a PodList")
    if not isinstance(items, list):
        raise UnexpectedResponse(operation, cause=f"the items of the PodList are {items!r:.80}, not a list")
    try:
        return [parse_pod(item, marker) for item in items]
    except (AttributeError, TypeError, ValueError) as error:
        raise KubernetesError(operation, cause=str(error)) from error
