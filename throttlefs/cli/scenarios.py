"""The command that follows a scenario: scenario run."""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from throttlefs.errors import ThrottlefsError, UsageError

from .control import MountPath, whole_mount
from .text import print_now

if TYPE_CHECKING:
    from throttlefs.control.client import QmpClient

_EVENT: Final = "X_THROTTLEFS_SCENARIO"
_STATUS_OF: Final = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as a shell has it


class _EndedError(Exception):
    """A signal has asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def _end(number: int, _: object) -> NoReturn:
    raise _EndedError(number)


@click.group(short_help="Let limits, latencies and faults come and go by time.")
def scenario() -> None:
    """Let limits, latencies and faults come and go by time."""


@scenario.command(short_help="Run a scenario and follow it.")
@click.argument("file", metavar="FILE", type=click.Path())
@click.argument("path", metavar="MOUNTPOINT", type=MountPath())
@click.option("--for", "limit", metavar="TIME", help="End it after TIME, e.g. 90s or 5min.")
def run(file: str, path: str, limit: str | None) -> None:
    """Let what FILE says happen on a mount, and print each change when it comes.

    FILE is TOML: [[fault]] tables, which say what throttlefs fault add says, and [[change]] tables
    with what throttlefs set takes, for a path, a group, or the default. Each has at, lasting and
    repeat, which count from now; without them it holds as long as the scenario. The command ends
    when nothing more can happen, else when it is interrupted. Then everything is as it was before.

    \b
    Example:
      [[change]]
      bps = "100K"
      at = "10s"
      lasting = "5s"
    \b
      [[fault]]
      path = "db/*.wal"
      op = "flush"
      error = "EIO"
      lasting = "1s"
      repeat = "10s"
    """
    text, seconds = _read(file), _seconds(limit)
    found = whole_mount(path, "a scenario")
    arguments: dict[str, Any] = {"toml": text}
    if seconds is not None:
        arguments["seconds"] = seconds
    with found.session() as client:
        for number in _STATUS_OF:
            signal.signal(number, _end)
        try:
            client.run("x-throttlefs-scenario-start", **arguments)
            while not _print_next(client):
                pass
        except _EndedError as exc:
            for number in _STATUS_OF:
                signal.signal(number, signal.SIG_IGN)
            client.run("x-throttlefs-scenario-end")
            while not _print_next(client):
                pass
            raise SystemExit(_STATUS_OF[exc.number]) from None


def _read(file: str) -> str:
    """The text of a scenario that can be. Raises `ThrottlefsError`."""
    from throttlefs.policy.loading import read_changes_of
    from throttlefs.settings.scenario import MOST_SCENARIO_BYTES, ScenarioError, parse_scenario

    try:
        with open(file, "rb") as opened:
            content = opened.read(MOST_SCENARIO_BYTES + 1)
        if len(content) > MOST_SCENARIO_BYTES:
            raise ScenarioError("is larger than 512 KiB")
        text = content.decode("utf-8")
        read_changes_of(parse_scenario(text))
    except OSError as exc:
        raise ThrottlefsError(f"{file}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: is not UTF-8") from None
    except (ScenarioError, ThrottlefsError) as exc:
        raise UsageError(f"{file}: {exc}") from None
    return text


def _seconds(limit: str | None) -> int | None:
    from throttlefs.settings.units import UnitError, parse_duration

    if limit is None:
        return None
    try:
        duration = parse_duration(limit)
    except UnitError as exc:
        raise UsageError(f"--for: {exc}") from None
    if not duration:
        raise UsageError("--for: 0 is no time at all")
    return math.ceil(duration / 1e9)


def _print_next(client: QmpClient) -> bool:
    """Print what the scenario does next; returns whether it is over."""
    event = client.next_event(_EVENT)
    at = f"{event['elapsed-ns'] / 1e9:9.3f} s"
    if event["state"] != "over":
        print_now(f"{at}  {event['state']:<6}  {event['what']}")
        return False
    print_now(f"{at}  over; all is as it was before")
    for rule in event["rules"]:
        print_now(_count(rule))
    return True


def _count(rule: Mapping[str, Any]) -> str:
    return f"fired for {rule['fired']} of {rule['matched']} requests: {rule['text']}"
