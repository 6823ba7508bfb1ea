"""The glossary defines what the code uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.verdict import Rule

GLOSSARY = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()


def table(heading: str) -> list[tuple[str, str]]:
    """Return the rows of the table below a heading, without its head."""
    section = GLOSSARY.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `?(\w[\w ]*?)`? \| (.+) \|$", section, re.M)
    return list(rows[1:])


def test_the_table_of_reasons_matches_the_rules_in_the_code() -> None:
    rules = [(rule.reason.value, rule.applies_when) for rule in Rule]
    assert table("Reasons") == rules, "docs/glossary.md, section Reasons, differs from Rule in verdict.py"


def test_the_rules_are_grouped_by_reason_in_the_order_of_the_reasons() -> None:
    by_reason = list(dict.fromkeys(rule.reason for rule in Rule))
    assert by_reason == list(Reason), "sort Rule in verdict.py as Reason in constants.py"


def test_every_outcome_is_defined_in_the_order_of_the_code() -> None:
    outcomes = [outcome for outcome, _ in table("Outcomes")]
    assert outcomes == [outcome.value for outcome in Outcome], "docs/glossary.md differs from Outcome in constants.py"


@pytest.mark.parametrize(
    "term",
    ["workload", "kind", "main container", "sidecar", "record", "snapshot", "zombie", "adopt", "caller", "evidence"],
)
def test_a_term_is_defined_once(term: str) -> None:
    assert [name for name, _ in table("Terms")].count(term) == 1
