"""The shipped dashboard, with Prometheus' own engine, on the metrics that the document lists.

`tests/dag/test_real_scheduler.py` compares these with what real runs send.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from tests.documents import documented_metrics
from tests.promtool import has_result
from tests.statsd import Sample

pytestmark = pytest.mark.real

DASHBOARD: dict[str, Any] = json.loads((REPO / "docs" / "grafana-dashboard.json").read_text())
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} ({target['legendFormat']})")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]
KINDS = {"gauge": "g", "counter": "c", "timer": "ms"}


def series() -> dict[str, list[float]]:
    """Return a series for each documented metric, as statsd_exporter names them; all increase."""
    names = {}
    for name, (kind, tags) in documented_metrics().items():
        sample = Sample(f"airflow.{name}", dict.fromkeys(tags, "kpo_cleanup"), 1, KINDS[kind])
        labels = ",".join(f'{tag}="{value}"' for tag, value in sample.tags.items())
        names.update({f"{plain}{{{labels}}}": [*range(20)] for plain in sample.prometheus_names})
    return names


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_has_a_result(tmp_path: Path, query: str) -> None:
    assert has_result(tmp_path, query.replace("$dag_id", "kpo_cleanup"), series(), minutes=240)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_selects_only_the_chosen_cleanups(tmp_path: Path, query: str) -> None:
    assert not has_result(tmp_path, query.replace("$dag_id", "another"), series(), minutes=240)


def test_the_panels_show_every_metric_of_the_cleanup_except_what_was_freed() -> None:
    shown = " ".join(str(query.values[0]) for query in QUERIES)
    names = {name for metric in series() for name in re.findall(r"^airflow_kpo_cleanup_\w+", metric)}
    assert '"airflow_kpo_cleanup_pods_.+"' in shown
    missing = {name for name in names if name not in shown and "_pods_" not in name}
    assert missing == {"airflow_kpo_cleanup_freed_cpu_cores", "airflow_kpo_cleanup_freed_memory_gib"}
