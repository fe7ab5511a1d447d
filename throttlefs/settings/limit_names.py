"""The names of all limits, ours and QEMU's, and what each means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RATES: Final = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
"""The six rates; each has a burst rate NAME_max and a burst length NAME_max_length."""

QEMU_LIMIT_NAMES: Final = (
    *RATES,
    *(f"{rate}_max" for rate in RATES),
    *(f"{rate}_max_length" for rate in RATES),
    "iops_size",
)
"""The canonical names of the limits that QEMU has as well."""

GROWTH: Final = ("_per_gib", "_at_least", "_at_most")
"""What a rate's name has behind it for how it grows with the size of a disk, and its bounds."""

GROWTH_NAMES: Final = tuple(rate + suffix for rate in RATES for suffix in GROWTH)
"""The canonical names of the limits that say how rates grow with the size."""

LIMIT_NAMES: Final = (*QEMU_LIMIT_NAMES, *GROWTH_NAMES)
"""The canonical names of all limits, which are the fields of `Limits`, in their order."""

_QEMU_LONG_NAMES: Final = {
    "bps": "bps_total",
    "bps_rd": "bps_read",
    "bps_wr": "bps_write",
    "iops": "iops_total",
    "iops_rd": "iops_read",
    "iops_wr": "iops_write",
}

_CANONICAL: Final = {name: name for name in LIMIT_NAMES} | {
    long_name + suffix: rate + suffix
    for rate, long_name in _QEMU_LONG_NAMES.items()
    for suffix in ("", "_max", "_max_length", *GROWTH)
}

_QEMU_NAMES: Final = {
    rate + suffix: (_QEMU_LONG_NAMES[rate] + suffix).replace("_", "-")
    for suffix in ("", "_max", "_max_length")
    for rate in RATES
}

QEMU_DASHED_NAMES: Final = tuple(_QEMU_NAMES.values())
"""The names of QEMU's ``throttle-group`` limits ("bps-read-max") that differ from ours."""

QEMU_GROUP_NAME: Final = "throttling.group"
"""What QEMU's ``-drive`` calls the group of an image."""


def _help_lines() -> dict[str, str]:
    whose = {"": "reads and writes together", "_rd": "reads", "_wr": "writes"}
    lines = {}
    for rate in RATES:
        unit = "bytes" if rate.startswith("bps") else "requests"
        scope = whose[rate.removeprefix("bps").removeprefix("iops")]
        lines[rate] = f"{unit} a second, {scope}"
        lines[f"{rate}_max"] = f"{unit} a second in a burst, {scope}; at least {rate}"
        lines[f"{rate}_max_length"] = f"a burst's volume is {rate}_max x this many seconds"
        lines[f"{rate}_per_gib"] = f"what {rate} has more for each GiB of the size, {scope}"
        lines[f"{rate}_at_least"] = f"{rate} of a small disk, where it grows with the size"
        lines[f"{rate}_at_most"] = f"{rate} of a large disk, where it grows with the size"
    lines["iops_size"] = "bytes; a larger request counts as size / iops_size requests"
    return {name: lines[name] for name in LIMIT_NAMES}


LIMIT_HELP: Final[Mapping[str, str]] = _help_lines()
"""What each limit means, in one line with its unit, by canonical name in the usual order."""


def canonical_name(name: str) -> str | None:
    """The name in `LIMIT_NAMES` that *name* means, or None if it names no limit.

    The known names, with dashes or underscores, are those of QMP (``bps_rd_max``), of QEMU's
    ``-drive`` (``bps-read-max``, with or without ``throttling.``) and of its ``throttle-group``
    object (``x-bps-read-max``).
    """
    prefix = "throttling." if name.startswith("throttling.") else "x-"
    return _CANONICAL.get(name.removeprefix(prefix).replace("-", "_"))


def qemu_name(canonical: str) -> str:
    """What QEMU's ``ThrottleLimits`` calls the limit *canonical*: "bps-read-max", "iops-size"."""
    return _QEMU_NAMES.get(canonical) or canonical.replace("_", "-")
