"""The property tests' profile."""

from __future__ import annotations

import tests.profiles  # noqa: F401
