"""A statsd_exporter and a Prometheus that scrapes it, set up as `docs/operating.md` describes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.conftest import REPO
from tests.control_plane.processes import free_ports
from tests.databases import HOST, serve
from tests.documents import exported_variables

Labels = frozenset[tuple[str, str]]
SCRAPE_INTERVAL = "1s"  # so that there are several scrapes during a run


class Monitoring:
    """Running servers; the stack stops them."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        exporter = subprocess.check_output([REPO / "scripts" / "statsd-exporter"], text=True).strip()
        prometheus = shutil.which("prometheus")
        assert prometheus, "`make test-real` installs Prometheus"
        self._statsd, metrics, web = free_ports(3)
        self._url = f"http://{HOST}:{web}"
        self._session = stack.enter_context(requests.Session())
        self._session.trust_env = False

        arguments = [f"--statsd.listen-udp={HOST}:{self._statsd}", "--statsd.listen-tcp="]
        command = [exporter, *arguments, f"--web.listen-address={HOST}:{metrics}"]
        serve(stack, command, _subfolder(folder, "exporter"), metrics, signal.SIGTERM)

        target = {"job_name": "statsd", "static_configs": [{"targets": [f"{HOST}:{metrics}"]}]}
        home = _subfolder(folder, "prometheus")
        settings = {"global": {"scrape_interval": SCRAPE_INTERVAL}, "scrape_configs": [target]}
        (home / "prometheus.yml").write_text(yaml.safe_dump(settings))
        options = [f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"]
        serve(stack, [prometheus, *options, f"--web.listen-address={HOST}:{web}"], home, web, signal.SIGTERM)

    @property
    def airflow_variables(self) -> dict[str, str]:
        """Return the environment variables with which Airflow sends its metrics here."""
        return {
            **exported_variables("docs/operating.md", "Metrics"),
            "AIRFLOW__METRICS__STATSD_HOST": HOST,
            "AIRFLOW__METRICS__STATSD_PORT": str(self._statsd),
        }

    def query(self, expression: str) -> dict[Labels, float]:
        """Return the current value of each series of the result."""
        result = self._get("query", query=expression)["result"]
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in result}

    def has_value(self, expression: str, value: float) -> bool:
        """Return whether the series of an expression add up to this value. False if there are no series yet."""
        return self.query(f"sum({expression})") == {frozenset(): value}

    def query_range(self, expression: str, start: float, end: float, step: float) -> dict[Labels, dict[float, float]]:
        """Return the values of each series of the result by time, as Grafana draws them."""
        result = self._get("query_range", query=expression, start=start, end=end, step=step)["result"]
        return {
            frozenset(one["metric"].items()): {float(time): float(value) for time, value in one["values"]}
            for one in result
        }

    def names(self) -> set[str]:
        """Return the names of all metrics."""
        return set(self._get("label/__name__/values"))

    def _get(self, path: str, **parameters: Any) -> Any:
        response = self._session.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=60)
        assert response.ok, response.text
        return response.json()["data"]


def _subfolder(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path
