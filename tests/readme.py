"""The README as somebody follows it: the shell commands below a heading."""

from __future__ import annotations

from tests.conftest import REPO

README = (REPO / "README.md").read_text()


def commands(section: str, paragraph: str) -> str:
    """The first block of shell commands in a section, after a paragraph that starts with some words in bold."""
    below = README.partition(f"## {section}\n")[2].partition("\n## ")[0].partition(f"**{paragraph}")[2]
    script = below.partition("```sh\n")[2].partition("```")[0]
    assert script, f"the README has no commands for {paragraph!r} in {section!r}"
    return script
