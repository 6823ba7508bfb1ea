"""Extract the shell commands from the README."""

from __future__ import annotations

from tests.conftest import REPO

README = (REPO / "README.md").read_text()
SOURCES = (REPO / "docs" / "sources.md").read_text()


def commands(section: str, paragraph: str = "") -> str:
    """Return the first shell commands in a section, or the first ones after the bold words `paragraph`."""
    below = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    if paragraph:
        below = below.partition(f"**{paragraph}")[2]
    script = below.partition("```sh\n")[2].partition("```")[0]
    assert script, f"no shell commands for {paragraph!r} in section {section!r} of the README"
    return script
