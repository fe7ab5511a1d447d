"""A mount for the commands of the control socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.control.bare_mount import Mount


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    for name in ("a.img", "b.img", "ruled.img"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "c.img").write_bytes(b"")
    mount = Mount(tmp_path)
    yield mount
    mount.inodes.close()
