"""WATCH, through the raw API and through the clients."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from kubernetes import watch

from tests.contract.space import Json, Space


def watched(space: Space, **query: Any) -> list[Json]:
    """Return all events of one watch that ends after a second."""
    params = {"watch": "true", "timeoutSeconds": 1, **query}
    answer = space.server.http.get(space.server.url + space.pods, params=params, timeout=30)
    return [json.loads(line) for line in answer.content.splitlines()]


def test_a_watch_goes_on_from_its_version(space: Space) -> None:
    space.create("before")
    version = space.call("GET", space.pods)["metadata"]["resourceVersion"]
    space.create("p")
    space.bind("p")
    space.delete("p", gracePeriodSeconds=0)
    events = watched(space, resourceVersion=version)
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
        ("ADDED", "p"),
        ("MODIFIED", "p"),
        ("MODIFIED", "p"),  # marked as being deleted, then deleted
        ("DELETED", "p"),
    ]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))
    assert {(event["object"]["kind"], event["object"]["apiVersion"]) for event in events} == {("Pod", "v1")}


def test_what_enters_a_selection_is_added_and_what_leaves_it_deleted(space: Space) -> None:
    version = space.create("p")["metadata"]["resourceVersion"]
    for value in ("yes", "no"):
        space.patch("p", {"metadata": {"labels": {"in": value}}})
    events = watched(space, resourceVersion=version, labelSelector="in=yes")
    assert [(event["type"], event["object"]["metadata"]["labels"]) for event in events] == [
        ("ADDED", {"in": "yes"}),
        ("DELETED", {"in": "yes"}),
    ]


def test_a_watch_without_a_version_begins_with_what_is_there(space: Space) -> None:
    space.create("a")
    space.create("b")
    events = watched(space, fieldSelector="metadata.name=b")
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [("ADDED", "b")]


def test_the_python_client_watches_live(space: Space) -> None:
    seen: list[str] = []

    def follow() -> None:
        for event in watch.Watch().stream(space.core.list_namespaced_pod, space.name, timeout_seconds=20):
            seen.append(f"{event['type']} {event['object'].metadata.name}")
            if event["type"] == "DELETED":
                return

    thread = threading.Thread(target=follow)
    thread.start()
    space.create("p")
    space.until("p", bool)
    while not seen:
        assert thread.is_alive()
    space.delete("p")
    thread.join(10)
    assert not thread.is_alive()
    assert (seen[0], seen[-1]) == ("ADDED p", "DELETED p")


def test_the_asyncio_client_reads_and_watches(space: Space) -> None:
    from kubernetes_asyncio import client, config
    from kubernetes_asyncio import watch as async_watch

    async def read() -> tuple[str, str]:
        api_client = await config.new_client_from_config_dict(space.server.kubeconfig)
        async with api_client as api, async_watch.Watch() as watching:
            core = client.CoreV1Api(api)
            found = await core.read_namespaced_pod("p", space.name)
            async for event in watching.stream(core.list_namespaced_pod, space.name, timeout_seconds=5):
                return found.metadata.name, event["type"]
        return "", ""

    space.create("p")
    assert asyncio.run(read()) == ("p", "ADDED")
