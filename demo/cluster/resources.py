"""The resources of the embedded cluster, and the parsing of request paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

METADATA_FIELDS = frozenset({"metadata.name", "metadata.namespace"})


@dataclass(frozen=True)
class Resource:
    """A resource of the API, such as `jobs` in the group `batch`."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    custom: bool = False  # defined by a CustomResourceDefinition
    subresources: tuple[str, ...] = ("status",)
    fields: frozenset[str] = METADATA_FIELDS  # supported by field selectors

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def name(self) -> str:
        """Return the name that is unique across groups and used in errors, such as `jobs.batch`."""
        return self._qualified(self.plural)

    @property
    def qualified_kind(self) -> str:
        """Return the kind as used in errors, such as `Job.batch`."""
        return self._qualified(self.kind)

    def typed(self, raw: bytes) -> bytes:
        """Return a serialized object with its kind and API version."""
        return f'{{"kind":"{self.kind}","apiVersion":"{self.api_version}",'.encode() + raw[1:]

    def discovery_rows(self) -> list[Json]:
        """Return the rows of API discovery."""
        row = {"singularName": self.kind.lower(), "namespaced": self.namespaced, "kind": self.kind}
        verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "watch"]
        parts = ({**row, "name": f"{self.plural}/{name}", "verbs": verbs} for name in self.subresources)
        return [{**row, "name": self.plural, "verbs": verbs, "shortNames": list(self.short_names)}, *parts]

    def _qualified(self, name: str) -> str:
        return f"{name}.{self.group}" if self.group else name


PODS = Resource(
    "pods",
    "Pod",
    short_names=("po",),
    subresources=("status", "binding", "log", "exec"),
    fields=METADATA_FIELDS | {"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase"},
)
NAMESPACES = Resource("namespaces", "Namespace", short_names=("ns",), namespaced=False)
NODES = Resource("nodes", "Node", short_names=("no",), namespaced=False)
EVENTS = Resource(
    "events",
    "Event",
    short_names=("ev",),
    subresources=(),
    fields=METADATA_FIELDS
    | {f"involvedObject.{field}" for field in ("kind", "namespace", "name", "uid")}
    | {"reason", "type"},
)
JOBS = Resource("jobs", "Job", "batch")
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    "customresourcedefinitions",
    "CustomResourceDefinition",
    "apiextensions.k8s.io",
    short_names=("crd",),
    namespaced=False,
)
BUILT_IN = (PODS, NAMESPACES, NODES, EVENTS, JOBS, CUSTOM_RESOURCE_DEFINITIONS)


@dataclass(frozen=True)
class Target:
    """The resource, namespace, object and subresource of a request path."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.resource.namespaced else self.name


def parse_path(path: str, find: Callable[[str, str, str], Resource | None]) -> Target | None:
    """Parse a request path; return None if it is not the path of a resource.

    `find` returns the resource of a group, a version and a plural.
    """
    match path.strip("/").split("/"):
        case ["api", version, *parts]:
            group = ""
        case ["apis", group, version, *parts]:
            pass
        case _:
            return None
    match parts:
        case ["namespaces", namespace, plural, *rest] if resource := find(group, version, plural):
            pass
        case [plural, *rest] if resource := find(group, version, plural):
            namespace = ""
        case _:
            return None
    name, subresource, *more = (*rest, "", "")
    if any(more) or subresource not in ("", *resource.subresources):
        return None
    if resource.namespaced != bool(namespace) and (name or namespace):
        return None
    return Target(resource, namespace, name, subresource)
