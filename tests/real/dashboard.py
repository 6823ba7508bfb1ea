"""The shipped dashboard, and a real Airflow whose cleanups fill it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from demo.airflow import REPO, Airflow
from demo.airflow_settings import Config
from demo.cluster import EmbeddedCluster
from demo.processes import end_processes_of
from demo.terminal import Terminal
from tests.real.monitoring import Labels, Monitoring

_DASHBOARD = json.loads((REPO / "docs" / "grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = _DASHBOARD["panels"]
_VARIABLES: dict[str, dict[str, Any]] = {variable["name"]: variable for variable in _DASHBOARD["templating"]["list"]}
EVERY_CLEANUP = str(_VARIABLES["dag_id"]["allValue"])
TIMEOUT = 240  # seconds, because the machine may be busy
CLEANUP, BROKEN = "kpo_cleanup", "kpo_cleanup_gpu"  # the connection of the second does not exist
CONFIG: Config = {
    "core": {"dags_are_paused_at_creation": True},
    "kpo_cleanup": {"settle_seconds": 0, "schedule": None},
}


def fill(query: str, dag_id: str) -> str:
    """Insert the value of the dashboard's variable into a query, as Grafana does."""
    return query.replace("$dag_id", dag_id)


def legend(template: str, labels: Labels) -> str:
    """Fill in the legend, which must distinguish the series, so no label may be left over."""
    names = re.findall(r"{{(\w+)}}", template)
    assert set(names) == {name for name, _ in labels}
    return re.sub(r"{{(\w+)}}", lambda match: dict(labels)[match[1]], template)


class MonitoredAirflow:
    """An Airflow on the embedded cluster that sends its metrics to a Prometheus; the stack stops all of them."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.monitoring = Monitoring(stack, folder)
        self._terminal = Terminal(0)
        cluster = stack.enter_context(EmbeddedCluster(["airflow"], speed=20))
        kubeconfig = cluster.write_kubeconfig(folder / "kubeconfig.json")
        variables = self.monitoring.airflow_variables
        self._airflow = Airflow(folder, kubeconfig, "airflow", config=CONFIG, variables=variables)
        self._airflow.install_dags(*(REPO / "tests" / "dag" / file for file in ("workload.py", "own_dags.py")))
        stack.callback(end_processes_of, folder)
        self._airflow.start(self._terminal, ["orders", "sales", CLEANUP, BROKEN])

    def run(self, *dag_ids: str) -> None:
        """Run DAGs at the same time, and wait until all have finished."""
        runs = [(dag_id, self._trigger(dag_id)) for dag_id in dag_ids]
        for dag_id, run_id in runs:
            self.wait_for(f"a run of {dag_id} has finished", partial(self._is_over, dag_id, run_id))

    def wait_for(self, description: str, condition: Callable[[], bool]) -> None:
        self._terminal.wait_for(description, condition, TIMEOUT, log=self._airflow.log("scheduler"))

    def _trigger(self, dag_id: str) -> str:
        """Trigger a DAG with a logical date, without which the Task SDK does not know the ends of its tasks."""
        self._airflow.api.pause(dag_id, False)
        body = {"logical_date": datetime.now(UTC).isoformat(), "conf": {}}
        return str(self._airflow.api.request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def _is_over(self, dag_id: str, run_id: str) -> bool:
        return self._airflow.healthy_api().run_state(dag_id, run_id) in ("success", "failed")
