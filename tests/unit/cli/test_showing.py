"""The table of ``throttlefs show``, from answers made up here."""

from __future__ import annotations

from typing import Any

import pytest

from throttlefs.cli.presentation import print_status


def image(name: str, **said: Any) -> dict[str, Any]:
    return {
        "device": name,
        "handles": 1,
        "limits": {},
        "group": None,
        "weight": 100,
        "waiting": {"read": 0, "write": 0},
        "bytes": {"read": 0, "write": 0},
    } | said


def lines(capsys: pytest.CaptureFixture[str], *images: dict[str, Any]) -> list[list[str]]:
    print_status({"images": images}, one_image=True)
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_devices_have_a_column_if_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    titles, plain = lines(capsys, image("a.img"))
    assert titles == ["limits", "group", "weight", "open", "waiting", "read", "written"]
    titles, plain, slow = lines(
        capsys, image("a.img"), image("b.img", disk={"latency": "5ms", "queue_depth": "4"})
    )
    assert titles[:3] == ["limits", "device", "group"]
    assert plain[:3] == ["a.img", "-", "-"]
    assert slow[:3] == ["b.img", "-", "latency=5ms,queue_depth=4"]


def test_a_rate_that_grows_is_shown_with_what_it_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    limits = {"iops_per_gib": 3, "iops_at_least": 100}
    _, row = lines(capsys, image("a.img", limits=limits, **{"in-force": {"iops": 300}}))
    assert row[1:3] == ["iops_per_gib=3,iops_at_least=100", "(iops=300)"]
