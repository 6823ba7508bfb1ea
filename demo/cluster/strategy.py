"""How the API server handles the objects of a resource, as Go's `RESTCreateStrategy` and similar interfaces do."""

from __future__ import annotations

from datetime import datetime

from .errors import Cause
from .resources import Json
from .store import Store


class Strategy:
    """The strategy of a resource whose objects are only stored; others override what differs."""

    # What a DELETE without a propagation policy does to the object's dependents.
    default_propagation = "Background"
    # Whether a DELETE always sets the deletion timestamp first and returns the object, even if it is gone by then.
    is_graceful = False

    def prepare_for_create(self, obj: Json, now: datetime) -> list[Cause]:
        """Set the defaults of a new object in place, and return what is invalid."""
        return []

    def validate_update(self, before: Json, after: Json) -> list[Cause]:
        """Return the changes that are not allowed."""
        return []

    def grace_period(self, obj: Json) -> int | None:
        """Return the object's own grace period in seconds, or None if it can be removed immediately."""
        return None

    def after_delete(self, store: Store, obj: Json) -> None:
        """Clean up after an object has been removed."""
