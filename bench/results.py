"""What a benchmark finds: figures with what they are to reach, and points to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Reach:
    """What a figure is to be: such as ``at least 4 times``."""

    bound: Literal["at least", "at most"]
    limit: float
    unit: str = "times"

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.bound == "at least" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.bound} {amount(self.limit, self.unit)}"


def at_least(limit: float, unit: str = "times") -> Reach:
    """For how many times faster ours is: ``ratio`` is theirs divided by ours."""
    return Reach("at least", limit, unit)


def at_most(limit: float, unit: str = "times") -> Reach:
    """For how much ours costs: ``ratio`` is ours divided by theirs, or the amount itself in that unit."""
    return Reach("at most", limit, unit)


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    against: str
    size: str  # such as "10,000 pods"
    ours: str  # as people read it: ``seconds(0.52)``
    theirs: str
    ratio: float  # in the unit of ``reach``
    reach: Reach

    @property
    def is_reached(self) -> bool:
        return self.reach.holds(self.ratio)

    def __str__(self) -> str:
        judged = "reached" if self.is_reached else "NOT REACHED"
        against = f" against {self.against}" if self.against else ""
        values = f"{self.ours} and {self.theirs}" if self.theirs else self.ours
        return (
            f"{self.what}{against}, {self.size}: {values}, {amount(self.ratio, self.reach.unit)}; "
            f"{self.reach}: {judged}"
        )


@dataclass(frozen=True)
class Panel:
    """One pair of axes; those with the same ``file`` are drawn side by side into docs/benchmarks/<file>.png."""

    file: str
    title: str
    size: str  # what the x axis counts, such as "pods"
    unit: str  # of the y axis, such as "seconds"


@dataclass(frozen=True)
class Point:
    """The cost of one series at one size."""

    panel: Panel
    series: str
    size: int
    cost: float


def amount(value: float, unit: str) -> str:
    """Such as ``4.2 times`` or ``214 bytes a pod``."""
    return f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"


def seconds(value: float) -> str:
    """Such as ``1.24 s`` or ``35 ms``."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def mebibytes(value: float) -> str:
    """Of bytes."""
    return f"{value / 2**20:.1f} MiB"
