"""What commands say of groups that share their limits."""

from __future__ import annotations

from typing import Any

import pytest

from throttlefs.cli.cluster import _row
from throttlefs.cli.shares import rates_text, share_text, shares_of

SHARE: dict[str, Any] = {
    **{"group": "tenant", "store": "store.example", "key": "tenant-a", "on-lost": "share"},
    **{"state": "leased", "state-seconds": 61.26, "held": {"bps": 1048576.0}, "fallback": 0.5},
    **{"host-count": 2, "active-count": 1, "answered-seconds-ago": 0.12, "recovering": False},
    "error": None,
}


def test_a_share():
    assert share_text(SHARE) == (
        "group tenant: shared by 2 hosts, 1 of them at work (store.example, key tenant-a);"
        " this one holds bps=1 MiB/s (at work for 61.3 s); the store answered 0.1 s ago"
    )
    assert shares_of([{"name": "plain"}, {"name": "tenant", "shared": SHARE}]) == [
        share_text(SHARE)
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": "lost", "error": "it is gone"}, "the store is lost for 61.3 s (it is gone)"),
        ({"state": "lost", "held": {}}, "by on_lost=share it holds nothing"),
        ({"state": "starting", "answered-seconds-ago": None}, "it has not answered yet"),
        ({"state": "over"}, "waits for the store at store.example, key tenant-a"),
        ({"host-count": 1}, "shared by 1 host,"),
        ({"state": "idle", "held": {}}, "this one holds nothing (idle for 61.3 s);"),
        ({"recovering": True}, "no share grows for a second"),
        ({"state-seconds": 1234.5}, "for 1234 s"),
    ],
)
def test_other_states(changes: dict[str, Any], says: str):
    text = share_text(SHARE | changes)
    assert says in text
    assert "\n" not in text


def test_rates():
    assert rates_text({}) == "nothing"
    assert rates_text({"iops": 12.7, "iops_rd": 0.4949}) == "iops=13,iops_rd=0.49"


def test_a_row_of_the_cluster():
    host = {
        **{"name": "alpha:8\x1b", "held": {"bps": 250.0, "iops": 90.0}, "weight": 100},
        **{"on-lost": "share", "fallback": 0.5, "seconds-ago": 0.26},
    }
    row = _row(host, {"bps": 1000, "iops": 100})
    assert row[2:] == ("90%", "100", "50% of the limit", "0.3 s ago")
    assert "\x1b" not in row[0]
    assert _row(host | {"on-lost": "closed"}, {})[2:5] == ("-", "100", "nothing")
