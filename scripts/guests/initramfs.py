"""The guest's whole system: busybox, the modules for its disk, and a shell that takes orders."""

from __future__ import annotations

from pathlib import Path

from guests.packages import GuestFiles

PROMPT = "guest> status "
"""What ends the output of each command, before its exit status."""

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
stty -echo
for module in MODULES; do
    insmod /modules/$module || echo "no module $module"
done
tries=0
until [ -b /dev/vda ] || [ $((tries += 1)) -gt 100 ]; do sleep 0.1; done
[ -b /dev/vda ]
echo "PROMPT$?"
while IFS= read -r command; do
    eval "$command" 2>&1
    echo "PROMPT$?"
done
"""


def make_initramfs(files: GuestFiles) -> bytes:
    """A cpio archive for the kernel's ``-initrd``."""
    archive = _Archive()
    for directory in ("bin", "dev", "disk", "modules", "proc", "sys"):
        archive.add(directory, 0o40755)
    modules = " ".join(module.name for module in files.modules)
    init = _INIT.replace("MODULES", modules).replace("PROMPT", PROMPT)
    archive.add("init", 0o100755, init.encode())
    archive.add("bin/busybox", 0o100755, files.busybox.read_bytes())
    for module in files.modules:
        archive.add(f"modules/{module.name}", 0o100644, Path(module).read_bytes())
    return archive.finish()


class _Archive:
    """cpio's "newc" format, which the kernel unpacks (Documentation: initramfs buffer format)."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._number = 0

    def add(self, name: str, mode: int, content: bytes = b"") -> None:
        self._number += 1
        fields = [self._number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields)
        self._data += name.encode() + b"\0"
        self._pad()
        self._data += content
        self._pad()

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self._data)
