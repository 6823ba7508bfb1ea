"""The options: their defaults, meanings and bounds, and who may set them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from .workloads.kind import WorkloadKind
from .workloads.registry import KINDS

CONFIG_SECTION = "kpo_cleanup"
COMPLETED_PODS = "Completed pods"  # a section of the trigger form

_YEAR = 365 * 24 * 3600
_NAMESPACE = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"  # an RFC 1123 label
# Airflow's API server evaluates the patterns, so they must match in linear time: no two parts of them can match the
# same separators.
_NAMESPACES = rf"[\s,]*({_NAMESPACE}(\s*,[\s,]*{_NAMESPACE})*[\s,]*)?"
_KINDS = [kind.plural for kind in KINDS.values()]
_ANY_KIND = f"({'|'.join(_KINDS)})"
MAX_LENGTH = 20_000  # characters of a string
_TRUE, _FALSE = {"true", "t", "1"}, {"false", "f", "0"}  # those of Airflow's own getboolean


class Scope(Enum):
    """Who may set an option: the user who triggers a run, or only the operator of the deployment."""

    RUN = "run"  # also a param of the DAG
    DEPLOYMENT = "deployment"  # only config and DAG files, so that a run cannot be pointed elsewhere


def _option(default: Any, meaning: str, scope: Scope = Scope.RUN, **more: Any) -> Any:
    """Declare an option.

    :param more: ``minimum`` and ``maximum`` of a number; ``pattern`` of a string; ``allowed``, the allowed values in
        words, for errors; ``is_list`` if a DAG file may set a list of strings; ``matters_if_set`` if it matters whether
        the default was set explicitly; ``section`` of the trigger form; ``follows``, the Airflow option whose value is
        the default.
    """
    return field(default=default, metadata={"meaning": meaning, "scope": scope, **more})


def _seconds(default: int | None, meaning: str, minimum: int = 0, **more: Any) -> Any:
    return _option(default, meaning, minimum=minimum, maximum=_YEAR, **more)


@dataclass(frozen=True)
class Settings:
    """The settings of a run. Each field is an option of the config section ``kpo_cleanup``."""

    # In the order of the trigger form, the log and the README.
    dry_run: bool = _option(False, "Report what would be deleted, but delete nothing.")
    namespaces: str = _option(
        "",
        "Comma-separated namespaces; empty = the connection's, else the worker's own, else `default`; `*` = all.",
        pattern=rf"^(\s*\*\s*|{_NAMESPACES})$",
        is_list=True,
        allowed="names of lowercase letters, digits and dashes, such as airflow,team-a, or * for all namespaces",
    )
    settle_seconds: int = _seconds(
        300,  # longer than an operator takes to delete its pod, shorter than a user is willing to wait
        "Seconds after the end of a task instance until its pod counts as a zombie.",
    )
    max_deletes: int = _option(
        500,  # limits the damage of a wrong setting until it is noticed
        "Maximum number of deletions per run, oldest pods first; the rest are left for the next run.",
        minimum=1,
        maximum=100_000,
    )
    max_delete_percent: int | None = _option(
        None,  # in a small namespace, or after an outage, most pods may be zombies
        "Fail before deleting anything if more than this percentage of at least 20 pods are zombies; empty = no limit.",
        minimum=1,
        maximum=100,
    )
    grace_period_seconds: int = _seconds(
        0,  # a zombie has already received SIGTERM or ignores it, so waiting gains nothing
        "Grace period of the delete call in seconds; 0 = force, -1 = the pod's own.",
        minimum=-1,
    )
    delete_completed_pods: bool = _option(
        True,
        "Also delete pods in phase Succeeded, unless the operator kept them on purpose.",
        section=COMPLETED_PODS,
        follows="delete_worker_pods",
    )
    delete_pods_on_failure: bool = _option(
        False,  # a failed pod uses no compute, and users debug with it
        "Also delete pods in phase Failed.",
        section=COMPLETED_PODS,
        follows="delete_worker_pods_on_failure",
    )
    ttl_seconds_after_finished: int | None = _seconds(
        None,
        "Seconds from the end of a task instance and its workload until the workload is deleted, even if it was kept "
        "on purpose; empty = never.",
        section=COMPLETED_PODS,
    )
    last_log_lines: int = _option(
        0,  # it needs another permission, and the log of a pod may contain what readers of this DAG's log must not see
        "Number of lines to save from the end of each zombie's log.",
        Scope.DEPLOYMENT,
        minimum=0,
        maximum=100,
    )
    schedule: str | None = _option(
        "*/15 * * * *",
        "Cron expression, preset such as `@hourly`, or `None` for manual runs only.",
        Scope.DEPLOYMENT,
        allowed="a cron expression of five fields such as */15 * * * *, a preset such as @hourly, or None",
    )
    kinds: str = _option(
        ", ".join(_KINDS),
        "What to clean up; if set, missing permissions are errors.",
        Scope.DEPLOYMENT,
        pattern=rf"^[\s,]*{_ANY_KIND}(\s*,[\s,]*{_ANY_KIND})*[\s,]*$",
        is_list=True,
        allowed=f"one or more of {', '.join(_KINDS)}",
        matters_if_set=True,
    )
    exclude_namespaces: str = _option(
        "",
        "Comma-separated namespaces to exclude if `namespaces` is `*`.",
        Scope.DEPLOYMENT,
        pattern=rf"^{_NAMESPACES}$",
        is_list=True,
        allowed="names of lowercase letters, digits and dashes, such as kube-system,team-b",
    )
    label_selector: str = _option(
        "",
        "Kubernetes label selector that pods must match in addition to the operator's labels.",
        Scope.DEPLOYMENT,
    )
    delete_unmatched_pods: bool = _option(
        False,  # it would delete running pods of another Airflow in the same namespace
        "Also delete pods older than `settle_seconds` that match no task instance (older than a day if their main "
        "container may be running); only safe if no other Airflow uses these namespaces.",
        Scope.DEPLOYMENT,
    )
    kubernetes_conn_id: str = _option(
        "kubernetes_default",
        "Airflow connection for the Kubernetes API; in-cluster config if `kubernetes_default` does not exist.",
        Scope.DEPLOYMENT,
        pattern=r"\S",
        allowed="the id of an Airflow connection",
    )
    airflow_conn_id: str = _option(
        "",
        "Airflow 3: an Airflow connection to the metadata database, or one of type `http` to the REST API; "
        "empty = the Task SDK.",
        Scope.DEPLOYMENT,
    )

    def namespace_list(self) -> list[str]:
        """Return the namespaces in order and without duplicates; empty = the one that the operator uses."""
        return _split_names(self.namespaces)

    def kind_list(self) -> list[WorkloadKind]:
        """Return the kinds of workload that are cleaned up."""
        names = _split_names(self.kinds)
        return [kind for kind in KINDS.values() if kind.plural in names]

    def excluded(self) -> list[str]:
        """Return the namespaces that are excluded if all are listed."""
        return _split_names(self.exclude_namespaces)


OPTIONS = {option.name: option for option in fields(Settings)}


def is_run_param(name: str) -> bool:
    """Return whether the user who triggers a run may set this option."""
    return bool(OPTIONS[name].metadata["scope"] is Scope.RUN)


def parse(name: str, value: Any) -> Any:
    """Parse the value of an option: a string from a config file, or a typed value from the trigger form or a DAG file.

    :raises ValueError: with the values that are allowed.
    """
    option = OPTIONS[name]
    return _PARSERS[str(option.type)](value, option.metadata)


def json_schema(name: str) -> dict[str, Any]:
    """Return the schema of an option for Airflow's ``Param``: type, bounds, description and section of the form."""
    option = OPTIONS[name]
    allowed = f" Allowed: {option.metadata['allowed']}." if "allowed" in option.metadata else ""
    schema = {
        "type": _JSON_TYPES[str(option.type)],
        "description": option.metadata["meaning"].replace("`", "") + allowed,  # the form does not render Markdown
        **{key: option.metadata[key] for key in ("pattern", "section") if key in option.metadata},
    }
    if "minimum" in option.metadata:
        # Nested, because the trigger form of Airflow 3 silently turns -5 into 0 if it sees a minimum.
        schema["allOf"] = [{key: option.metadata[key] for key in ("minimum", "maximum")}]
    if "pattern" in schema:
        schema["maxLength"] = MAX_LENGTH
    return schema


def _split_names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _parse_bool(value: Any, _: Mapping[str, Any]) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("True or False")


def _parse_string(value: Any, metadata: Mapping[str, Any]) -> str:
    text = "" if value is None else value
    allowed = metadata.get("allowed", "a string")
    if "is_list" in metadata and isinstance(value, (list, tuple)) and value:
        text = ",".join(value) if all(isinstance(name, str) and name.strip() for name in value) else value
    if isinstance(text, str) and len(text) > MAX_LENGTH:
        raise ValueError(f"at most {MAX_LENGTH:,} characters")
    if not isinstance(text, str) or not re.search(metadata.get("pattern", ""), text):
        raise ValueError(allowed)
    return text.strip()


def _parse_optional_string(value: Any, metadata: Mapping[str, Any]) -> str | None:
    text = _parse_string(value, metadata)
    return None if text.lower() in ("", "none") else text


def _parse_int(value: Any, metadata: Mapping[str, Any]) -> int:
    low, high = metadata["minimum"], metadata["maximum"]
    number = int(value) if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value) else value
    if isinstance(number, int) and not isinstance(number, bool) and low <= number <= high:
        return number
    raise ValueError(f"a whole number from {low} to {high}")


def _parse_optional_int(value: Any, metadata: Mapping[str, Any]) -> int | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return _parse_int(value, metadata)
    except ValueError as error:
        raise ValueError(f"{error}, or leave it empty") from error


# By annotation, which is a string because annotations are not evaluated in this module.
_PARSERS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "bool": _parse_bool,
    "str": _parse_string,
    "str | None": _parse_optional_string,
    "int": _parse_int,
    "int | None": _parse_optional_int,
}
# The trigger form requires a value if the type excludes null, but an empty string is valid here.
_JSON_TYPES: dict[str, str | list[str]] = {
    "bool": "boolean",
    "str": ["null", "string"],
    "str | None": ["null", "string"],
    "int": "integer",
    "int | None": ["null", "integer"],
}
