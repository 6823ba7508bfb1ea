"""What differs between Airflow 2 and 3, in one place."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from airflow import __version__ as AIRFLOW_VERSION
from airflow.configuration import conf

from include.kpo_cleanup.settings import CONFIG_SECTION, OPTIONS, reject_unknown

IS_AIRFLOW_3 = int(AIRFLOW_VERSION.partition(".")[0]) >= 3

if IS_AIRFLOW_3:
    from airflow.sdk import BaseHook, Param, dag, get_current_context, task
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
else:
    from airflow.decorators import dag, task  # type: ignore[no-redef]
    from airflow.exceptions import AirflowFailException, AirflowSkipException
    from airflow.hooks.base import BaseHook
    from airflow.models.param import Param
    from airflow.operators.python import get_current_context

__all__ = [
    "AIRFLOW_VERSION",
    "IS_AIRFLOW_3",
    "AirflowFailException",
    "AirflowSkipException",
    "BaseHook",
    "Param",
    "count_metric",
    "dag",
    "get_current_context",
    "read_config",
    "task",
]

_ENV_PREFIX = f"AIRFLOW__{CONFIG_SECTION.upper()}__"


def read_config() -> dict[str, str]:
    """The options that are set in ``[kpo_cleanup]``, by file or environment; raw text.

    :raises SettingsError: for an option that does not exist. That goes for names with ``_CMD`` or ``_SECRET``, too:
        Airflow follows those for options of its own only, and DRY_RUN_CMD must not end in a run that deletes.
    """
    known = ["schedule", *OPTIONS]
    # getsection() does not see a section that stands in the environment only, and takes suffixes off.
    names = {name[len(_ENV_PREFIX) :].lower() for name in os.environ if name.startswith(_ENV_PREFIX)}
    reject_unknown(sorted(names), known, f"config section [{CONFIG_SECTION}]")
    names.update(conf.getsection(CONFIG_SECTION) or {})
    reject_unknown(sorted(names), known, f"config section [{CONFIG_SECTION}]")
    return {name: conf.get(CONFIG_SECTION, name) for name in known if name in names}


def count_metric(name: str, counts: Mapping[str, int]) -> None:
    """Add counts to Airflow's metrics, as ``kpo_cleanup.<name>.<word>``; nothing where there are none."""
    with suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stats = _stats()
        for word, count in counts.items():
            stats.incr(f"kpo_cleanup.{name}.{word}", count)


def _stats() -> Any:
    if IS_AIRFLOW_3:
        with suppress(ImportError):
            from airflow.sdk.observability import stats  # its home since 3.2

            return stats
    from airflow.stats import Stats

    return Stats
