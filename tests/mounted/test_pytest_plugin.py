"""The pytest plugin, in suites as its users write them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inner_pytest import Suite
from tests.support import clear_away, wait_for
from throttlefs.host import runtime
from throttlefs.host.mountinfo import MountEntry, read_mounts


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    """A suite. In the end nothing that it has mounted is left."""
    made = Suite(tmp_path / "suite")
    yield made
    left = mounts_below(tmp_path)
    for mount in left:
        clear_away(Path(os.fsdecode(mount.point)))
    assert not left


def mounts_below(directory: Path) -> list[MountEntry]:
    return [one for one in read_mounts() if one.point.startswith(os.fsencode(directory) + b"/")]


def test_fixture_marker_and_defaults(suite: Suite) -> None:
    suite.write(
        ini="[pytest]\nslow_disk_options = bps=1M,group=all\n",
        test_it="""
            import os
            import pytest

            def limits(disk):
                (group,) = disk.show()["groups"]
                assert group["name"] == "all"
                return group["limits"]

            def test_defaults(slow_disk, tmp_path):
                assert slow_disk.path == tmp_path / "slow_disk"
                assert os.path.ismount(slow_disk)
                (slow_disk / "f").write_text("x")
                assert (slow_disk.source / "f").read_text() == "x"
                assert limits(slow_disk) == {"bps": 1 << 20}

            @pytest.mark.slow_disk(bps="2M", iops=5)
            class TestMarked:
                def test_class(self, slow_disk):
                    assert limits(slow_disk) == {"bps": 2 << 20, "iops": 5}

                @pytest.mark.slow_disk(iops=7)
                def test_nearer(self, slow_disk):
                    assert limits(slow_disk) == {"bps": 2 << 20, "iops": 7}

            @pytest.mark.slow_disk(bsp="1M")
            def test_mistake(slow_disk):
                raise AssertionError("not reached")

            @pytest.mark.slow_disk(seed=7)
            def test_seed(slow_disk):
                assert "seed = 7" in slow_disk.qmp("x-throttlefs-query-config")["toml"]

            def test_failure(slow_disk):
                slow_disk.set(bps="3M")
                raise AssertionError("on purpose")
        """,
    )
    result = suite.run("--strict-markers")
    assert "4 passed, 1 error" in result.stdout.replace("1 failed, ", ""), result.stdout
    assert "slow_disk: unknown option 'bsp'; did you mean 'bps'?" in result.stdout
    shown = result.stdout.split("Captured slow_disk setup")[-1]
    seed = zlib.crc32(b"test_it.py::test_failure")
    assert f"options: bps=1M,group=all,seed={seed}\n" in shown
    assert f"seed: {seed} (--slow-disk-seed={seed} takes it for every test)" in shown
    assert "log: " in shown


def test_a_seed_for_every_disk(suite: Suite) -> None:
    """The file's wins over the command line's, as the marker's wins over both."""
    suite.write(
        test_it="""
            import pytest

            def seed(disk):
                (line,) = [
                    line
                    for line in disk.qmp("x-throttlefs-query-config")["toml"].splitlines()
                    if line.startswith("seed = ")
                ]
                return int(line.removeprefix("seed = "))

            def test_default(slow_disk):
                print("default", seed(slow_disk))

            @pytest.mark.slow_disk(seed=7)
            def test_marked(slow_disk):
                assert seed(slow_disk) == 7
        """
    )
    assert "default 5" in suite.run("-s", "--slow-disk-seed=5").stdout
    suite.write(ini="[pytest]\nslow_disk_options = profile=nvme,seed=6\n")
    result = suite.run("-s", "--slow-disk-seed=5")
    assert "default 6" in result.stdout
    assert result.returncode == 0, result.stdout


def test_what_a_killed_run_has_left_is_swept_by_the_next(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its daemon was killed as well: it cannot end its mount."""
    suite.write(
        test_it="""
            import os, signal

            def test_dies(slow_disk):
                os.kill(slow_disk.pid, signal.SIGKILL)
                if "DIE" in os.environ:
                    os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    monkeypatch.setenv("DIE", "1")
    assert suite.run().returncode == -9
    (left,) = mounts_below(suite.temporary)
    record = runtime.read_record(left)
    assert record is not None
    wait_for(record.owner_has_ended)
    monkeypatch.delenv("DIE")
    assert suite.run("-p", "no:xdist").returncode == 0
    assert not mounts_below(suite.temporary)


WHOLE = """
    import os, subprocess, tempfile

    def test_one(tmp_path):
        (tmp_path / "f").write_bytes(bytes(4096))
        look = ["stat", "-f", "-c", "%T", tmp_path, tempfile.mkdtemp(), os.environ["TMPDIR"]]
        # Older coreutils call FUSE fuseblk.
        assert set(subprocess.check_output(look, text=True).split()) <= {"fuse", "fuseblk"}

    def test_two(tmp_path):
        test_one(tmp_path)
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_a_whole_run_on_a_slow_disk(suite: Suite, workers: list[str]) -> None:
    suite.write(test_it=WHOLE)
    result = suite.run("--slow-disk=bps=20M", *workers)
    assert "2 passed" in result.stdout, result.stdout + result.stderr
    assert not list(suite.temporary.glob("throttlefs-run-*"))


def test_a_wrong_option_of_a_whole_run(suite: Suite) -> None:
    wrong = suite.run("--slow-disk=bsp=20M", "--collect-only")
    assert wrong.returncode == 4
    assert "--slow-disk: unknown option 'bsp'; did you mean 'bps'?" in wrong.stderr
    assert not list(suite.temporary.glob("throttlefs-run-*"))
