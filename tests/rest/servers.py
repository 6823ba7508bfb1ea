"""Two API servers of one Airflow: one with the simple auth manager under a path, one with FAB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from demo.airflow_settings import USER, Config, environment, free_port
from demo.processes import end_processes_of, start
from demo.rest import is_up
from demo.terminal import Terminal
from tests.conftest import REPO
from tests.rest.database import Database

PATH = "/air/flow"  # of the server with the simple auth manager, as if it shared a host name with other servers
PASSWORD = "used by these tests only"
FAB: Config = {"core": {"auth_manager": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"}}
START_TIMEOUT = 120  # seconds
DAG_FILE = "from airflow.sdk import DAG\n\nDAG('orders', schedule=None)\n"


@dataclass(frozen=True)
class Servers:
    """The URLs of both servers, and their database."""

    simple: str
    fab: str
    database: Database


@contextmanager
def running(folder: Path) -> Iterator[Servers]:
    """Run both servers, but no other component of Airflow."""
    simple, fab = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    (folder / "tmp").mkdir()
    (folder / "dags").mkdir()
    (folder / "dags" / "orders.py").write_text(DAG_FILE)
    (folder / "passwords.json").write_text(json.dumps({USER: PASSWORD}))
    with_path: Config = {"api": {"base_url": simple + PATH, "port": simple.rpartition(":")[2]}}
    environments = {
        "simple": environment(folder, simple, None, with_path),
        "fab": {**environment(folder, fab, None, FAB), "PYTHONPATH": str(REPO)},
    }
    try:
        for step in (("airflow", "db", "migrate"), ("tests.rest.world",)):
            start(step[-1], step, folder, environments["fab"]).finish(START_TIMEOUT)
        for name, variables in environments.items():
            start(name, ("airflow", "api-server"), folder, variables)
        for name, url in (("simple", simple + PATH), ("fab", fab)):
            Terminal(0).wait_for(f"{name} is up", partial(is_up, url), START_TIMEOUT, log=folder / f"{name}.log")
        yield Servers(simple + PATH, fab, Database(folder / "airflow.db"))
    finally:
        end_processes_of(folder)
