"""Reads the values of ``-o`` options, and says what is wrong with those that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from throttlefs import FUSE_SUBTYPE

from . import units
from .cachemode import CacheMode
from .limits import check_group_name, check_weight
from .shared import ON_LOST, SharedError, StoreAddress, parse_store_address
from .units import quoted
from .volatile import FSYNC_FAILURES, ORDERS_OF_NAMES, SECTORS, VOLATILE_DIR

CACHE_MODES: Final[tuple[str, ...]] = tuple(mode.value for mode in CacheMode)
ENGINES: Final[tuple[str, ...]] = ("auto", "uring", "threads")
DISCARD_COSTS: Final[tuple[str, ...]] = ("request", "bytes")
SERVERS: Final[tuple[str, ...]] = ("own", "pyfuse3")

_MIN_INFLIGHT: Final = 2 << 20  # two of the largest requests
_MAX_BACKGROUND: Final = 65_535  # a 16-bit field of the FUSE protocol
_MAX_SECONDS: Final = 10**9
_DECIMAL: Final = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


class OptionError(ValueError):
    """An ``-o`` option that cannot be used; the message is one line that names it and the cure.

    `option` is the option's name as the user wrote it.
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(option, message)
        self.option = option
        self.message = message

    def __str__(self) -> str:
        return self.message


def split_address(address: str) -> tuple[str, int]:
    """Host and port of a valid ``metrics=``: "[::1]:9100" is ("::1", 9100)."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _text(name: str, value: str) -> str:
    return value


def _seconds(name: str, value: str) -> float:
    if len(value) > 64 or not _DECIMAL.fullmatch(value) or float(value) > _MAX_SECONDS:
        raise OptionError(
            name, f"{name}: {quoted(value)} is not a number of seconds from 0 to 10^9, e.g. 0.5"
        )
    return float(value)


def _choice(*choices: str) -> Callable[[str, str], str]:
    def parse(name: str, value: str) -> str:
        if value not in choices:
            raise OptionError(name, f"{name}: {quoted(value)} is none of {', '.join(choices)}")
        return value

    return parse


def _switch(name: str, value: str) -> bool:
    return _choice("on", "off")(name, value) == "on"


def _sector(name: str, value: str) -> int:
    return int(_choice(*SECTORS)(name, value))


def _bytes_from(smallest: int) -> Callable[[str, str], int]:
    def parse(name: str, value: str) -> int:
        number = _bytes(name, value)
        if number < smallest:
            raise OptionError(
                name,
                f"{name}: {quoted(value)} is too little; "
                f"the smallest value is {units.format_bytes(smallest)}",
            )
        return number

    return parse


def _bytes(name: str, value: str) -> int:
    try:
        return units.parse_bytes(value)
    except units.UnitError as error:
        raise OptionError(name, f"{name}: {error}") from None


def _max_background(name: str, value: str) -> int:
    try:
        return units.parse_whole(value, 1, _MAX_BACKGROUND)
    except units.UnitError as error:
        raise OptionError(name, f"{name}: {error}") from None


def _address(name: str, value: str) -> str:
    match = _ADDRESS.fullmatch(value)
    if match is None or not 1 <= int(match[3]) <= 65_535:
        raise OptionError(
            name,
            f"{name}: {quoted(value)} is not HOST:PORT, e.g. 127.0.0.1:9100 or [::1]:9100",
        )
    return value


def _store(name: str, value: str) -> StoreAddress:
    try:
        return parse_store_address(value)
    except SharedError as error:
        raise OptionError(name, f"{name}: {error}") from None


def _subtype(name: str, value: str) -> str:
    if value != FUSE_SUBTYPE:
        raise OptionError(
            name,
            f"{name}: {quoted(value)} cannot be: the type of the mount is always "
            f"fuse.{FUSE_SUBTYPE}; leave {name} out",
        )
    return value


SWITCHES: Final = ("nonempty", "auto_cache", "no_mmap", "volatile")
"""The options of throttlefs itself that take no value."""

VALUES: Final[dict[str, tuple[Callable[[str, str], Any], str]]] = {
    "group": (check_group_name, "db"),
    "weight": (check_weight, "100"),
    "config": (_text, "/etc/throttlefs.toml"),
    "fault_log": (_text, "/tmp/faults.json"),
    "attr_timeout": (_seconds, "0.5"),
    "entry_timeout": (_seconds, "0.5"),
    "cache": (_choice(*CACHE_MODES), CACHE_MODES[0]),
    "engine": (_choice(*ENGINES), ENGINES[0]),
    "server": (_choice(*SERVERS), SERVERS[0]),
    "discard": (_choice(*DISCARD_COSTS), DISCARD_COSTS[1]),
    "max_inflight": (_bytes_from(_MIN_INFLIGHT), "256M"),
    "max_background": (_max_background, "512"),
    "metrics": (_address, "127.0.0.1:9100"),
    "shared": (_store, "valkey://store.example/0/tenant-a"),
    "password_file": (_text, "/etc/throttlefs.password"),
    "on_lost": (_choice(*ON_LOST), ON_LOST[0]),
    "volatile_dir": (_text, VOLATILE_DIR),
    "sector": (_sector, SECTORS[1]),
    "names": (_choice(*ORDERS_OF_NAMES), ORDERS_OF_NAMES[1]),
    "auto_da_alloc": (_switch, "off"),
    "fsync_failure": (_choice(*FSYNC_FAILURES), FSYNC_FAILURES[1]),
    "fsname": (_text, "images"),
    "subtype": (_subtype, FUSE_SUBTYPE),
}
"""The options with a value, except limits: the function that reads it, and an example."""
