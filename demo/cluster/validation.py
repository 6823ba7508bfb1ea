"""Validation of names and labels, with the API server's own messages."""

from __future__ import annotations

import re

from .errors import Cause
from .resources import Json

_NAME = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_SUBDOMAIN = rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"

_SUBDOMAIN_PROBLEM = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
    "must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_DNS_SUBDOMAIN}')"
)
_LABEL_VALUE_PROBLEM = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
    f"for validation is '({_NAME})?')"
)
_LABEL_KEY_PROBLEM = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_NAME}')"
)


def name_problems(name: str) -> list[str]:
    return _problems(name, _DNS_SUBDOMAIN, 253, _SUBDOMAIN_PROBLEM)


def label_key_problems(key: str) -> list[str]:
    prefix, slash, name = key.rpartition("/")
    problems = [f"prefix part {problem}" for problem in name_problems(prefix)] if slash else []
    return problems + [f"name part {problem}" for problem in _problems(name, _NAME, 63, _LABEL_KEY_PROBLEM)]


def label_value_problems(value: str) -> list[str]:
    return _problems(value, f"({_NAME})?", 63, _LABEL_VALUE_PROBLEM)


def metadata_problems(metadata: Json) -> list[Cause]:
    name = metadata.get("name")
    if not name:
        return [Cause.required("metadata.name", "name or generateName is required")]
    causes = [Cause.invalid("metadata.name", name, why) for why in name_problems(name)]
    for key, value in (metadata.get("labels") or {}).items():
        causes += [Cause.invalid("metadata.labels", key, why) for why in label_key_problems(key)]
        causes += [Cause.invalid("metadata.labels", value, why) for why in label_value_problems(value)]
    return causes


def _problems(value: str, pattern: str, limit: int, message: str) -> list[str]:
    too_long = [f"must be no more than {limit} bytes"] if len(value.encode()) > limit else []
    return too_long if re.fullmatch(pattern, value) else [*too_long, message]
