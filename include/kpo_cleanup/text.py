"""Text for people: plurals, values from outside, and lines that Airflow's log view shows without cutting them off."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sized

# Characters of a message that the log view shows on a screen of 1400 pixels; it does not wrap longer ones. Airflow 3
# shows 100 characters of a message, and 97 of the text of an exception.
LINE = 96
INDENT = " " * 4
MAX_VALUE = 320  # characters of one value: more than any name in Kubernetes has
MAX_PHRASE = 1_000  # characters of a text that consists of several, such as a server's message
_BEFORE_COUNT = re.compile(r" (?=[0-9][0-9,]*(?:,|;|$))", re.MULTILINE)  # as in "orders 6, sales 2"


def count(things: Sized, noun: str) -> str:
    """Return a phrase such as ``1 pod`` or ``2 pods``."""
    return pluralize(len(things), noun)


def pluralize(number: int, noun: str) -> str:
    """Return a phrase such as ``1 pod`` or ``1,200 pods``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(value: object, limit: int = MAX_VALUE) -> str:
    """Return a value from outside as one line that can be logged and stored: short, and without control characters.

    Whoever may create a pod could otherwise fake lines of the log, or fill it.
    """
    text = str(value)
    if len(text) <= limit and text.isprintable():
        return text
    shown = " ".join(text[:limit].split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown if len(text) <= limit and len(shown) <= limit else f"{shown[: limit - 1]}…"


def without_numbers(text: str) -> str:
    """Replace all numbers, such as times and sizes, because messages with the same cause differ in them."""
    return re.sub("[0-9]+", "0", text)


def wrap(text: str, indent: str = "") -> list[str]:
    """Break long lines, but not before a count, and indent what follows a break further."""
    wrapper = textwrap.TextWrapper(
        LINE, initial_indent=indent, subsequent_indent=indent + INDENT, break_on_hyphens=False
    )
    paragraphs = _BEFORE_COUNT.sub("\N{NO-BREAK SPACE}", text).splitlines()
    return [line.replace("\N{NO-BREAK SPACE}", " ") for paragraph in paragraphs for line in wrapper.wrap(paragraph)]


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
