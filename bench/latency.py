"""Simulated latency of the API server, added to the requests of every client.

On loopback, with an etcd that does not wait for its disk, a request costs only CPU time, and client and server share
the same cores. In a real cluster a request mostly waits: for the network, and for etcd's disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes.client.rest import RESTClientObject

REMOTE = 0.010  # seconds
LATENCIES = {"on the same machine": 0.0, f"{REMOTE * 1000:.0f} ms away": REMOTE}


@contextmanager
def added_latency(seconds: float) -> Iterator[None]:
    """Delay each request of the Kubernetes client."""
    request = RESTClientObject.request

    def delayed(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return request(*arguments, **options)

    if seconds:
        RESTClientObject.request = delayed
    try:
        yield
    finally:
        RESTClientObject.request = request
