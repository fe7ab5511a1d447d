"""The virtual machine: QEMU as a process, and the guest's shell on its serial console."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from guests.initramfs import PROMPT

_STATUS = re.compile(re.escape(PROMPT) + r"(\d+)\r?\n")
# KVM boots it in a second, or, on some nested hosts, hangs for ever.
_BOOT_S = {"kvm": 6.0, "tcg": 90.0}


class GuestError(Exception):
    """The guest did not start, or did not do what it was told; the text is one line."""


class Guest:
    """A running guest; as a context manager it is gone at the end, whatever happened."""

    def __init__(
        self, kernel: Path, initramfs: Path, drive: str, accelerator: str, log: Path
    ) -> None:
        self.accelerator = accelerator
        self._log = log
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                [
                    "qemu-system-x86_64",
                    *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
                    *("-machine", f"pc,accel={accelerator}", "-m", "256"),
                    *("-kernel", kernel, "-initrd", initramfs),
                    *("-append", "console=ttyS0 quiet panic=-1"),
                    *("-serial", "stdio", "-drive", drive),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_until_up(self) -> None:
        """Return when the shell is there. Raises `GuestError`, also if KVM does not really work."""
        _, status = self._read_answer(_BOOT_S[self.accelerator])
        if status:
            raise GuestError("the guest booted, but sees no disk")

    def run(self, command: str, timeout_s: float = 60.0) -> str:
        """What *command* (one line of sh) printed; it must succeed."""
        self.start(command)
        return self.finish(command, timeout_s)

    def start(self, command: str) -> None:
        """Start *command*; `finish` has to follow."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def finish(self, command: str, timeout_s: float = 60.0) -> str:
        """What the command started last printed; it must have succeeded."""
        output, status = self._read_answer(timeout_s)
        if status:
            said = output.strip().splitlines() or [""]
            raise GuestError(f"in the guest, {command} failed with status {status}: {said[-1]}")
        return output

    def power_off(self) -> None:
        """Shut the guest down and wait for QEMU to end, with status 0."""
        self.start("poweroff -f")
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            raise GuestError("the guest did not power off") from None
        if self._process.returncode:
            raise GuestError(f"QEMU ended with status {self._process.returncode}: {self._said()}")

    def _read_answer(self, timeout_s: float) -> tuple[str, int]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        console = ""
        while (found := _STATUS.search(console)) is None:
            left = deadline - time.monotonic()
            ready = select.select([self._process.stdout], [], [], max(0.0, min(left, 0.5)))[0]
            if ready:
                data = os.read(self._process.stdout.fileno(), 65536)
                if not data:
                    raise GuestError(f"QEMU ended: {self._said()}")
                console += data.decode(errors="replace")
            elif left <= 0 or "internal error" in self._said():
                raise GuestError(f"no answer from the guest: {self._said() or console[-200:]!r}")
        return console[: found.start()].replace("\r\n", "\n"), int(found[1])

    def _said(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[0] if lines else ""


def boot(
    kernel: Path, initramfs: Path, drive: str, accelerators: Sequence[str], log: Path
) -> Guest:
    """Start the guest with the first of *accelerators* that works; raises `GuestError`.

    /dev/kvm may be there and a guest die at once nevertheless, on nested hosts.
    """
    for number, accelerator in enumerate(accelerators):
        guest = Guest(kernel, initramfs, drive, accelerator, log)
        try:
            guest.wait_until_up()
            return guest
        except BaseException as exc:
            guest.__exit__(None, None, None)
            if not isinstance(exc, GuestError) or number == len(accelerators) - 1:
                raise
    raise GuestError("no accelerator to try")
