"""The resources of the embedded cluster, and the parsing of request paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_METADATA_FIELDS = frozenset({"metadata.name", "metadata.namespace"})


@dataclass(frozen=True)
class Resource:
    plural: str
    kind: str
    short_name: str
    namespaced: bool = True
    subresources: tuple[str, ...] = ("status",)
    fields: frozenset[str] = _METADATA_FIELDS  # supported by field selectors

    def discovery_rows(self) -> list[Json]:
        """Return the rows of API discovery."""
        row = {"singularName": self.kind.lower(), "namespaced": self.namespaced, "kind": self.kind}
        verbs = ["create", "delete", "get", "list", "patch", "watch"]
        parts = ({**row, "name": f"{self.plural}/{name}", "verbs": verbs} for name in self.subresources)
        return [{**row, "name": self.plural, "verbs": verbs, "shortNames": [self.short_name]}, *parts]


PODS = Resource(
    "pods",
    "Pod",
    "po",
    subresources=("status", "binding", "log", "exec"),
    fields=_METADATA_FIELDS | {"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase"},
)
NAMESPACES = Resource("namespaces", "Namespace", "ns", namespaced=False)
NODES = Resource("nodes", "Node", "no", namespaced=False)
EVENTS = Resource(
    "events",
    "Event",
    "ev",
    subresources=(),
    fields=_METADATA_FIELDS
    | {f"involvedObject.{field}" for field in ("kind", "namespace", "name", "uid")}
    | {"reason", "type"},
)
RESOURCES = {resource.plural: resource for resource in (PODS, NAMESPACES, NODES, EVENTS)}


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


def parse_path(path: str) -> Target | None:
    """Parse a request path; return None if it is not the path of a resource."""
    match path.strip("/").split("/"):
        case ["api", "v1", "namespaces", namespace, plural, *rest] if plural in RESOURCES:
            pass
        case ["api", "v1", plural, *rest] if plural in RESOURCES:
            namespace = ""
        case _:
            return None
    resource, (name, subresource, *more) = RESOURCES[plural], (*rest, "", "")
    if any(more) or subresource not in ("", *resource.subresources):
        return None
    if resource.namespaced != bool(namespace) and (name or namespace):
        return None
    return Target(resource, namespace, name, subresource)
