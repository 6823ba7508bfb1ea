"""`python -m tests.real.picture`: draw docs/images/dashboard.png from the dashboard's queries, after real runs.

It needs matplotlib, and therefore the environment of `make bench`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from demo.airflow import REPO
from tests.real.dashboard import BROKEN, CLEANUP, EVERY_CLEANUP, PANELS, MonitoredAirflow, fill, legend
from tests.real.monitoring import Monitoring

FILE = REPO / "docs" / "images" / "dashboard.png"
DAGS = ("orders", "sales")  # the first runs in every round, and the second in every other one
ROUNDS = 9
COLUMNS = 2
Series = dict[str, dict[float, float]]  # the values over time by legend


def main() -> None:
    with ExitStack() as stack:
        airflow = MonitoredAirflow(stack, Path(stack.enter_context(TemporaryDirectory(prefix="kpo-cleanup-"))))
        start = time.time()
        for number in range(ROUNDS):
            airflow.run(*(dag_id for every, dag_id in enumerate(DAGS, 1) if number % every == 0))
            airflow.run(CLEANUP, *([BROKEN] if number % 4 == 0 else []))
        end = time.time()
        draw([(panel, read(airflow.monitoring, panel, start, end)) for panel in PANELS])


def read(monitoring: Monitoring, panel: dict[str, Any], start: float, end: float) -> Series:
    """Return what a panel shows; Grafana draws no line for a series without values."""
    return {
        legend(target["legendFormat"], labels): values
        for target in panel["targets"]
        for labels, values in monitoring.query_range(fill(target["expr"], EVERY_CLEANUP), start, end, step=2).items()
    }


def draw(panels: list[tuple[dict[str, Any], Series]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.dates import DateFormatter

    rows = -(-len(panels) // COLUMNS)
    figure, grid = pyplot.subplots(rows, COLUMNS, figsize=(14, 2.6 * rows), layout="constrained", sharex=True)
    for axes, (panel, series) in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, series, is_stacked="custom" in panel["fieldConfig"]["defaults"])
        axes.set_title(panel["title"], fontsize=11, loc="left")
        axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # with room for the legend
        axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
        axes.tick_params(labelsize=9)
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    figure.savefig(FILE, dpi=100)  # 1,400 pixels wide


def _draw_panel(axes: Any, series: Series, is_stacked: bool) -> None:
    shown = {name: values for name, values in series.items() if any(values.values())} or series
    if is_stacked:
        times = sorted({moment for values in shown.values() for moment in values})
        heights = [[values.get(moment, 0) for moment in times] for values in shown.values()]
        axes.stackplot(_dates(times), heights, labels=[*shown], alpha=0.6)
    else:
        for name, values in shown.items():
            axes.plot(_dates(values), [*values.values()], label=name)


def _dates(times: Iterable[float]) -> list[datetime]:
    return [datetime.fromtimestamp(moment, UTC) for moment in times]


if __name__ == "__main__":
    main()
