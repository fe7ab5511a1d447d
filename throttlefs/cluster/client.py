"""Speaks to the store: a Valkey or Redis server, alone or found by Sentinels.

The library is valkey-py, whose calls block; so each call runs in a thread (`member.py`). Looking a
name up, connecting and TLS may block for long there, and the mount's loop notices nothing.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from throttlefs.settings.shared import StoreAddress

_OLDEST: Final = (6, 0)
_CALL_S: Final = 0.15
_CONNECT_S: Final = 2.0
_FIRST_ANSWER_S: Final = 3.0
_LISTEN_S: Final = 5.0
_LISTEN_AGAIN_S: Final = 0.5


@cache
def script() -> str:
    """The script that the store runs."""
    parts = (files(__package__).joinpath(f"{name}.lua") for name in ("fill", "store"))
    return "\n".join(part.read_text(encoding="utf-8") for part in parts)


class StoreError(Exception):
    """The store does not serve us; the message says why, in one line.

    ``fatal``: waiting will not help, because the address, the password or the server is wrong.
    """

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


def check_library() -> None:
    """Raise `StoreError` if the library is not installed."""
    try:
        import valkey  # noqa: F401
    except ImportError:
        raise StoreError(
            "shared needs the Python package valkey: install it with pip install"
            " 'throttlefs[cluster]'",
            fatal=True,
        ) from None


class StoreClient:
    """A connection to one key of the store. One thread at a time may use it."""

    def __init__(self, address: StoreAddress, password: str | None) -> None:
        self._address = address
        self._password = password
        self._valkey: Any = None
        self._digest = ""

    def check(self) -> None:
        """See whether the store can be used at all. Raises `StoreError`."""
        check_library()
        self._guarded(self._check)

    def call(self, arguments: Sequence[str]) -> list[str]:
        """What the script answers to *arguments*. Raises `StoreError`."""
        reply: list[str] = self._guarded(lambda: self._run(arguments))
        return reply

    def close(self) -> None:
        """Close the connection."""
        connection, self._valkey = self._valkey, None
        if connection is not None:
            connection.close()

    def _check(self) -> None:
        with _connect(self._address, self._password, _FIRST_ANSWER_S) as connection:
            text = str(connection.info("server").get("redis_version", ""))
            version = tuple(int(part) for part in re.findall(r"[0-9]+", text)[:2])
            if version < _OLDEST:
                raise StoreError(
                    f"the server at {self._address.place} is too old: version {text}, and 6.0 is"
                    " the oldest that will do",
                    fatal=True,
                )
            digest = connection.script_load(script())
            connection.evalsha(digest, 1, self._address.key, "look")

    def _run(self, arguments: Sequence[str]) -> Any:
        from valkey.exceptions import NoScriptError

        if self._valkey is None:
            self._valkey = _connect(self._address, self._password, _CALL_S)
        key = self._address.key
        if self._digest:
            try:
                return self._valkey.evalsha(self._digest, 1, key, *arguments)
            except NoScriptError:
                pass  # the server is another one, or has forgotten it
        self._digest = self._valkey.script_load(script())
        return self._valkey.evalsha(self._digest, 1, key, *arguments)

    def _guarded(self, action: Callable[[], Any]) -> Any:
        from valkey import exceptions

        try:
            return action()
        except (exceptions.ValkeyError, OSError, UnicodeError) as exc:
            # A connection that failed may still bring the answer, which belongs to no other call.
            self.close()
            raise _explained(exc, self._address) from None


class Listener:
    """Hears in a thread of its own whom the store calls; *heard* gets each message there."""

    def __init__(
        self, address: StoreAddress, password: str | None, heard: Callable[[str], None]
    ) -> None:
        self._address = address
        self._password = password
        self._heard = heard
        self._ended = False

    def start(self) -> None:
        """Listen from now on."""
        # A thread that waits for the network must not keep the process from ending.
        threading.Thread(target=self._run, name="store hints", daemon=True).start()

    def stop(self) -> None:
        """Hear nothing more; the thread ends within seconds, or with the process."""
        self._ended = True

    def _run(self) -> None:
        from valkey.exceptions import ValkeyError

        while not self._ended:
            try:
                with _connect(self._address, self._password, _LISTEN_S * 2) as connection:
                    self._listen(connection)
            except (ValkeyError, OSError, UnicodeError):
                # Hints only make things faster, and the calls say what is wrong.
                time.sleep(_LISTEN_AGAIN_S)

    def _listen(self, connection: Any) -> None:
        with connection.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(f"{self._address.key}:hint")
            while not self._ended:
                message = channel.get_message(timeout=_LISTEN_S)
                if message is not None and not self._ended:
                    self._heard(str(message["data"]))


def _connect(address: StoreAddress, password: str | None, timeout: float) -> Any:
    """A client of valkey-py; it connects with its first call."""
    from valkey import Valkey
    from valkey.backoff import NoBackoff
    from valkey.retry import Retry
    from valkey.sentinel import Sentinel

    options: dict[str, Any] = {
        "db": address.database,
        "username": address.user,
        "password": password,
        "socket_timeout": timeout,
        "decode_responses": True,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.path is not None:
        return Valkey(unix_socket_path=address.path, **options)
    options["socket_connect_timeout"] = _CONNECT_S
    options["socket_keepalive"] = True
    if address.tls:
        options |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
        if address.ca_file is not None:
            options["ssl_ca_certs"] = address.ca_file
    if address.service is None:
        ((host, port),) = address.hosts
        return Valkey(host=host, port=port, **options)
    own = {name: value for name, value in options.items() if name.startswith(("ssl", "socket"))}
    sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
        list(address.hosts), sentinel_kwargs=own, **options
    )
    return sentinels.master_for(address.service)


def _explained(error: Exception, address: StoreAddress) -> StoreError:
    """*error* in words that name the culprit and the cure."""
    from valkey import exceptions

    place, text = address.place, " ".join(str(error).split())
    if isinstance(error, exceptions.AuthenticationError) or text.startswith("NOAUTH"):
        who = "password" if address.user is None else "user name or password"
        return StoreError(
            f"the store at {place} refuses the {who}: check password_file", fatal=True
        )
    if isinstance(error, exceptions.NoPermissionError) or "NOPERM" in text:
        return StoreError(
            f"the user may not do at the store {place} what sharing needs ({text});"
            " docs/cluster.md lists the permissions",
            fatal=True,
        )
    if "DB index is out of range" in text:
        return StoreError(
            f"the store at {place} has no database {address.database}: use another, such as 0",
            fatal=True,
        )
    if "WRONGTYPE" in text:
        return StoreError(
            f"the key {address.key} at {place} is something else's: choose another", fatal=True
        )
    if isinstance(error, exceptions.BusyLoadingError | exceptions.ReadOnlyError):
        return StoreError(f"the store at {place} is not ready: {text}")
    if isinstance(error, exceptions.ResponseError):
        fatal = not text.startswith(("MASTERDOWN", "LOADING", "BUSY", "TRYAGAIN", "OOM"))
        return StoreError(f"the store at {place} refuses the script: {text}", fatal=fatal)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return StoreError(
            f"the certificate of the store at {place} is not trusted: name its authority with"
            " ?ca=FILE at the end of the address",
            fatal=True,
        )
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return StoreError(f"the store at {place} does not answer in time")
    return StoreError(f"the store at {place} cannot be reached: {text}")
