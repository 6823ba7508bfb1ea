"""Evaluate expressions and alerting rules with Prometheus' own engine."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from tests.conftest import REPO

RULES_FILE = REPO / "docs" / "prometheus-rules.yaml"


def has_result(folder: Path, expression: str, series: Mapping[str, Sequence[float | None]], minutes: int) -> bool:
    """Return whether an expression has a result after these minutes, while the shipped rules are evaluated.

    :param series: the input series by name and labels, each with a value for every 15 minutes, or None if missing.
    """
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": _every_minute(values)} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"count({expression}) > bool 0 or vector(0)",
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
        ],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES_FILE)], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    output = done.stdout + done.stderr
    assert done.returncode == 0 or "got: {} 0E+00" in output, output
    return done.returncode == 0


def _every_minute(values: Sequence[float | None]) -> str:
    """Repeat each value, because a sample counts for 5 minutes only."""
    return " ".join("_" if value is None else str(value) for value in values for _ in range(15))
