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
    """A metric selector in an expression, with the patterns that its labels must match, and must not match."""

    text: str
    name: str
    patterns: Mapping[str, str]
    exclusions: Mapping[str, str]

    def selects(self, sample: Sample) -> bool:
        def matches(patterns: Mapping[str, str]) -> list[bool]:
            return [re.fullmatch(regex, sample.tags.get(label, "")) is not None for label, regex in patterns.items()]

        return (
            self.name in sample.prometheus_names and all(matches(self.patterns)) and not any(matches(self.exclusions))
        )


def selectors_of(expression: str) -> list[Selector]:
    return [
        Selector(match[0], match[1], *(dict(re.findall(rf'(\w+){op}"(.*?)"', match[2] or "")) for op in ("=~?", "!~")))
        for match in re.finditer(r"(airflow_\w+)(\{.*?\})?", expression)
    ]
