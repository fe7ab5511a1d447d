"""QEMU itself, to compare with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wait_for


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[str]:
    """The QMP socket of a QEMU with one drive, ``drive0``."""
    program = shutil.which("qemu-system-x86_64")
    assert program is not None, "install the package qemu-system-x86"
    image, path = tmp_path / "disk.img", tmp_path / "qemu.sock"
    image.write_bytes(bytes(1 << 20))
    arguments = [
        *("-display", "none", "-nodefaults", "-machine", "none"),
        *("-qmp", f"unix:{path},server=on,wait=off"),
        *("-drive", f"if=none,id=drive0,file={image},format=raw"),
    ]
    with subprocess.Popen([program, *arguments]) as process:
        try:
            wait_for(path.exists)
            yield str(path)
        finally:
            process.terminate()
            process.wait(20)
