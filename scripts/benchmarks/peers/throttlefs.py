"""throttlefs itself, mounted on the directory of images."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.allowance import Limits
from benchmarks.peers.base import Peer, Served, Setup, daemon
from benchmarks.peers.installations import OWN, Installation
from benchmarks.processes import Processes
from benchmarks.scratch import Scratch

CHECKOUT = "checkout:"


def is_throttlefs(name: str) -> bool:
    """Return whether a peer of this name is a throttlefs, of whatever version."""
    return name == "throttlefs" or name.startswith(CHECKOUT)


def is_uniform(setup: Setup) -> bool:
    """Return whether the same holds for every image, so that -o alone can say it."""
    first = setup.images[0]
    same = all(
        (image.limits, image.group, image.weight) == (first.limits, first.group, 100)
        for image in setup.images
    )
    return same and set(setup.groups) <= {first.group} and not (first.group and first.limits)


def mount_options(setup: Setup) -> list[str]:
    """Return what goes after -o; in a uniform setup the limits too (with group= the group's)."""
    words = []
    if is_uniform(setup) and not setup.live:
        first = setup.images[0]
        limits = setup.groups[first.group] if first.group else first.limits
        words += [f"{name}={value}" for name, value in limits.items()]
        if first.group:
            words.append(f"group={first.group}")
    if setup.direct:
        words.append("cache=none")
    return [*words, *setup.options]


def config_text(setup: Setup) -> str:
    """Return a configuration file that says what each image and each group is held to."""
    lines = []
    for name, limits in setup.groups.items():
        lines += [f"[group.{name}]", *_assignments(limits), ""]
    for image in setup.images:
        lines += ["[[image]]", f'path = "{_escape_glob(image.path.name)}"']
        lines += _assignments(image.limits)
        if image.group:
            lines.append(f'group = "{image.group}"')
        lines += [f"weight = {image.weight}", ""]
    return "\n".join(lines)


def _assignments(limits: Limits) -> list[str]:
    return [f"{name} = {value}" for name, value in limits.items()]


def _escape_glob(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


@dataclass(frozen=True)
class Throttlefs(Peer):
    """throttlefs of this checkout or, as ``checkout:NAME``, of another one."""

    installation: Installation = OWN

    @property
    def name(self) -> str:  # type: ignore[override]
        if self.installation is OWN:
            return "throttlefs"
        # A comma begins what follows a peer's name: see speed/variants.py.
        return CHECKOUT + self.installation.directory.name.replace(",", "_")

    def version(self) -> str:
        version = self.installation.version()
        return version if self.installation is OWN else f"{self.name} {version}"

    @contextmanager
    def serve_config(
        self, processes: Processes, scratch: Scratch, config: str, name: str
    ) -> Iterator[Served]:
        """Serve the directory of images at a mount point *name*, held to a configuration file."""
        point = scratch.root / name
        point.mkdir(exist_ok=True)
        log, file = (scratch.root / f"{name}.{kind}" for kind in ("log", "toml"))
        file.write_text(config)
        command = [*self.installation.command, "mount", str(scratch.images), str(point), "-f"]
        command += ["--config", str(file)]
        with daemon(self, processes, command, [point], log, 20) as (child, minors):
            yield Served(files=[], directory=point, pid=child.pid, connections=minors)

    @contextmanager
    def serve(self, processes: Processes, scratch: Scratch, setup: Setup) -> Iterator[Served]:
        point = scratch.root / f"mnt{setup.apart}"
        point.mkdir(exist_ok=True)
        log = scratch.root / f"throttlefs{setup.apart}.log"
        config = scratch.root / f"limits{setup.apart}.toml"
        # In the foreground, so that the daemon is a child: its id is known, and so is its end.
        command = [*self.installation.command, "mount", str(scratch.images), str(point), "-f"]
        if options := mount_options(setup):
            command += ["-o", ",".join(options)]
        if setup.live or not is_uniform(setup):
            config.write_text(config_text(setup))
            command += ["--config", str(config)]

        # SIGTERM opens the gates: what waits goes through, then the mount ends.
        with daemon(self, processes, command, [point], log, 20) as (child, minors):

            def reload(changed: Setup) -> None:
                # Replaced as a whole: the daemon must not read half a file.
                fresh = config.with_suffix(".new")
                fresh.write_text(config_text(changed))
                os.replace(fresh, config)
                child.send_signal(signal.SIGHUP)

            yield Served(
                files=[point / image.path.name for image in setup.images],
                directory=point,
                pid=child.pid,
                connections=minors,
                reload=reload if setup.live else None,
            )
