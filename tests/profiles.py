"""The number of examples of the property tests, their seed, and a summary of the random histories that ran.

``HYPOTHESIS_PROFILE`` chooses the profile; ``make unit`` uses ``quick``, and ``make check`` the default one. ``SEED``
replaces the fixed seed; ``thorough`` draws one if there is none.
"""

from __future__ import annotations

import os
import random

import pytest

EXAMPLES = {"default": 25, "more": 40, "thorough": 500, "brief": 2, "quick": 8}
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
if PROFILE == "thorough":
    # In the environment, so that the worker processes of pytest-xdist use the same seed.
    os.environ.setdefault("SEED", str(random.SystemRandom().getrandbits(32)))
SEED = os.environ.get("SEED")


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads its option
def pytest_configure(config: pytest.Config) -> None:
    if SEED:
        config.option.hypothesis_seed = SEED
    if config.getoption("dist", "no") != "no":
        return  # the worker processes of pytest-xdist run the tests, and importing Hypothesis takes time
    from hypothesis import HealthCheck, settings

    # With the fixed seed, a failure is reproducible on every machine. No deadlines, because a busy machine can be slow.
    settings.register_profile(
        PROFILE,
        deadline=None,
        database=None,
        derandomize=not SEED,
        max_examples=EXAMPLES[PROFILE],
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile(PROFILE)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many random histories ran, as their tests recorded it, and the seed that repeats them."""
    recorded = [entry for report in terminalreporter.getreports("passed") for entry in report.user_properties]
    if histories := sum(value for name, value in recorded if name == "histories"):
        terminalreporter.write_line(f"{histories} random histories ran with the profile {PROFILE!r}")
    if SEED:
        terminalreporter.write_line(f"The property tests ran with a random seed; SEED={SEED} repeats them")
