"""A client of any API server, embedded or real, for the simulated kubelet and the simulated Spark operator."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator

import aiohttp

from .resources import Json

log = logging.getLogger(__name__)


class ApiClient:
    """A client of the API server at `url`; `ssl_context` is required for an https URL."""

    def __init__(self, url: str, ssl_context: ssl.SSLContext | None) -> None:
        self._session = aiohttp.ClientSession(
            url,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            connector=aiohttp.TCPConnector(ssl=ssl_context if ssl_context else True, limit=32),
            read_bufsize=4 * 1024 * 1024,  # each watch event is one line, which may be long
        )

    async def close(self) -> None:
        await self._session.close()

    async def request(self, method: str, path: str, body: Json | None = None) -> Json | None:
        """Send a request, retrying until the server responds; return None if it refused the request.

        A refusal usually needs no handling: the object has changed or is gone, and the watch delivers that.
        """
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body)
        while True:
            try:
                async with self._session.request(
                    method, path, data=data, headers={"Content-Type": content_type}
                ) as response:
                    if response.status < 400:
                        answer: Json = await response.json()
                        return answer
                    log.debug("%s %s: %s", method, path, await response.text())
                    if response.status < 429:
                        return None
            except aiohttp.ClientConnectionError as error:
                log.debug("%s %s: %s", method, path, error)
            await asyncio.sleep(0.5)

    async def follow(self, path: str, selector: str = "") -> AsyncIterator[tuple[str, Json]]:
        """List and watch, and list again whenever the watch ends.

        Yield `("LISTED", list)` for each list, and the type and the object of each watch event.
        """
        query = {"labelSelector": selector}
        while True:
            try:
                async with self._session.get(path, params=query) as response:
                    response.raise_for_status()
                    listed = await response.json()
                yield "LISTED", listed
                async for event in self._watch(
                    path, {**query, "resourceVersion": listed["metadata"]["resourceVersion"]}
                ):
                    yield event
            except (aiohttp.ClientError, OSError) as error:
                log.debug("the watch of %s failed: %s", path, error)
                await asyncio.sleep(0.2)

    async def _watch(self, path: str, query: dict[str, str]) -> AsyncIterator[tuple[str, Json]]:
        """Watch until the server ends the watch: after half an hour, or because the version was compacted."""
        async with self._session.get(path, params={**query, "watch": "true"}) as response:
            response.raise_for_status()
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield event["type"], event["object"]
