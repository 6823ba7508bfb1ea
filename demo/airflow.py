"""A complete Airflow in one folder, with metadata database and all components: 2 or 3, whichever is installed."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from demo.airflow_settings import IS_AIRFLOW_3, USER, Config, environment, free_port
from demo.database import copy_or_migrate
from demo.processes import Child, start
from demo.rest import AirflowApi
from demo.terminal import Terminal

REPO = Path(__file__).resolve().parent.parent
START_TIMEOUT = 120  # seconds
# Log servers would listen on all interfaces, and are not needed to read logs on this machine.
_SCHEDULER = {"scheduler": ("scheduler", "--skip-serve-logs")}
_TRIGGERER = {"triggerer": ("triggerer", "--skip-serve-logs")}
COMPONENTS: Mapping[str, tuple[str, ...]] = (
    {"api-server": ("api-server",), **_SCHEDULER, "dag-processor": ("dag-processor",), **_TRIGGERER}
    if IS_AIRFLOW_3
    else {"webserver": ("webserver",), **_SCHEDULER, **_TRIGGERER}
)
WEB = next(iter(COMPONENTS))  # serves the UI and the REST API
PARSER = "dag-processor" if IS_AIRFLOW_3 else "scheduler"


class Airflow:
    """An Airflow whose files and processes all belong to one folder."""

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        namespace: str,
        *,
        database_url: str | None = None,
        config: Config | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare the environment without starting anything.

        :param database_url: URL of an empty metadata database; None for an SQLite file in the folder.
        :param config: Airflow options by section; they override the demo's own.
        :param variables: additional environment variables, such as connections.
        """
        self.user = USER
        self.password = secrets.token_hex(6)  # hex, because a leading dash would be parsed as an option
        self.url = f"http://127.0.0.1:{free_port()}"
        self.api = AirflowApi(self.url, USER, self.password)
        self.folder = folder
        self.dags = folder / "dags"
        self._database_url = database_url
        self._children: dict[str, Child] = {}
        extra = {"kube_config_path": str(kubeconfig), "namespace": namespace}
        self._environment = {
            **environment(folder, self.url, database_url, config or {}),
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps({"conn_type": "kubernetes", "extra": extra}),
            # A connection to this Airflow's own REST API, which the cleanup may use as a source.
            "AIRFLOW_CONN_AIRFLOW_API": json.dumps(
                {"conn_type": "http", "host": self.url, "login": USER, "password": self.password}
            ),
            **(variables or {}),
        }

    def install_dags(self, *others: Path) -> None:
        """Install the cleanup as the README describes for a plain Airflow, and copy other DAG files next to it."""
        shutil.copytree(REPO / "include", self.dags / "include", ignore=shutil.ignore_patterns("__pycache__"))
        for file in (REPO / "dags" / "kpo_cleanup.py", *others):
            shutil.copy(file, self.dags)

    def start(self, terminal: Terminal, dag_ids: Collection[str]) -> None:
        """Start all components and wait until the API responds, each has sent a heartbeat, and the DAGs are parsed."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        if self._database_url:
            self._migrate(terminal)
        else:
            copy_or_migrate(self.folder / "airflow.db", partial(self._migrate, terminal))
        self._create_user()
        terminal.info(f"starting {', '.join(COMPONENTS)}")
        for name in COMPONENTS:
            self._start_component(name)
        for name in COMPONENTS:
            self._wait_for_component(name, terminal)
        for dag_id in dag_ids:
            terminal.wait_for(
                f"DAG {dag_id} is parsed", partial(self._has_dag, dag_id), START_TIMEOUT, log=self.log(PARSER)
            )

    def run(self, *arguments: str) -> None:
        """Run a command of the Airflow CLI and wait for it.

        :raises DemoError: if it fails.
        """
        self._start_command(*arguments).finish(START_TIMEOUT)

    def kill(self, name: str) -> None:
        """Kill a component and all processes it started, including tasks, as if its container had died."""
        self._children.pop(name).kill_session()

    def restart(self, name: str, terminal: Terminal) -> None:
        """Kill a component as `kill` does, and start it again."""
        self.kill(name)
        self._start_component(name)
        self._wait_for_component(name, terminal)

    def healthy_api(self) -> AirflowApi:
        """Return the REST API client after checking that all components are still running.

        :raises DemoError: if a component has exited, with the last lines of its log.
        """
        for child in self._children.values():
            child.check()
        return self.api

    def log(self, name: str) -> Path:
        return self._children[name].log

    @property
    def scheduler_pid(self) -> int:
        return self._children["scheduler"].pid

    def _start_command(self, *arguments: str) -> Child:
        return start("-".join(arguments[:2]), ("airflow", *arguments), self.folder, self._environment)

    def _migrate(self, terminal: Terminal) -> None:
        migration = self._start_command("db", "migrate")
        terminal.wait_for("the metadata database is migrated", migration.has_finished, START_TIMEOUT, log=migration.log)

    def _create_user(self) -> None:
        if IS_AIRFLOW_3:
            (self.folder / "passwords.json").write_text(json.dumps({USER: self.password}))
            return
        user = ("--username", USER, "--role", "Admin", "--email", "admin@example.com")
        self.run("users", "create", *user, "--firstname", USER, "--lastname", USER, "--password", self.password)

    def _start_component(self, name: str) -> None:
        self._children[name] = start(name, ("airflow", *COMPONENTS[name]), self.folder, self._environment)

    def _wait_for_component(self, name: str, terminal: Terminal) -> None:
        terminal.wait_for(f"{name} is up", partial(self._is_up, name), START_TIMEOUT, log=self.log(name))

    def _is_up(self, name: str) -> bool:
        heartbeats = self.healthy_api().heartbeats()
        if name == WEB:
            return heartbeats is not None
        # After a restart, the latest heartbeat is still that of the killed process.
        return (heartbeats or {}).get(name, 0) > self._children[name].started

    def _has_dag(self, dag_id: str) -> bool:
        return self.healthy_api().has_dag(dag_id)
