"""What commands print where: in a pipe, on terminals of all kinds, in any encoding."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.mounted.test_control import image
from tests.support import THROTTLEFS, Mounted, MountFactory, run_throttlefs
from tests.terminal import Terminal

NAME = "bild-ü-日本.img"
ENCODINGS = (
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
)


@pytest.fixture
def mount(make_mount: MountFactory, tmp_path: Path) -> Mounted:
    mounted = make_mount("bps=4M", target=tmp_path / "mnt-ü")
    image(mounted, NAME)
    return mounted


@pytest.mark.parametrize("encoding", ENCODINGS, ids=["output", "locale"])
def test_names_are_printed_in_any_encoding(mount: Mounted, encoding: dict[str, str]) -> None:
    path = mount.path / NAME

    def printed(*args: object, status: int = 0) -> bytes:
        result = subprocess.run(
            [*THROTTLEFS, *map(str, args)],
            env={**os.environ, **encoding},
            capture_output=True,
            check=False,
        )
        said = result.stdout + result.stderr
        assert (result.returncode, b"Traceback" in said) == (status, False), said
        return said

    with path.open("rb") as file:
        file.read(1)
        name = rb"bild-\xfc-\u65e5\u672c.img"
        point = os.fsencode(mount.path.parent) + rb"/mnt-\xfc"
        assert printed("set", path, "group=größe", "bps=3M").startswith(rb"group gr\xf6\xdfe: bps")
        for command in (["show"], ["stats"], ["top", "--count", 1, "--interval", 0.1]):
            assert name in printed(*command, mount.path)
        assert printed("show", mount.path).splitlines()[0].endswith(b" on " + point)
        assert point in printed("list").split()
        assert name in printed("show", mount.path / NAME)
        written = printed("show", "--toml", mount.path)  # UTF-8, as TOML has to be
        assert tomllib.loads(written.decode())["image"][0]["path"] == NAME
        assert rb"no-\xfc" in printed("show", mount.path / "no-ü", status=1)
        assert rb"/no-\xfc is not a mount point" in printed("umount", "/no-ü", status=1)
    assert printed("umount", mount.path) == b""


def deep(mount: Mounted, levels: int = 24) -> str:
    """Make and open an image with a path of 6,000 characters; gives the path in the mount."""
    directories = ["d" * 250] * levels
    here = os.open(mount.path, os.O_RDONLY)
    for directory in directories:
        os.mkdir(directory, dir_fd=here)
        inner = os.open(directory, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    with open(os.open("far.img", os.O_CREAT | os.O_WRONLY, dir_fd=here), "wb") as file:
        file.write(b"x")
    os.close(here)
    return "/".join([*directories, "far.img"])


def test_long_paths_lose_their_middle_but_not_in_json(mount: Mounted) -> None:
    path = deep(mount)
    for command in (["show"], ["stats"], ["top", "--count", 1, "--interval", 0.1]):
        lines = run_throttlefs(*command, mount.path).stdout.splitlines()
        assert any("...ddd" in line and "far.img" in line for line in lines)
        assert max(map(len, lines)) < 400
    for command in ("show", "stats"):
        assert path in run_throttlefs(command, "--json", mount.path).stdout
    line = run_throttlefs("show", f"{mount.path}/{'n' * 6000}").stderr
    assert line.startswith(f"throttlefs: {mount.path}/nnn")
    assert "...nnn" in line
    assert len(line) < 400


@pytest.mark.parametrize("term", ["dumb", "xterm"])
@pytest.mark.parametrize("command", ["show", "stats"])
def test_tables_fit_a_terminal_of_80_columns(mount: Mounted, command: str, term: str) -> None:
    name = "an-image-with-a-name-of-some-length-" + "x" * 60 + ".img"
    image(mount, name)
    run_throttlefs("set", mount.path / name, "bps=3M,bps_max=20M,bps_max_length=30,iops=20000")
    with (mount.path / name).open("rb") as file:
        file.read(1)
        terminal = Terminal(command, mount.path, width=80, term=term)
        assert terminal.end() == 0
    lines = terminal.text().splitlines()
    (row,) = [line for line in lines if line.startswith("an-i")]
    assert ".img  " in row, "the name loses its middle"
    assert row.split()[1] in ("bps=3M,", "read"), "the row begins with the columns that matter"
    after = lines[lines.index(row) + 1]
    assert after.split()[0] == {"show": "iops=20000,", "stats": "write"}[command]


@pytest.mark.parametrize("term", ["dumb", ""])
def test_top_prints_lines_where_nothing_can_be_placed(mount: Mounted, term: str) -> None:
    with (mount.path / NAME).open("rb") as file:
        file.read(1)
        terminal = Terminal(
            "top", "--count", 2, "--interval", 0.1, mount.path, term=term, width=200
        )
        assert terminal.end() == 0
    assert terminal.text().count("of bps=4M, 0 waiting") == 2
