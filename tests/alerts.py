"""The shipped alerting rules, and the metric selectors in their expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.conftest import REPO
from tests.statsd import Sample

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((REPO / "docs" / "prometheus-rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]


@dataclass(frozen=True)
class Selector:
    """A metric selector in an expression, with a pattern for each of its labels."""

    text: str
    name: str
    patterns: Mapping[str, str]

    def selects(self, sample: Sample) -> bool:
        return self.name in sample.prometheus_names and all(
            re.fullmatch(pattern, sample.tags.get(label, "")) for label, pattern in self.patterns.items()
        )


def selectors_of(expression: str) -> list[Selector]:
    return [
        Selector(match[0], match[1], dict(re.findall(r'(\w+)=~?"(.*?)"', match[2] or "")))
        for match in re.finditer(r"(airflow_\w+)(\{.*?\})?", expression)
    ]
