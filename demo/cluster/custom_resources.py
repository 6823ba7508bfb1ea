"""Custom resources: the definitions that clients create, and the resources that they define."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from .errors import Cause
from .resources import BUILT_IN, CUSTOM_RESOURCE_DEFINITIONS, Json, Resource
from .store import Store, timestamp
from .strategy import Strategy

_APPROVAL = "api-approved.kubernetes.io"
_PROTECTED_GROUPS = (".k8s.io", ".kubernetes.io")


class DefinitionStrategy(Strategy):
    """The strategy of CustomResourceDefinitions. Their resources are served immediately."""

    def prepare_for_create(self, obj: Json, now: datetime) -> list[Cause]:
        metadata, spec = obj["metadata"], obj["spec"]
        metadata["generation"] = 1
        accepted = {"status": "True", "lastTransitionTime": timestamp(now)}
        conditions = [
            {"type": "NamesAccepted", **accepted, "reason": "NoConflicts", "message": "no conflicts found"},
            {
                "type": "Established",
                **accepted,
                "reason": "InitialNamesAccepted",
                "message": "the initial names have been accepted",
            },
        ]
        stored = [version["name"] for version in spec["versions"] if version["storage"]]
        obj["status"] = {"conditions": conditions, "acceptedNames": spec["names"], "storedVersions": stored}
        causes = []
        if metadata.get("name") != f"{spec['names']['plural']}.{spec['group']}":
            why = 'must be spec.names.plural+"."+spec.group'
            causes.append(Cause.invalid("metadata.name", metadata.get("name", ""), why))
        if spec["group"].endswith(_PROTECTED_GROUPS) and _APPROVAL not in (metadata.get("annotations") or {}):
            why = (
                f'protected groups must have approval annotation "{_APPROVAL}", '
                "see https://github.com/kubernetes/enhancements/pull/1111"
            )
            causes.append(Cause.required(f"metadata.annotations[{_APPROVAL}]", why))
        return causes

    def after_delete(self, store: Store, obj: Json) -> None:
        """Remove all objects of the resources that it defines."""
        for resource in _defined_by(obj):
            store.remove_all(resource.name)


class CustomResourceStrategy(Strategy):
    """The strategy of custom resources. Schemas are not simulated: all fields are preserved."""

    def prepare_for_create(self, obj: Json, now: datetime) -> list[Cause]:
        obj["metadata"]["generation"] = 1
        obj.pop("status", None)
        return []


def find_resource(store: Store, group: str, version: str, plural: str) -> Resource | None:
    """Return the resource of a request path, or None if it is not served."""
    wanted = (group, version, plural)
    return next((one for one in served(store) if (one.group, one.version, one.plural) == wanted), None)


def find_kind(store: Store, api_version: str, kind: str) -> Resource | None:
    """Return the resource of a kind, or None if it is not served."""
    return next((one for one in served(store) if (one.api_version, one.kind) == (api_version, kind)), None)


def served(store: Store) -> Iterator[Resource]:
    """Return all resources that the API server serves."""
    yield from BUILT_IN
    for definition in store.tables[CUSTOM_RESOURCE_DEFINITIONS.name].objects.values():
        yield from _defined_by(definition.object)


def _defined_by(definition: Json) -> Iterator[Resource]:
    spec = definition["spec"]
    for version in spec["versions"]:
        yield Resource(
            spec["names"]["plural"],
            spec["names"]["kind"],
            spec["group"],
            version["name"],
            short_names=tuple(spec["names"].get("shortNames", ())),
            namespaced=spec["scope"] == "Namespaced",
            custom=True,
            subresources=("status",) if "status" in version.get("subresources", {}) else (),
        )
