"""How many zombies are too many to be true."""

from __future__ import annotations

import pytest

from include.kpo_cleanup.constants import Reason
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.surge import find_surge
from include.kpo_cleanup.verdict import Verdict
from tests.unit.builders import make_verdict


def zombies(number: int, reason: Reason = Reason.ORPHANED) -> list[Verdict]:
    return [make_verdict(reason=reason) for _ in range(number)]


@pytest.mark.parametrize(
    ("number", "candidates", "pods", "limit"),
    [
        pytest.param(20, 0, 20, None, id="there is no limit by default"),
        pytest.param(10, 0, 20, 50, id="exactly the limit is allowed"),
        pytest.param(19, 0, 19, 1, id="a share of fewer than 20 pods is allowed"),
        pytest.param(20, 0, 20, 100, id="a limit of 100 allows everything"),
    ],
)
def test_a_run_may_delete_if(number: int, candidates: int, pods: int, limit: int | None) -> None:
    assert find_surge(zombies(number), candidates, pods, Settings(max_delete_percent=limit)) is None


@pytest.mark.parametrize(
    ("number", "candidates", "pods"),
    [
        pytest.param(11, 0, 20, id="one zombie more than the limit"),
        pytest.param(5, 6, 20, id="too many with the candidates whose records were not read"),
    ],
)
def test_a_run_must_not_delete_with(number: int, candidates: int, pods: int) -> None:
    assert find_surge(zombies(number), candidates, pods, Settings(max_delete_percent=50))


def test_the_error_has_the_numbers_the_reasons_and_how_to_allow_one_run() -> None:
    many = [*zombies(12), *zombies(3, Reason.SUPERSEDED)]
    error = find_surge(many, 1_000, 1_100, Settings(max_delete_percent=20))
    assert error is not None
    assert error.fields == {
        "summary": "no pods are deleted: 1,015 of 1,100 pods are zombies, more than max_delete_percent=20",
        "cause": "12 orphaned, 3 superseded, 1,000 more candidates",
        "remedy": "check the zombies in the log of classify; if they may be deleted, trigger one run with "
        "max_delete_percent=100",
    }
