"""Text for people: plurals, values from outside, and lines that Airflow's log view shows without cutting them off."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sized

# Maximum length of a line: the log view does not wrap longer ones. In a window of 1400 pixels, Airflow 3 shows 100
# characters of a message, but only 97 of an exception's text.
LINE = 96
INDENT = " " * 4
MAX_VALUE = 320  # characters of one value: more than any name in Kubernetes has
MAX_PHRASE = 1_000  # characters of a longer text, such as a server's message
_BEFORE_COUNT = re.compile(r" (?=[0-9][0-9,]*(?:,|;|$))", re.MULTILINE)  # as in "orders 6, sales 2"


def count(things: Sized, noun: str) -> str:
    """Return a phrase such as ``1 pod`` or ``2 pods``."""
    return pluralize(len(things), noun)


def pluralize(number: int, noun: str) -> str:
    """Return a phrase such as ``1 pod`` or ``1,200 pods``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(value: object, limit: int = MAX_VALUE) -> str:
    """Return a value from outside as one line that can be logged and stored: short, and without control characters.

    Otherwise, anyone who can create a pod could forge log lines or flood the log.
    """
    text = str(value)
    if len(text) <= limit and text.isprintable():
        return text
    shown = " ".join(text[:limit].split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown if len(text) <= limit and len(shown) <= limit else f"{shown[: limit - 1]}…"


def without_numbers(text: str) -> str:
    """Replace every number with 0: messages with the same cause may differ in times and sizes."""
    return re.sub("[0-9]+", "0", text)


def wrap(text: str, indent: str = "") -> list[str]:
    """Wrap long lines, but not right before a count. Indent continuation lines by ``INDENT`` more."""
    wrapper = textwrap.TextWrapper(
        LINE, initial_indent=indent, subsequent_indent=indent + INDENT, break_on_hyphens=False
    )
    paragraphs = _BEFORE_COUNT.sub("\N{NO-BREAK SPACE}", text).splitlines()
    return [line.replace("\N{NO-BREAK SPACE}", " ") for paragraph in paragraphs for line in wrapper.wrap(paragraph)]


def fill(parts: Iterable[str], indent: str = "", separator: str = "") -> list[str]:
    """Put as many parts on each line as fit. Break a part only if it does not fit on a line of its own.

    :param parts: at least one.
    :param separator: appended to every part but the last.
    """
    lines: list[str] = []
    *others, last = parts
    for part in [*(other + separator for other in others), last]:
        if lines and len(lines[-1]) + 1 + len(part) <= LINE:
            lines[-1] = f"{lines[-1]} {part}"
        else:
            lines += wrap(part, indent + INDENT if lines else indent)
    return lines
