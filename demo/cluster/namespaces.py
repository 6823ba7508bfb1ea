"""The API server's strategy for namespaces."""

from __future__ import annotations

from datetime import datetime

from .errors import Cause
from .resources import Json
from .store import Store
from .strategy import Strategy


class NamespaceStrategy(Strategy):
    is_graceful = True  # a DELETE returns the terminating namespace

    def prepare_for_create(self, obj: Json, now: datetime) -> list[Cause]:
        obj |= {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        return []

    def after_delete(self, store: Store, obj: Json) -> None:
        """Remove the namespace's content immediately, because there is no namespace controller to empty it first."""
        store.remove_all(prefix=f"{obj['metadata']['name']}/")
