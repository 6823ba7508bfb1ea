"""Text for people: plurals, and lines that Airflow's log view shows without cutting them off."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sized

# Characters of a message that the log view shows on a screen of 1400 pixels; it does not wrap longer ones. In Airflow 3
# a message has room for 100, the text of an exception for 97.
LINE = 96
INDENT = " " * 4


def count(things: Sized, noun: str) -> str:
    """Return such as ``1 pod`` or ``2 pods``."""
    return pluralize(len(things), noun)


def pluralize(number: int, noun: str) -> str:
    """Return such as ``1 pod`` or ``1,200 pods``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def wrap(text: str, indent: str = "") -> list[str]:
    """Break each line of a text where it is too long; what follows a break is indented further."""
    wrapper = textwrap.TextWrapper(
        LINE, initial_indent=indent, subsequent_indent=indent + INDENT, break_on_hyphens=False
    )
    return [line for paragraph in text.splitlines() for line in wrapper.wrap(paragraph)]


def fill(parts: Iterable[str], indent: str = "", separator: str = "") -> list[str]:
    """Put as many parts on each line as fit; a part is only broken if it fits on no line.

    :param separator: at the end of every part but the last.
    """
    lines: list[str] = []
    *others, last = parts
    for part in [*(other + separator for other in others), last]:
        if lines and len(lines[-1]) + 1 + len(part) <= LINE:
            lines[-1] = f"{lines[-1]} {part}"
        else:
            lines += wrap(part, indent + INDENT if lines else indent)
    return lines
