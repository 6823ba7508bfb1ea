"""A whole Airflow 3 in a folder: metadata database, API server, scheduler, DAG processor and triggerer."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from demo.processes import Child, start
from demo.rest import AirflowApi
from demo.terminal import Terminal

REPO = Path(__file__).resolve().parent.parent
USER = "admin"
# All in seconds; Airflow's own defaults are minutes.
HEARTBEAT_TIMEOUT = 20
START_TIMEOUT = 120
COMPONENTS = {
    "api-server": ("api-server",),
    # Their log servers would listen on all addresses; the logs are on this machine anyway.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


class Airflow:
    """Everything is below `folder`; ending the folder's processes and removing it leaves nothing."""

    def __init__(self, folder: Path, kubeconfig: Path, namespace: str, cleanup_options: Mapping[str, str]) -> None:
        self.password = secrets.token_urlsafe(9)
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.api = AirflowApi(self.url, USER, self.password)
        self._folder = folder
        self._children: dict[str, Child] = {}
        self._environment = {
            **_neutral_environment(),
            **_settings(folder, self.url),
            **{f"AIRFLOW__KPO_CLEANUP__{name.upper()}": value for name, value in cleanup_options.items()},
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(
                {
                    "conn_type": "kubernetes",
                    "extra": {"kube_config_path": str(kubeconfig), "namespace": namespace},
                }
            ),
        }

    def install_dags(self) -> None:
        """The way of a plain Airflow: `include/` lies in the DAGs folder, beside the DAG."""
        (self._folder / "tmp").mkdir()
        dags = self._folder / "dags"
        shutil.copytree(REPO / "include", dags / "include", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPO / "dags" / "kpo_cleanup.py", dags)
        shutil.copy(REPO / "demo" / "dags" / "kpo_zombies.py", dags)
        (self._folder / "passwords.json").write_text(json.dumps({USER: self.password}))

    def start(self, terminal: Terminal) -> None:
        """Ready when the API answers, all components have a heartbeat, and both DAGs are known."""
        terminal.say("making the metadata database (SQLite)")
        start("db-migrate", ("airflow", "db", "migrate"), self._folder, self._environment).finish(START_TIMEOUT)
        terminal.say(f"starting {', '.join(COMPONENTS)}")
        for name, arguments in COMPONENTS.items():
            self._children[name] = start(name, ("airflow", *arguments), self._folder, self._environment)
        for name in COMPONENTS:
            terminal.wait_for(f"{name} is up", partial(self._is_up, name), START_TIMEOUT, log=self.log(name))
        for dag_id in ("kpo_zombies", "kpo_cleanup"):
            terminal.wait_for(
                f"the DAG {dag_id} is parsed",
                partial(self._has_dag, dag_id),
                START_TIMEOUT,
                log=self.log("dag-processor"),
            )

    def _is_up(self, name: str) -> bool:
        return self.checked().health().get(name.replace("-", "_")) == "healthy"

    def _has_dag(self, dag_id: str) -> bool:
        return self.checked().has_dag(dag_id)

    def checked(self) -> AirflowApi:
        """The API, after a look whether all components still run.

        :raises DemoError: with its last words, if one of them does not.
        """
        for child in self._children.values():
            child.check()
        return self.api

    def log(self, name: str) -> Path:
        return self._children[name].log

    @property
    def scheduler_pid(self) -> int:
        return self._children["scheduler"].pid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _neutral_environment() -> dict[str, str]:
    """Ours without what would lead Airflow to another installation, or Python to other modules."""
    misleading = ("AIRFLOW", "PYTHON", "KUBECONFIG")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(misleading)}
    local = ",".join(filter(None, [environment.get("NO_PROXY") or environment.get("no_proxy"), "127.0.0.1,localhost"]))
    return {**environment, "NO_PROXY": local, "no_proxy": local}


def _settings(folder: Path, url: str) -> dict[str, str]:
    sections: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": folder / "dags",
            "executor": "LocalExecutor",
            "parallelism": 10,
            "load_examples": False,
            "dags_are_paused_at_creation": False,
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": folder / "passwords.json",
            "execution_api_server_url": f"{url}/execution/",
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{folder / 'airflow.db'}"},
        "logging": {
            "base_log_folder": folder / "task-logs",
            # Nothing listens there; at the default ports another Airflow on this machine might.
            "worker_log_server_port": _free_port(),
            "trigger_log_server_port": _free_port(),
        },
        "api": {
            "host": "127.0.0.1",
            "port": url.rpartition(":")[2],
            "base_url": url,
            "workers": 1,
            "secret_key": secrets.token_hex(),
        },
        "api_auth": {"jwt_secret": secrets.token_hex()},
        "scheduler": {
            "scheduler_heartbeat_sec": 2,
            "scheduler_idle_sleep_time": 0.5,
            "task_instance_heartbeat_timeout": HEARTBEAT_TIMEOUT,
            "task_instance_heartbeat_timeout_detection_interval": 2,
        },
        "workers": {"min_heartbeat_interval": 3},
        "triggerer": {"job_heartbeat_sec": 2},
        "dag_processor": {
            "dag_bundle_storage_path": folder / "bundles",
            "refresh_interval": 5,
            # Parsing the same files again and again would only slow down the tasks.
            "min_file_process_interval": 60,
        },
    }
    settings = {
        f"AIRFLOW__{section.upper()}__{name.upper()}": str(value)
        for section, options in sections.items()
        for name, value in options.items()
    }
    # The Kubernetes client writes keys into temporary files, which a killed process leaves.
    return {"AIRFLOW_HOME": str(folder), "TMPDIR": str(folder / "tmp"), **settings}
