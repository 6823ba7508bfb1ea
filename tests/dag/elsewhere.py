"""An XCom backend that stores the operators' records in files, and a reference in the metadata database."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

try:
    from airflow.sdk.bases.xcom import BaseXCom
except ImportError:  # before Airflow 3
    from airflow.models.xcom import BaseXCom

FOLDER = Path(os.environ["AIRFLOW_HOME"]) / "xcoms"
PREFIX = "elsewhere:"


class Elsewhere(BaseXCom):  # type: ignore[misc]
    """The backend. Only a worker that has it configured can read the records."""

    @staticmethod
    def serialize_value(value: Any, *, key: str | None = None, **ids: Any) -> Any:
        if key in ("pod_name", "pod_namespace"):
            FOLDER.mkdir(exist_ok=True)
            name = uuid.uuid4().hex
            (FOLDER / name).write_text(value)
            value = f"{PREFIX}{name}"
        return BaseXCom.serialize_value(value)

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        value = BaseXCom.deserialize_value(result)
        is_reference = isinstance(value, str) and value.startswith(PREFIX)
        return (FOLDER / value.removeprefix(PREFIX)).read_text() if is_reference else value
