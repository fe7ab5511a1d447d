"""A mistake on the command line of scripts/bench and scripts/guest is one line on stderr."""

import errno

import click
import commandline
import pytest
from benchmarks.cli import main as bench
from guests.cli import main as guest


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        (bench, ["speed", "--peers"], "No such option '--peers'"),
        (bench, ["fast"], "No such command 'fast'; see it --help"),
        (bench, ["accuracy", "--seconds", "x"], "'x' is not a valid float"),
        (bench, ["accuracy", "--only", "no\nsuch"], "nothing of --list matches --only no such"),
        (guest, ["--limit", "fast"], "'fast' is not a number"),
        (guest, ["--mebibytes", "0"], "0 is not in the range x>=1"),
        (guest, ["--format", "vmdk"], "'vmdk' is not one of 'raw', 'qcow2', 'both'"),
        (guest, ["more"], "unexpected extra argument"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    command: click.Command,
    words: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["it", *words])
    with pytest.raises(SystemExit) as ended:
        commandline.run(command, "it")
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert said.err.startswith("it: ")
    assert line in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(None, 0), (3, 3), (click.Abort(), 130), (click.ClickException("a\nb."), 1)],
)
def test_the_status_says_how_it_ended(
    outcome: int | Exception | None,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def command() -> int | None:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr("sys.argv", ["it"])
    with pytest.raises(SystemExit) as ended:
        commandline.run(command, "it")
    assert ended.value.code == status
    assert capsys.readouterr().err == ("it: a b\n" if status == 1 else "")


def test_an_error_that_nobody_expects_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def command() -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("sys.argv", ["it"])
    with pytest.raises(OSError, match="broken"):
        commandline.run(command, "it")
