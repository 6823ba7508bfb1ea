"""LIST and WATCH: consistent pages of a snapshot, and the changes to a selection since a version."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping

from aiohttp import web

from .errors import ApiError, bad_request, expired
from .resources import Json, Target
from .selectors import field_terms, field_value, label_requirements
from .store import Change, Store, StoredObject

Query = Mapping[str, str]

_DEFAULT_WATCH = 1800  # seconds; a real API server picks a random time from 30 to 60 minutes
_EXPIRED_PAGE = (
    "The provided continue parameter is too old to display a consistent list result. You can start a "
    "new list without the continue parameter, or use the continue token in this response to retrieve "
    "the remainder of the results. Continuing with the provided token results in an inconsistent list -"
    " objects that were created, modified, or deleted between the time the first chunk was returned and"
    " now may show up in the list."
)


class Selection:
    """The objects that a LIST or WATCH selects."""

    def __init__(self, target: Target, query: Query) -> None:
        self._labels = label_requirements(query.get("labelSelector", ""))
        self._fields = field_terms(query.get("fieldSelector", ""), target.resource.fields)
        self.prefix = f"{target.namespace}/" if target.namespace else ""
        self.has_selectors = bool(self._labels or self._fields)

    def includes(self, stored: StoredObject | None) -> bool:
        if stored is None or not stored.key.startswith(self.prefix):
            return False
        labels = stored.object["metadata"].get("labels") or {}
        return all(holds(labels) for holds in self._labels) and all(
            (field_value(stored.object, field) == value) is equal for field, value, equal in self._fields
        )


def page(store: Store, target: Target, query: Query) -> bytes:
    """Return one page as JSON."""
    selection, limit = Selection(target, query), parse_int(query, "limit")
    resource, version, start = target.resource.name, store.version, ""
    parse_int(query, "resourceVersion")  # any valid value is satisfied: the store serves the newest version
    if token := query.get("continue"):
        version, start = _decode(token, selection.prefix)
        version = store.version if version == -1 else version  # -1: newest version, inconsistent with earlier pages
    elif query.get("resourceVersion") == "0":
        limit = 0  # "any version" is served from a cache, which ignores the limit
    items = store.snapshot(resource, version)
    if items is None:
        error = expired(_EXPIRED_PAGE)
        error.status["metadata"] = {"continue": _encode(-1, start, selection.prefix)}
        raise error
    candidates = [item for item in items if item.key.startswith(selection.prefix) and item.key >= start]
    chosen: list[StoredObject] = []
    metadata: Json = {"resourceVersion": str(version)}
    for index, candidate in enumerate(candidates):
        if selection.includes(candidate):
            chosen.append(candidate)
        if limit and len(chosen) >= limit:
            if rest := len(candidates) - index - 1:
                # The remaining objects are not matched yet, so the last page may be empty, and their number is known
                # only without selectors.
                metadata["continue"] = _encode(version, candidate.key + "\0", selection.prefix)
                metadata |= {} if selection.has_selectors else {"remainingItemCount": rest}
                store.keep_snapshot(resource, items, version)
            break
    # In a list of custom resources, unlike other lists, each item has a kind and an API version, and there is always a
    # continue token.
    custom = target.resource.custom
    metadata = {"continue": "", **metadata} if custom else metadata
    head = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version, "metadata": metadata}
    rows = b",".join(target.resource.typed(item.raw) if custom else item.raw for item in chosen)
    return json.dumps(head)[:-1].encode() + b',"items":[' + rows + b"]}"


async def watch(store: Store, request: web.Request, target: Target) -> web.StreamResponse:
    query, table = request.query, store.tables[target.resource.name]
    selection, since = Selection(target, query), parse_int(query, "resourceVersion")
    timeout = parse_int(query, "timeoutSeconds") or _DEFAULT_WATCH
    if "sendInitialEvents" in query:  # clients fall back to LIST and WATCH
        raise ApiError(422, "Invalid", "sendInitialEvents: Forbidden: not simulated")
    # No await between reading the state and subscribing, so that no change is missed.
    queue: asyncio.Queue[Change] = asyncio.Queue()
    if since == 0:
        events = [_event("ADDED", target, item.raw) for item in table.all() if selection.includes(item)]
    elif since < table.compacted_version:
        error = expired(f"too old resource version: {since} ({table.compacted_version})")
        events, timeout = [b'{"type":"ERROR","object":' + json.dumps(error.status).encode() + b"}\n"], 0
    else:
        events = [_event_for(change, selection, target) for change in table.history if change.version > since]
    table.watchers.add(queue)
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    try:
        await response.prepare(request)
        await response.write(b"".join(events))
        async with asyncio.timeout(timeout):
            while True:
                await response.write(_event_for(await queue.get(), selection, target))
    except (TimeoutError, ConnectionResetError):
        pass  # the watch has timed out, or the client has disconnected
    finally:
        table.watchers.discard(queue)
    return response


def parse_int(query: Query, name: str) -> int:
    text = query.get(name) or "0"
    try:
        return int(text)
    except ValueError as error:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from error


def parse_bool(query: Query, name: str) -> bool:
    """Parse a boolean as Go does; the Python clients send `True`."""
    return query.get(name) in ("1", "t", "T", "true", "TRUE", "True")


def _encode(version: int, start: str, prefix: str) -> str:
    token = {"v": "meta.k8s.io/v1", "rv": version, "start": start.removeprefix(prefix)}
    return base64.urlsafe_b64encode(json.dumps(token).encode()).decode().rstrip("=")


def _decode(token: str, prefix: str) -> tuple[int, str]:
    try:
        fields = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        if fields["v"] != "meta.k8s.io/v1":
            raise ValueError("not a token of this server")
        return int(fields["rv"]), prefix + fields["start"]
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {error}") from error


def _event_for(change: Change, selection: Selection, target: Target) -> bytes:
    """Return the watch event of a change: ADDED when an object starts to match the selection, DELETED when it stops."""
    before, after = selection.includes(change.before), selection.includes(change.after)
    if after and change.after:
        return _event("MODIFIED" if before else "ADDED", target, change.after.raw)
    if before and change.before:
        # The last matching state, with the version of the change.
        return _event("DELETED", target, StoredObject.make("", change.before.object, change.version).raw)
    return b""


def _event(kind: str, target: Target, raw: bytes) -> bytes:
    return f'{{"type":"{kind}","object":'.encode() + target.resource.typed(raw) + b"}\n"
