"""WATCH, through the raw API and through the Python clients."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from kubernetes import watch

from tests.contract.namespace import Json, Namespace


def watched(namespace: Namespace, **query: Any) -> list[Json]:
    """Return all events of a watch that times out after a second."""
    params = {"watch": "true", "timeoutSeconds": 1, **query}
    response = namespace.server.http.get(namespace.server.url + namespace.pods, params=params, timeout=30)
    return [json.loads(line) for line in response.content.splitlines()]


def test_a_watch_from_a_version_returns_all_later_changes(namespace: Namespace) -> None:
    namespace.create_pod("before")
    version = namespace.call("GET", namespace.pods)["metadata"]["resourceVersion"]
    namespace.create_pod("p")
    namespace.bind_pod("p")
    namespace.delete_pod("p", gracePeriodSeconds=0)
    events = watched(namespace, resourceVersion=version)
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
        ("ADDED", "p"),
        ("MODIFIED", "p"),
        ("MODIFIED", "p"),  # the deletion timestamp is set before the removal
        ("DELETED", "p"),
    ]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))
    assert {(event["object"]["kind"], event["object"]["apiVersion"]) for event in events} == {("Pod", "v1")}


def test_a_pod_that_starts_or_stops_matching_a_watch_is_added_or_deleted(namespace: Namespace) -> None:
    version = namespace.create_pod("p")["metadata"]["resourceVersion"]
    for value in ("yes", "no"):
        namespace.patch_pod("p", {"metadata": {"labels": {"in": value}}})
    events = watched(namespace, resourceVersion=version, labelSelector="in=yes")
    assert [(event["type"], event["object"]["metadata"]["labels"]) for event in events] == [
        ("ADDED", {"in": "yes"}),
        ("DELETED", {"in": "yes"}),
    ]


def test_a_watch_without_a_version_starts_with_the_existing_pods(namespace: Namespace) -> None:
    namespace.create_pod("a")
    namespace.create_pod("b")
    events = watched(namespace, fieldSelector="metadata.name=b")
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [("ADDED", "b")]


def test_the_python_client_receives_changes_while_it_watches(namespace: Namespace) -> None:
    seen: list[str] = []

    def follow() -> None:
        for event in watch.Watch().stream(namespace.core.list_namespaced_pod, namespace.name, timeout_seconds=20):
            seen.append(f"{event['type']} {event['object'].metadata.name}")
            if event["type"] == "DELETED":
                return

    thread = threading.Thread(target=follow)
    thread.start()
    namespace.create_pod("p")
    namespace.wait_until("p", bool)
    while not seen:
        assert thread.is_alive()
    namespace.delete_pod("p")
    thread.join(10)
    assert not thread.is_alive()
    assert (seen[0], seen[-1]) == ("ADDED p", "DELETED p")


def test_the_asyncio_client_reads_and_watches(namespace: Namespace) -> None:
    from kubernetes_asyncio import client, config
    from kubernetes_asyncio import watch as async_watch

    async def read() -> tuple[str, str]:
        api_client = await config.new_client_from_config_dict(namespace.server.kubeconfig)
        async with api_client as api, async_watch.Watch() as watching:
            core = client.CoreV1Api(api)
            found = await core.read_namespaced_pod("p", namespace.name)
            async for event in watching.stream(core.list_namespaced_pod, namespace.name, timeout_seconds=5):
                return found.metadata.name, event["type"]
        return "", ""

    namespace.create_pod("p")
    assert asyncio.run(read()) == ("p", "ADDED")
