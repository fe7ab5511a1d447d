"""The live view's screen and the figures in it, from answers made up here."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from rich.console import Console

from throttlefs.cli.presentation import changes_text, duration_text, parse_assignments
from throttlefs.cli.sampling import Use, rows
from throttlefs.cli.top import View, render
from throttlefs.errors import UsageError
from throttlefs.stats import bucket_of


def direction(requests: int = 0, size: int = 4096, wait_ns: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "requests": requests,
        "bytes": requests * size,
        "errors": 0,
        "delayed": requests if wait_ns else 0,
        "wait-ns": requests * wait_ns,
        "service-ns": requests * 1000,
        "waiting": 0,
        "waiting-most": 0,
        "wait-histogram": {str(bucket_of(wait_ns)): requests} if requests else {},
        "service-histogram": {str(bucket_of(1000)): requests} if requests else {},
    } | more


def answer(clock_s: float, *images: dict[str, Any]) -> dict[str, Any]:
    groups = [
        {"name": "db", "limits": {"bps": 1 << 20}, "parent": "host"},
        {"name": "host", "limits": {"bps": 500 << 20, "iops": 20}, "parent": None},
    ]
    return {"clock-ns": int(clock_s * 1e9), "groups": groups, "images": list(images)}


def image(device: str, **said: Any) -> dict[str, Any]:
    return {
        "device": device,
        "handles": 1,
        "group": None,
        "limits": {},
        "read": direction(),
        "write": direction(),
    } | said


BEFORE = answer(10, image("a.img", read=direction(100, wait_ns=5_000_000)))
NOW = answer(
    12,
    image(
        "a.img",
        limits={"bps_rd": 819_200, "iops": 1000},
        read=direction(300, wait_ns=5_000_000, waiting=3),
        write=direction(50),
    ),
    image("b[0].img", group="db", write=direction(100, size=1 << 20)),
    image("idle.img"),
)


def test_rates_are_those_of_the_interval() -> None:
    first, second, idle = rows(NOW, BEFORE)
    assert first.seconds == 2
    assert first.request_rate == (200 + 50) / 2
    assert first.byte_rate == (200 + 50) * 4096 / 2
    assert first.waiting == 3
    assert first.tightest == Use("bps_rd", 819_200, pytest.approx(200 * 4096 / 2 / 819_200), None)
    assert first.read.wait_quantile(0.5) == pytest.approx(5_000_000, rel=0.2)
    assert second.tightest == Use("bps", 1 << 20, pytest.approx(50.0), "db")
    assert idle.tightest is None
    assert idle.wait_quantile(0.5) is None


def test_a_group_is_used_by_all_its_members() -> None:
    now = answer(
        1,
        image("a", group="db", read=direction(10, size=10)),
        image("b", group="db", limits={"iops": 1000}, write=direction(20, size=10)),
        image("c", group="host", read=direction(10, size=10)),
    )
    for row in rows(now, answer(0, image("a"), image("b"))):
        assert row.tightest == Use("iops", 20, pytest.approx(40 / 20), "host")


def test_an_image_that_began_anew_has_no_negative_rate() -> None:
    first, *_ = rows(BEFORE, NOW | {"clock-ns": 9 * 10**9})
    assert first.read.requests == 0
    assert first.request_rate == 0


def screen(
    view: View, height: int = 50, width: int = 120, mounts: dict[str, Any] = NOW
) -> list[str]:
    console = Console(width=width, height=height, color_system=None, force_terminal=True)
    with console.capture() as capture:
        console.print(render([("/mnt", rows(mounts, BEFORE))], view, width, height))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_screen_has_a_row_for_each_image() -> None:
    head, titles, *found, keys = screen(View())
    assert head.startswith("throttlefs top  /mnt")
    assert " ".join(titles.split()) == (
        "image rate of its tightest limit req/s waiting wait p50 p99"
    )
    assert [line.split()[0] for line in found] == ["b[0].img", "a.img", "idle.img"]
    assert "50 MiB/s" in found[0]
    assert "bps=1M (group db)" in found[0]
    assert "█" * 10 + "░" * 10 + "  50% bps_rd=800K" in found[1]
    assert found[1].endswith("ms")
    assert "no limit" in found[2]
    assert "sorted by rate" in keys
    assert "q quit" in keys


def test_a_slow_device_is_shown_with_the_times_it_takes() -> None:
    disk = {"latency": "5ms", "queue_depth": "4"}
    slow = {"service-histogram": {str(bucket_of(5_000_000)): 10}}
    now = answer(
        12, image("own.img", disk=disk, read=direction(10, **slow)), image("b", group="db")
    )
    now["groups"][1]["disk"] = {"rpm": "7200"}
    own, shared = rows(now, BEFORE)
    assert (own.disk, shared.disk) == (disk, {"rpm": "7200"})
    assert own.service_quantile(0.99) == pytest.approx(5_000_000, rel=0.2)
    _, titles, *found, _ = screen(View(), mounts=now)
    assert " ".join(titles.split()).endswith("wait p50 p99 service p99")
    assert "latency=5ms,queue_depth=4" in found[0]
    assert found[0].endswith("ms")
    _, titles, *found, _ = screen(View(), mounts=now, width=60)
    assert "service" not in titles


@pytest.mark.parametrize(
    ("key", "first"),
    [("r", "b[0].img"), ("i", "a.img"), ("w", "a.img"), ("t", "a.img"), ("n", "a")],
)
def test_keys_sort(key: str, first: str) -> None:
    view = View()
    view.press(key)
    assert screen(view)[2].startswith(first)


def test_keys_pause_and_quit() -> None:
    view = View()
    view.press(" ")
    assert view.paused
    assert "paused" in screen(view)[0]
    view.press("x")
    view.press("P")
    assert not view.paused
    view.press("q")
    assert view.ended


def test_a_small_screen_says_how_many_are_missing() -> None:
    lines = screen(View(), height=5, width=100)
    assert len(lines) == 4
    assert lines[-1].startswith("2 more   sorted by rate")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_it_fits_any_width(width: int) -> None:
    assert all(len(line) <= width for line in screen(View(), width=width))


def test_at_80_columns_limits_are_whole_and_bars_go() -> None:
    lines = screen(View(), width=80)
    assert "50% bps_rd=800K  " in lines[3]
    assert "5000% bps=1M (group db)  " in lines[2]
    assert "█" not in "".join(lines)
    assert "q quit" in lines[-1]
    assert [line.split()[0] for line in screen(View(), width=40)[2:5]] == [
        "b[0].img",
        "a.img",
        "idle.img",
    ]


def test_a_long_name_loses_its_middle() -> None:
    now = answer(1, image("vm/" + "x" * 300 + ".qcow2"))
    (line,) = [line for line in screen(View(), width=80, mounts=now) if line.startswith("vm/")]
    assert line.split()[0].endswith("xxx.qcow2")
    assert "..." in line


def test_bars_are_of_characters_that_the_terminal_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    lines = screen(View())
    assert "##########..........  50% bps_rd=800K" in lines[3]
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (None, "-"),
        (0, "0"),
        (7, "7 ns"),
        (1500, "1.5 us"),
        (23_456, "23 us"),
        (9_960_000, "10 ms"),
        (62_000_000, "62 ms"),
        (1_234_000_000, "1.2 s"),
    ],
)
def test_durations_are_short(ns: float | None, text: str) -> None:
    assert duration_text(ns) == text


def test_assignments() -> None:
    assert parse_assignments(["bps=2M", "iops=5,group="]) == (
        {"bps": "2M", "iops": "5", "group": ""},
        False,
    )
    assert parse_assignments(["off"]) == ({}, True)
    for words in (["bps"], ["=5"], ["bps=1", "bps=2"], ["on"]):
        with pytest.raises(UsageError):
            parse_assignments(words)


def test_a_change_that_changes_nothing_says_so() -> None:
    same = {"kind": "image", "name": "x", "before": {"bps": 1}, "after": {"bps": 1}}
    assert changes_text([same], "/mnt") == "nothing has changed\n"
    assert changes_text([same | {"after": {}, "name": "a\x1b[31m"}], "/mnt") == (
        "a\\x1b[31m: bps 1 -> off\n"
    )
