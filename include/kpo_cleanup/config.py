"""Resolve the settings of a run from config, DAG file, params and conf, and collect the values that are rejected."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .airflow_compat import AIRFLOW_VERSION, conf, is_schedule
from .errors import HIDDEN, SettingError, SettingsError
from .settings import CONFIG_SECTION, OPTIONS, Settings, is_run_param, parse
from .text import fill, pluralize

DAG_FILE, DAG_PARAMS, RUN_CONF = "the DAG file", "the DAG's params", "this run's conf"

_FILE = f"section {CONFIG_SECTION} of Airflow's config file"
_EXECUTOR_SECTION = "kubernetes_executor"
_PREFIX = f"AIRFLOW__{CONFIG_SECTION.upper()}__"
_VARIABLES = {name: _PREFIX + name.upper() for name in OPTIONS}
_NEW_NAMES = {"delete_unknown_pods": "delete_unmatched_pods", "metadata_conn_id": "airflow_conn_id"}
# Kubernetes sets these in every pod for a Service, which may be named airflow-kpo-cleanup.
_SERVICE_VARIABLE = re.compile(r"[^_]_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)$")


@dataclass
class ResolvedSettings:
    """The values of all options, the origins of those that are not defaults, and the values that were rejected."""

    values: dict[str, Any] = field(default_factory=lambda: {name: option.default for name, option in OPTIONS.items()})
    origins: dict[str, str] = field(default_factory=dict)
    errors: list[SettingError] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """Return the settings. A rejected value leaves the one before it in effect."""
        return Settings(**self.values)

    def validated(self) -> Settings:
        """Return the settings if no value was rejected.

        :raises SettingsError: with all rejected values.
        """
        if self.errors:
            raise SettingsError(pluralize(len(self.errors), "invalid setting"), errors=self.errors)
        return self.settings

    def describe(self, version: str) -> list[str]:
        """Return log lines with the values that were set, each with its origin, followed by the defaults."""
        # Without the schedule, which the DAG processor reads: this worker's config may differ.
        shown = {name: f"{name}={value!r}" for name, value in self.values.items() if name != "schedule"}
        changed = [f"{text} ({self.origins[name]})" for name, text in shown.items() if name in self.origins]
        defaults = [text for name, text in shown.items() if name not in self.origins]
        first = f"kpo_cleanup {version} on Airflow {AIRFLOW_VERSION}, settings on this worker:"
        return [*fill([first, *(changed or ["no options set"])]), *fill(["defaults:", *defaults])]

    def add_error(self, name: str, value: Any, origin: str, remedy: str) -> None:
        """Record a rejected value. It is hidden if it does not belong to an option."""
        self.errors.append(SettingError(name, value if name in OPTIONS else HIDDEN, origin, remedy))

    def apply(self, name: str, value: Any, origin: str, *, is_fixed: bool = False) -> None:
        """Set an option, or record an error if the value is invalid.

        :param is_fixed: whether the value so far must not change.
        """
        if name not in OPTIONS:
            self.add_error(name, value, origin, _remedy_for_option(name))
            return
        try:
            parsed = parse(name, value)
        except ValueError as allowed:
            self.add_error(name, value, origin, f"set it to {allowed}")
            return
        if name == "schedule" and parsed not in (None, OPTIONS[name].default) and not is_schedule(parsed):
            self.add_error(name, value, origin, f"set it to {OPTIONS[name].metadata['allowed']}")
        elif parsed != self.values[name]:  # a repeated value keeps its first origin
            if is_fixed:
                self.add_error(
                    name, value, origin, f"remove it, because this DAG's file fixes it to {self.values[name]!r}"
                )
            else:
                self.values[name], self.origins[name] = parsed, origin
        elif "matters_if_set" in OPTIONS[name].metadata:
            self.origins.setdefault(name, origin)


def read_settings(
    fixed: Mapping[str, Any],
    params: Mapping[str, Any] | None = None,
    run_conf: Mapping[str, Any] | None = None,
    own_params: Collection[str] = (),
    mistakes: Iterable[SettingError] = (),
) -> ResolvedSettings:
    """Resolve the settings on this machine, for one run if its params and conf are given.

    :param fixed: options that the DAG file sets and that neither params nor conf may change.
    :param own_params: names of params that the DAG file declares, which are its author's unless they resemble options.
    :param mistakes: errors in how the DAG file sets options.
    """
    resolved = ResolvedSettings(errors=[*mistakes])
    _apply_config(resolved)
    for name, value in fixed.items():
        resolved.apply(name, value, DAG_FILE)
    run_conf = run_conf or {}
    # The params contain the run's conf, unless [core] dag_run_conf_overrides_params is off.
    dag_params = {name: value for name, value in (params or {}).items() if name not in run_conf}
    for origin, given in ((DAG_PARAMS, dag_params), (RUN_CONF, run_conf)):
        for name, value in given.items():
            if name in OPTIONS and not is_run_param(name):
                remedy = f"set {_VARIABLES[name]} or fix it in a DAG file, because it cannot be set for a single run"
                resolved.add_error(name, value, origin, remedy)
            elif name in OPTIONS or _remedy_if_similar(name) or (origin == RUN_CONF and name not in own_params):
                resolved.apply(name, value, origin, is_fixed=name in fixed)
    settings = resolved.settings
    if settings.excluded() and not settings.namespaces:
        remedy = "set namespaces to * as well: if it is empty, only one namespace is cleaned up anyway"
        origin = resolved.origins["exclude_namespaces"]
        resolved.add_error("exclude_namespaces", settings.exclude_namespaces, origin, remedy)
    for namespace in sorted(set(settings.namespace_list()) & set(settings.excluded())):
        remedy = f"remove {namespace}, which exclude_namespaces excludes"
        resolved.add_error("namespaces", settings.namespaces, resolved.origins["namespaces"], remedy)
    return resolved


def _apply_config(resolved: ResolvedSettings) -> None:
    """Apply Airflow's own options that ours follow, and then the config section from environment and file."""
    for name, option in OPTIONS.items():
        if "follows" in option.metadata:
            followed = option.metadata["follows"]
            origin = f"Airflow's {_EXECUTOR_SECTION}.{followed}"
            resolved.apply(name, conf.get(_EXECUTOR_SECTION, followed), origin)
    for variable, value in sorted(os.environ.items()):
        is_similar = _letters(variable).startswith(_letters(_PREFIX)) and not _SERVICE_VARIABLE.search(variable)
        if is_similar and variable not in _VARIABLES.values():
            resolved.add_error(variable, value, "the environment", _remedy_for_variable(variable))
    # Only the file: getsection() adds the environment, strips suffixes and converts values.
    in_file = conf.options(CONFIG_SECTION) if conf.has_section(CONFIG_SECTION) else []
    for name in (name for name in in_file if name not in OPTIONS):
        resolved.apply(name, HIDDEN, _FILE)  # without reading it: an error could quote a value that may be secret
    for name in OPTIONS:
        is_variable = _VARIABLES[name] in os.environ
        if is_variable or name in in_file:
            origin = _VARIABLES[name] if is_variable else _FILE
            try:
                value = conf.get(CONFIG_SECTION, name)
            except Exception as error:  # ConfigParser has a separate error for each misuse of %
                remedy = f"write %% for % (it cannot be read: {error})"
                resolved.add_error(name, conf.get(CONFIG_SECTION, name, raw=True), origin, remedy)
            else:
                resolved.apply(name, value, origin)


def _letters(variable: str) -> str:
    return re.sub("[^A-Z0-9]", "", variable.upper())


def _remedy_for_variable(variable: str) -> str:
    """Return the remedy for an environment variable that resembles one of ours."""
    if variable.startswith(_PREFIX) and not variable.endswith(("_CMD", "_SECRET")):
        return _remedy_for_option(variable.removeprefix(_PREFIX).lower())
    by_letters = {_letters(name): name for name in (*OPTIONS, *_NEW_NAMES)}
    letters = _letters(variable)[len(_letters(_PREFIX)) :]
    similar = difflib.get_close_matches(letters, by_letters, n=1)
    without_suffix = re.sub("(CMD|SECRET)$", "", letters)
    if without_suffix != letters and without_suffix in by_letters:
        variable = _variable(by_letters[without_suffix])
        return f"set {variable}, because Airflow supports _CMD and _SECRET for its own options only"
    if similar:
        return f"Airflow ignores this variable: did you mean {_variable(by_letters[similar[0]])}?"
    return f"no such option: {_list_options()}"


def _variable(name: str) -> str:
    return _VARIABLES[_NEW_NAMES.get(name, name)]


def _remedy_for_option(name: str) -> str:
    """Return the remedy for an option that does not exist: a misspelt ``dry_run`` must not delete anything."""
    return _remedy_if_similar(name) or f"no such option: {_list_options()}"


def _remedy_if_similar(name: str) -> str:
    """Return the remedy for a name that resembles an option, and an empty string for any other name."""
    if name in _NEW_NAMES:
        return f"it was renamed to {_NEW_NAMES[name]}"
    similar = difflib.get_close_matches(str(name), OPTIONS, n=1)  # the keys in a DAG file can be of any type
    return f"no such option: did you mean {similar[0]}?" if similar else ""


def _list_options() -> str:
    return f"the options are {', '.join(OPTIONS)}"
