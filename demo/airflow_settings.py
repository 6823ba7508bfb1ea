"""The environment of an Airflow in a folder, 2 or 3. It notices things soon, and listens on loopback only."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

# Not by an import of Airflow, which would make a home for itself.
IS_AIRFLOW_3 = not version("apache-airflow").startswith("2.")
USER = "admin"
HEARTBEAT_TIMEOUT = 20  # seconds; Airflow's own default is five minutes

Config = Mapping[str, Mapping[str, object]]


def environment(folder: Path, url: str, database_url: str | None, config: Config) -> dict[str, str]:
    """Make the environment: our own, without variables that would mislead Airflow, and with all settings.

    :param database_url: of the metadata database; if it is None, an SQLite file in the folder.
    :param config: more settings, by section and option; they win.
    """
    database = database_url or f"sqlite:///{folder / 'airflow.db'}"
    generation = _airflow_3(folder, url) if IS_AIRFLOW_3 else _airflow_2(url)
    options = {
        f"AIRFLOW__{section.upper()}__{name.upper()}": str(value)
        for layer in (_common(folder, database), generation, config)
        for section, values in layer.items()
        for name, value in values.items()
    }
    # The Kubernetes client writes keys into temporary files, and a killed process leaves them behind.
    return {**_neutral_environment(), "AIRFLOW_HOME": str(folder), "TMPDIR": str(folder / "tmp"), **options}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _neutral_environment() -> dict[str, str]:
    """Drop variables that would lead Airflow to another installation, or Python to other modules."""
    misleading = ("AIRFLOW", "PYTHON", "KUBECONFIG")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(misleading)}
    local = ",".join(filter(None, [inherited.get("NO_PROXY") or inherited.get("no_proxy"), "127.0.0.1,localhost"]))
    # Airflow 2 starts tasks by the command `airflow`.
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    return {**inherited, "NO_PROXY": local, "no_proxy": local, "PATH": path}


def _common(folder: Path, database_url: str) -> Config:
    # Airflow 2 does not let several tasks at once write to SQLite.
    one_by_one = database_url.startswith("sqlite") and not IS_AIRFLOW_3
    return {
        "core": {
            "dags_folder": folder / "dags",
            "executor": "SequentialExecutor" if one_by_one else "LocalExecutor",
            "parallelism": 10,
            "load_examples": False,
            "dags_are_paused_at_creation": False,
            "dagbag_import_timeout": 120,  # tasks that start at once make even a quick machine slow for a while
        },
        "database": {"sql_alchemy_conn": database_url},
        "logging": {
            "base_log_folder": folder / "task-logs",
            # Nothing listens there. At the default ports, another Airflow on this machine might.
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
            # The DAG processor is told to fail a task each time. If it takes longer than this, it is told twice, and
            # fails the next try, too.
            "zombie_detection_interval": 20,
            "dag_dir_list_interval": 5,
            # To parse the same files often would only slow down the tasks.
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
