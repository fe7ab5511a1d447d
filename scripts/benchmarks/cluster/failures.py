"""What two hosts use while the store or a daemon fails, and how soon they are back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.cluster.hosts import Host, Plan, Reader, cluster, reader
from benchmarks.cluster.shifts import GRANTED, have, until
from benchmarks.cluster.store import Store, free_port, sentinel, store
from benchmarks.cluster.windows import LIMIT, SETTLING, SHORT, WINDOWS, bound
from benchmarks.completions import Completion, most_in_window
from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.processes import wait_until
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of
from throttlefs.settings.shared import OnLost

AWAY = 5.0
"""Seconds for which the store is away."""
STOPPED = 10.0
"""Seconds for which a daemon is stopped."""
AFTER = 1.5
"""Seconds after everything, which count for the fullest windows too."""
LOST_BY = 2.0
"""Seconds after which the daemons have taken the store for lost."""
BLOCK = 262_144
HALF = GRANTED * LIMIT / 2


@dataclass
class Scene:
    """Two hosts that read, and what may fail."""

    server: Store
    hosts: Sequence[Host]
    readers: Sequence[Reader]
    replica: Store | None = None

    def are_back_since(self, instant: int) -> Callable[[], bool]:
        """Return whether both have their halves by answers from after an instant (ns)."""

        def are_back() -> bool:
            for host in self.hosts:
                share = host.share()
                silence = share["answered-seconds-ago"]
                heard = silence is not None and time.monotonic_ns() - silence * 1e9 > instant
                if share["state"] != "leased" or not heard:
                    return False
            return have(self.hosts, HALF)

        return are_back


@dataclass(frozen=True)
class Episode:
    """What one failure showed: instants in ns."""

    began: int
    ended: int
    """When what had failed was there again; the beginning, if it never is."""
    back: float
    """Seconds from there until all had their shares."""


def killed_store(scene: Scene) -> Episode:
    """Kill the store, start an empty one."""
    began = time.monotonic_ns()
    scene.server.kill()
    time.sleep(AWAY)
    scene.server.start()
    ended = time.monotonic_ns()
    return Episode(began, ended, until(scene.are_back_since(ended), ended))


def stopped_store(scene: Scene) -> Episode:
    """Stop the store's process, and let it go on."""
    began = time.monotonic_ns()
    scene.server.freeze()
    time.sleep(AWAY)
    ended = time.monotonic_ns()
    scene.server.thaw()
    return Episode(began, ended, until(scene.are_back_since(ended), ended))


def wiped_store(scene: Scene) -> Episode:
    """Wipe the store just before the second host begins."""
    began = time.monotonic_ns()
    scene.server.wipe()
    scene.readers[1].start()
    return Episode(began, began, until(scene.are_back_since(began), began))


def failed_over(scene: Scene) -> Episode:
    """Kill the master; a Sentinel makes its replica the new one."""
    began = time.monotonic_ns()
    scene.server.kill()
    assert scene.replica is not None
    with scene.replica.client() as client:
        if not wait_until(lambda: client.info("replication")["role"] == "master", 30):
            raise BenchmarkError("the Sentinel made no new master")
    ended = time.monotonic_ns()
    return Episode(began, ended, until(scene.are_back_since(ended), ended))


def killed_daemon(scene: Scene) -> Episode:
    """Kill one daemon: its part is the other's."""
    began = time.monotonic_ns()
    scene.hosts[1].kill()
    return Episode(began, began, until(lambda: have(scene.hosts[:1], GRANTED * LIMIT), began))


def stopped_daemon(scene: Scene) -> Episode:
    """Stop one daemon for ten seconds."""
    began = time.monotonic_ns()
    scene.hosts[1].signal(signal.SIGSTOP)
    time.sleep(STOPPED)
    ended = time.monotonic_ns()
    scene.hosts[1].signal(signal.SIGCONT)
    return Episode(began, ended, until(scene.are_back_since(ended), ended))


@dataclass(frozen=True)
class Case:
    happens: Callable[[Scene], Episode]
    on_lost: str = "share"
    takes: float = AWAY
    has_second: bool = True
    """Whether the second host is at work from the beginning."""


CASES = {
    **{f"store-killed-{way.value}": Case(killed_store, way.value) for way in OnLost},
    "store-stopped": Case(stopped_store),
    "store-wiped": Case(wiped_store, takes=2, has_second=False),
    "failed-over": Case(failed_over, takes=8),
    "daemon-killed": Case(killed_daemon, takes=2),
    "daemon-stopped": Case(stopped_daemon, takes=STOPPED),
}  # fmt: skip

LONG = ("store-killed-keep", "store-killed-closed", "store-killed-open", "daemon-stopped")
"""What the short form leaves out."""


def measure(bench: Bench, peer: str, case: Case) -> Figures:
    """Return what went while something failed, the fullest windows, and how long it was noticed."""
    if not bench.tracer.works:
        raise NotMeasurableError("needs the kernel's fuse tracepoints: run it as root")
    over = case.happens is failed_over
    with ExitStack() as stack:
        server = stack.enter_context(store(bench, port=free_port() if over else 0))
        replica, url = None, server.url()
        if over:
            follow = ("--replicaof", "127.0.0.1", str(server.port))
            replica = stack.enter_context(store(bench, free_port(), *follow))
            url = stack.enter_context(sentinel(bench, server))
            with server.client() as client:
                wait_until(lambda: client.info("replication")["connected_slaves"] > 0, 30)
        hosts = stack.enter_context(
            cluster(bench, {"bps": LIMIT}, [Plan(on_lost=case.on_lost)] * 2, [url] * 2)
        )
        readers = [stack.enter_context(reader(host.files[0])) for host in hosts]
        scene = Scene(server, hosts, readers, replica)
        for one in readers if case.has_second else readers[:1]:
            one.start()
        share = HALF if case.has_second else GRANTED * LIMIT
        busy = hosts if case.has_second else hosts[:1]
        until(lambda: have(busy, share), time.monotonic_ns())
        time.sleep(AFTER)
        if over:
            time.sleep(10)  # a Sentinel looks for replicas every ten seconds
        connections = [host.connection for host in hosts]
        bench.tracer.start(connections)
        episode = case.happens(scene)
        time.sleep(AFTER)
        found = sorted(bench.tracer.stop(connections))
    return judged(found, episode)


def judged(found: Sequence[Completion], episode: Episode) -> Figures:
    """Return the figures of an episode."""
    began, ended = episode.began, episode.ended
    lost_from = began + round(LOST_BY * 1e9)
    used = None
    if ended > lost_from:
        went = sum(one.size for one in found if lost_from <= one.time < ended)
        used = went / ((ended - lost_from) / 1e9) / LIMIT
    return {
        "away": (ended - began) / 1e9,
        "used": used,
        "back": episode.back,
        "windows": {
            name: most_in_window(found, lambda one: one.size, length) / bound(length, 2, BLOCK)
            for name, length in WINDOWS.items()
        },
    }


class Failures(Section):
    name = "failures"
    title = "What goes while something fails"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._is_short = seconds < SHORT
        self._rounds = rounds
        self.method = (
            f"bps={LIMIT}, two hosts that read 256 KiB at depth 16. Used: part of the limit that "
            f"both use from {LOST_BY:g} s after the failure until it is over. Back: from there "
            "until each holds its share, or, where nothing comes back, from the failure on. The "
            "fullest windows of all that time / the bound. A wiped store: the second host begins "
            "then. Failed over: a Sentinel (500 ms) makes a replica the master. Answers: "
            "{clock}."
        )

    def steps(self) -> Iterable[Step]:
        for name, case in CASES.items():
            if self._is_short and name in LONG:
                continue
            over = 12 if case.happens is failed_over else 0
            yield from in_turn(
                self.name,
                name,
                self._peers,
                self._rounds,
                SETTLING + 2 + 2 * AFTER + case.takes + over + 2,
                partial(measure, case=case),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        yield Row("back after, ms", 1e3 * result["back"])

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        columns = ("away", "used / limit", "back after", *(f"{name} / bound" for name in WINDOWS))
        table = formats.table(self.title, "case", *columns)
        for case in cases(results):
            for result in of(results, case=case):
                used = result["used"]
                table.add_row(
                    case,
                    f"{result['away']:.1f} s",
                    "" if used is None else f"{used:.3f}",
                    f"{result['back']:.2f} s",
                    *(formats.percent(result["windows"][name], 0, sign=False) for name in WINDOWS),
                )
        yield table
