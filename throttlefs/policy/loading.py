"""Reads the configuration file, and makes the policy from it and ``-o``."""

from __future__ import annotations

import os
from typing import Final

from throttlefs.errors import ThrottlefsError
from throttlefs.host import trusted
from throttlefs.settings.config import (
    NO_CONFIG,
    Config,
    ConfigError,
    decode_config,
    printable_name,
)
from throttlefs.settings.options import MountOptions
from throttlefs.settings.units import format_size

from .policy import Policy, make_policy

MAX_CONFIG_SIZE: Final = 16 << 20
"""The largest file that is read, in bytes; some 100,000 tables."""


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


def read_policy(options: MountOptions) -> Policy:
    """The policy of ``-o`` and the config file. Raises `ThrottlefsError` if the file is wrong."""
    config = NO_CONFIG
    if options.config is not None:
        try:
            config = load_config(options.config)
        except ConfigError as exc:
            raise ThrottlefsError(str(exc)) from None
    return make_policy(options, config)
