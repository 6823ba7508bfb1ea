"""The HTTP side of the API server: it finds the verb of a request, and answers."""

from __future__ import annotations

import json

from aiohttp import web

from . import deletion, listing, patches, writing
from .errors import ApiError, bad_request, not_found
from .kubelet_http import KubeletServer
from .resources import NAMESPACES, PODS, RESOURCES, Json, Target, target_of
from .store import Store, Stored

_UNKNOWN = ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform")  # clients want them all
VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0-embedded", **dict.fromkeys(_UNKNOWN, "")}


class Api:
    """The HTTP server of a store."""

    def __init__(self, store: Store, namespaces: tuple[str, ...]) -> None:
        self.store = store
        self.node: KubeletServer | None = None  # for logs and exec
        for name in namespaces:
            writing.create(store, Target(NAMESPACES), {"metadata": {"name": name}})

    def application(self) -> web.Application:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            target = target_of(request.path)
            return await self._verb(request, target) if target else _static(request)
        except ApiError as error:
            return web.json_response(error.status, status=error.code)

    async def _verb(self, request: web.Request, target: Target) -> web.StreamResponse:
        resource, store = target.resource, self.store
        if target.subresource != "exec":
            await request.read()  # the last wait before an answer, which is then true when it is made
        if "dryRun" in request.query:
            raise bad_request("dry runs are not simulated")
        match request.method, bool(target.name), target.subresource:
            case "GET", _, "" if listing.flag(request.query, "watch"):
                return await listing.watch(store, request, target)
            case "GET", False, _:
                return _json(listing.page(store, target, request.query))
            case "GET", True, "" | "status":
                return _object(target, self._existing(target))
            case "GET" | "POST", True, "log" | "exec":
                return await self._ask_node(request, target)
            case "POST", False, _ if target.namespace or not resource.namespaced:
                return _object(target, writing.create(store, target, await _body(request)), 201)
            case "POST", True, "binding":
                writing.bind(store, target, self._existing(target), await _body(request))
                success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
                return web.json_response(success, status=201)
            case "PATCH", True, "" | "status":
                old = self._existing(target)
                wanted = patches.apply(request.content_type, await request.read(), old.object)
                return _object(target, writing.update(store, target, old, wanted))
            case "DELETE", True, "" if resource is PODS:
                return _object(target, deletion.delete(store, self._existing(target), await _delete_options(request)))
            case "DELETE", True, "" if resource is NAMESPACES:
                return _object(target, deletion.delete_namespace(store, self._existing(target)))
            case "DELETE", False, _ if resource is PODS:
                options, body = await _delete_options(request), listing.page(store, target, request.query)
                for item in json.loads(body)["items"]:
                    one = Target(PODS, target.namespace, item["metadata"]["name"])
                    deletion.delete(store, self._existing(one), options)
                return _json(body)
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})

    def _existing(self, target: Target) -> Stored:
        stored = self.store.get(target.resource.plural, target.key)
        if stored is None:
            raise not_found(target.resource.plural, target.name)
        return stored

    async def _ask_node(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Pass logs and exec on to the kubelet, directly and not over HTTPS as a real API server does."""
        pod = self._existing(target).object
        container = _container(request, pod)
        if not pod["spec"].get("nodeName"):
            if target.subresource == "log":
                return web.Response(content_type="text/plain")
            raise bad_request(f"pod {target.name} does not have a host assigned")
        if self.node is None or not self.store.get("nodes", pod["spec"]["nodeName"]):
            raise not_found("pods", pod["spec"]["nodeName"])  # the API server's own words
        answer = self.node.logs if target.subresource == "log" else self.node.exec
        try:
            return await answer(request, target.namespace, target.name, container)
        except web.HTTPException as error:
            raise ApiError(error.status, error.reason.replace(" ", ""), error.text or "") from error


def _container(request: web.Request, pod: Json) -> str:
    spec, pod_name = pod["spec"], pod["metadata"]["name"]
    names = [container["name"] for container in [*(spec.get("initContainers") or []), *spec["containers"]]]
    wanted = request.query.get("container", "")
    if not wanted and len(spec["containers"]) > 1:
        raise bad_request(f"a container name must be specified for pod {pod_name}, choose one of: [{' '.join(names)}]")
    if wanted and wanted not in names:
        raise bad_request(f"container {wanted} is not valid for pod {pod_name}")
    return str(wanted or spec["containers"][0]["name"])


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _object(target: Target, stored: Stored, status: int = 200) -> web.Response:
    return _json(f'{{"kind":"{target.resource.kind}","apiVersion":"v1",'.encode() + stored.raw[1:], status)


async def _body(request: web.Request) -> Json:
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise bad_request(f"invalid body: {error}") from error
    if not isinstance(body, dict):
        raise bad_request("invalid body: not an object")
    return body


async def _delete_options(request: web.Request) -> Json:
    """Read the options from the body, or from the query if there is no body, as the API server does."""
    if await request.read():
        options = await _body(request)
        if options.get("dryRun"):
            raise bad_request("dry runs are not simulated")
        return options
    given = "gracePeriodSeconds" in request.query
    return {"gracePeriodSeconds": listing.integer(request.query, "gracePeriodSeconds")} if given else {}


def _static(request: web.Request) -> web.Response:
    """Answer version and discovery; all else does not exist."""
    match request.path.rstrip("/"):
        case "/version":
            return web.json_response(VERSION)
        case "/api":
            return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
        case "/apis":
            return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
        case "/api/v1":
            rows = [row for resource in RESOURCES.values() for row in resource.described()]
            return web.json_response({"kind": "APIResourceList", "groupVersion": "v1", "resources": rows})
    raise ApiError(404, "NotFound", "the server could not find the requested resource", {})
