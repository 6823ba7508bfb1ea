"""API discovery, the version, and the responses to paths that do not exist."""

from __future__ import annotations

from aiohttp import web

from .custom_resources import served
from .errors import ApiError
from .resources import BUILT_IN, Json
from .store import Store

# Clients require all of these fields.
_BUILD_FIELDS = ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform")
VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0-embedded", **dict.fromkeys(_BUILD_FIELDS, "")}


def respond(store: Store, path: str) -> web.Response:
    """Respond to the path of a discovery document; any other path does not exist."""
    match path.strip("/").split("/"):
        case ["version"]:
            return web.json_response(VERSION)
        case ["api"]:
            return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
        case ["apis"]:
            groups = list(dict.fromkeys(resource.group for resource in served(store) if resource.group))
            described = [_group(store, group) for group in groups]
            return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": described})
        case ["apis", group] if any(resource.group == group for resource in served(store)):
            return web.json_response({"kind": "APIGroup", "apiVersion": "v1", **_group(store, group)})
        case ["api" | "apis", *version] if rows := _rows(store, "/".join(version)):
            return web.json_response({"kind": "APIResourceList", "groupVersion": "/".join(version), "resources": rows})
        case ["apis", group, *_] if group not in {resource.group for resource in BUILT_IN}:
            # The handler of custom resources does not return a Status.
            return web.Response(text="404 page not found\n", status=404)
    raise ApiError(404, "NotFound", "the server could not find the requested resource", {})


def _group(store: Store, group: str) -> Json:
    named = {resource.version for resource in served(store) if resource.group == group}
    versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in sorted(named)]
    return {"name": group, "versions": versions, "preferredVersion": versions[-1]}


def _rows(store: Store, api_version: str) -> list[Json]:
    return [row for one in served(store) if one.api_version == api_version for row in one.discovery_rows()]
