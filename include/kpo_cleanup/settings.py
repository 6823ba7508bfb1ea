"""The settings of a run: what each means, its bounds, and how a bad value is refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import SettingsError
from .vocabulary import ALL_NAMESPACES

CONFIG_SECTION = "kpo_cleanup"
DEFAULT_SCHEDULE = "*/15 * * * *"
# Sections of the trigger form, for what is not changed from run to run.
COMPLETED_AND_UNKNOWN = "Completed and unmatched pods"
CONNECTIONS = "Connections"

_YEAR = 365 * 24 * 3600
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123 label, as Kubernetes asks for
_TRUE, _FALSE = {"true", "t", "1"}, {"false", "f", "0"}  # the words of Airflow's own getboolean


def _option(default: Any, meaning: str, kind: str, **bounds: Any) -> Any:
    """Declare one option; ``kind`` is its JSON schema type, for Airflow's trigger form."""
    return field(default=default, metadata={"meaning": meaning, "kind": kind, **bounds})


def _seconds(default: int | None, meaning: str, minimum: int = 0, **more: Any) -> Any:
    return _option(default, meaning, "integer", minimum=minimum, maximum=_YEAR, optional=default is None, **more)


@dataclass(frozen=True)
class Settings:
    """One run's settings. Every field is an option of ``[kpo_cleanup]`` and a DAG param of the same name."""

    # In the order in which the trigger form, the log and the README show them.
    dry_run: bool = _option(False, "Report what would be deleted, delete nothing.", "boolean")
    namespaces: str = _option(
        "", "Comma-separated namespaces; empty = the connection's namespace, `*` = all.", "string"
    )
    settle_seconds: int = _seconds(
        300,  # longer than an operator's own tidying up, shorter than a person's patience
        "Seconds that a task instance must be over (where its end is not known: that its pod must be old) before its "
        "pod is a zombie; also the margin past a pod's own deletion deadline.",
    )
    max_deletes: int = _option(
        500,  # an upper bound on what one wrong setting can do before somebody looks
        "At most so many deletions a run, oldest pods first; the rest is left for the next run.",
        "integer",
        minimum=1,
        maximum=100_000,
    )
    grace_period_seconds: int = _seconds(
        0,  # a zombie has had its SIGTERM, or ignores it: waiting buys nothing
        "Seconds of grace in the delete call; 0 = force, -1 = the pod's own.",
        minimum=-1,
    )
    label_selector: str = _option(
        "kubernetes_pod_operator=True", "Which pods are looked at (Kubernetes label selector).", "string", minLength=1
    )
    delete_completed_pods: bool = _option(
        True,
        "Also delete pods in phase Succeeded that the operator did not keep on purpose.",
        "boolean",
        section=COMPLETED_AND_UNKNOWN,
    )
    delete_pods_on_failure: bool = _option(
        False,  # a failed pod costs no compute and is what people debug with
        "Also delete pods in phase Failed (as `delete_worker_pods_on_failure` does for executor pods).",
        "boolean",
        section=COMPLETED_AND_UNKNOWN,
    )
    ttl_seconds_after_finished: int | None = _seconds(
        None,
        "Delete completed pods, kept on purpose or not, whose task instance has been over for more than so many "
        "seconds; empty = never.",
        section=COMPLETED_AND_UNKNOWN,
    )
    delete_unmatched_pods: bool = _option(
        False,  # with two Airflows in one namespace it deletes the other one's live work
        "Also delete pods for which this Airflow has no task instance at all, once older than `settle_seconds`.",
        "boolean",
        section=COMPLETED_AND_UNKNOWN,
    )
    kubernetes_conn_id: str = _option(
        "kubernetes_default",
        "Airflow connection for the Kubernetes API; in-cluster config when `kubernetes_default` does not exist.",
        "string",
        minLength=1,
        section=CONNECTIONS,
    )
    airflow_conn_id: str = _option(
        "",
        "Airflow 3: an Airflow connection to the metadata database, used in place of the Task SDK when set.",
        "string",
        section=CONNECTIONS,
    )

    def __post_init__(self) -> None:
        self.namespace_list()

    @classmethod
    def from_options(cls, options: Mapping[str, Any], origin: str) -> Settings:
        """Make settings from raw values (strings of a config file, or the typed values of a trigger form).

        :param options: values by option name; what is missing has its default.
        :param origin: where they come from, for the error message.
        :raises SettingsError: naming the option, its value and what is allowed.
        """
        reject_unknown(options, OPTIONS, origin)
        return cls(**{name: _parse(name, value, origin) for name, value in options.items()})

    def namespace_list(self) -> list[str]:
        """The namespaces named, in order and once each; empty = the connection's own.

        :raises SettingsError: for a name that Kubernetes does not allow.
        """
        names = list(dict.fromkeys(name.strip() for name in self.namespaces.split(",") if name.strip()))
        if names == [ALL_NAMESPACES]:
            return names
        for name in names:
            if not _NAMESPACE.fullmatch(name):
                raise SettingsError(
                    f"namespaces={self.namespaces!r}: {name!r} is not a namespace name; give names such as "
                    "'airflow,team-a', '*' alone for all namespaces, or nothing for the connection's namespace"
                )
        return names

    def describe(self) -> str:
        """All effective settings in one ``key=value`` line; first those that somebody changed."""
        shown = {name: f"{name}={getattr(self, name)!r}" for name in OPTIONS}
        changed = [name for name, option in OPTIONS.items() if getattr(self, name) != option.default]
        default = [name for name in OPTIONS if name not in changed]
        first, rest = (" ".join(shown[name] for name in names) for names in (changed, default))
        return f"{first or 'none changed'}; by default: {rest}"


OPTIONS = {option.name: option for option in fields(Settings)}


def json_schema(name: str) -> dict[str, Any]:
    """The option as Airflow's ``Param`` takes it: type, bounds, description and section of the form."""
    metadata = dict(OPTIONS[name].metadata)
    kind, optional = metadata.pop("kind"), metadata.pop("optional", False)
    # The trigger form asks for a value wherever the type excludes null; an empty string is a value here.
    nullable = optional or (kind == "string" and "minLength" not in metadata)
    description = metadata.pop("meaning").replace("`", "")  # the form does not render Markdown
    return {"type": ["null", kind] if nullable else kind, "description": description, **metadata}


def reject_unknown(options: Iterable[str], known: Iterable[str], origin: str) -> None:
    """Refuse a misspelt option: ``dryrun=True`` must not delete anything.

    :raises SettingsError: naming the option and the nearest one that exists.
    """
    known = list(known)
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise SettingsError(f"{origin}: there is no option {name!r}{hint} The options are: {', '.join(known)}")


def _parse(name: str, value: Any, origin: str) -> Any:
    metadata = OPTIONS[name].metadata
    kind = metadata["kind"]
    if kind == "string":
        text = "" if value is None else value
        if isinstance(text, str) and len(text.strip()) >= metadata.get("minLength", 0):
            return text.strip()
        allowed = "a text that is not empty" if metadata.get("minLength") else "a text"
    elif kind == "boolean":
        if isinstance(value, bool):
            return value
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        allowed = "True or False"
    else:
        low, high, optional = metadata["minimum"], metadata["maximum"], metadata.get("optional", False)
        if optional and (value is None or (isinstance(value, str) and not value.strip())):
            return None
        number = _whole_number(value)
        if number is not None and low <= number <= high:
            return number
        allowed = f"a whole number from {low} to {high}" + (", or empty" if optional else "")
    raise SettingsError(f"{origin}: {name}={value!r} is not allowed; give {allowed}")


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
