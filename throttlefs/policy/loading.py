"""Reads the configuration file, and makes the policy from it and ``-o``."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Final

from throttlefs.errors import ThrottlefsError, UsageError
from throttlefs.host import fusectl, trusted
from throttlefs.settings.config import NO_CONFIG, Config, decode_config
from throttlefs.settings.config_table import ConfigError, printable_name
from throttlefs.settings.device import DeviceError, check_group_device
from throttlefs.settings.faults import Fault
from throttlefs.settings.limits import LimitsError
from throttlefs.settings.options import MountOptions
from throttlefs.settings.profiles import ProfileError
from throttlefs.settings.scenario import Scenario, TimedChange
from throttlefs.settings.suggest import nearest
from throttlefs.settings.units import format_duration, format_size, quoted

from .change import TuningError
from .overlays import Overlay
from .policy import Policy, make_policy

MAX_CONFIG_SIZE: Final = 16 << 20
"""The largest file that is read, in bytes; some 100,000 tables."""

_LONGEST_PASSWORD: Final = 4096


def load_config(path: str | os.PathLike[str]) -> Config:
    """The configuration in the file *path*. Raises `ConfigError`, whatever is wrong."""
    name = os.fspath(path)
    try:
        content = trusted.read_file(name, MAX_CONFIG_SIZE + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{printable_name(name)}: cannot be read: {reason}") from None
    except ValueError:  # a NUL in the name
        raise ConfigError(f"{printable_name(name)}: cannot be the name of a file") from None
    if len(content) > MAX_CONFIG_SIZE:
        reason = f"larger than {format_size(MAX_CONFIG_SIZE)}"
        raise ConfigError(f"{printable_name(name)}: cannot be read: {reason}")
    return decode_config(content, name)


def read_password(path: str) -> str:
    """The first line of the file *path*. Raises `ThrottlefsError`, whatever is wrong."""
    try:
        line = trusted.read_file(path, _LONGEST_PASSWORD + 1).partition(b"\n")[0].rstrip(b"\r")
        password = line.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ThrottlefsError(
            f"password_file: {printable_name(path)} cannot be read: {reason}"
        ) from None
    if not password or len(line) > _LONGEST_PASSWORD:
        raise ThrottlefsError(f"password_file: {printable_name(path)} has no password in it")
    return password


def read_policy(options: MountOptions) -> Policy:
    """The policy of ``-o`` and the config file. Raises `ThrottlefsError` if it cannot be used."""
    config = NO_CONFIG
    if options.config is not None:
        try:
            config = load_config(options.config)
        except ConfigError as exc:
            raise _with_status(ThrottlefsError(str(exc)), exc.exit_status) from None
        check_waits(config.faults)
    try:
        policy = make_policy(options, config)
    except (ProfileError, LimitsError) as exc:
        raise UsageError(str(exc)) from None
    try:
        overlays_of(config.changes, policy.groups)
    except ThrottlefsError as exc:
        raise ThrottlefsError(f"{printable_name(options.config or '')}: {exc}") from None
    for name, group in policy.groups.items():
        try:
            check_group_device(group.limits, group.device)
        except DeviceError as exc:
            raise UsageError(f"group {quoted(name)}: {exc}") from None
    return policy


def _with_status(error: ThrottlefsError, status: int) -> ThrottlefsError:
    error.exit_status = status
    return error


def read_changes_of(scenario: Scenario) -> None:
    """Raise `ThrottlefsError` if one of the changes in *scenario* can be nowhere."""
    changes = scenario.changes
    overlays_of(changes, [one.group for one in changes if one.group is not None])


def overlays_of(changes: Iterable[TimedChange], groups: Collection[str]) -> list[Overlay]:
    """*changes*, read. Raises `ThrottlefsError` if one cannot be, or its group is not in *groups*.

    The message has the number of its table.
    """
    overlays = []
    for number, change in enumerate(changes, 1):
        where = f"[[change]] number {number}"
        if change.group is not None and change.group not in groups:
            best = nearest(change.group, groups)
            hint = f"; did you mean {quoted(best)}?" if best else ""
            raise ThrottlefsError(f"{where}: there is no group {quoted(change.group)}{hint}")
        try:
            overlays.append(Overlay(change))
        except TuningError as exc:
            raise ThrottlefsError(f"{where}: {exc}") from None
    return overlays


def check_waits(faults: Iterable[Fault]) -> None:
    """Raise `ThrottlefsError` if the kernel would end the mount while one of *faults* waits."""
    timeout = fusectl.request_timeout()
    if timeout is None:
        return
    name, seconds = timeout
    for fault in faults:
        wait = fault.longest_wait
        if wait is not None and wait > seconds * 10**9:
            raise ThrottlefsError(
                f"{fault.effect.value} of {format_duration(wait)} is longer than {name}, {seconds}"
                f" s, after which the kernel ends the mount: a shorter one, or sysctl {name}=0"
            )
