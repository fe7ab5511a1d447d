"""The man pages are up to date, and what renders man pages has nothing to say of them."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from throttlefs import __version__
from throttlefs.cli.main import cli
from throttlefs.settings.limits import LIMIT_NAMES
from throttlefs.settings.option_help import OPTION_HELP

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "docs" / "man"
PARTS = {"throttlefs.1": ["synopsis", "commands"], "throttlefs.toml.5": ["limits", "device"]}
NAMES = list(PARTS)


@pytest.fixture
def manpages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    return importlib.import_module("manpages")


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_as_the_help_texts_say(manpages: ModuleType, name: str) -> None:
    page = (DIRECTORY / name).read_text()
    assert page == manpages.renewed(page), "run scripts/build-man"
    assert manpages.parts_of(page) == PARTS[name]
    assert f'"throttlefs {__version__}"' in page


def test_only_what_is_marked_is_made_anew(manpages: ModuleType) -> None:
    page = (
        '.TH X 5 2026-11-23 "throttlefs 0.0.0" "File Formats"\n.SH KEYS\nBy hand.\n'
        '.\\" Made by scripts/build-man: limits\nold\n.\\" End of what is made\n.B by hand\n'
    )
    lines = manpages.renewed(page).splitlines()
    assert lines[0] == f'.TH X 5 2026-11-23 "throttlefs {__version__}" "File Formats"'
    assert lines[1:4] == [".SH KEYS", "By hand.", '.\\" Made by scripts/build-man: limits']
    assert lines[4:6] == [".TP", ".B bps"]
    assert "old" not in lines
    assert lines[-2:] == ['.\\" End of what is made', ".B by hand"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Two\nlines.", [".PP", "Two lines."]),
        ("`a-b` of tool(8), x\\", [".PP", r"\fBa\-b\fR of \fBtool\fR(8), x\e"]),
        (".so \u00e9", [".PP", r"\&.so \[u00E9]"]),
        ("\b\nRows:\n  a  one thing\n  b  two", [
            ".PP", "Rows:", ".TP", ".B a", "one thing", ".TP", ".B b", "two",
        ]),
        ("  just a line\n  another", [
            ".PP", ".in +4n", ".EX", "just a line\nanother", ".EE", ".in",
        ]),
    ],
)  # fmt: skip
def test_help_becomes_macros(manpages: ModuleType, text: str, lines: list[str]) -> None:
    assert list(manpages._text(text)) == lines


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
