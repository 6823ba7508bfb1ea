"""Draw plots of cost against size; panels that name the same file share one picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.results import Panel, Point


def draw(points: Sequence[Point], folder: Path) -> list[Path]:
    """Draw all points, and return the paths of the pictures."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys(point.panel for point in points))
    pictures = []
    folder.mkdir(parents=True, exist_ok=True)
    for file in dict.fromkeys(panel.file for panel in panels):
        side_by_side = [panel for panel in panels if panel.file == file]
        figure, row = pyplot.subplots(
            1, len(side_by_side), figsize=(5.2 * len(side_by_side), 4.2), squeeze=False, layout="constrained"
        )
        for axes, panel in zip(row[0], side_by_side, strict=True):
            _draw_panel(axes, panel, [point for point in points if point.panel == panel])
        pictures.append(folder / f"{file}.png")
        figure.savefig(pictures[-1], dpi=110)
        pyplot.close(figure)
    return pictures


def _draw_panel(axes, panel: Panel, points: Iterable[Point]) -> None:  # type: ignore[no-untyped-def]
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    points = sorted(points, key=lambda point: point.size)
    for series in dict.fromkeys(point.series for point in points):
        of_series = [point for point in points if point.series == series]
        style = {"linewidth": 2.4, "zorder": 3} if series == "kpo_cleanup" else {"linewidth": 1.4}
        axes.plot([p.size for p in of_series], [p.cost for p in of_series], marker="o", label=series, **style)
    axes.set(xscale="log", yscale="log", title=panel.title, xlabel=panel.size, ylabel=panel.unit)
    axes.set_xticks(sorted({point.size for point in points}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:,g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
