"""A mount as a service: what systemd is told, what its journal gets, and the unit template."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import THROTTLEFS, clear_away, run_throttlefs
from throttlefs.host.mountinfo import mounted_at
from throttlefs.host.notify import notify

UNIT = Path(__file__).resolve().parents[2] / "docs" / "examples" / "throttlefs@.service"


@pytest.fixture
def directories(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    source, target = tmp_path / "src", tmp_path / "mnt"
    source.mkdir()
    target.mkdir()
    yield source, target
    clear_away(target)


def start_service(
    source: Path, target: Path, log: Path, **environment: str
) -> subprocess.Popen[bytes]:
    with open(log, "wb") as stderr:
        st = os.fstat(stderr.fileno())
        journal = {"JOURNAL_STREAM": f"{st.st_dev}:{st.st_ino}"}
        return subprocess.Popen(
            [*THROTTLEFS, "mount", "--foreground", source, target, "-o", ""],
            stderr=stderr,
            env={**os.environ, **journal, **environment},
        )


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_hears_of_the_start_and_the_end(
    directories: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@throttlefs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(30)
        log = tmp_path / "log"
        with start_service(*directories, log, NOTIFY_SOCKET=address) as service:
            assert manager.recv(100) == b"READY=1", "it can be used from here on"
            assert mounted_at(os.fsencode(directories[1])) is not None
            (directories[1] / "f").write_text("x")
            service.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert service.wait(20) == 0


def test_the_journal_gets_priorities_and_no_names(
    directories: tuple[Path, Path], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        with start_service(*directories, log, NOTIFY_SOCKET=str(tmp_path / "notify")) as service:
            manager.recv(100)
            service.send_signal(signal.SIGTERM)
            assert service.wait(20) == 0
    lines = log.read_text().splitlines()
    assert all(re.match(r"<[3-7]>[^<]", line) for line in lines), lines
    assert f"<6>mounted {directories[0]} on {directories[1]}" in lines
    assert f"<6>unmounted {directories[1]}" in lines


def test_every_line_of_a_traceback_has_its_priority(tmp_path: Path) -> None:
    script = """
import logging, os
from throttlefs.daemon.logs import set_up_logging
st = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{st.st_dev}:{st.st_ino}"
set_up_logging(True, None, False)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("throttlefs").exception("no good")
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    lines = result.stderr.splitlines()
    assert lines[0] == "<3>no good"
    assert len(lines) >= 4
    assert all(line.startswith("<3>") for line in lines)


def test_elsewhere_stderr_is_not_taken_for_the_journal(directories: tuple[Path, Path]) -> None:
    """JOURNAL_STREAM is inherited by what a service starts, whose stderr may be another."""
    environment = {**os.environ, "JOURNAL_STREAM": "1:2"}
    with subprocess.Popen(
        [*THROTTLEFS, "mount", "--foreground", *directories],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("throttlefs")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for address in ("", "relative", str(tmp_path / "no"), "@nobody", "/" + "x" * 200):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_a_service_whose_source_is_missing(directories: tuple[Path, Path]) -> None:
    result = run_throttlefs("mount", "--foreground", "/no/such/images", directories[1], "-o", "")
    assert result.returncode == 1
    assert result.stderr == "throttlefs: SRC /no/such/images does not exist\n"


def test_systemd_understands_the_template(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # The page is not installed here, which it would complain of.
    lines = [line for line in UNIT.read_text().splitlines() if "man:" not in line]
    unit.write_text("\n".join(lines))
    result = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    if os.geteuid() != 0 and result.returncode and UNIT.name not in result.stderr:
        pytest.skip(f"no word of the unit: {result.stderr.strip()}")  # it cannot run here
    # Newer systemds have something to say of units of other packages.
    said = [line for line in result.stderr.splitlines() if "/lib/systemd/system/" not in line]
    assert (result.returncode, said) == (0, [])
