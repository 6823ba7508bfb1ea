"""The results of a benchmark: figures for the table, with optional targets, and points for the plots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Target:
    """A bound that a figure should meet, such as ``at least 4 times``."""

    bound: Literal["at least", "at most"]
    limit: float
    unit: str = "times"

    def is_met_by(self, value: float) -> bool:
        return value >= self.limit if self.bound == "at least" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.bound} {amount(self.limit, self.unit)}"


def at_least(limit: float, unit: str = "times") -> Target:
    """Return a lower bound for a speed-up: the figure's ratio is theirs divided by ours."""
    return Target("at least", limit, unit)


def at_most(limit: float, unit: str = "times") -> Target:
    """Return an upper bound for a cost: the figure's ratio is ours divided by theirs, or a quantity in ``unit``."""
    return Target("at most", limit, unit)


@dataclass(frozen=True)
class Figure:
    """One row of the table; a figure without a target is shown for information only."""

    measurement: str
    baseline: str
    size: str  # such as "10,000 pods"
    ours: str  # formatted, such as ``seconds(0.52)``
    theirs: str = ""
    ratio: float = 0.0  # compared with ``target``; a quantity if the target's unit is not "times"
    target: Target | None = None

    def result(self) -> tuple[str, str, str]:
        """Format the ratio, the target, and whether the target is met."""
        if self.target is None:
            return "", "", ""
        met = "yes" if self.target.is_met_by(self.ratio) else "NO"
        return amount(self.ratio, self.target.unit), str(self.target), met

    def __str__(self) -> str:
        baseline = f" compared with {self.baseline}" if self.baseline else ""
        values = f"{self.ours} and {self.theirs}" if self.theirs else self.ours
        text = f"{self.measurement}{baseline}, {self.size}: {values}"
        if self.target is None:
            return text
        ratio, target, met = self.result()
        return f"{text}, {ratio}; target {target}: {met}"


@dataclass(frozen=True)
class Panel:
    """A pair of axes; panels with the same ``file`` are drawn side by side into docs/benchmarks/<file>.png."""

    file: str
    title: str
    size: str  # label of the x axis, such as "pods"
    unit: str  # label of the y axis, such as "seconds"


@dataclass(frozen=True)
class Point:
    """The cost of one series at one size, for a plot."""

    panel: Panel
    series: str
    size: int
    cost: float


def amount(value: float, unit: str) -> str:
    """Format a value with its unit, such as ``4.2 times`` or ``214 bytes per pod``."""
    return f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"


def seconds(value: float) -> str:
    """Format a duration, such as ``1.24 s`` or ``35 ms``."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def mebibytes(value: float) -> str:
    """Format a number of bytes, such as ``11.6 MiB``."""
    return f"{value / 2**20:.1f} MiB"
