"""Where a group's limits are shared with other hosts: ``shared = "valkey://HOST:PORT/DB/KEY"``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from .units import quoted

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_EXAMPLE: Final = "valkey://store.example/0/tenant-a"
_SCHEMES: Final = {
    "valkey": (False, False),
    "valkeys": (True, False),
    "redis": (False, False),
    "rediss": (True, False),
    "valkey+sentinel": (False, True),
    "valkeys+sentinel": (True, True),
    "unix": (False, False),
}
"""By scheme: whether it is encrypted, and whether the hosts are Sentinels."""

_KEY: Final = re.compile(r"[^\x00-\x20\x7f]{1,200}")
_DATABASE: Final = re.compile(r"[0-9]{1,5}")


class OnLost(Enum):
    """What a host may use while the store does not answer and its lease is over."""

    SHARE = "share"
    """Its weight's part of the limits, as the store last knew all weights."""
    KEEP = "keep"
    """What it used last."""
    CLOSED = "closed"
    """Nothing."""
    OPEN = "open"
    """All of the limits."""


SHARED_KEYS: Final = ("shared", "password_file", "on_lost")
"""The keys of a group's table that say how its limits are shared."""


class SharedError(ValueError):
    """What cannot be used; the message is one line without the name of the option, the ``key``."""

    def __init__(self, message: str, key: str = "shared") -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A store, and the key in it under which a limit is shared."""

    hosts: tuple[tuple[str, int], ...]
    """Host and port: one, or all Sentinels. Empty for a Unix socket."""
    key: str
    database: int = 0
    tls: bool = False
    user: str | None = None
    path: str | None = None
    """Of a Unix socket."""
    service: str | None = None
    """The name that Sentinels know the server by."""
    ca_file: str | None = None
    """Certificates to trust instead of the system's."""

    def __str__(self) -> str:
        """The address as it is written."""
        user = "" if self.user is None else f"{quote(self.user, safe='')}@"
        query = "" if self.ca_file is None else f"?ca={quote(self.ca_file)}"
        if self.path is not None:
            return f"unix://{user}{quote(self.path)}?db={self.database}&key={quote(self.key)}"
        scheme = "valkeys" if self.tls else "valkey"
        port = _PORT
        if self.service is not None:
            scheme, port = f"{scheme}+sentinel", _SENTINEL_PORT
        hosts = ",".join(_host(host, number, port) for host, number in self.hosts)
        service = "" if self.service is None else f"/{quote(self.service)}"
        return f"{scheme}://{user}{hosts}{service}/{self.database}/{quote(self.key)}{query}"

    @property
    def place(self) -> str:
        """The server alone, for messages."""
        if self.path is not None:
            return self.path
        port = _PORT if self.service is None else _SENTINEL_PORT
        return ",".join(_host(host, number, port) for host, number in self.hosts)


@dataclass(frozen=True, slots=True)
class SharedStore:
    """How a group shares its limits with other hosts."""

    address: StoreAddress
    password_file: str | None = None
    on_lost: OnLost = OnLost.SHARE


ON_LOST: Final = tuple(one.value for one in OnLost)


def _host(name: str, number: int, usual: int) -> str:
    shown = f"[{name}]" if ":" in name else name
    return shown if number == usual else f"{shown}:{number}"


def parse_store_address(text: str) -> StoreAddress:
    """The address in *text*. Raises `SharedError`.

    ``valkey://[USER@]HOST[:PORT]/DB/KEY``, ``valkeys://`` for TLS, ``unix://PATH?db=DB&key=KEY``,
    and ``valkey+sentinel://HOST[:PORT],.../SERVICE/DB/KEY``. A password has no place in it.
    """
    scheme, separator, rest = text.partition("://")
    authority, slash, tail = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    if ":" in user:
        # Not repeated: it has a password in it.
        raise SharedError(
            "a password must not stand in the address, where others can read it: put it into a"
            " file, and give that with password_file"
        )
    if not separator or scheme not in _SCHEMES:
        raise SharedError(f"{quoted(text)} is not the address of a store, e.g. {_EXAMPLE}")
    tls, sentinel = _SCHEMES[scheme]
    parts = urlsplit(f"//x{slash}{tail}")
    if parts.fragment:
        raise SharedError(f"{quoted(text)} has a '#': write %23 for one in the key")
    given = parse_qs(parts.query, keep_blank_values=True)
    query = {name: values[-1] for name, values in given.items()}
    name = unquote(user) if at else None
    if scheme == "unix":
        return _unix(text, hosts, unquote(parts.path), query, name)
    wrong = set(query) - {"ca"}
    if wrong:
        raise SharedError(f"{quoted(min(wrong))} is not a part of an address; only ca=FILE is")
    ca_file = query.get("ca")
    if ca_file is not None and not ca_file.startswith("/"):
        raise SharedError(f"ca={quoted(ca_file)} is not an absolute path")
    names = [unquote(part) for part in parts.path.split("/")[1:]]
    service = None
    if sentinel:
        if len(names) < 3 or not names[0]:
            raise SharedError(
                f"{quoted(text)} lacks something: write {scheme}://HOST,HOST/SERVICE/DB/KEY"
            )
        service = names.pop(0)
    if len(names) < 2:
        raise SharedError(
            f"{quoted(text)} has no key: write the number of the database and a key for this"
            f" limit, e.g. {_EXAMPLE}"
        )
    return StoreAddress(
        hosts=_hosts(text, hosts, sentinel),
        key=_key("/".join(names[1:])),
        database=_database(names[0]),
        tls=tls,
        user=name,
        service=service,
        ca_file=ca_file,
    )


def read_store(values: Mapping[str, Any]) -> SharedStore | None:
    """What the `SHARED_KEYS` in *values* say; None if nothing is shared. Raises `SharedError`."""
    texts: dict[str, str | None] = {}
    for key in SHARED_KEYS:
        text = texts[key] = values.get(key)
        if key in values and (not isinstance(text, str) or not text):
            raise SharedError(f"{quoted(text)} is not text", key)
        if text is not None and texts["shared"] is None:
            raise SharedError("is for a group with shared: add that, or leave it out", key)
    address, password_file, on_lost = texts.values()
    if address is None:
        return None
    if on_lost is not None and on_lost not in ON_LOST:
        raise SharedError(f"{quoted(on_lost)} is none of {', '.join(ON_LOST)}", "on_lost")
    if password_file is not None and not password_file.startswith("/"):
        raise SharedError(f"{quoted(password_file)} is not an absolute path", "password_file")
    lost = OnLost.SHARE if on_lost is None else OnLost(on_lost)
    return SharedStore(parse_store_address(address), password_file, lost)


def _unix(
    text: str, hosts: str, path: str, query: dict[str, str], user: str | None
) -> StoreAddress:
    if hosts or not path or "key" not in query:
        raise SharedError(f"{quoted(text)} lacks something: write unix:///PATH?db=0&key=KEY")
    wrong = set(query) - {"db", "key"}
    if wrong:
        raise SharedError(f"{quoted(min(wrong))} is not a part of an address; db and key are")
    database = _database(query.get("db", "0"))
    return StoreAddress((), _key(query["key"]), database, user=user, path=path)


def _hosts(text: str, hosts: str, sentinel: bool) -> tuple[tuple[str, int], ...]:
    found = []
    for one in hosts.split(","):
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", one)
        if match is None or (match[3] and not 1 <= int(match[3]) <= 65_535):
            raise SharedError(f"{quoted(text)}: {quoted(one)} is not HOST or HOST:PORT")
        port = int(match[3]) if match[3] else _SENTINEL_PORT if sentinel else _PORT
        found.append((match[1] or match[2], port))
    if len(found) > 1 and not sentinel:
        raise SharedError(f"{quoted(text)}: only Sentinels may be several: valkey+sentinel://")
    return tuple(found)


def _database(text: str) -> int:
    if not _DATABASE.fullmatch(text):
        raise SharedError(f"{quoted(text)} is not the number of a database, e.g. {_EXAMPLE}")
    return int(text)


def _key(text: str) -> str:
    if not _KEY.fullmatch(text):
        raise SharedError(f"{quoted(text)} cannot be a key: 1 to 200 characters without spaces")
    return text
