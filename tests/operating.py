"""Parse docs/operating.md: the code blocks below its headings, and its table of metrics."""

from __future__ import annotations

import re
import shlex

from tests.conftest import REPO

OPERATING = (REPO / "docs" / "operating.md").read_text()


def section(heading: str, document: str = OPERATING) -> str:
    text = document.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert text, f"no section {heading!r}"
    return text


def block(heading: str, language: str, document: str = OPERATING) -> str:
    """Return the first code block of a language in a section."""
    code = section(heading, document).partition(f"```{language}\n")[2].partition("```")[0]
    assert code, f"no {language} code block in section {heading!r}"
    return code


def variables(heading: str) -> dict[str, str]:
    """Return the environment variables that are exported in a section."""
    return dict(word.split("=", 1) for word in shlex.split(block(heading, "sh")) if word != "export")


def documented_metrics() -> dict[str, tuple[str, set[str]]]:
    """Return the metrics of the table, with their types and tags."""
    rows = re.findall(r"^\| `([a-z_.<>]+)` \| (\w+) \| (.+?) \|", section("Metrics"), re.M)
    return {name: (kind, set(re.findall(r"`(\w+)`", tags))) for name, kind, tags in rows}
