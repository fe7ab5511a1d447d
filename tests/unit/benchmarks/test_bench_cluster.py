"""The benchmark of shared limits: what it takes for granted, and what its tables say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks import cluster
from benchmarks.cluster import failures, path, shares, windows
from benchmarks.cluster.callers import LOADS, MadeUpGroup, work
from benchmarks.cluster.hosts import Member, Plan, config
from benchmarks.cluster.proxy import Proxy
from benchmarks.completions import Completion
from benchmarks.results import Result
from click.testing import CliRunner
from rich.table import Table

from throttlefs.settings.config import parse_config
from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import OnLost
from throttlefs.throttle import NO_DEMAND

MB = 10**6
SECOND = 10**9
FIGURES: dict[str, dict[str, Any]] = {
    "windows": {
        "most": dict.fromkeys(windows.WINDOWS, 5e6),
        "bound": dict.fromkeys(windows.WINDOWS, 1e7),
        "rate": 9e7,
        "calls_per_second": 12.0,
        "script_us": 50.0,
        "lost": 3,
    },
    "shifts": {"joined": [0.01, 0.02, 0.03], "left": [0.04, 0.05, 0.06]},
    "shares": {"got": [9.9, 20.0], "expected": [10.0, 20.0]},
    "failures": {
        "away": 5.0, "used": 0.99, "back": 0.1, "windows": dict.fromkeys(windows.WINDOWS, 0.9)
    },
    "store": {
        **{"calls_per_second": 300.0, "script_us": 120.0, "hurried_us": 60.0},
        **{"cpu_us": 150.0, "cpu": 0.05, "highest": 0.99},
    },
}  # fmt: skip


def test_the_bound_is_the_limit_two_milliseconds_and_a_request_of_each_host() -> None:
    assert windows.bound(0.1, 5, 2 * MB, 100 * MB) == pytest.approx(10 * MB + 0.2 * MB + 10 * MB)


def test_what_is_used_counts_from_when_the_store_is_taken_for_lost() -> None:
    every = 10 * SECOND // 1000
    found = [Completion(at, False, MB) for at in range(0, 5 * SECOND, every)]
    figures = failures.judged(found, failures.Episode(0, 5 * SECOND, 0.2))
    assert figures["used"] == pytest.approx(100 * MB / windows.LIMIT, rel=0.01)
    assert figures["away"] == 5
    assert figures["windows"]["1 s"] == pytest.approx(
        100 * MB / windows.bound(1, 2, failures.BLOCK), rel=0.02
    )
    assert failures.judged(found, failures.Episode(0, 0, 0.2))["used"] is None


def test_each_section_reports_what_it_measured_and_compares_it() -> None:
    names = []
    for section in cluster.sections(["throttlefs"], 5):
        names.append(section.name)
        if section.name not in FIGURES:
            continue
        found = [
            Result(step.section, step.case, step.peer, 1, FIGURES[section.name])
            for step in section.steps()
        ]
        (table,) = section.report(found)
        assert isinstance(table, Table)
        assert table.row_count == len(found)
        assert all(row.value > 0 for row in section.rows(found[0]))
    assert names == ["windows", "shifts", "shares", "failures", "path", "store"]


def test_the_path_has_a_table_of_costs_and_one_of_latencies() -> None:
    section = next(one for one in cluster.sections(["t"], 5) if one.name == "path")
    costs = {way: {"per_second": 1e5, "cpu_us": 9.0} for way in path.WAYS}
    latencies = {way: {"50": 1e6, "99": 2e6, "99.9": 3e6} for way in path.STORES}
    found = [
        Result("path", "cost", "t", 1, costs),
        Result("path", "local-limit", "t", 1, latencies),
    ]
    assert len(list(section.report(found))) == 2
    assert [row.value for result in found for row in section.rows(result)] == [9.0, 2000.0]


def test_what_members_are_to_get_adds_up_to_the_limit() -> None:
    for case in shares.CASES.values():
        if not case.in_requests:
            assert sum(case.expected) == pytest.approx(0.99 * case.limits["bps"] / MB, rel=0.01)


def test_a_host_is_configured_as_planned() -> None:
    plan = Plan([Member(weight=300), Member(limits={"iops": 5}, outside=True)], "closed")
    read = parse_config(config({"bps": 1000}, plan, "valkey://store/0/k"), "limits.toml")
    group = read.groups["tenant"]
    assert group.limits == Limits(bps=1000)
    assert group.shared is not None
    assert group.shared.on_lost is OnLost.CLOSED
    inside, outside = (read.rule_for(name) for name in (b"m0.img", b"m1.img"))
    assert inside is not None
    assert (inside.group, inside.weight) == ("tenant", 300)
    assert outside is not None
    assert (outside.group, outside.limits) == (None, Limits(iops=5))


def test_cases_are_listed_and_need_no_picture() -> None:
    from benchmarks.cli import main

    said = CliRunner().invoke(main, ["cluster", "--list"]).output.splitlines()
    assert "windows/5-hosts-20ms-loss-5" in said
    assert "shares/slopes-2-1-8" in said
    assert "failures/failed-over" in said
    assert "store/100-restless" in said
    assert CliRunner().invoke(main, ["cluster", "--plot", "x.png"]).exit_code == 2


# The simulated hosts.


@pytest.mark.parametrize("load", LOADS)
def test_made_up_hosts_ask_for_the_same_each_time(load: str) -> None:
    limits = Limits(bps=500 * MB)
    group = MadeUpGroup(limits, work(load, limits, 7))
    demand = work(load, limits, 7).demand
    assert demand == work(load, limits, 7).demand
    assert group.measure() in (demand, NO_DEMAND)
    assert (load == "mixed") == (demand[1].steady[0] > 0)


# The proxy.


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Path]:
    """A Unix socket that answers each line with itself."""
    path = tmp_path / "echo"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield path
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def ask(proxy: Proxy, timeout: float) -> bytes | None:
    """The answer through the proxy: None if none comes, nothing if the connection ends."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout) as connection:
        connection.sendall(b"x\n")
        try:
            return connection.recv(10)
        except TimeoutError:
            return None
        except ConnectionResetError:
            return b""


def test_a_proxy_passes_on_swallows_and_cuts(echo: Path) -> None:
    with Proxy(echo) as proxy:
        assert ask(proxy, 20) == b"x\n"
        assert proxy.lost == 0
        proxy.loss = 1
        assert ask(proxy, 20) == b""
        assert proxy.lost == 1
        assert ask(proxy, 0.2) is None
        assert proxy.lost == 2
        proxy.loss = 0
        assert ask(proxy, 20) == b"x\n"
        proxy.silent = True
        assert ask(proxy, 0.2) is None
