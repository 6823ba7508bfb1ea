"""What a benchmark finds: figures with what they are to reach, and points to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Reach:
    """A bound for a figure, such as ``at least 4 times``."""

    bound: Literal["at least", "at most"]
    limit: float
    unit: str = "times"

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.bound == "at least" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.bound} {amount(self.limit, self.unit)}"


def at_least(limit: float, unit: str = "times") -> Reach:
    """Bound how many times faster ours is: ``ratio`` is theirs divided by ours."""
    return Reach("at least", limit, unit)


def at_most(limit: float, unit: str = "times") -> Reach:
    """Bound what ours costs: ``ratio`` is ours divided by theirs, or the amount itself in that unit."""
    return Reach("at most", limit, unit)


@dataclass(frozen=True)
class Figure:
    """One line of the table; without a reach it is only shown."""

    what: str
    against: str
    size: str  # such as "10,000 pods"
    ours: str  # as people read it: ``seconds(0.52)``
    theirs: str = ""
    ratio: float = 0.0  # in the unit of ``reach``
    reach: Reach | None = None

    def judged(self) -> tuple[str, str, str]:
        """Word the ratio, its reach, and whether it holds."""
        if self.reach is None:
            return "", "", ""
        is_reached = "yes" if self.reach.holds(self.ratio) else "NO"
        return amount(self.ratio, self.reach.unit), str(self.reach), is_reached

    def __str__(self) -> str:
        against = f" against {self.against}" if self.against else ""
        values = f"{self.ours} and {self.theirs}" if self.theirs else self.ours
        text = f"{self.what}{against}, {self.size}: {values}"
        if self.reach is None:
            return text
        ratio, reach, is_reached = self.judged()
        return f"{text}, {ratio}; {reach}: {is_reached}"


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
    """Write a value with its unit, such as ``4.2 times`` or ``214 bytes a pod``."""
    return f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"


def seconds(value: float) -> str:
    """Write a duration, such as ``1.24 s`` or ``35 ms``."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def mebibytes(value: float) -> str:
    """Write a number of bytes, such as ``11.6 MiB``."""
    return f"{value / 2**20:.1f} MiB"
