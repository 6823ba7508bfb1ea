"""The README as a person follows it: the shell commands below a heading."""

from __future__ import annotations

from tests.conftest import REPO

README = (REPO / "README.md").read_text()
SOURCES = (REPO / "docs" / "sources.md").read_text()


def commands(section: str, paragraph: str = "") -> str:
    """Find the first shell commands in a section, or those after a paragraph that starts in bold so."""
    below = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    if paragraph:
        below = below.partition(f"**{paragraph}")[2]
    script = below.partition("```sh\n")[2].partition("```")[0]
    assert script, f"the README has no commands for {paragraph!r} in {section!r}"
    return script
