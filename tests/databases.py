"""Run PostgreSQL and MariaDB servers from Debian packages, on loopback and in temporary folders."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.control_plane.processes import free_ports

START_SECONDS = 60
STOP_SECONDS = 30
HOST = "127.0.0.1"
USER = "airflow"


@dataclass(frozen=True)
class Database:
    """A running server with one empty database ``airflow``, whose owner needs no password."""

    name: str  # for display, with its version
    dialect: str  # of SQLAlchemy; also the type of an Airflow connection
    port: int

    def url(self, driver: str = "", user: str = USER, password: str = "") -> str:
        """Return a URL for SQLAlchemy, such as ``postgresql+psycopg2://airflow:@127.0.0.1:5432/airflow``."""
        return f"{self.dialect}{driver and '+'}{driver}://{user}:{password}@{HOST}:{self.port}/airflow"


@contextmanager
def postgresql(settings: Sequence[str] = (), is_standby: bool = False) -> Iterator[Database]:
    """Run a PostgreSQL server.

    :param settings: additional settings, as ``name=value``.
    :param is_standby: whether it rejects writes and waits for a primary that does not exist.
    """
    programs = Path(_find("initdb", "/usr/lib/postgresql")).parent
    with ExitStack() as stack:
        folder = stack.enter_context(_folder("postgres"))
        data, [port] = folder / "data", free_ports(1)
        _run(["initdb", f"--pgdata={data}", f"--username={USER}", "--auth=trust", "--encoding=UTF8"], programs, folder)
        if is_standby:
            (data / "standby.signal").touch()
        durability = [
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
        ]  # the data need not survive a crash
        where = [f"listen_addresses={HOST}", f"port={port}", "unix_socket_directories="]
        options = [word for setting in (*where, *durability, *settings) for word in ("-c", setting)]
        serve(stack, [programs / "postgres", "-D", data, *options], folder, port, signal.SIGINT)
        as_client = ["--host", HOST, "--port", str(port), "--username", USER]
        # It listens before it accepts queries.
        ready = retry(stop=stop_after_delay(START_SECONDS), wait=wait_fixed(0.1), reraise=True)(_run)
        ready(["pg_isready", *as_client], programs, folder)
        if not is_standby:
            _run(["createdb", *as_client, "airflow"], programs, folder)
        version = subprocess.run([programs / "postgres", "-V"], capture_output=True, text=True, check=True).stdout
        yield Database(f"PostgreSQL {version.split()[2]}", "postgresql", port)


@contextmanager
def mariadb(settings: Sequence[str] = ()) -> Iterator[Database]:
    """Run a MariaDB server.

    :param settings: additional settings, as ``--name=value``.
    """
    server = Path(_find("mariadbd", "/usr/sbin"))
    with ExitStack() as stack:
        folder = stack.enter_context(_folder("mysql"))
        data, [port], line = folder / "data", free_ports(1), folder / "socket"
        install = [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
        ]
        _run([*install, "--skip-test-db"], Path(_find("mariadb-install-db", "/usr/bin")).parent, folder)
        script = folder / "init.sql"
        statements = [  # the server ignores those that share a line
            "CREATE DATABASE airflow CHARACTER SET utf8mb4;",
            f"CREATE USER '{USER}'@'{HOST}';",
            f"GRANT ALL ON airflow.* TO '{USER}'@'{HOST}' WITH GRANT OPTION;",
            f"GRANT CREATE USER ON *.* TO '{USER}'@'{HOST}';",
        ]
        script.write_text("\n".join(statements))
        options = [f"--datadir={data}", f"--port={port}", f"--bind-address={HOST}", f"--socket={line}"]
        options += ["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", f"--init-file={script}", *settings]
        serve(stack, [server, "--no-defaults", *options], folder, port, signal.SIGTERM)
        version = subprocess.run([server, "-V"], capture_output=True, text=True, check=True).stdout
        yield Database(f"MariaDB {version.split()[2].partition('-')[0]}", "mysql", port)


def _find(program: str, folder: str) -> str:
    """Return the path of a program of a Debian package, whose servers are often not on the PATH."""
    found = shutil.which(program) or next(map(str, sorted(Path(folder).glob(f"**/{program}"), reverse=True)), None)
    if found is None:
        raise FileNotFoundError(
            f"{program} is not installed (the targets of `make` install it with scripts/debian-packages)"
        )
    return str(Path(found).resolve())


@contextmanager
def _folder(owner: str) -> Iterator[Path]:
    """Create a folder that belongs to the user of the server's package, because servers refuse to run as root."""
    with tempfile.TemporaryDirectory(prefix=f"kpo-cleanup-{owner}-") as name:
        if os.geteuid() == 0:
            shutil.chown(name, owner, owner)
        yield Path(name)


def _as_owner(folder: Path) -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={folder.owner()}", f"--regid={folder.group()}", "--clear-groups"]


def _run(command: Sequence[str], programs: Path, folder: Path) -> None:
    program, *arguments = command
    whole = [*_as_owner(folder), str(programs / program), *arguments]
    done = subprocess.run(whole, cwd=folder, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} failed with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def serve(stack: ExitStack, command: Sequence[str | Path], folder: Path, port: int, stop: signal.Signals) -> None:
    """Start a server and wait until it listens. The stack stops it, and so does the end of this process."""
    log = folder / "server.log"
    prefix = [*(_as_owner(folder) or ["setpriv"]), f"--pdeathsig={stop.name.removeprefix('SIG')}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, *command], cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    stack.callback(_stop, process, stop)

    @retry(stop=stop_after_delay(START_SECONDS), wait=wait_fixed(0.1), retry=retry_if_exception_type(OSError))
    def listens() -> None:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {log.read_text()[-3000:]}")
        socket.create_connection((HOST, port), timeout=1).close()

    listens()


def _stop(process: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    process.send_signal(stop)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
