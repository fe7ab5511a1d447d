"""Reads the address of ``--qmp``: QEMU's ``unix:PATH,server=on,wait=off``."""

from __future__ import annotations

from typing import Final

from .option_values import OptionError
from .units import quoted

_HARMLESS: Final = (
    *("server", "server=on", "server=yes", "server=true"),
    *("wait=off", "wait=no", "wait=false", "nowait"),
)
"""Words of QEMU's users for how the socket works anyway."""

_EXAMPLE: Final = "e.g. unix:/tmp/images.sock"


def parse_qmp_address(text: str) -> str:
    """The path of the socket in *text*, as QEMU's ``-qmp`` has it (qemu(1)).

    ``server=on`` and ``wait=off`` may follow the path; they change nothing. A comma in the path is
    written ``,,``. Raises `OptionError` for anything else.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind != "unix":
        raise OptionError("--qmp", f"--qmp: {quoted(text)} is not unix:PATH, {_EXAMPLE}")
    # A NUL can stand for a comma meanwhile: an argument of a command has none.
    path, *words = (part.replace("\0", ",") for part in rest.replace(",,", "\0").split(","))
    if not path:
        raise OptionError("--qmp", f"--qmp: {quoted(text)} has no path, {_EXAMPLE}")
    for word in words:
        if word and word not in _HARMLESS:
            raise OptionError("--qmp", f"--qmp: {_why_refused(word)}")
    return path


def _why_refused(word: str) -> str:
    name, _, _ = word.partition("=")
    if name == "wait":
        return f"{quoted(word)} cannot be: a mount never waits for a client; write wait=off"
    if name == "server":
        return f"{quoted(word)} cannot be: a mount only listens; write server=on"
    return (
        f"{quoted(word)} is unknown: only server=on and wait=off may follow the path,"
        " and a comma in the path is written ,,"
    )
