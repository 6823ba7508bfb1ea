"""Environment variables of a self-contained Airflow 2 or 3, with short intervals, and listening on loopback only."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

# Read from the package metadata, because importing Airflow would create an AIRFLOW_HOME.
IS_AIRFLOW_3 = not version("apache-airflow").startswith("2.")
USER = "admin"
HEARTBEAT_TIMEOUT = 20  # seconds; Airflow's default is five minutes

Config = Mapping[str, Mapping[str, object]]


def environment(folder: Path, url: str, database_url: str | None, config: Config) -> dict[str, str]:
    """Return this process's environment, without variables that affect Airflow, plus all settings.

    :param database_url: URL of the metadata database; None for an SQLite file in the folder.
    :param config: additional options by section; they override the others.
    """
    database = database_url or f"sqlite:///{folder / 'airflow.db'}"
    by_version = _airflow_3(folder, url) if IS_AIRFLOW_3 else _airflow_2(url)
    options = {
        f"AIRFLOW__{section.upper()}__{name.upper()}": str(value)
        for layer in (_common(folder, database), by_version, config)
        for section, values in layer.items()
        for name, value in values.items()
    }
    # The Kubernetes client writes keys to temporary files, which a killed process leaves behind.
    return {**_clean_environment(), "AIRFLOW_HOME": str(folder), "TMPDIR": str(folder / "tmp"), **options}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _clean_environment() -> dict[str, str]:
    """Return this process's environment without variables that point to another Airflow, cluster or Python path."""
    excluded = ("AIRFLOW", "PYTHON", "KUBECONFIG")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(excluded)}
    no_proxy = ",".join(filter(None, [inherited.get("NO_PROXY") or inherited.get("no_proxy"), "127.0.0.1,localhost"]))
    # Airflow 2 runs tasks with the command `airflow`, which must be that of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    return {**inherited, "NO_PROXY": no_proxy, "no_proxy": no_proxy, "PATH": path}


def _common(folder: Path, database_url: str) -> Config:
    # Airflow 2 accepts only the SequentialExecutor with SQLite.
    sequential = database_url.startswith("sqlite") and not IS_AIRFLOW_3
    return {
        "core": {
            "dags_folder": folder / "dags",
            "executor": "SequentialExecutor" if sequential else "LocalExecutor",
            "parallelism": 10,
            "load_examples": False,
            "dags_are_paused_at_creation": False,
            "dagbag_import_timeout": 120,  # parsing is slow while many tasks start at the same time
        },
        "database": {"sql_alchemy_conn": database_url},
        "logging": {
            "base_log_folder": folder / "task-logs",
            # Free ports, where nothing listens: another Airflow on this machine may use the default ones.
            "worker_log_server_port": free_port(),
            "trigger_log_server_port": free_port(),
        },
        "scheduler": {"scheduler_heartbeat_sec": 2, "scheduler_idle_sleep_time": 0.5},
        "triggerer": {"job_heartbeat_sec": 2},
        "usage_data_collection": {"enabled": False},
    }


def _airflow_2(url: str) -> Config:
    return {
        "webserver": {
            "web_server_host": "127.0.0.1",
            "web_server_port": url.rpartition(":")[2],
            "base_url": url,
            "workers": 1,
            "secret_key": secrets.token_hex(),
        },
        "api": {"auth_backends": "airflow.api.auth.backend.session,airflow.api.auth.backend.basic_auth"},
        "scheduler": {
            "local_task_job_heartbeat_sec": 3,
            "scheduler_zombie_task_threshold": HEARTBEAT_TIMEOUT,
            # Every detection sends the DAG processor a request to fail the task. With an interval shorter than the
            # DAG processor takes, a second request would fail the next try as well.
            "zombie_detection_interval": 20,
            "dag_dir_list_interval": 5,
            # Parsing the same files more often would only slow down the tasks.
            "min_file_process_interval": 60,
        },
    }


def _airflow_3(folder: Path, url: str) -> Config:
    return {
        "core": {
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": folder / "passwords.json",
            "execution_api_server_url": f"{url}/execution/",
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
            "task_instance_heartbeat_timeout": HEARTBEAT_TIMEOUT,
            "task_instance_heartbeat_timeout_detection_interval": 2,
        },
        "workers": {"min_heartbeat_interval": 3, "execution_api_timeout": 30},
        "dag_processor": {
            "dag_bundle_storage_path": folder / "bundles",
            "refresh_interval": 5,
            "min_file_process_interval": 60,
        },
    }
