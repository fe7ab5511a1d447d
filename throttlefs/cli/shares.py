"""What commands say of groups that share their limits with other hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from throttlefs.settings.limits import format_limit
from throttlefs.settings.units import format_byte_rate

from .text import name_text


def rates_text(rates: Mapping[str, float]) -> str:
    """ "bps=12.3M", rounded; "nothing" if there are none."""
    texts = []
    for name, rate in rates.items():
        if name.startswith("bps"):
            texts.append(f"{name}={format_byte_rate(rate)}")
        else:
            text = format_limit(name, round(rate)) if rate >= 10 else f"{rate:.2g}"
            texts.append(f"{name}={text}")
    return ",".join(texts) or "nothing"


def share_text(share: Mapping[str, Any]) -> str:
    """One line on how a group's share of its limits stands."""
    name = f"group {name_text(share['group'])}"
    where = f"{name_text(share['store'])}, key {name_text(share['key'])}"
    since = f"for {_seconds(share['state-seconds'])}"
    heard = share["answered-seconds-ago"]
    answered = "has not answered yet" if heard is None else f"answered {_seconds(heard)} ago"
    hosts = share["host-count"]
    with_hosts = f"{hosts} host" if hosts == 1 else f"{hosts} hosts"
    why = share["error"] or "it does not answer in time"
    holds = f"holds {rates_text(share['held'])}"
    state = share["state"]
    if state == "lost":
        return (
            f"{name}: the store is lost {since} ({why}); by on_lost={share['on-lost']} it {holds}"
        )
    if state in ("starting", "over"):
        return f"{name}: waits for the store at {where}; it {answered}"
    doing = "idle" if state == "idle" else "at work"
    recovering = "; no share grows for a second, as the store has lost its state"
    return (
        f"{name}: shared by {with_hosts}, {share['active-count']} of them at work ({where});"
        f" this one {holds} ({doing} {since}); the store {answered}"
        f"{recovering if share['recovering'] else ''}"
    )


def shares_of(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each of *groups* that is shared."""
    return [share_text(group["shared"]) for group in groups if "shared" in group]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"
