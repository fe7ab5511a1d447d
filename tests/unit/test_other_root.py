"""What scripts/test-in-root says before it makes anything."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import needs_root

SCRIPT = Path(__file__).parents[2] / "scripts" / "test-in-root"


def refusal(*arguments: object) -> str:
    result = subprocess.run(
        [SCRIPT, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    "arguments", [(), ("trixie",), ("--user", "trixie"), ("--bench", "sid"), ("--packages", "sid")]
)
def test_without_a_suite_and_a_place(arguments: tuple[str, ...]) -> None:
    assert refusal(*arguments) == (
        "throttlefs: usage: scripts/test-in-root [--user|--bench|--packages] SUITE DIR [ARGUMENTS]"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_an_ordinary_user_cannot_make_a_system(tmp_path: Path) -> None:
    assert "must be run as root" in refusal("trixie", tmp_path / "roots")
    assert not (tmp_path / "roots").exists()


@needs_root("make a system")
@pytest.mark.parametrize("suite", ["../x", ".", "a/b"])
def test_what_is_no_release(tmp_path: Path, suite: str) -> None:
    assert refusal(suite, tmp_path / "roots") == f"throttlefs: '{suite}' is no release of Debian"
    assert not (tmp_path / "roots").exists()
