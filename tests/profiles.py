"""The number of examples of the property tests: ``HYPOTHESIS_PROFILE=more`` in CI; ``explore`` tries many more."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Derandomised, so that a red run is red again on the next machine. No deadlines: two busy cores are slow at times.
for name, examples in {"default": 25, "more": 120}.items():
    settings.register_profile(name, deadline=None, database=None, derandomize=True, max_examples=examples)
settings.register_profile(
    "explore", deadline=None, database=None, max_examples=3_000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
