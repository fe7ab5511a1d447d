"""Whether this machine lets this user mount, and what to do if not."""

from __future__ import annotations

import os

from throttlefs.errors import ThrottlefsError
from throttlefs.host import prerequisites

_DENIED = ("Permission denied", "Operation not permitted")


def why_not() -> str | None:
    """What keeps this process from mounting, with the cure; None if nothing is known to."""
    return prerequisites.device_problem() or prerequisites.mount_problem(os.geteuid() != 0)


def is_denial(error: ThrottlefsError) -> bool:
    """Whether a mount failed because the system forbids mounts: AppArmor does, in containers."""
    text = str(error)
    return text.startswith("cannot mount on ") and text.endswith(_DENIED)
