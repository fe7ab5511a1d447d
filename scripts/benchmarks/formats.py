"""Figures as text, the same way in every table."""

from __future__ import annotations

import math

from rich.table import Table

from benchmarks.results import Result


def percent(fraction: float, digits: int = 2, sign: bool = True) -> str:
    """Return a fraction in percent: 0.01 -> "+1.00 %"."""
    if not math.isfinite(fraction):
        return "-"
    return f"{fraction * 100:{'+' if sign else ''}.{digits}f} %"


def ratio(value: float) -> str:
    """Return a ratio with four digits, enough for the tenth of a per mille."""
    return f"{value:.4f}" if math.isfinite(value) else "-"


def signed(value: float) -> str:
    """Return a number of requests with its sign."""
    return f"{value:+.2f}" if math.isfinite(value) else "-"


def micros(nanoseconds: float) -> str:
    """Return ns as us, or as ms from 10 ms on."""
    if not math.isfinite(nanoseconds):
        return "-"
    if nanoseconds >= 10_000_000:
        return f"{nanoseconds / 1e6:.1f} ms"
    return f"{nanoseconds / 1e3:.0f} us"


def per_second(value: float) -> str:
    """Return a rate with separated thousands."""
    return f"{value:,.0f}" if math.isfinite(value) else "-"


def rounds(number: int) -> str:
    """Return "3 rounds", or "1 round"."""
    return f"{number} round{'' if number == 1 else 's'}"


def mebibytes(size: float) -> str:
    """Return bytes as MiB."""
    return f"{size / 1024**2:,.1f} MiB"


def table(title: str, *columns: str) -> Table:
    """Return an empty table: the first column to the left, figures to the right."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    return made


def absence(result: Result | None) -> str:
    """Return what stands in the place of figures that are not there."""
    if result is None:
        return ""
    return "failed" if result.failed else "n/a"
