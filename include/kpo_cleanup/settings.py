"""The settings of a run: their meanings, their bounds, and who decides them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

CONFIG_SECTION = "kpo_cleanup"
COMPLETED_PODS = "Completed pods"  # a section of the trigger form

_YEAR = 365 * 24 * 3600
_NAMESPACE = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"  # RFC 1123 label, as Kubernetes demands
_NAMESPACES = rf"[\s,]*({_NAMESPACE}(\s*,[\s,]*{_NAMESPACE})*[\s,]*)?"
_TRUE, _FALSE = {"true", "t", "1"}, {"false", "f", "0"}  # the words of Airflow's own getboolean


class Scope(Enum):
    """The thing for which an option is decided: one run, or a deployment."""

    RUN = "run"  # a param of the DAG: a person who triggers a run may change it
    DEPLOYMENT = "deployment"  # a person who may trigger a run may not point it elsewhere


def _option(default: Any, meaning: str, scope: Scope = Scope.RUN, **more: Any) -> Any:
    """Declare one option.

    :param more: ``minimum`` and ``maximum`` of a number; ``pattern`` of a text, with what is ``allowed``; ``section``
        of the trigger form; the option of Airflow that it ``follows``.
    """
    return field(default=default, metadata={"meaning": meaning, "scope": scope, **more})


def _seconds(default: int | None, meaning: str, minimum: int = 0, **more: Any) -> Any:
    return _option(default, meaning, minimum=minimum, maximum=_YEAR, **more)


@dataclass(frozen=True)
class Settings:
    """The settings of one run. Each field is an option of the config section ``kpo_cleanup``."""

    # In the order of the trigger form, the log and the README.
    dry_run: bool = _option(False, "Report what would be deleted, delete nothing.")
    namespaces: str = _option(
        "",
        "Comma-separated namespaces; empty = the connection's, else the worker's own, else `default`; `*` = all.",
        pattern=rf"^\s*(\*|{_NAMESPACES})\s*$",
        allowed="names of lower-case letters, digits and dashes, such as airflow,team-a; or * alone for all",
    )
    settle_seconds: int = _seconds(
        300,  # longer than an operator tidies up, shorter than a person waits
        "Seconds that a task instance must be over before its pod is a zombie; also the margin past a pod's own "
        "deletion deadline, and the least grace period where nothing tells since when a task is over.",
    )
    max_deletes: int = _option(
        500,  # bounds the damage of a wrong setting until somebody looks
        "At most so many deletions a run, oldest pods first; the rest is left for the next run.",
        minimum=1,
        maximum=100_000,
    )
    grace_period_seconds: int = _seconds(
        0,  # a zombie has had its SIGTERM or ignores it, so a wait gains nothing
        "Seconds of grace in the delete call; 0 = force, -1 = the pod's own.",
        minimum=-1,
    )
    delete_completed_pods: bool = _option(
        True,
        "Also delete pods in phase Succeeded that the operator did not keep on purpose.",
        section=COMPLETED_PODS,
        follows="delete_worker_pods",
    )
    delete_pods_on_failure: bool = _option(
        False,  # a failed pod costs no compute, and people debug with it
        "Also delete pods in phase Failed.",
        section=COMPLETED_PODS,
        follows="delete_worker_pods_on_failure",
    )
    ttl_seconds_after_finished: int | None = _seconds(
        None,
        "Delete completed pods, kept on purpose or not, whose task instance has been over for more than so many "
        "seconds; empty = never.",
        section=COMPLETED_PODS,
    )
    schedule: str | None = _option(
        "*/15 * * * *", "Cron expression, preset such as `@hourly`, or `None`: by hand only.", Scope.DEPLOYMENT
    )
    exclude_namespaces: str = _option(
        "",
        "Comma-separated namespaces to leave out where `namespaces` is `*`.",
        Scope.DEPLOYMENT,
        pattern=rf"^\s*{_NAMESPACES}\s*$",
        allowed="names of lower-case letters, digits and dashes, such as kube-system,team-b",
    )
    label_selector: str = _option(
        "",
        "Look only at pods that match this, too (Kubernetes label selector); `kubernetes_pod_operator=True` always "
        "holds.",
        Scope.DEPLOYMENT,
    )
    delete_unmatched_pods: bool = _option(
        False,  # with two Airflows in one namespace it deletes the other one's live work
        "This Airflow is the only one in these namespaces: pods that it cannot account for go, too, once older than "
        "`settle_seconds`.",
        Scope.DEPLOYMENT,
    )
    kubernetes_conn_id: str = _option(
        "kubernetes_default",
        "Airflow connection for the Kubernetes API; in-cluster config when `kubernetes_default` does not exist.",
        Scope.DEPLOYMENT,
        pattern=r"\S",
        allowed="the id of an Airflow connection",
    )
    airflow_conn_id: str = _option(
        "",
        "Airflow 3: an Airflow connection to the metadata database, or of type `http` to the REST API; "
        "empty = the Task SDK.",
        Scope.DEPLOYMENT,
    )

    def namespace_list(self) -> list[str]:
        """List the namespaces, in order and once each; empty = those of the operator itself."""
        return _names(self.namespaces)

    def excluded(self) -> list[str]:
        """List the namespaces that are left out if all are listed."""
        return _names(self.exclude_namespaces)


OPTIONS = {option.name: option for option in fields(Settings)}


def is_run_param(name: str) -> bool:
    """Tell whether a person who triggers a run may change this option."""
    return bool(OPTIONS[name].metadata["scope"] is Scope.RUN)


def parse(name: str, value: Any) -> Any:
    """Read the value of an option: a text of a config file, or a typed value of a form or of Python.

    :raises ValueError: with the values that are allowed.
    """
    option = OPTIONS[name]
    return _PARSERS[str(option.type)](value, option.metadata)


def json_schema(name: str) -> dict[str, Any]:
    """Describe the option for Airflow's ``Param``: type, bounds, description and section of the form."""
    option = OPTIONS[name]
    schema = {
        "type": _JSON_TYPES[str(option.type)],
        "description": option.metadata["meaning"].replace("`", ""),  # the form does not render Markdown
        **{key: option.metadata[key] for key in ("pattern", "section") if key in option.metadata},
    }
    if "minimum" in option.metadata:
        # One level down: if the form of Airflow 3 sees a minimum, it turns -5 into 0 without a word.
        schema["allOf"] = [{key: option.metadata[key] for key in ("minimum", "maximum")}]
    return schema


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _flag(value: Any, _: Mapping[str, Any]) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("True or False")


def _text(value: Any, metadata: Mapping[str, Any]) -> str:
    text = "" if value is None else value
    allowed = metadata.get("allowed", "a text")
    if not isinstance(text, str) or not re.search(metadata.get("pattern", ""), text):
        raise ValueError(allowed)
    return text.strip()


def _text_or_none(value: Any, metadata: Mapping[str, Any]) -> str | None:
    text = _text(value, metadata)
    return None if text.lower() in ("", "none") else text


def _number(value: Any, metadata: Mapping[str, Any]) -> int:
    low, high = metadata["minimum"], metadata["maximum"]
    number = int(value) if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value) else value
    if isinstance(number, int) and not isinstance(number, bool) and low <= number <= high:
        return number
    raise ValueError(f"a whole number from {low} to {high}")


def _number_or_none(value: Any, metadata: Mapping[str, Any]) -> int | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return _number(value, metadata)
    except ValueError as error:
        raise ValueError(f"{error}, or nothing") from error


# By annotation, which is a text: this module does not evaluate its annotations.
_PARSERS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "bool": _flag,
    "str": _text,
    "str | None": _text_or_none,
    "int": _number,
    "int | None": _number_or_none,
}
# The trigger form asks for a value if the type excludes null, but an empty text is a value here.
_JSON_TYPES: dict[str, str | list[str]] = {
    "bool": "boolean",
    "str": ["null", "string"],
    "str | None": ["null", "string"],
    "int": "integer",
    "int | None": ["null", "integer"],
}
