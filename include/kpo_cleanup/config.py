"""The origins of a run's settings: config, DAG file, params and conf; and the errors for values not allowed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .airflow_compat import AIRFLOW_VERSION, conf, is_schedule
from .errors import SettingsError
from .settings import CONFIG_SECTION, OPTIONS, Settings, is_run_param, parse
from .text import packed

DAG_FILE, DAG_PARAMS, RUN_CONF = "the DAG file", "the DAG's params", "this run's conf"

_FILE = f"section {CONFIG_SECTION} of Airflow's config file"
_EXECUTOR_SECTION = "kubernetes_executor"
_PREFIX = f"AIRFLOW__{CONFIG_SECTION.upper()}__"
_VARIABLES = {name: _PREFIX + name.upper() for name in OPTIONS}
_NEW_NAMES = {"delete_unknown_pods": "delete_unmatched_pods", "metadata_conn_id": "airflow_conn_id"}
# Kubernetes sets these in each pod for a Service, which may be called airflow-kpo-cleanup.
_OF_A_SERVICE = re.compile(r"[^_]_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)$")


@dataclass(frozen=True)
class Fault:
    """A value that is not taken, and why."""

    option: str
    value: Any
    origin: str
    remedy: str

    def __str__(self) -> str:
        # No square brackets of our own: Airflow's command line takes them for markup, and drops them.
        return f"{self.option}={self.value!r} ({self.origin}):\n  {self.remedy}"


@dataclass
class Reading:
    """The values that were read, the later over the earlier ones; their origins; and the faults."""

    values: dict[str, Any] = field(default_factory=lambda: {name: option.default for name, option in OPTIONS.items()})
    origins: dict[str, str] = field(default_factory=dict)  # of the values that are not the built-in ones
    faults: list[Fault] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """Make the settings. In place of a refused value, the earlier one counts."""
        return Settings(**self.values)

    def checked(self) -> Settings:
        """Return the settings, if no value was refused.

        :raises SettingsError: with all faults, each with option, value, origin and remedy.
        """
        if self.faults:
            count = "1 setting is" if len(self.faults) == 1 else f"{len(self.faults)} settings are"
            raise SettingsError("\n- ".join([f"{count} not allowed; nothing was touched", *map(str, self.faults)]))
        return self.settings

    def describe(self, version: str) -> list[str]:
        """Describe the settings for the log: first those that somebody changed, each with its origin."""
        # Not the schedule: the DAG processor reads it, and this worker's config may differ.
        shown = {name: f"{name}={value!r}" for name, value in self.values.items() if name != "schedule"}
        changed = [f"{text} ({self.origins[name]})" for name, text in shown.items() if name in self.origins]
        default = [text for name, text in shown.items() if name not in self.origins]
        first = f"kpo_cleanup {version} on Airflow {AIRFLOW_VERSION}, settings on this worker:"
        return [*packed([first, *(changed or ["none changed"])]), *packed(["by default:", *default])]

    def refuse(self, name: str, value: Any, origin: str, remedy: str) -> None:
        """Add a fault."""
        self.faults.append(Fault(name, value, origin, remedy))

    def take(self, name: str, value: Any, origin: str, *, is_fixed: bool = False) -> None:
        """Take one value, or refuse it.

        :param is_fixed: whether the value so far must not change.
        """
        if name not in OPTIONS:
            self.refuse(name, value, origin, _unknown(name))
            return
        try:
            parsed = parse(name, value)
        except ValueError as allowed:
            self.refuse(name, value, origin, f"give {allowed}")
            return
        if name == "schedule" and parsed not in (None, OPTIONS[name].default) and not is_schedule(parsed):
            remedy = "give a cron expression of five fields such as */15 * * * *, a preset such as @hourly, or None"
            self.refuse(name, value, origin, remedy)
        elif parsed != self.values[name]:  # a repeated value keeps its first origin
            if is_fixed:
                self.refuse(name, value, origin, f"this DAG's file fixes {self.values[name]!r}; leave it out")
            else:
                self.values[name], self.origins[name] = parsed, origin


def read_settings(
    fixed: Mapping[str, Any], params: Mapping[str, Any] | None = None, run_conf: Mapping[str, Any] | None = None
) -> Reading:
    """Read the settings on this machine now; with params and conf, those of one run.

    :param fixed: options that the DAG file gives, which neither params nor conf may change.
    """
    reading = Reading()
    _read_config(reading)
    for name, value in fixed.items():
        reading.take(name, value, DAG_FILE)
    run_conf = run_conf or {}
    # The run's conf is in its params, too, unless [core] dag_run_conf_overrides_params is off.
    defaults = {name: value for name, value in (params or {}).items() if name not in run_conf}
    for origin, given in ((DAG_PARAMS, defaults), (RUN_CONF, run_conf)):
        for name, value in given.items():
            if name in OPTIONS and not is_run_param(name):
                variable = _VARIABLES[name]
                remedy = f"it is decided for a deployment, not a run; set {variable}, or fix it in a DAG file"
                reading.refuse(name, value, origin, remedy)
            else:
                reading.take(name, value, origin, is_fixed=name in fixed)
    settings = reading.settings
    for namespace in sorted(set(settings.namespace_list()) & set(settings.excluded())):
        remedy = f"leave out {namespace}, for exclude_namespaces has it, too"
        reading.refuse("namespaces", settings.namespaces, reading.origins["namespaces"], remedy)
    return reading


def _read_config(reading: Reading) -> None:
    for name, option in OPTIONS.items():
        if "follows" in option.metadata:
            airflows = option.metadata["follows"]
            reading.take(name, conf.get(_EXECUTOR_SECTION, airflows), f"Airflow's {_EXECUTOR_SECTION}.{airflows}")
    for variable, value in sorted(os.environ.items()):
        is_like_ours = _letters(variable).startswith(_letters(_PREFIX)) and not _OF_A_SERVICE.search(variable)
        if is_like_ours and variable not in _VARIABLES.values():
            reading.refuse(variable, value, "the environment", _no_variable(variable))
    # The file alone: getsection() adds the environment, cuts suffixes and converts texts.
    in_file = conf.options(CONFIG_SECTION) if conf.has_section(CONFIG_SECTION) else []
    for name in [*OPTIONS, *(name for name in in_file if name not in OPTIONS)]:
        is_variable = _VARIABLES.get(name, "") in os.environ
        if is_variable or name in in_file:
            origin = _VARIABLES[name] if is_variable else _FILE
            try:
                value = conf.get(CONFIG_SECTION, name)
            except Exception as error:  # ConfigParser has an error for each possible fault of a %
                remedy = f"it cannot be read ({error}); write %% for %"
                reading.refuse(name, conf.get(CONFIG_SECTION, name, raw=True), origin, remedy)
            else:
                reading.take(name, value, origin)


def _letters(variable: str) -> str:
    return re.sub("[^A-Z0-9]", "", variable.upper())


def _no_variable(variable: str) -> str:
    """Give the remedy for an environment variable that looks like one of ours."""
    by_letters = {_letters(name): name for name in (*OPTIONS, *_NEW_NAMES)}
    letters = _letters(variable)[len(_letters(_PREFIX)) :]
    close = difflib.get_close_matches(letters, by_letters, n=1)
    plain = re.sub("(CMD|SECRET)$", "", letters)
    if plain != letters and plain in by_letters:
        return f"Airflow follows _CMD and _SECRET for options of its own only; set {_variable(by_letters[plain])}"
    if close:
        return f"Airflow does not read this; did you mean {_variable(by_letters[close[0]])}?"
    return f"there is no such option; {_all_options()}"


def _variable(name: str) -> str:
    return _VARIABLES[_NEW_NAMES.get(name, name)]


def _unknown(name: str) -> str:
    """Give the remedy for an option that does not exist: ``dryrun=True`` must not delete anything."""
    if name in _NEW_NAMES:
        return f"its name is {_NEW_NAMES[name]} now"
    close = difflib.get_close_matches(str(name), OPTIONS, n=1)  # a DAG file may have any key
    return f"there is no such option; {f'did you mean {close[0]}?' if close else _all_options()}"


def _all_options() -> str:
    return f"the options are {', '.join(OPTIONS)}"
