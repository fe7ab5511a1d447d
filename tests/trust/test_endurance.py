"""What a daemon still holds, and still does, after all that can go on has gone on for long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.qmp import RawClient, socket_of
from tests.soak import Soak, Tally
from tests.support import Mounted, MountFactory, run_throttlefs, wait_for
from tests.trust import prober, turmoil
from tests.trust.churn import Churn
from tests.trust.daemon_counts import Counts, at_rest, count, known_images, settled
from tests.trust.prober import Prober
from tests.trust.turmoil import Turmoil
from tests.trust.waiters import IMAGES, Waiters

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make the kernel forget what it remembers"
)

MIB = 1 << 20

LONGEST_GAP_S = 20
"""Far more than it ever takes; the tally says how long it was."""

# Name, size and fio's options: depths 1 to 32, blocks of 4 KiB to 1 MiB.
VERIFIED = [
    ("small", 16, "--ioengine=libaio --direct=1 --iodepth=32 --bs=4k --rw=randrw"),
    ("mixed", 64, "--ioengine=libaio --direct=1 --iodepth=8 --bsrange=4k-1m --rw=randwrite"),
    ("large", 64, "--ioengine=libaio --direct=1 --iodepth=4 --bs=1m --rw=write"),
    ("single", 16, "--ioengine=libaio --direct=1 --iodepth=1 --bs=64k --rw=randrw"),
    ("sync", 16, "--ioengine=psync --bs=16k --rw=randwrite --fsync=64"),
    ("sync-mixed", 32, "--ioengine=psync --bsrange=4k-512k --rw=randrw"),
]


def fio_verify(directory: Path, seconds: float) -> list[str]:
    """Write to each image and read back what was written, for so long."""
    command = ["fio", "--output-format=json", "--time_based", f"--runtime={seconds}"]
    command += ["--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64"]
    for name, mebibytes, options in VERIFIED:
        command += [f"--name={name}", f"--filename={directory}/{name}", f"--size={mebibytes}M"]
        command += options.split()
    return command


def moved(output: str) -> int:
    """How many bytes fio's jobs wrote and read; each of them must have ended well."""
    result = json.loads(output[output.index("{") :])
    total = 0
    assert len(result["jobs"]) == len(VERIFIED)
    for job in result["jobs"]:
        assert job["error"] == 0, job["jobname"]
        total += job["write"]["io_bytes"] + job["read"]["io_bytes"]
    return total


@pytest.fixture(params=["uring", "threads", "pyfuse3"])
def mounted(
    request: pytest.FixtureRequest,
    make_mount: MountFactory,
    tmp_path: Path,
) -> Mounted:
    """A mount with the images of `turmoil` and its config file ``limits.toml``."""
    source = tmp_path / "src"
    for directory in ("verified", "slow", "free", "churn"):
        (source / directory).mkdir(parents=True)
    for name, mebibytes, _ in VERIFIED:
        truncated(source / "verified" / name, mebibytes)
    for number in range(turmoil.SLOW_IMAGES):
        truncated(source / "slow" / str(number), 1024)
    truncated(source / "free" / "busy", 16)
    prober.fill(source / "free" / "quiet")
    config = tmp_path / "limits.toml"
    config.write_text(turmoil.CONFIGS[0])
    engine = "threads" if request.param == "threads" else "uring"
    server = "pyfuse3" if request.param == "pyfuse3" else "own"
    return make_mount(f"engine={engine},server={server}", "--config", str(config))


def counts_at_rest(mounted: Mounted) -> Counts:
    """What it holds without anything going on, but with all loaded and open that it needs once."""
    directory = mounted.path / "free" / "warm-up"
    directory.mkdir()
    churn = Churn(directory, seed=0)
    for _ in range(40):
        churn.step()
    churn.remove_all()
    directory.rmdir()
    return at_rest(mounted)


def truncated(path: Path, mebibytes: int) -> None:
    with open(path, "wb") as file:
        file.truncate(mebibytes * MIB)


def test_endurance(mounted: Mounted, tmp_path: Path, soak: Soak, tally: Tally) -> None:
    """Verified I/O under limits that change, among files that come and go and killed programs."""
    plain = "its own session loop" in mounted.log
    # A third and the rest; memory can be compared only if there was time for it to be used.
    parts = soak.choose((1.0,), (40.0, 80.0) if plain else (200.0, 400.0))
    before = counts_at_rest(mounted)
    churns = []
    for seed in range(2):
        (mounted.path / "churn" / str(seed)).mkdir()
        churns.append(Churn(mounted.path / "churn" / str(seed), seed))
    trouble = Turmoil(mounted, tmp_path / "limits.toml", churns, seed=1)
    after: list[Counts] = []
    verified, longest_gap, probes = 0, 0.0, 0
    for part in parts:
        with Prober(mounted.path / "free" / "quiet") as probe:
            verified += verify_in_trouble(mounted, trouble, part, tmp_path)
        longest_gap, probes = max(longest_gap, probe.longest_s), probes + probe.rounds
        for number, churn in enumerate(churns):
            churn.verify(mounted.source / "churn" / str(number))
        after.append(settled(mounted, before))
    third, end = after[0], after[-1]
    tally.note(
        checked=f"{verified / MIB:,.0f} MiB verified, {trouble.summary}; {probes:,} probes,"
        f" the longest {longest_gap * 1000:,.0f} ms; before: {before}; after a third: {third};"
        f" at the end: {end}",
    )
    assert "internal error" not in mounted.log
    assert "Traceback" not in mounted.log
    assert longest_gap < LONGEST_GAP_S
    assert end.memory_kib <= third.memory_kib * 1.25 + 24 * 1024, f"{third}\n{end}"

    for name, _, _ in VERIFIED:
        assert same(mounted.path / "verified" / name, mounted.source / "verified" / name)
    for churn in churns:
        churn.remove_all()
    # What owed something when it was closed is dropped when something else is closed later.
    time.sleep(0.2)
    (mounted.path / "one more").write_bytes(b"x")
    (mounted.path / "one more").unlink()
    settled(mounted, before)
    gone = [name for name in known_images(mounted) if not (mounted.path / name).exists()]
    assert not gone, "something is known of files that are gone"


def verify_in_trouble(mounted: Mounted, trouble: Turmoil, seconds: float, cwd: Path) -> int:
    """Let fio verify data for so long while all the rest goes on; the bytes it moved."""
    command = fio_verify(mounted.path / "verified", seconds)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd
    ) as fio:
        try:
            with trouble:
                deadline = time.monotonic() + seconds
                while time.monotonic() < deadline and fio.poll() is None:
                    trouble.check()
                    time.sleep(0.1)
            output, _ = fio.communicate(timeout=90)
        finally:
            fio.kill()
    assert fio.returncode == 0, output
    return moved(output)


def same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", one, other], check=False).returncode == 0


# -- programs that are killed while their requests wait --------------------------------------


MakeWaitingMount = Callable[[str], Mounted]


@pytest.fixture
def make_waiting_mount(make_mount: MountFactory, tmp_path: Path) -> MakeWaitingMount:
    """Nothing of it goes, for as long as a test lasts, but what is asked of ``free/quiet``."""

    def make(max_inflight: str) -> Mounted:
        source = tmp_path / "src"
        (source / "free").mkdir(parents=True)
        prober.fill(source / "free" / "quiet")
        for number in range(IMAGES):
            truncated(source / f"image-{number}", 1)
        config = tmp_path / "limits.toml"
        config.write_text('[[image]]\npath = "free/**"\ngroup = ""\nbps = "0"\n')
        options = f"bps=1,group=all,max_inflight={max_inflight}"
        return make_mount(options, "--config", str(config))

    return make


def reload(mounted: Mounted) -> None:
    with RawClient(socket_of(mounted.entry)) as client:
        assert client.run("x-throttlefs-reload") == {"return": {}}


def lift_all(mounted: Mounted) -> None:
    result = run_throttlefs("set", "--all", mounted.path, "off")
    assert result.returncode == 0, result.stderr


def test_thousands_of_waiting_programs_are_killed_at_once(
    make_waiting_mount: MakeWaitingMount, soak: Soak, tally: Tally
) -> None:
    """Each of them is gone although its request would wait for hours."""
    mounted = make_waiting_mount("128M")
    before = counts_at_rest(mounted)
    after: list[Counts] = []
    longest_gap = took = 0.0
    half = soak.choose(250, 1000)
    for _ in range(soak.choose(1, 10)):
        reload(mounted)
        with (
            Prober(mounted.path / "free" / "quiet") as probe,
            Waiters(mounted.path, half + 5, "read") as readers,
            Waiters(mounted.path, half + 5, "write") as writers,
        ):
            readers.go()
            writers.go()
            wait_for(lambda: count(mounted).waiting >= 2 * half, 60)
            waiting = count(mounted)
            began = time.monotonic()
            readers.kill()
            writers.kill()
            readers.wait_until_gone(60)
            writers.wait_until_gone(60)
            took = max(took, time.monotonic() - began)
        longest_gap = max(longest_gap, probe.longest_s)
        after.append(settled(mounted, before))
        tally.note(2 * half)
    assert longest_gap < LONGEST_GAP_S
    assert after[-1].memory_kib <= after[0].memory_kib + 16 * 1024
    assert "internal error" not in mounted.log
    tally.note(
        0,
        checked=f"gone in {took:.1f} s; the longest probe"
        f" {longest_gap * 1000:,.0f} ms; before: {before}; waiting: {waiting};"
        f" after the first: {after[0]}; after the last: {after[-1]}",
    )


def reads_served(mounted: Mounted) -> int:
    """How many reads of the images of `Waiters` the daemon has answered so far."""
    with RawClient(socket_of(mounted.entry)) as client:
        images = client.run("x-throttlefs-query-stats")["return"]["images"]
    return sum(one["read"]["requests"] for one in images if one["device"].startswith("image-"))


def test_requests_that_are_withdrawn_before_they_are_taken_do_no_harm(
    make_waiting_mount: MakeWaitingMount, soak: Soak, tally: Tally
) -> None:
    """While the daemon stands still, reads stay in the kernel's queue and leave it when killed."""
    mounted = make_waiting_mount("2M")
    before = counts_at_rest(mounted)
    for number in range(soak.choose(1, 20)):
        reload(mounted)
        with Waiters(mounted.path, 100, "read") as readers:
            os.kill(mounted.pid, signal.SIGSTOP)
            stat = Path(f"/proc/{mounted.pid}/stat")
            wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")  # noqa: B023
            try:
                readers.go()
                time.sleep(0.5)
                readers.kill()
            finally:
                os.kill(mounted.pid, signal.SIGCONT)
            lift_all(mounted)
            with Prober(mounted.path / "free" / "quiet") as probe:
                time.sleep(0.5)
            assert probe.rounds > 0
            readers.wait_until_gone(60)
        after = settled(mounted, before)
        reads = reads_served(mounted)
        assert reads <= 10 * (number + 1), "most of the reads were withdrawn"
        tally.note(100, checked=f"{reads} reads served; before: {before}; after: {after}")
    assert "internal error" not in mounted.log
