"""Choosing and running steps; signals; what is found in /proc."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import cast

import pytest
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError, InterruptedRunError, NotMeasurableError
from benchmarks.mounts import mounted_below, parse_mountinfo
from benchmarks.processes import (
    Interrupts,
    Processes,
    cpu_seconds,
    cpu_wait_seconds,
    memory,
    wait_until,
)
from benchmarks.results import Figures, Step
from benchmarks.runner import chosen, duration, run_step
from benchmarks.scratch import MIB, Scratch, drop_cache, filesystem_of, warm_up

NO_BENCH = cast(Bench, None)


def step(case: str, section: str = "grid") -> Step:
    return Step(section, case, "qsd", 1.0, lambda bench: {"ratio": 1.0})


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], ["grid/bps-1M", "grid/iops-10", "live/change"]),
        (["grid"], ["grid/bps-1M", "grid/iops-10"]),
        (["grid/iops*"], ["grid/iops-10"]),
        (["iops*"], []),
        (["iops-10", "live"], ["grid/iops-10", "live/change"]),
    ],
)
def test_patterns_choose_by_part_of_the_name_or_by_wildcards(
    patterns: list[str], expected: list[str]
) -> None:
    steps = [step("bps-1M"), step("iops-10"), step("change", "live")]
    assert [found.name for found in chosen(steps, patterns)] == expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "about 1 s"), (89, "about 89 s"), (100, "about 2 min")]
)
def test_durations_are_rough(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def failing(error: BaseException) -> Step:
    def measure(_bench: Bench) -> Figures:
        raise error

    return Step("grid", "case", "qsd", 1.0, measure)


def test_a_step_that_fails_says_why_and_ends_nothing() -> None:
    assert run_step(NO_BENCH, step("a"))["ratio"] == 1.0
    failed = run_step(NO_BENCH, failing(BenchmarkError("no\n  disk")))
    assert (failed.reason, failed.failed) == ("no disk", True)
    assert failed.took > 0
    faulty = run_step(NO_BENCH, failing(KeyError("point")))
    assert (faulty.reason, faulty.failed) == ("KeyError: 'point'", True)
    cannot = run_step(NO_BENCH, failing(NotMeasurableError("no weights")))
    assert (cannot.reason, cannot.failed) == ("no weights", False)


def test_an_interruption_is_no_failed_measurement() -> None:
    with pytest.raises(InterruptedRunError):
        run_step(NO_BENCH, failing(InterruptedRunError()))


def test_a_signal_waits_for_what_must_not_be_torn_and_further_ones_are_ignored() -> None:
    interrupts = Interrupts()
    finished = []

    def whole() -> None:
        with interrupts.caught(), interrupts.held():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            finished.append(True)

    with pytest.raises(InterruptedRunError):
        whole()
    assert finished
    assert interrupts.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_children_end_with_the_benchmark_even_if_they_do_not_want_to(tmp_path: Path) -> None:
    processes = Processes(Interrupts())
    willing = processes.start(["sleep", "60"])
    ready = tmp_path / "ready"
    deaf = processes.start(["sh", "-c", f"trap '' TERM; touch {ready}; while :; do sleep 1; done"])
    assert wait_until(ready.exists, 10)
    assert processes.end(willing, grace=10)
    assert not processes.end(deaf, grace=0.1)
    assert deaf.returncode == -signal.SIGKILL
    processes.end_all()


def test_a_missing_program_is_named() -> None:
    with pytest.raises(BenchmarkError, match="no-such-program is not installed"):
        Processes(Interrupts()).start(["no-such-program"])


def test_cpu_time_and_memory_of_a_process() -> None:
    before, waited = cpu_seconds(os.getpid()), cpu_wait_seconds(os.getpid())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert cpu_seconds(os.getpid()) - before >= 0.03
    assert not cpu_wait_seconds(os.getpid()) < waited
    assert memory(os.getpid(), "VmHWM") >= memory(os.getpid()) // 2 > MIB
    assert memory(os.getpid()) * 2 > memory(os.getpid(), "Pss") > MIB
    with pytest.raises(BenchmarkError, match="VmNone"):
        memory(os.getpid(), "VmNone")


MOUNTINFO = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 22 0:27 / /tmp/with\\040space rw shared:1 - fuse.throttlefs /src rw
32 22 0:39 / /tmp/with\\040space rw - fuse /dev/fuse rw
"""


def test_mountinfo_gives_the_topmost_mount_of_a_point_with_spaces() -> None:
    assert parse_mountinfo(MOUNTINFO) == {Path("/"): 0, Path("/tmp/with space"): 39}


def test_nothing_is_mounted_below_a_fresh_directory(tmp_path: Path) -> None:
    assert mounted_below(tmp_path) == []
    assert Path("/proc") in mounted_below(Path("/"))


def test_the_scratch_directory_goes_with_its_images(tmp_path: Path) -> None:
    with Scratch(tmp_path) as scratch:
        image = scratch.image("a", 3 * MIB + 5)
        assert image.stat().st_size == 3 * MIB + 5
        # No holes: a hole is read without the disk.
        assert image.stat().st_blocks * 512 >= 3 * MIB
        before = image.read_bytes()
        warm_up(image)
        drop_cache(image)
        assert scratch.image("a", 3 * MIB + 5).read_bytes() == before
        with pytest.raises(BenchmarkError, match="--dir"):
            scratch.require_space(1 << 60)
        assert scratch.is_memory() == (filesystem_of(tmp_path) in ("tmpfs", "ramfs"))
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="No such file"), Scratch(tmp_path / "none"):
        pass


def test_filesystems_are_named_as_the_kernel_does() -> None:
    assert filesystem_of(Path("/proc")) == "proc"
    done = subprocess.run(["stat", "-f", "-c", "%T", "/proc"], check=True, capture_output=True)
    assert done.stdout == b"proc\n"
