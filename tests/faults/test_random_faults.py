"""Random histories of a cluster, its task instances and faults: what is alive is kept, and what is dead is deleted.

``python -m tests.faults.explore`` runs many more of them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

from tests.faults.histories import run_histories, set_up
from tests.faults.machine import Airflow

pytestmark = pytest.mark.long

HISTORIES = settings().max_examples  # ``explore`` runs many more


@pytest.mark.timeout(900)  # a failing example takes a while to shrink
def test_what_is_alive_is_kept_and_what_is_dead_is_deleted(record_property: Callable[[str, object], None]) -> None:
    with set_up(Airflow):
        record_property("histories", run_histories(Airflow, HISTORIES))
