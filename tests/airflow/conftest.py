"""Load the profile of the property tests."""

from __future__ import annotations

import tests.profiles  # noqa: F401
