"""Plots of the recorded points, as SVG under docs/plots; drawn by `python -m benchmarks.report`, needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scaling_report import PROTOCOL_NAMES, SERIES, wall_training

Record = Mapping[str, Any]

STYLE = {"svg.hashsalt": "mhe", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
"""Text as text, and the same file from the same figures."""

SIZE = (5.2, 3.4)
DOTS = 140
LEGEND_COLUMNS = 2

LINES: Mapping[str, Callable[[Record], float | None]] = {
    "CPU of a party, mean": lambda p: p["stages"]["training"]["cpu_seconds"]["mean"],
    "CPU of the busiest party": lambda p: p["stages"]["training"]["cpu_seconds"]["max"],
    "modelled wall time, a machine each": lambda p: p["stages"]["training"].get("modelled_seconds"),
    "wall time here, all parties": wall_training,
}


def draw(scaling: Record | None, protocols: Record | None, folder: Path, kind: str = "svg") -> list[Path]:
    """One file for each series and one for the protocols; which ones."""
    made = []
    points = scaling["points"] if scaling else []
    for series in SERIES:
        own = sorted((p for p in points if p["series"] == series), key=lambda p: int(p["x"]))
        if len(own) > 1:
            lines = {name: [(int(p["x"]), of(p)) for p in own] for name, of in LINES.items()}
            made.append(_plot(folder / f"{series}.{kind}", SERIES[series][1], "seconds of a training", lines))
    if protocols:
        lines = {
            name: [(p["parties"], p["protocols"][phase]["cpu_seconds"]["mean"]) for p in protocols["points"]]
            for phase, name in PROTOCOL_NAMES.items()
        }
        made.append(_plot(folder / f"protocols.{kind}", "parties", "CPU seconds of a party", lines))
    return made


def _plot(path: Path, x_label: str, y_label: str, lines: Mapping[str, Sequence[tuple[int, float | None]]]) -> Path:
    """Logarithmic both ways: what grows in proportion is a straight line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
        for (name, values), marker in zip(lines.items(), "osD^vP", strict=False):
            known = [(x, y) for x, y in values if y is not None and y > 0]
            if known:
                axes.plot(*zip(*known, strict=True), marker=marker, markersize=4, linewidth=1.2, label=name)
        ticks = sorted({x for values in lines.values() for x, _ in values})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(ticks, [str(x) for x in ticks])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=7, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DOTS, metadata={"Date": None} if path.suffix == ".svg" else None)
        pyplot.close(figure)
    return path
