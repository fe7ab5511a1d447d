"""Several daemons on this machine that share a limit: each is one host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.allowance import Limits
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.fio import Job
from benchmarks.peers import PEERS, Served, Throttlefs
from benchmarks.peers.base import daemon
from benchmarks.processes import wait_until
from throttlefs.control.client import QmpClient
from throttlefs.errors import ThrottlefsError
from throttlefs.host import runtime
from throttlefs.host.mountinfo import mounted_at

IMAGE_MIB = 16
GROUP = "tenant"
READY = 20.0
"""Seconds within which daemons have to agree; a busy machine takes long."""


@dataclass(frozen=True)
class Member:
    """An image of a host, and what reads or writes it all the time."""

    rw: str = "randread"
    block: str = "256k"
    depth: int = 16
    limits: Limits = field(default_factory=dict)
    """Its own, inside the group's."""
    weight: int = 100
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further options of fio."""
    outside: bool = False
    """Whether it is in no group."""


@dataclass(frozen=True)
class Plan:
    """What a host has."""

    members: Sequence[Member] = (Member(),)
    on_lost: str = "share"


class Host:
    """A daemon that shares the group's limits with others."""

    def __init__(
        self, plan: Plan, files: Sequence[Path], child: subprocess.Popen[bytes], connection: int
    ) -> None:
        self.plan = plan
        self.files = files
        self.pid = child.pid
        self.connection = connection
        self.was_killed = False
        self._child = child
        self._client = _session(files[0].parent)

    def close(self) -> None:
        """End the session with the daemon."""
        self._client.__exit__(None, None, None)

    def share(self) -> dict[str, Any]:
        """Return how its share stands; see x-throttlefs-query."""
        found: dict[str, Any] = self._client.run("x-throttlefs-query")["groups"][0]["shared"]
        return found

    def held(self, limit: str = "bps") -> float:
        """Return what it holds of a limit: bytes or requests a second."""
        return float(self.share()["held"].get(limit, 0))

    def went(self) -> dict[str, tuple[int, int, int]]:
        """Return bytes and requests of each image so far, by name, and when that was (ns)."""
        stats = self._client.run("x-throttlefs-query-stats")
        return {
            image["device"]: (
                image["read"]["bytes"] + image["write"]["bytes"],
                image["read"]["requests"] + image["write"]["requests"],
                stats["clock-ns"],
            )
            for image in stats["images"]
        }

    def jobs(self) -> list[Job]:
        """Return the load of all its members."""
        return [
            Job(path, member.rw, member.block, member.depth, extra=dict(member.extra))
            for path, member in zip(self.files, self.plan.members, strict=True)
        ]

    def served(self) -> Served:
        """Return it as other benchmarks know what is served."""
        return Served(self.files, self.files[0].parent, self.pid, [self.connection])

    def signal(self, number: signal.Signals) -> None:
        """Send its daemon a signal."""
        self._child.send_signal(number)

    def kill(self) -> None:
        """Kill its daemon."""
        self.was_killed = True
        self._child.kill()


def _session(point: Path) -> QmpClient:
    """Return a session with the daemon of a mount, which listens a moment after it has mounted.

    Raises BenchmarkError if it does not.
    """
    end = time.monotonic() + READY
    while True:
        entry = mounted_at(os.fsencode(point))
        path = None if entry is None else runtime.find_socket(entry)
        try:
            if path is not None:
                return QmpClient(path, str(point))
        except ThrottlefsError as error:
            if time.monotonic() > end:
                raise BenchmarkError(str(error)) from None
        if time.monotonic() > end:
            raise BenchmarkError("a daemon has no control socket")
        time.sleep(0.01)


def config(limits: Limits, plan: Plan, url: str) -> str:
    """Return the configuration file of a host."""
    lines = [f"[group.{GROUP}]", *(f"{name} = {value}" for name, value in limits.items())]
    lines += [f'shared = "{url}"', f'on_lost = "{plan.on_lost}"', ""]
    for number, member in enumerate(plan.members):
        lines += ["[[image]]", f'path = "m{number}.img"']
        lines += [f"{name} = {value}" for name, value in member.limits.items()]
        if not member.outside:
            lines += [f'group = "{GROUP}"', f"weight = {member.weight}"]
        lines.append("")
    return "\n".join(lines)


@contextmanager
def _host(bench: Bench, number: int, limits: Limits, plan: Plan, url: str) -> Iterator[Host]:
    peer = PEERS["throttlefs"]
    assert isinstance(peer, Throttlefs)
    place = bench.scratch.root / f"host{number}"
    images, point = place / "images", place / "mnt"
    for directory in (place, images, point):
        directory.mkdir(exist_ok=True)
    names = [f"m{index}.img" for index in range(len(plan.members))]
    for name in names:
        # One file for each member of a host, since a file has one set of debts.
        original = bench.scratch.image(name, IMAGE_MIB << 20)
        if not (images / name).exists():
            os.link(original, images / name)
    settings = place / "limits.toml"
    settings.write_text(config(limits, plan, url))
    command = [*peer.installation.command, "mount", images, point, "-f", "--config", settings]
    host = None
    try:
        with daemon(peer, bench.processes, command, [point], place / "log", 20) as (child, minors):
            host = Host(plan, [point / name for name in names], child, minors[0])
            try:
                yield host
            finally:
                host.close()
                if child.poll() is None:
                    # One that was stopped would hold up the end.
                    child.send_signal(signal.SIGCONT)
    except BenchmarkError:
        if host is None or not host.was_killed:
            raise


@contextmanager
def cluster(
    bench: Bench, limits: Limits, plans: Sequence[Plan], urls: Sequence[str]
) -> Iterator[list[Host]]:
    """Mount for each plan; give the hosts once a new key's first second is over for all.

    Raises BenchmarkError if they do not get there.
    """
    for number in range(max(len(plan.members) for plan in plans)):
        bench.image(f"m{number}.img", IMAGE_MIB)
    with ExitStack() as stack:
        found = [
            stack.enter_context(_host(bench, number, limits, plan, url))
            for number, (plan, url) in enumerate(zip(plans, urls, strict=True))
        ]

        def are_ready() -> bool:
            shares = [host.share() for host in found]
            return all(
                share["state"] == "idle"
                and not share["recovering"]
                and share["host-count"] == len(found)
                and share["fallback"] > 0
                for share in shares
            )

        if not wait_until(are_ready, READY, 0.05):
            raise BenchmarkError(f"the daemons do not agree: {[host.share() for host in found]}")
        yield found


class Reader:
    """A process that reads a file all the time; ``began`` is its first request's instant (ns)."""

    def __init__(self, path: Path, block: int = 262_144, depth: int = 16) -> None:
        self._child = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("reader.py")),
                path,
                str(block),
                str(depth),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it reads until its mount, or it itself, ends
            text=True,
        )
        assert self._child.stdout is not None
        if self._child.stdout.readline() != "ready\n":
            raise BenchmarkError(f"{path} cannot be read")

    def start(self) -> int:
        """Let it begin; return when that was (ns of CLOCK_MONOTONIC)."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()
        return int(self._child.stdout.readline())

    def kill(self) -> int:
        """End it; return when that was (ns of CLOCK_MONOTONIC)."""
        self._child.kill()
        now = time.monotonic_ns()
        self._child.wait(30)
        return now


@contextmanager
def reader(path: Path, **options: int) -> Iterator[Reader]:
    """Have a process that reads a file, once it is told to, for the length of the block."""
    process = Reader(path, **options)
    try:
        yield process
    finally:
        process.kill()


def rates(hosts: Sequence[Host], seconds: float) -> list[dict[str, tuple[float, float]]]:
    """Return the bytes and requests a second of each image of each host, over so long."""
    before = [host.went() for host in hosts]
    time.sleep(seconds)
    found = []
    for host, earlier in zip(hosts, before, strict=True):
        shares = {}
        for name, (nbytes, requests, at) in host.went().items():
            first = earlier.get(name, (0, 0, 0))
            took = (at - first[2]) / 1e9
            shares[name] = ((nbytes - first[0]) / took, (requests - first[1]) / took)
        found.append(shares)
    return found
