"""The settings as the DAG has them: its schedule and its params."""

from __future__ import annotations

from typing import Any

from .airflow_compat import Param, read_config
from .errors import SettingsError
from .settings import DEFAULT_SCHEDULE, OPTIONS, Settings, json_schema


def schedule() -> str | None:
    """The option ``schedule``: cron, preset, or None for runs by hand only."""
    text = read_config().get("schedule", DEFAULT_SCHEDULE).strip()
    return None if text.lower() in ("", "none") else text


def params() -> dict[str, Any]:
    """A param for each option, with the configured value as its default.

    A configured value that is not allowed makes no import error, which people overlook: the params then have
    the built-in defaults, and every run fails on the value before it touches anything.
    """
    config = {name: value for name, value in read_config().items() if name in OPTIONS}
    try:
        settings = Settings.from_options(config, "")
    except SettingsError:
        settings = Settings()
    return {name: Param(getattr(settings, name), **json_schema(name)) for name in OPTIONS}
