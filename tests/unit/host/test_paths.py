"""SRC and DST: what is said of those that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from throttlefs.errors import ThrottlefsError
from throttlefs.host.paths import check_paths


def refusal(source: str, target: str) -> str:
    with pytest.raises(ThrottlefsError) as caught:
        check_paths(source, target, nonempty=False)
    return str(caught.value)


def furnish(place: Path) -> None:
    (place / "images").mkdir()
    (place / "images" / "disk.img").touch()
    (place / "mnt").mkdir()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def public_place() -> Iterator[Path]:
    """One that other users may pass, which they may not pytest's own."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        furnish(Path(directory))
        yield Path(directory)


@pytest.mark.parametrize(
    ("source", "target", "cure"),
    [
        ("images", "other", "; make it with: mkdir other"),
        ("images", "other/", "; make it with: mkdir other/"),
        ("images", "my disks", "; make it with: mkdir 'my disks'"),
        ("images", "no/other", "; make it with: mkdir -p no/other"),
        ("images/disk.img", "slow.img", "; make it with: touch slow.img"),
        (
            "images/disk.img",
            "no/slow.img",
            "; make it with: mkdir -p no && touch no/slow.img",
        ),
        (
            "images",
            "mnt/disk.img",
            ", and has to be a directory as SRC images is one; name one image as SRC to have a"
            " file, or make the directory with: mkdir mnt/disk.img",
        ),
    ],
)
def test_how_to_make_a_dst_that_is_not_there(
    place: Path, source: str, target: str, cure: str
) -> None:
    assert refusal(source, target) == f"DST {target} does not exist{cure}"


def refusal_to(uid: int, source: Path, target: Path) -> str:
    """What the user *uid* is told."""
    script = (
        "import os, sys\n"
        "from throttlefs.errors import ThrottlefsError\n"
        "from throttlefs.host.paths import check_paths\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"  # the imports are root's still
        "try: check_paths(*sys.argv[1:], nonempty=False)\n"
        "except ThrottlefsError as exc: print(exc)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, source, target], capture_output=True, text=True, check=True
    )
    return result.stdout.removesuffix("\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's part, as root alone can")
def test_how_to_get_at_a_src_that_may_not_be_read(public_place: Path) -> None:
    place = public_place
    image = place / "images" / "disk.img"
    mine = place / "mine.img"
    mine.touch()
    os.chown(mine, 65534, 65534)
    for path, mode in ((image, 0o600), (mine, 0), (place / "images", 0o700)):
        os.chmod(path, mode)
    allow = "ask its owner to allow it (setfacl -m u:65534:rX {}), or mount as root"
    target = place / "mnt"
    assert refusal_to(65534, place / "images", target) == (
        f"SRC {place / 'images'}: you may not read this directory; {allow}".format(place / "images")
    )
    assert refusal_to(65534, image, target) == (
        f"SRC {image}: you may not search a directory above it;"
        " ask its owner to allow it, or mount as root"
    )
    os.chmod(place / "images", 0o711)
    assert refusal_to(65534, image, target) == (
        f"SRC {image}: you may not read this file; {allow.format(image)}"
    )
    assert refusal_to(65534, mine, target) == (
        f"SRC {mine}: you may not read this file; it is yours: allow it with chmod u+rX {mine}"
    )
