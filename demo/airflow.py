"""A whole Airflow in a folder, with its metadata database and all components: 2 or 3, whichever is installed."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from demo.airflow_settings import IS_AIRFLOW_3, USER, Config, environment, free_port
from demo.processes import Child, start
from demo.rest import AirflowApi
from demo.terminal import Terminal

REPO = Path(__file__).resolve().parent.parent
START_TIMEOUT = 120  # seconds
# Without log servers, which listen on all addresses: the logs are on this machine anyway.
_SCHEDULER = {"scheduler": ("scheduler", "--skip-serve-logs")}
_TRIGGERER = {"triggerer": ("triggerer", "--skip-serve-logs")}
COMPONENTS: Mapping[str, tuple[str, ...]] = (
    {"api-server": ("api-server",), **_SCHEDULER, "dag-processor": ("dag-processor",), **_TRIGGERER}
    if IS_AIRFLOW_3
    else {"webserver": ("webserver",), **_SCHEDULER, **_TRIGGERER}
)
WEB = next(iter(COMPONENTS))  # it serves the UI and the REST API
PARSER = "dag-processor" if IS_AIRFLOW_3 else "scheduler"


class Airflow:
    """An Airflow with everything below `folder`: end the folder's processes and remove it, and nothing is left."""

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
        """Set up its folder and its environment; nothing is started.

        :param database_url: of an empty database; if it is None, an SQLite file in the folder.
        :param config: Airflow's options, by section, on top of our own.
        :param variables: more environment, such as connections.
        """
        self.user = USER
        self.password = secrets.token_hex(6)  # no dash in front: the command line would take it for an option
        self.url = f"http://127.0.0.1:{free_port()}"
        self.api = AirflowApi(self.url, USER, self.password)
        self.dags = folder / "dags"
        self._folder = folder
        self._children: dict[str, Child] = {}
        extra = {"kube_config_path": str(kubeconfig), "namespace": namespace}
        self._environment = {
            **environment(folder, self.url, database_url, config or {}),
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps({"conn_type": "kubernetes", "extra": extra}),
            # A connection to its own API, which the cleanup may use.
            "AIRFLOW_CONN_AIRFLOW_API": json.dumps(
                {"conn_type": "http", "host": self.url, "login": USER, "password": self.password}
            ),
            **(variables or {}),
        }

    def install_dags(self, *others: Path) -> None:
        """Install the cleanup as in a plain Airflow, `include/` beside the DAG; and other DAGs."""
        shutil.copytree(REPO / "include", self.dags / "include", ignore=shutil.ignore_patterns("__pycache__"))
        for file in (REPO / "dags" / "kpo_cleanup.py", REPO / "dags" / ".airflowignore", *others):
            shutil.copy(file, self.dags)

    def start(self, terminal: Terminal, dag_ids: Collection[str]) -> None:
        """Start all components, and wait until the API answers, all have a heartbeat, and these DAGs are known."""
        (self._folder / "tmp").mkdir(exist_ok=True)
        migration = self._begin("db", "migrate")
        terminal.wait_for("the metadata database is made", migration.has_finished, START_TIMEOUT, log=migration.log)
        self._make_user()
        terminal.say(f"starting {', '.join(COMPONENTS)}")
        for name in COMPONENTS:
            self._start(name)
        for name in COMPONENTS:
            self._await(name, terminal)
        for dag_id in dag_ids:
            terminal.wait_for(
                f"the DAG {dag_id} is parsed", partial(self._has_dag, dag_id), START_TIMEOUT, log=self.log(PARSER)
            )

    def run(self, *arguments: str) -> None:
        """Run a command of Airflow's command line.

        :raises DemoError: if it fails.
        """
        self._begin(*arguments).finish(START_TIMEOUT)

    def kill(self, name: str) -> None:
        """Kill a component and all that it started, tasks included, as when its container dies."""
        self._children.pop(name).kill_session()

    def restart(self, name: str, terminal: Terminal) -> None:
        """Kill a component as `kill` does, and start it again."""
        self.kill(name)
        self._start(name)
        self._await(name, terminal)

    def checked(self) -> AirflowApi:
        """Return the API, if all components still run.

        :raises DemoError: with its last lines, if one of them does not.
        """
        for child in self._children.values():
            child.check()
        return self.api

    def log(self, name: str) -> Path:
        return self._children[name].log

    @property
    def scheduler_pid(self) -> int:
        return self._children["scheduler"].pid

    def _begin(self, *arguments: str) -> Child:
        return start("-".join(arguments[:2]), ("airflow", *arguments), self._folder, self._environment)

    def _make_user(self) -> None:
        if IS_AIRFLOW_3:
            (self._folder / "passwords.json").write_text(json.dumps({USER: self.password}))
            return
        who = ("--username", USER, "--role", "Admin", "--email", "admin@example.com")
        self.run("users", "create", *who, "--firstname", USER, "--lastname", USER, "--password", self.password)

    def _start(self, name: str) -> None:
        self._children[name] = start(name, ("airflow", *COMPONENTS[name]), self._folder, self._environment)

    def _await(self, name: str, terminal: Terminal) -> None:
        terminal.wait_for(f"{name} is up", partial(self._is_up, name), START_TIMEOUT, log=self.log(name))

    def _is_up(self, name: str) -> bool:
        heartbeats = self.checked().heartbeats()
        if name == WEB:
            return heartbeats is not None
        # For a while, the last heartbeat is that of a dead predecessor.
        return (heartbeats or {}).get(name, 0) > self._children[name].started

    def _has_dag(self, dag_id: str) -> bool:
        return self.checked().has_dag(dag_id)
