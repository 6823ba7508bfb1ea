"""The document for the person who operates, as a person follows it: the blocks of code below a heading."""

from __future__ import annotations

import re
import shlex

from tests.conftest import REPO

OPERATING = (REPO / "docs" / "operating.md").read_text()


def section(heading: str, document: str = OPERATING) -> str:
    text = document.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert text, f"there is no section {heading!r}"
    return text


def block(heading: str, language: str, document: str = OPERATING) -> str:
    """Find the first block of code of a language in a section."""
    code = section(heading, document).partition(f"```{language}\n")[2].partition("```")[0]
    assert code, f"there is no {language} in {heading!r}"
    return code


def variables(heading: str) -> dict[str, str]:
    """Read the environment variables that a section tells people to set."""
    return dict(word.split("=", 1) for word in shlex.split(block(heading, "sh")) if word != "export")


def documented_metrics() -> dict[str, tuple[str, set[str]]]:
    """Read each metric of the table, with its type and tags."""
    rows = re.findall(r"^\| `([a-z_.<>]+)` \| (\w+) \| (.+?) \|", section("Metrics"), re.M)
    return {name: (kind, set(re.findall(r"`(\w+)`", tags))) for name, kind, tags in rows}
