"""The HTTP layer of the API server: it dispatches requests to the verbs and renders responses."""

from __future__ import annotations

import json
from functools import partial

from aiohttp import web

from . import deletion, discovery, listing, mutations, patches
from .custom_resources import find_resource
from .errors import ApiError, bad_request, details, not_found
from .kubelet_http import KubeletServer
from .resources import NAMESPACES, Json, Target, parse_path
from .store import Store, StoredObject


class Api:
    """The HTTP API of a store."""

    def __init__(self, store: Store, namespaces: tuple[str, ...]) -> None:
        self.store = store
        self.node: KubeletServer | None = None  # serves logs and exec
        for name in namespaces:
            mutations.create(store, Target(NAMESPACES), {"metadata": {"name": name}})

    def application(self) -> web.Application:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.StreamResponse:
        try:
            target = parse_path(request.path, partial(find_resource, self.store))
            return await self._dispatch(request, target) if target else discovery.respond(self.store, request.path)
        except ApiError as error:
            return web.json_response(error.status, status=error.code)

    async def _dispatch(self, request: web.Request, target: Target) -> web.StreamResponse:
        resource, store = target.resource, self.store
        if target.subresource != "exec":
            await request.read()  # no later await suspends, so that the response describes the store as it is when sent
        if "dryRun" in request.query:
            raise bad_request("dry runs are not simulated")
        match request.method, bool(target.name), target.subresource:
            case "GET", _, "" if listing.parse_bool(request.query, "watch"):
                return await listing.watch(store, request, target)
            case "GET", False, _:
                return _json(listing.page(store, target, request.query))
            case "GET", True, "" | "status":
                return _object(target, self._existing(target))
            case "GET" | "POST", True, "log" | "exec":
                return await self._proxy_to_node(request, target)
            case "POST", False, _ if target.namespace or not resource.namespaced:
                return _object(target, mutations.create(store, target, await _body(request)), 201)
            case "POST", True, "binding":
                mutations.bind(store, target, self._existing(target), await _body(request))
                success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
                return web.json_response(success, status=201)
            case "PATCH", True, "" | "status":
                old = self._existing(target)
                wanted = patches.apply(request.content_type, await request.read(), old.object, custom=resource.custom)
                return _object(target, mutations.update(store, target, old, wanted))
            case "DELETE", True, "":
                existing = self._existing(target)
                deleted = deletion.delete(store, resource, existing, await _delete_options(request))
                return _object(target, deleted) if deleted else _deleted(target, existing)
            case "DELETE", False, _ if target.namespace:
                options, body = await _delete_options(request), listing.page(store, target, request.query)
                for item in json.loads(body)["items"]:
                    one = Target(resource, target.namespace, item["metadata"]["name"])
                    deletion.delete(store, resource, self._existing(one), options)
                return _json(body)
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})

    def _existing(self, target: Target) -> StoredObject:
        stored = self.store.get(target.resource.name, target.key)
        if stored is None:
            raise not_found(target.resource.name, target.name)
        return stored

    async def _proxy_to_node(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Forward logs and exec to the kubelet, by a call instead of the HTTPS request of a real API server."""
        pod = self._existing(target).object
        container = _container(request, pod)
        if not pod["spec"].get("nodeName"):
            if target.subresource == "log":
                return web.Response(content_type="text/plain")
            raise bad_request(f"pod {target.name} does not have a host assigned")
        if self.node is None or not self.store.get("nodes", pod["spec"]["nodeName"]):
            raise not_found("pods", pod["spec"]["nodeName"])  # sic: the API server reports a missing node as a pod
        handler = self.node.logs if target.subresource == "log" else self.node.exec
        try:
            return await handler(request, target.namespace, target.name, container)
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


def _object(target: Target, stored: StoredObject, status: int = 200) -> web.Response:
    return _json(target.resource.typed(stored.raw), status)


def _deleted(target: Target, last: StoredObject) -> web.Response:
    about = {**details(target.resource.name, target.name), "uid": last.object["metadata"]["uid"]}
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": about}
    return web.json_response(status)


async def _body(request: web.Request) -> Json:
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise bad_request(f"invalid body: {error}") from error
    if not isinstance(body, dict):
        raise bad_request("invalid body: not an object")
    return body


async def _delete_options(request: web.Request) -> Json:
    """Parse the options from the body or, without a body, from the query, as the API server does."""
    if await request.read():
        body = await _body(request)
        if body.get("dryRun"):
            raise bad_request("dry runs are not simulated")
        return body
    query = request.query
    options: Json = {key: query[key] for key in ("propagationPolicy", "orphanDependents") if key in query}
    if "gracePeriodSeconds" in query:
        options["gracePeriodSeconds"] = listing.parse_int(query, "gracePeriodSeconds")
    return options
