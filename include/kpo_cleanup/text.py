"""Texts for people: pluralize things, and lines that Airflow's log view shows whole."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence, Sized

# Characters of a message that the log view shows on a screen of 1400 pixels; it does not wrap longer ones. In Airflow 3
# a message has room for 100, the text of an exception for 97.
LINE = 96
INDENT = " " * 4


def count(things: Sized, noun: str) -> str:
    """Say such as ``1 pod`` or ``2 pods``."""
    return pluralize(len(things), noun)


def pluralize(number: int, noun: str) -> str:
    """Say such as ``1 pod`` or ``1,200 pods``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def key_values(counts: Mapping[str, int]) -> str:
    """Write counters as ``key=value`` words."""
    return " ".join(f"{name}={number}" for name, number in counts.items())


def wrapped(text: str, indent: str = "") -> list[str]:
    """Break a text into lines that are not too long, at its semicolons if it has some.

    Lines after the first are indented further.
    """
    if len(indent) + len(text) <= LINE:
        return [indent + text]
    *clauses, last = text.split("; ")
    if clauses:
        return packed([*(f"{clause};" for clause in clauses), last], indent)
    return textwrap.wrap(text, LINE, initial_indent=indent, subsequent_indent=indent + INDENT, break_on_hyphens=False)


def by_clause(text: str, indent: str = "") -> list[str]:
    """Break a message at its semicolons, so that a remedy has a line of its own; and where it is too long."""
    first, *others = text.split("; ")
    return [*wrapped(first, indent), *(line for clause in others for line in wrapped(clause, indent + INDENT))]


def message_lines(message: str) -> list[str]:
    """Break the message of an error, which may have lines of its own."""
    return [line for part in message.splitlines() for line in by_clause(part)]


def packed(items: Iterable[str], indent: str = "") -> list[str]:
    """Put as many items on each line as there is room for; an item is only broken if it fits no line."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) < LINE:
            lines[-1] = f"{lines[-1]} {item}"
        else:
            lines += wrapped(item, indent + INDENT if lines else indent)
    return lines


def first_few(items: Sequence[str], most: int, noun: str) -> list[str]:
    """Give the first items, and say how many there are besides."""
    left = len(items) - most
    return [*items[:most], f"and {pluralize(left, f'more {noun}')}"] if left > 0 else list(items)
