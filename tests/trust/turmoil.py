"""All that goes on at once on a mount while its data is being verified.

Each kind of trouble is a thread that goes on until `Turmoil` ends; the first error of any of them
is the error of the whole. Images lie in the directories ``verified``, ``slow`` and ``free`` of the
mount, files that come and go below ``churn``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.qmp import RawClient, socket_of
from tests.support import Mounted, run_throttlefs
from tests.trust.churn import Churn

SLOW_IMAGES = 3
_MOST_DYING = 40

CONFIGS = [
    """
[[image]]
path = "free/**"
group = ""
bps = "0"
[[image]]
path = "slow/*"
bps = "256K"
""",
    """
[defaults]
iops = 4000
[[image]]
path = "free/**"
group = ""
bps = "0"
[[image]]
path = "slow/*"
iops = 5
[[image]]
path = "verified/*"
group = "disk"
[group.disk]
bps = "150M"
parent = "host"
[group.host]
iops = 3000
""",
    """
[defaults]
bps = "20M"
[[image]]
path = "free/**"
group = ""
bps = "0"
[[image]]
path = "slow/*"
group = "crowd"
weight = 7
[group.crowd]
bps = "400K"
""",
]

_LIMITS: list[dict[str, object]] = [
    {"bps": "20M"},
    {"bps": "100M", "iops": 800},
    {"iops": 300, "iops_size": "64K"},
    {"bps_rd": "50M", "bps_wr": "10M"},
    {"bps_wr": "8M", "bps_wr_max": "80M", "bps_wr_max_length": 2},
    {"group": "live", "bps": "60M", "weight": 300},
    {"bps": "1M"},
    {"bps": 0, "iops": 0, "group": ""},
]


class Turmoil:
    """Trouble on *mounted*, whose config file is *config*, while the block runs."""

    def __init__(self, mounted: Mounted, config: Path, churns: list[Churn], seed: int) -> None:
        self._mounted = mounted
        self._config = config
        self._churns = churns
        self._seed = seed
        self._stop = threading.Event()
        self._dying: list[subprocess.Popen[bytes]] = []
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Turmoil:
        self._stop.clear()
        works: list[Callable[[random.Random], None]] = [
            self._tune_by_socket,
            self._tune_by_attribute,
            self._tune_by_command,
            self._reload,
            self._kill_waiting,
            self._kill_busy,
        ]
        for churn in self._churns:
            works.append(self._churning(churn))
        self._seed += 1
        self._threads = [
            threading.Thread(target=self._run, args=(work, random.Random(self._seed * 100 + n)))
            for n, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Stop all of it, lift all limits, and wait until everybody is gone."""
        self._stop.set()
        deadline = time.monotonic() + 60
        while any(thread.is_alive() for thread in self._threads):
            # Whatever waits in a thread waits for its limit.
            self._lift_all()
            time.sleep(0.2)
            assert time.monotonic() < deadline, "a thread of the turmoil hangs"
        time.sleep(0.2)  # for the last SIGHUP
        self._lift_all()
        for process in self._dying:
            process.kill()
        for process in self._dying:
            assert process.wait(60) == -signal.SIGKILL
        self._dying.clear()
        if self._error is not None and kind is None:
            raise self._error

    def _lift_all(self) -> None:
        result = run_throttlefs("set", "--all", self._mounted.path, "off")
        assert result.returncode == 0, result.stderr

    def _run(self, work: Callable[[random.Random], None], dice: random.Random) -> None:
        try:
            while not self._stop.is_set():
                work(dice)
                with self._lock:
                    self.counts[work.__name__.strip("_")] += 1
        except BaseException as exc:
            self._error = self._error or exc
            self._stop.set()

    def check(self) -> None:
        """Raise what went wrong so far."""
        if self._error is not None:
            raise self._error

    @property
    def summary(self) -> str:
        """What went on, for the tally."""
        return ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in self.counts.items())

    # -- limits ----------------------------------------------------------------------------

    def _verified(self, dice: random.Random) -> str:
        return "verified/" + dice.choice(sorted(os.listdir(self._mounted.source / "verified")))

    def _tune_by_socket(self, dice: random.Random) -> None:
        with RawClient(socket_of(self._mounted.entry)) as client:
            for _ in range(20):
                answer = client.run(
                    "x-throttlefs-set",
                    device=self._verified(dice),
                    values=dice.choice(_LIMITS),
                    off=dice.random() < 0.5,
                )
                assert "return" in answer, answer
                if self._stop.wait(dice.uniform(0, 0.1)):
                    break

    def _tune_by_attribute(self, dice: random.Random) -> None:
        path = self._mounted.path / self._verified(dice)
        os.setxattr(path, "user.throttlefs.iops", b"%d" % dice.choice([0, 200, 2000, 50_000]))
        os.getxattr(path, "user.throttlefs.bps")
        self._stop.wait(dice.uniform(0, 0.2))

    def _tune_by_command(self, dice: random.Random) -> None:
        path = self._mounted.path / self._verified(dice)
        result = run_throttlefs("set", path, dice.choice(["bps=40M", "iops=1500", "off"]))
        assert result.returncode == 0, result.stderr
        self._stop.wait(dice.uniform(0.5, 2))

    def _reload(self, dice: random.Random) -> None:
        new = self._config.with_suffix(".new")
        new.write_text(dice.choice(CONFIGS))
        new.rename(self._config)
        os.kill(self._mounted.pid, signal.SIGHUP)
        self._stop.wait(dice.uniform(0, 0.5))

    # -- files -----------------------------------------------------------------------------

    def _churning(self, churn: Churn) -> Callable[[random.Random], None]:
        def change_files(_: random.Random) -> None:
            churn.step()
            self._stop.wait(0.002)

        return change_files

    # -- programs that are killed ----------------------------------------------------------

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._config.parent,
        )

    def _kill_waiting(self, dice: random.Random) -> None:
        """A program whose requests wait: after kill -9 it lives on until they are due."""
        image = str(self._mounted.path / "slow" / str(dice.randrange(SLOW_IMAGES)))
        kind = dice.random()
        if kind < 0.2:
            process = self._start(*_fio(image, dice.choice([1, 8, 32]), "randrw"))
        elif kind < 0.6:
            process = self._start("dd", f"if={image}", "of=/dev/null", "bs=64k", "iflag=direct")
        else:
            process = self._start("dd", "if=/dev/zero", f"of={image}", "bs=16k", "conv=notrunc")
        self._stop.wait(dice.uniform(0, 0.3))
        self._kill(process)

    def _kill_busy(self, dice: random.Random) -> None:
        """A program with many requests under way that do not wait: some are withdrawn."""
        image = str(self._mounted.path / "free" / "busy")
        process = self._start(*_fio(image, 32, "randread"))
        self._stop.wait(dice.uniform(0.1, 0.5))
        self._kill(process)
        self._stop.wait(dice.uniform(0, 1))  # for it takes all the CPU time there is

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        assert process.poll() is None, f"{process.args} ended by itself: {process.returncode}"
        process.kill()
        with self._lock:
            self._dying = [one for one in [*self._dying, process] if one.poll() is None]
            dying = len(self._dying)
            self.counts["dying at most"] = max(self.counts["dying at most"], dying)
        if dying > _MOST_DYING:
            for number in range(SLOW_IMAGES):
                run_throttlefs("set", self._mounted.path / "slow" / str(number), "off")


def _fio(image: str, depth: int, pattern: str) -> list[str]:
    return [
        "fio",
        "--name=victim",
        f"--filename={image}",
        f"--rw={pattern}",
        "--bs=4k",
        "--size=16M",
        f"--iodepth={depth}",
        "--ioengine=libaio",
        "--direct=1",
        "--thread",  # or what is killed is the one that waits for the one that does it
        "--time_based",
        "--runtime=3600",
    ]
