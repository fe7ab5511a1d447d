"""The commands for fault rules: fault add, list, remove, clear and log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import click

from throttlefs.errors import ThrottlefsError, UsageError

from .control import MountPath, whole_mount

_NOT_PLAIN: Final = ("time", "pid")
"""What differs between two runs that are otherwise the same."""

_ADD_HELP: Final = """Add a fault rule and print its number.

Of several rules the first that fires for a request decides. PATH is a file in a mount, a directory
in it (with all that is in that), or a mount point; then path=PATTERN chooses files, as [[image]] in
the config file does. op=NAME,... chooses requests (default: reads and writes), range=FROM-TO those
that touch these bytes. A request is what the kernel sends: at most 1 MiB of a read or write."""

_ADD_EXAMPLES: Final = """Examples:

\b
  throttlefs fault add mnt/db.img op=write error=EIO nth=3
  throttlefs fault add mnt 'path=**/*.wal' op=flush delay=2s every=10
  throttlefs fault add mnt/db.img corrupt=flip range=1M-2M
  throttlefs fault add mnt op=create,mkdir error=ENOSPC at=10s lasting=5s"""


def _table(title: str, rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return f"{title}\n\n\b\n" + "\n".join(f"  {left:<{width}}  {rows[left]}" for left in rows)


class _AddCommand(click.Command):
    """``fault add``. Its help is made from the tables of words when it is asked for."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from throttlefs.settings.fault_words import EFFECT_HELP, OP_HELP, TRIGGER_HELP

        self.help = "\n\n".join(
            [
                _ADD_HELP,
                _table("One of these effects (error may go with torn or lose):", EFFECT_HELP),
                _table("Which of the matching requests, by count and by time:", TRIGGER_HELP),
                _table("The operations:", OP_HELP),
                _ADD_EXAMPLES,
            ]
        )
        super().format_help_text(ctx, formatter)


@click.group(short_help="Let requests fail, hang, or go wrong.")
def fault() -> None:
    """Let requests fail, hang, or go wrong, as rules say.

    See throttlefs fault add --help for what a rule can say.
    """


@fault.command(cls=_AddCommand, short_help="Add a rule.")
@click.argument("path", metavar="PATH", type=MountPath())
@click.argument("words", metavar="NAME=VALUE...", nargs=-1, required=True)
def add(path: str, words: tuple[str, ...]) -> None:
    """Add a fault rule and print its number (see _AddCommand)."""
    from throttlefs.control.locate import locate
    from throttlefs.settings.fault_words import FaultError
    from throttlefs.settings.faults import Fault, assignments

    from .text import in_utf8

    try:
        values = assignments(map(in_utf8, words))
        # The daemon checks this as well. What no daemon would take is a wrong command line.
        Fault.parse(values)
    except FaultError as exc:
        raise UsageError(str(exc)) from None
    found = locate(path)
    arguments: dict[str, Any] = {"values": values}
    if found.device is not None:
        if "path" in values:
            raise UsageError(f"path= needs a mount point, and {path} is in one: use {found.point}")
        arguments["device"] = found.device
    with found.session() as client:
        print(client.run("x-throttlefs-fault-add", **arguments)["rule"])


@fault.command("list", short_help="List the rules, and how often each has fired.")
@click.argument("path", metavar="MOUNTPOINT", type=MountPath())
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_rules(path: str, as_json: bool) -> None:
    """List the rules of a mount: what each says, how many requests matched, how often it fired."""
    from .presentation import print_rules

    with whole_mount(path, "fault list").session() as client:
        rules = client.run("x-throttlefs-fault-list")
    if as_json:
        print(json.dumps(rules, indent=2))
    else:
        print_rules(rules)


@fault.command(short_help="Remove rules.")
@click.argument("path", metavar="MOUNTPOINT", type=MountPath())
@click.argument("numbers", metavar="NUMBER...", nargs=-1, required=True, type=click.IntRange(min=1))
def remove(path: str, numbers: Sequence[int]) -> None:
    """Remove the rules with these numbers. Requests that hang in one go on."""
    with whole_mount(path, "fault remove").session() as client:
        for number in numbers:
            client.run("x-throttlefs-fault-remove", rule=number)


@fault.command(short_help="Remove all rules.")
@click.argument("path", metavar="MOUNTPOINT", type=MountPath())
def clear(path: str) -> None:
    """Remove all rules, those of the config file too. Requests that hang go on.

    SIGHUP brings back those of the file.
    """
    with whole_mount(path, "fault clear").session() as client:
        client.run("x-throttlefs-fault-clear")


@fault.command(short_help="Print a fault log.")
@click.argument("file", metavar="FILE", type=click.File("rb"))
@click.option("--plain", is_flag=True, help="Without times and process ids.")
def log(file: Any, plain: bool) -> None:
    """Print the file of -o fault_log, a line of JSON for each fault that happened.

    With --plain two runs that make the same requests in the same order print the same.
    """
    for number, line in enumerate(file, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError
        except (ValueError, RecursionError):
            raise ThrottlefsError(f"{file.name}: line {number} is not of a fault log") from None
        if plain:
            record = {key: value for key, value in record.items() if key not in _NOT_PLAIN}
        print(json.dumps(record))
