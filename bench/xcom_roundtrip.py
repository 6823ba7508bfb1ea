"""`python bench/xcom_roundtrip.py FILE`: pass the XComs in FILE through a DAG run on the installed Airflow, 2 or 3.

FILE contains the return values of the cleanup's tasks as JSON. The configured metadata database is migrated first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from include.kpo_cleanup.airflow_compat import DAG, get_current_context, task  # noqa: E402

DAG_ID = "xcom_roundtrip"


def _data() -> dict[str, Any]:
    context: Any = get_current_context()
    data: dict[str, Any] = json.loads(Path(context["dag_run"].conf["file"]).read_text())
    return data


TASK_OPTIONS = {"multiple_outputs": False, "show_return_value_in_logs": False}


@task(**TASK_OPTIONS)  # type: ignore[untyped-decorator]
def send(name: str) -> Any:
    return _data()[name]


@task(**TASK_OPTIONS)  # type: ignore[untyped-decorator]
def receive(name: str, value: Any) -> None:
    if value != _data()[name]:
        raise ValueError(f"the XCom of {name} is not what was sent")


with DAG(DAG_ID, schedule=None, start_date=datetime(2024, 1, 1)):
    for name in ("list_pods", "fetch_active_tis", "classify"):
        sent = send.override(task_id=f"send_{name}")(name)
        receive.override(task_id=f"receive_{name}")(name, sent)


def _run(file: str) -> None:
    subprocess.run([Path(sys.executable).with_name("airflow"), "db", "migrate"], check=True, capture_output=True)
    try:
        from airflow.dag_processing.dagbag import DagBag  # since Airflow 3.2
    except ImportError:
        from airflow.models.dagbag import DagBag
    bag = DagBag(str(Path(__file__)))
    run = bag.dags[DAG_ID].test(run_conf={"file": file})
    if str(run.state) not in ("success", "DagRunState.SUCCESS"):
        sys.exit(f"the run ended as {run.state}")


if __name__ == "__main__":
    _run(sys.argv[1])
