"""A disk whose power is cut by words alone."""

from __future__ import annotations

from typing import Any

from throttlefs.errors import ThrottlefsError

REPORT: dict[str, Any] = {
    "seed": 7,
    "dry-run": False,
    "lost-bytes": 12288,
    "undone-changes": 3,
    "files": [
        {"file": "db/x", "lost-bytes": 8192, "size": 40960, "size-after": 36864},
        {"file": "odd\nname", "lost-bytes": 4096, "size": 4096, "size-after": 4096},
    ],
    "names": ["create db/y", "rename a -> b"],
    "not-rolled-back": ["b.img was changed in SRC behind the mount"],
}


class FakePower:
    """Keeps what it was asked, and whether it is on."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.on = True

    async def cut(self, seed: int | None, *, dry_run: bool) -> dict[str, Any]:
        self.asked.append(("cut", seed, dry_run))
        if not self.on:
            raise ThrottlefsError("power is off")
        self.on = dry_run
        return {**REPORT, "seed": 99 if seed is None else seed, "dry-run": dry_run}

    async def power_on(self) -> None:
        self.asked.append(("on",))
        if self.on:
            raise ThrottlefsError("power is on")
        self.on = True

    async def sync(self) -> None:
        self.asked.append(("sync",))
        if not self.on:
            raise ThrottlefsError("power is off")

    def state(self) -> dict[str, Any]:
        return {
            "state": "on" if self.on else "off",
            "dirty-bytes": 12 << 20,
            "changes": 1,
            "log-bytes": 3 << 20,
        }
