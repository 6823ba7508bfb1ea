"""A real Airflow 3 API server on an existing metadata database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from demo.airflow_settings import USER, environment, free_port
from demo.processes import end_processes_of, start
from demo.rest import is_up
from demo.terminal import Terminal

PASSWORD = "used by the benchmark only"
START_TIMEOUT = 120  # seconds


@contextmanager
def api_server(database_url: str) -> Iterator[str]:
    """Start an API server with the simple auth manager; yield its URL, where `USER` logs in with `PASSWORD`."""
    url = f"http://127.0.0.1:{free_port()}"
    with TemporaryDirectory(prefix="kpo-cleanup-api-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        (folder / "passwords.json").write_text(json.dumps({USER: PASSWORD}))
        variables = environment(folder, url, database_url, {"logging": {"logging_level": "ERROR"}})
        try:
            server = start("api-server", ("airflow", "api-server"), folder, variables)
            Terminal(0).wait_for("the API server is up", partial(is_up, url), START_TIMEOUT, log=server.log)
            yield url
        finally:
            end_processes_of(folder)
