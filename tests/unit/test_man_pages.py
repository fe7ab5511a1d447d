"""The man pages are up to date, and what renders man pages has nothing to say of them."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from throttlefs.cli.main import cli
from throttlefs.settings.limits import LIMIT_NAMES
from throttlefs.settings.options import OPTION_HELP

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "docs" / "man"
NAMES = ["throttlefs.1", "throttlefs.toml.5"]


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_as_their_sources_say(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    pages = importlib.import_module("manpages.pages")
    assert list(pages.PAGES) == NAMES
    made = pages.PAGES[name]()
    assert (DIRECTORY / name).read_text() == made, "run scripts/build-man"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_groff_has_no_warning(name: str) -> None:
    result = run("groff", "-man", "-Tutf8", "-ww", "-z", DIRECTORY / name)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc")
def test_mandoc_has_no_warning(name: str) -> None:
    result = run("mandoc", "-T", "lint", "-W", "warning", DIRECTORY / name)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_a_reader_finds_every_command_and_option() -> None:
    text = run("groff", "-man", "-Tascii", "-P-cbou", DIRECTORY / "throttlefs.1").stdout
    words = set(re.split(r"[\s,]+", text))
    for name in cli.commands:
        assert f"throttlefs {name}" in text
    for option in ("--foreground", "--config", "--log-file", "--lazy", "--interval", "--json"):
        assert option in words
    assert set(OPTION_HELP) <= words


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_a_reader_finds_every_limit() -> None:
    text = run("groff", "-man", "-Tascii", "-P-cbou", DIRECTORY / "throttlefs.toml.5").stdout
    assert set(LIMIT_NAMES) <= set(re.split(r"[\s,]+", text))
