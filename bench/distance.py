"""An API server that is some way off: each request takes so much longer, whoever makes it.

On loopback, with an etcd that does not wait for its disk, a request is nothing but computing time. The server and its
client share the same cores here. In a cluster a request mostly waits: for the network, and for etcd's disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes.client.rest import RESTClientObject

FAR = 0.010  # seconds
PLACES = {"on the same machine": 0.0, f"{FAR * 1000:.0f} ms away": FAR}


@contextmanager
def distance(seconds: float) -> Iterator[None]:
    """Let all requests of the Kubernetes client wait so long."""
    request = RESTClientObject.request

    def later(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return request(*arguments, **options)

    if seconds:
        RESTClientObject.request = later
    try:
        yield
    finally:
        RESTClientObject.request = request
