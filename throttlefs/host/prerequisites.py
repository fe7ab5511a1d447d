"""Finds what is missing to mount here, /dev/fuse or the right to mount, and names the cure."""

from __future__ import annotations

import os
import re
import shutil

from .namespaces import own_namespaces

_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""The inode number of the machine's own (PROC_PID_INIT_INO, linux/proc_ns.h)."""

_CAP_SYS_ADMIN = 1 << 21  # capabilities(7)
_MODULE = "load the kernel module with: modprobe fuse"
_DEVICE = "start the container with --device /dev/fuse --cap-add SYS_ADMIN"
_CAPABILITY = "start the container with --cap-add SYS_ADMIN"


def in_container() -> bool:
    """Whether this looks like a container, where other cures help than on the machine itself.

    A container has a PID namespace of its own. One that shares the machine's says so in
    ``$container`` (LXC, Podman, systemd-nspawn) or leaves ``/run/.containerenv`` (Podman).
    ``/.dockerenv`` proves nothing: it stays in images that become virtual machines.
    """
    return (
        own_namespaces().pid != _FIRST_PID_NAMESPACE
        or bool(os.environ.get("container"))  # noqa: SIM112
        or os.path.exists("/run/.containerenv")
    )


def device_problem() -> str | None:
    """Why this user cannot open /dev/fuse, with the cure; None if it works."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"/dev/fuse is missing; {_DEVICE if in_container() else _MODULE}"
    except PermissionError:
        # Only the container's list of devices can keep root from it.
        cure = _DEVICE if os.geteuid() == 0 and in_container() else "as root: chmod 666 /dev/fuse"
        return f"no permission to open /dev/fuse; {cure}"
    except OSError as exc:
        cure = _DEVICE if in_container() else _MODULE
        return f"cannot open /dev/fuse: {exc.strerror}; {cure}"
    return None


def mount_problem(by_fusermount: bool) -> str | None:
    """Why this process cannot mount, with the cure; None if it can.

    *by_fusermount*: through fusermount3, which is setuid root.
    """
    if by_fusermount and shutil.which("fusermount3") is None:
        return "fusermount3 is missing; install the package fuse3"
    effective, no_new_privileges = _privileges()
    if effective & _CAP_SYS_ADMIN:
        return None
    if os.geteuid() == 0:
        cure = _CAPABILITY if in_container() else "do without what took it away"
        return f"root may not mount here, it lacks the capability SYS_ADMIN; {cure}"
    if no_new_privileges:
        return (
            "fusermount3 cannot become root here, for no_new_privs is set; start this without it"
            " (NoNewPrivileges= in systemd, no-new-privileges in Docker)"
        )
    return None


def _privileges() -> tuple[int, bool]:
    """This process's effective capabilities, and no_new_privs (proc(5), /proc/PID/status)."""
    with open("/proc/self/status", "rb") as file:
        status = file.read()
    effective = re.search(rb"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    no_new = re.search(rb"^NoNewPrivs:\s*1$", status, re.MULTILINE)
    return int(effective[1], 16) if effective else _CAP_SYS_ADMIN, no_new is not None
