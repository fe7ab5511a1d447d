"""``throttlefs cluster``: which hosts share a limit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from throttlefs.errors import ThrottlefsError
from throttlefs.settings.limits import RATES

from .control import MountPath, whole_mount
from .shares import rates_text, share_text
from .table import Column, Wide, print_table
from .text import in_utf8, name_text

_COLUMNS: Final = (
    Column("host", wide=Wide.ELIDED),
    Column("holds", wide=Wide.FOLDED),
    Column("of the limit", right=True),
    Column("weight", right=True, spare=1),
    Column("without the store", right=True, spare=2),
    Column("last call", right=True),
)

_WITHOUT: Final = {
    "keep": "what it holds",
    "closed": "nothing",
    "open": "all",
}


@click.command(short_help="Show which hosts share a limit.")
@click.argument("path", metavar="DST", type=MountPath())
@click.option("--group", metavar="NAME", help="Show this group alone.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def cluster(path: str, group: str | None, as_json: bool) -> None:
    """Show the hosts that share limits with the mount at DST, and what each holds.

    Groups share their limits by shared=URL. Each daemon is one host here; a daemon that has not
    called for longer than its lease lasts holds nothing any more.

    \b
    Examples:
      throttlefs cluster mnt
      throttlefs cluster --group tenant --json mnt
    """
    found = whole_mount(path, "cluster")
    arguments = {} if group is None else {"group-name": in_utf8(group)}
    with found.session() as client:
        shares = client.run("x-throttlefs-query-cluster", **arguments)
    if as_json:
        print(json.dumps(shares, indent=2))
        return
    if not shares:
        raise ThrottlefsError(
            f"no group of {path} shares its limits with other hosts: -o shared= does that"
        )
    for share in shares:
        print(share_text(share))
        if share["hosts"]:
            print_table(_COLUMNS, [_row(host, share["limits"]) for host in share["hosts"]])


def _row(host: Mapping[str, Any], limits: Mapping[str, float]) -> Sequence[str]:
    without = _WITHOUT.get(host["on-lost"]) or f"{host['fallback']:.0%} of the limit"
    return (
        name_text(host["name"]),
        rates_text(host["held"]),
        _part_text(host["held"], limits),
        str(host["weight"]),
        without,
        f"{host['seconds-ago']:.1f} s ago",
    )


def _part_text(held: Mapping[str, float], limits: Mapping[str, float]) -> str:
    """The largest part that is held of any limit."""
    parts = [held.get(name, 0.0) / limits[name] for name in RATES if limits.get(name)]
    return f"{max(parts):.0%}" if parts else "-"
