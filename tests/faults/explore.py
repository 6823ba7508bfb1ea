"""Run many more random histories than the tests have time for, to find a wrong deletion or a missed zombie.

    python -m tests.faults.explore --machine faults --histories 20000 --seed 1

Without ``--seed`` the first seed is random. Each round prints its seed before it starts. A round that fails prints its
shortest history, and its seed reproduces it: ``--seed 17 --histories 50``.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import time
import warnings

import tests.conftest  # noqa: F401  creates a temporary Airflow home before Airflow is imported
from tests.faults.histories import run_histories, set_up
from tests.faults.machine import Airflow
from tests.faults.world import TALLY

ROUND = 50  # histories


def main() -> None:
    """Run the histories."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", choices=("faults", "operator"), default="faults")
    parser.add_argument("--histories", type=int, default=20_000)
    parser.add_argument("--seed", type=int, help="seed of the first round; later rounds count up from it")
    given = parser.parse_args()
    kind = machine_of(given.machine)
    first_seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")  # otherwise, the provider warns once for each task of a history
    start = time.monotonic()
    with set_up(kind):
        gc.freeze()  # otherwise, traversing Airflow's modules in collections takes a tenth of the CPU time
        for number, done in enumerate(range(0, given.histories, ROUND)):
            histories = min(ROUND, given.histories - done)
            print(f"seed {first_seed + number}: ", end="", flush=True)
            run_histories(kind, histories, first_seed + number)
            print(f"{done + histories} histories in {time.monotonic() - start:.0f} s", flush=True)
    for what, times in sorted(TALLY.items()):
        print(f"{times:8} {what}")


def machine_of(name: str) -> type[Airflow]:
    """Return the machine with this name. Importing the real operator takes seconds."""
    if name == "faults":
        return Airflow
    from tests.faults.test_operator_histories import RealAirflow

    return RealAirflow


if __name__ == "__main__":
    main()
