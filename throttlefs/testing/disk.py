"""A mounted disk in the hands of a program: where it is, and how it changes in flight."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from throttlefs.control.device_names import device_name
from throttlefs.control.locate import Located
from throttlefs.errors import UsageError
from throttlefs.host.mountinfo import MountEntry
from throttlefs.host.runtime import find_socket

from .fault import Fault
from .figures import Change, ImageStats, PowerCut, change, image_stats, power_cut
from .options import Option, changes

if TYPE_CHECKING:
    from throttlefs.host.daemons import Daemon

StrPath = str | os.PathLike[str]


class Disk:
    """A mount that `throttlefs.mounted` has made; a path (os.PathLike), too.

    A *name* is the path of a file in the mount, relative to it, or an absolute path that lies in
    it. Without a name what is meant is the mount: the default of all its files, or all of them.

    Every method raises `ThrottlefsError`, with one line, if the daemon refuses.
    """

    def __init__(self, source: str, mount: MountEntry, daemon: Daemon) -> None:
        self.source = Path(source)
        """SRC: the files behind the mount, where they are not slow."""
        self.path = Path(os.fsdecode(mount.point))
        """Where SRC is mounted."""
        self.pid = daemon.pid
        """The process id of the daemon."""
        self._mount = mount
        # Found now: what leads to it (XDG_RUNTIME_DIR) may change in this process.
        self._socket = find_socket(mount)
        self._is_file = not os.path.isdir(source)

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: StrPath) -> Path:
        return self.path / name

    def __repr__(self) -> str:
        return f"<throttlefs disk: {self.source} on {self.path}>"

    # -- limits ----------------------------------------------------------------------------

    def set(
        self,
        name: StrPath | None = None,
        /,
        *,
        off: bool = False,
        all: bool = False,
        **values: Option,
    ) -> list[Change]:
        """Change what the file *name* is held to, or the default; requests that wait included.

        *values* are limits, ``group`` and ``weight``, as ``throttlefs set`` takes them; None lifts
        a limit, or leaves the group. *off* lifts all limits first. *all*, without a name, changes
        every file as well that has limits of its own.
        """
        arguments: dict[str, Any] = {"values": changes(values)}
        if off:
            arguments["off"] = True
        if all:
            arguments["all"] = True
        return self._changed(name, arguments)

    def set_group(
        self, group: str, /, *, create: bool = False, off: bool = False, **values: Option
    ) -> list[Change]:
        """Change the limits, ``weight`` or ``parent`` of *group*; *create* makes it if need be."""
        arguments: dict[str, Any] = {
            **{"group-name": group, "create": create},
            "values": changes(values),
        }
        if off:
            arguments["off"] = True
        return self._changed(None, arguments)

    def _changed(self, name: StrPath | None, arguments: dict[str, Any]) -> list[Change]:
        return [change(one) for one in self._run(name, "x-throttlefs-set", arguments)]

    def reload(self) -> None:
        """Restore what was said when it was mounted, and what ``config`` says now."""
        self.qmp("x-throttlefs-reload")

    # -- faults ----------------------------------------------------------------------------

    def fault(self, name: StrPath | None = None, /, **rule: Any) -> Fault:
        """Add a fault rule for the file or directory *name*, or for all files.

        *rule* has the keys of a ``[[fault]]`` table: ``op="write", error="EIO", nth=3``. The rule
        holds at once; as a context manager it is removed at the end of its block.
        """
        answer = self._run(name, "x-throttlefs-fault-add", {"values": rule})
        return Fault(self.qmp, answer["rule"])

    # -- power -----------------------------------------------------------------------------

    def power_cut(self, *, seed: int | None = None, dry_run: bool = False) -> PowerCut:
        """Cut the power of a volatile disk; with *dry_run* only say what would be lost.

        The same *seed* after the same requests loses the same. Then `source` holds what is left,
        and all requests fail until `power_on`; files that were open stay dead.
        """
        arguments: dict[str, Any] = {"dry-run": True} if dry_run else {}
        if seed is not None:
            arguments["seed"] = seed
        return power_cut(self._run(None, "x-throttlefs-power-cut", arguments, patient=True))

    def power_on(self) -> None:
        """Serve again after a power cut."""
        self._run(None, "x-throttlefs-power-on", {}, patient=True)

    def sync(self) -> None:
        """Flush a volatile disk, so that a power cut loses nothing; os.sync does not reach it."""
        self._run(None, "x-throttlefs-sync", {}, patient=True)

    # -- watching --------------------------------------------------------------------------

    def show(self, name: StrPath | None = None, /) -> dict[str, Any]:
        """What the mount, or the file *name*, is held to: what ``throttlefs show --json`` has."""
        answer: dict[str, Any] = self._run(name, "x-throttlefs-query", {})
        found: dict[str, Any] = answer if name is None else answer["images"][0]
        return found

    @overload
    def stats(self, name: StrPath, /) -> ImageStats: ...

    @overload
    def stats(self, /) -> dict[str, ImageStats]: ...

    def stats(self, name: StrPath | None = None, /) -> ImageStats | dict[str, ImageStats]:
        """What was asked of the file *name*, or of each file that was used, by name."""
        answer = self._run(name, "x-throttlefs-query-stats", {})
        found = {one["device"]: image_stats(one) for one in answer["images"]}
        return found if name is None else next(iter(found.values()))

    def qmp(self, command: str, /, **arguments: object) -> Any:
        """What the QMP *command* returns, for all that has no method; _ stands for - in names."""
        return self._run(
            None, command, {name.replace("_", "-"): value for name, value in arguments.items()}
        )

    def _run(
        self,
        name: StrPath | None,
        command: str,
        arguments: dict[str, Any],
        *,
        patient: bool = False,
    ) -> Any:
        device = None if name is None else self._device(name)
        path = str(self.path if name is None else self / name)
        located = Located(self._mount, device, path, self._socket)
        if device is not None:
            arguments = {**arguments, "device": device}
        with located.session(patient=patient) as client:
            return client.run(command, **arguments)

    def _device(self, name: StrPath) -> str:
        """The name of a file for the daemon."""
        given = os.fspath(name)
        relative = os.path.relpath(given, self.path) if os.path.isabs(given) else given
        relative = os.path.normpath(relative)
        if relative == os.curdir:
            if not self._is_file:
                raise UsageError(f"{given} is the whole mount, not a file in it: leave it out")
            relative = self.source.name
        elif relative.split(os.sep)[0] == os.pardir:
            raise UsageError(f"{given} does not lie in {self.path}")
        return device_name(os.fsencode(relative))
