"""Read the documentation: its sections, the code blocks in them, and the table of metrics."""

from __future__ import annotations

import re
import shlex

from include.kpo_cleanup.constants import Outcome, Reason
from tests.conftest import REPO

DOCUMENTS = [REPO / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((REPO / "docs").rglob("*.md"))


def document(name: str) -> str:
    return (REPO / name).read_text()


def section(name: str, heading: str) -> str:
    """Return the text below a heading of a document, up to the next heading of the same or a higher level."""
    match = re.search(rf"^(##+) {re.escape(heading)}\n(.*?)(?=^(?!\1#)##+ |\Z)", document(name), re.M | re.S)
    assert match, f"{name} has no section {heading!r}"
    return match[2]


def block(name: str, heading: str, language: str = "sh", paragraph: str = "") -> str:
    """Return the first code block of a language in a section, or the first one after the bold words `paragraph`."""
    text = section(name, heading)
    if paragraph:
        text = text.partition(f"**{paragraph}")[2]
    code = text.partition(f"```{language}\n")[2].partition("```")[0]
    assert code, f"{name} has no {language} block in section {heading!r}{paragraph and f', paragraph {paragraph!r}'}"
    return code


def exported_variables(name: str, heading: str) -> dict[str, str]:
    """Return the environment variables that the first shell block of a section exports."""
    return dict(word.split("=", 1) for word in shlex.split(block(name, heading)) if word != "export")


def documented_metrics() -> dict[str, tuple[str, set[str]]]:
    """Return the metrics in the table with their types and tags; a family is expanded into its members."""
    families = {"reason": [reason.value for reason in Reason], "outcome": [outcome.value for outcome in Outcome]}
    table = section("docs/operating.md", "Metrics")
    documented = {}
    for name, kind, tags in re.findall(r"^\| `([a-z_.<>]+)` \| (\w+) \| (.+?) \|", table, re.M):
        prefix, _, family = name.rstrip(">").partition("<")
        members = [f"{prefix}{word}" for word in families[family]] if family else [name]
        documented.update(dict.fromkeys(members, (kind, set(re.findall(r"`(\w+)`", tags)))))
    return documented
