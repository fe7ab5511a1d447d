"""A real guest on a throttled image: Linux in QEMU, its dd held to the limit.

The quick form of ``scripts/guest``: TCG alone, which boots everywhere.
"""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from guests import machine, packages
from guests.initramfs import make_initramfs
from guests.session import Plan, run_session

pytestmark = [
    pytest.mark.skipif(
        shutil.which("apt-get") is None or platform.machine() != "x86_64",
        reason="the guest is made of Debian's packages for amd64",
    ),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = packages.default_cache()
    try:
        packages.guest_files(kept)
    except packages.PackageError as exc:
        pytest.skip(f"the guest's packages cannot be had: {exc}")
    return kept


@pytest.mark.parametrize(
    ("image_format", "aio"), [("raw", "native"), ("qcow2", "io_uring"), ("raw", "threads")]
)
def test_a_guest_gets_its_limit_and_keeps_its_data(
    tmp_path: Path, cache: Path, image_format: str, aio: str
) -> None:
    plan = Plan(image_format, aio, limit="4M", then="16M", mebibytes=4, accelerators=["tcg"])
    for number in range(3):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        report = run_session(plan, scratch, cache)
        assert len(report.steps) == 3
        assert any("files" in line for line in report.checks)
        (trimmed,) = [line for line in report.checks if line.startswith("fstrim: ")]
        assert float(trimmed.split()[1]) > 3.9, "the guest's file had 4 MiB"
        # A busy machine makes the guest slower; nothing may make it faster.
        assert all(0.85 * step.least - 0.1 < step.seconds for step in report.steps), report
        if all(step.seconds < 1.5 * step.expected + 2 for step in report.steps):
            return
    raise AssertionError(report)


class _Dead:
    """A machine in place of QEMU's on a host where KVM does not work."""

    def __init__(self, *arguments: object) -> None:
        self.accelerator = str(arguments[3])
        self.ended = False

    def wait_until_up(self) -> None:
        if self.accelerator == "kvm":
            raise machine.GuestError("KVM internal error. Suberror: 1")

    def __exit__(self, *_: object) -> None:
        self.ended = True


def test_where_kvm_does_not_work_tcg_takes_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "Guest", _Dead)
    nothing = tmp_path / "x"
    guest = machine.boot(nothing, nothing, "drive", ["kvm", "tcg"], nothing)
    assert guest.accelerator == "tcg"
    with pytest.raises(machine.GuestError, match="KVM internal error"):
        machine.boot(nothing, nothing, "drive", ["kvm"], nothing)


def test_the_archive_is_one_that_cpio_reads(tmp_path: Path) -> None:
    import subprocess

    for name in ("busybox", "a.ko"):
        (tmp_path / name).write_bytes(b"\0" * 5)
    files = packages.GuestFiles(tmp_path, tmp_path / "busybox", (tmp_path / "a.ko",))
    listed = subprocess.run(
        ["cpio", "-t", "--quiet"], input=make_initramfs(files), capture_output=True, check=True
    )
    names = listed.stdout.decode().split()
    assert {"init", "bin/busybox", "modules/a.ko", "proc"} <= set(names)
