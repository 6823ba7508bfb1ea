"""Label and field selectors: parsed once per request, then applied to each object."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .errors import bad_request
from .resources import Json
from .validation import label_key_problems, label_value_problems

Requirement = Callable[[Mapping[str, str]], bool]

_WORD = r"[^\s=!,()<>]+"
_REQUIREMENT = re.compile(
    rf"""\s*(?:
        !\s*(?P<absent>{_WORD})
        | (?P<key>{_WORD}) (?:
            \s*(?P<comparison>==?|!=)\s*(?P<value>{_WORD})?
            | \s+(?P<membership>in|notin)\s*\((?P<values>[^=!()<>]*)\)
        )?
    )\s*(?P<end>,|$)""",
    re.X,
)
_TERM = re.compile(r"(?P<field>[^=!]*?)(?P<operator>!=|==?)(?P<value>.*)", re.S)


def label_requirements(text: str) -> list[Requirement]:
    """Parse a label selector into requirements, all of which must hold. An empty selector matches everything."""
    requirements: list[Requirement] = []
    position = 0
    while position < len(text.rstrip()) or text[:position].endswith(","):
        found = _REQUIREMENT.match(text, position)
        if not found:
            unexpected = text[position:].strip()
            raise _unparsable(f"found '{unexpected}', expected: identifier, '=', '==', '!=', in or notin")
        requirements.append(_requirement(found))
        position = found.end()
    return requirements


def _requirement(found: re.Match[str]) -> Requirement:
    key: str = found["absent"] or found["key"]
    if problems := label_key_problems(key):
        raise _unparsable(f'key: Invalid value: "{key}": {"; ".join(problems)}')
    if found["absent"]:
        return lambda labels: key not in labels
    if not (found["comparison"] or found["membership"]):
        return lambda labels: key in labels
    # `key=` requires the empty value, and `in (a,)` includes it.
    listed = found["value"] or "" if found["comparison"] else found["values"]
    values = [value.strip() for value in listed.split(",")]
    for index, value in enumerate(values):
        if problems := label_value_problems(value):
            raise _unparsable(f'values[{index}][{key}]: Invalid value: "{value}": {"; ".join(problems)}')
    # Negations also match objects without the label.
    if found["comparison"] == "!=" or found["membership"] == "notin":
        return lambda labels: labels.get(key) not in values
    return lambda labels: labels.get(key) in values


def _unparsable(why: str) -> Exception:
    return bad_request(f"unable to parse requirement: {why}")


def field_terms(text: str, supported: frozenset[str]) -> list[tuple[str, str, bool]]:
    """Parse a field selector into tuples of field, value, and whether they must be equal or must differ."""
    terms = []
    for part in filter(None, text.split(",")):
        term = _TERM.fullmatch(part)
        if not term:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        field = term["field"].strip()
        if field not in supported:
            raise bad_request(f"field label not supported: {field}")
        terms.append((field, term["value"], term["operator"] != "!="))
    return terms


def field_value(obj: Json, path: str) -> str:
    """Return the value to compare; an absent field counts as the empty string."""
    node: Any = obj
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return "" if node is None else str(node)
