"""Tells systemd the state of a service of ``Type=notify``: sd_notify(3), without libsystemd."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send *state*, such as ``READY=1``, if a service manager asked for it (NOTIFY_SOCKET).

    If nobody listens, that is no error: the service works without a service manager.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace, unix(7)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            channel.sendall(os.fsencode(state))
    except OSError:
        pass
