"""Running the command in this process, as far as it gets without a mount."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from throttlefs.cli import main as command

Mistake = Callable[..., str]


@pytest.fixture
def mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mistake:
    """Run a command that must fail with one line and *status*; gives what the line says."""

    def run(*words: object, status: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["throttlefs", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            command.main()
        said = capsys.readouterr()
        assert ended.value.code == status, said.err
        (line,) = said.err.splitlines()
        assert said.out == ""
        assert line.startswith("throttlefs: ")
        return line.removeprefix("throttlefs: ")

    return run
