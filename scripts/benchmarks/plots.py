"""Pictures: bytes over time against the ideal, and speeds as ratios."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cases import GRID, Case
from benchmarks.allowance import Rate
from benchmarks.errors import BenchmarkError
from benchmarks.results import Result, of, peers
from benchmarks.speed.workloads import MODES, summarise

_SUFFIXES = (".png", ".svg", ".pdf")
_COLOURS = {"throttlefs": "tab:blue", "qsd": "tab:orange", "native": "tab:gray"}
_COLOURS["throttlefs, no limits"] = "tab:cyan"


def require(path: Path) -> None:
    """Raise BenchmarkError if no picture of this name can be drawn."""
    if path.suffix.lower() not in _SUFFIXES:
        raise BenchmarkError(f"{path}: a picture's name ends in {', '.join(_SUFFIXES)}")
    _pyplot()


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise BenchmarkError("--plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise BenchmarkError(f"{path}: {error.strerror}") from None


def plotted_cases(results: Sequence[Result], most: int = 6) -> list[Case]:
    """Return the grid's cases to draw: the chosen ones that were measured, else the first ones."""
    measured = {result.case for result in of(results) if result.section == "grid"}
    there = [case for case in GRID if case.name in measured]
    return ([case for case in there if case.plotted] or there)[:most]


def accuracy(results: Sequence[Result], path: Path) -> None:
    """Draw units over time against the ideal line, one panel a case, the excess below it."""
    shown = plotted_cases(results)
    if not shown:
        raise BenchmarkError("--plot: no case of the grid was measured, nothing is drawn")
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        2,
        len(shown),
        figsize=(4.2 * len(shown), 6.5),
        squeeze=False,
        sharex="col",
        height_ratios=(2, 1),
        layout="constrained",
    )
    for case, total, excess in zip(shown, axes[0], axes[1], strict=True):
        rate = Rate.of(case.limits, case.binding[0])
        unit, scale = ("MiB", 1024**2) if rate.name.startswith("bps") else ("requests", 1)
        own = [result for result in of(results, case=case.name) if result.section == "grid"]
        longest = max(result["_curve"][-1][0] for result in own)
        grid = [longest * step / 200 for step in range(201)]
        total.plot(
            grid,
            [rate.allows(t) / scale for t in grid],
            color="black",
            lw=1,
            ls="--",
            label="ideal",
        )
        excess.axhline(0, color="black", lw=1, ls="--")
        for result in own:
            times = [t for t, _ in result["_curve"]]
            units = [amount / scale for _, amount in result["_curve"]]
            over = [u - rate.allows(t) / scale for t, u in zip(times, units, strict=True)]
            colour = _COLOURS.get(result.peer)
            total.plot(times, units, color=colour, lw=1.3, label=result.peer)
            excess.plot(times, over, color=colour, lw=1.3)
        total.set_title(case.name, fontsize=9)
        total.set_ylabel(unit)
        total.legend(fontsize=8)
        excess.set_ylabel(f"{unit} beyond it")
        excess.set_xlabel("s")
    figure.suptitle("What was answered, against what the limit allows")
    _save(figure, path)
    pyplot.close(figure)


def speed(results: Sequence[Result], path: Path) -> None:
    """Draw every workload's requests a second as a ratio to QSD's, one panel a cache mode.

    Without QSD in the run they are drawn as ratios to the native file.
    """
    measured = of([result for result in results if result.section == "workloads"])
    base = next((name for name in ("qsd", "native") if name in peers(measured)), None)
    if base is None:
        raise BenchmarkError("--plot: no workload was measured beside a peer, nothing is drawn")
    summary = summarise(measured)
    modes = [mode for mode in MODES if any(case.startswith(f"{mode}/") for case in summary)]
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        1,
        len(modes),
        figsize=(6 * len(modes), 4.5),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    names = peers(measured)
    width = 0.8 / len(names)
    for mode, panel in zip(modes, axes[0], strict=True):
        rows = {
            case.removeprefix(f"{mode}/"): row["per_second"]
            for case, row in summary.items()
            if case.startswith(f"{mode}/") and row["per_second"].get(base)
        }
        for number, name in enumerate(names):
            heights = [row.get(name, 0.0) / row[base] for row in rows.values()]
            places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(rows))]
            bars = panel.bar(places, heights, width, label=name, color=_COLOURS.get(name))
            panel.bar_label(bars, fmt="%.2f", fontsize=6, rotation=90, padding=2)
        panel.axhline(1, color="black", lw=0.8, ls="--")
        panel.set_xticks(range(len(rows)), rows, rotation=25, ha="right", fontsize=8)
        panel.set_title(f"{mode}: {MODES[mode]}", fontsize=8)
    # The native file may be a hundred times as fast.
    axes[0][0].set_yscale("log")
    axes[0][0].set_ylabel(f"requests/s, as a ratio to {base}")
    axes[0][0].legend(fontsize=8)
    _save(figure, path)
    pyplot.close(figure)


def scale(results: Sequence[Result], path: Path) -> None:
    """Draw what a request costs, by size, one column a kind of load."""
    measured = of(results)
    kinds = list(dict.fromkeys(result.section for result in measured))
    if not kinds:
        raise BenchmarkError("--plot: nothing was measured, nothing is drawn")
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        1, len(kinds), figsize=(3.6 * len(kinds), 4), squeeze=False, layout="constrained"
    )
    for kind, panel in zip(kinds, axes[0], strict=True):
        own = [result for result in measured if result.section == kind]
        for peer in dict.fromkeys(result.peer for result in own):
            of_peer = of(own, peer)
            sizes = [result.case for result in of_peer]
            panel.plot(sizes, [result["cpu_us"] for result in of_peer], marker="o", label=peer)
        panel.set_ylim(bottom=0)
        panel.set_xlabel(kind)
        panel.legend(fontsize=8)
    axes[0][0].set_ylabel("CPU of the daemons, us a request")
    _save(figure, path)
    pyplot.close(figure)


def profiles(results: Sequence[Result], path: Path) -> None:
    """Draw latency by quantile and reads a second by depth, one column a profile.

    A line is what the profile promises, marks are what was measured.
    """
    measured = of(results)
    names = list(dict.fromkeys(result.case.partition("/")[0] for result in measured))
    if not names:
        raise BenchmarkError("--plot: nothing was measured, nothing is drawn")
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        2, len(names), figsize=(4.2 * len(names), 7.5), squeeze=False, layout="constrained"
    )
    for name, upper, lower in zip(names, axes[0], axes[1], strict=True):
        own = [result for result in measured if result.case.startswith(f"{name}/")]
        _draw_quantiles(upper, [result for result in own if result.section == "quantiles"])
        _draw_depths(lower, [result for result in own if result.section == "depths"])
        upper.set_title(name, fontsize=10)
    figure.suptitle("Lines: the profile. Marks: through the mount.", fontsize=10)
    _save(figure, path)
    pyplot.close(figure)


def _draw_quantiles(panel: Any, results: Sequence[Result]) -> None:
    if not results:
        panel.set_visible(False)
        return
    for result, colour in zip(results, ("tab:blue", "tab:orange", "tab:green"), strict=False):
        kind = result.case.partition("/")[2]
        percents = sorted(map(float, result["measured"]))
        places = [percent / 100 for percent in percents]
        for what, style in (("expected", {"lw": 1.3}), ("measured", {"ls": "", "marker": "."})):
            by_percent = {float(percent): ns for percent, ns in result[what].items()}
            heights = [by_percent[percent] / 1e6 for percent in percents]
            label = kind if what == "expected" else None
            panel.plot(places, heights, color=colour, label=label, **style)
    panel.set_xscale("logit")
    panel.set_ylim(bottom=0)  # so that heights compare
    panel.set_xticks([0.01, 0.1, 0.5, 0.9, 0.99, 0.999], ["1", "10", "50", "90", "99", "99.9"])
    panel.minorticks_off()
    panel.set_xlabel("percent of the requests")
    panel.set_ylabel("latency at depth 1, ms")
    panel.legend(fontsize=8)


def _draw_depths(panel: Any, results: Sequence[Result]) -> None:
    if not results:  # it was interrupted
        panel.set_visible(False)
        return
    depths = [int(result.case.partition("/")[2]) for result in results]
    panel.plot(depths, [result["expected"] for result in results], color="tab:blue", lw=1.3)
    panel.plot(depths, [result["measured"] for result in results], "k.")
    panel.set_xscale("log", base=2)
    panel.set_ylim(0, 1.1 * max(*panel.get_ylim()))
    panel.set_xticks(depths, [str(depth) for depth in depths])
    panel.set_xlabel("queue depth")
    panel.set_ylabel("reads a second")
