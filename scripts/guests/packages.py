"""Files out of Debian packages that are not installed: the guest's kernel and busybox."""

from __future__ import annotations

import lzma
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_KERNEL = "linux-image-cloud-amd64"
_BUSYBOX = "busybox-static"

MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
)
"""What the kernel needs to see a virtio disk, in the order of loading; some may be built in."""


class PackageError(Exception):
    """A package could not be had; the text is one line that says why."""


@dataclass(frozen=True)
class GuestFiles:
    """Where the unpacked files lie."""

    kernel: Path
    busybox: Path
    modules: tuple[Path, ...]


def guest_files(cache: Path) -> GuestFiles:
    """The guest's files, from *cache* or, the first time, from Debian's packages.

    Raises `PackageError`.
    """
    files = _in_cache(cache)
    if _missing(files):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            wanted = {"bin/busybox", "vmlinuz", "modules.builtin"}
            wanted.update(f"{name}.ko" for name in MODULES)
            for package in _download(Path(scratch)):
                _unpack(package, wanted, cache)
        files = _in_cache(cache)
        if missing := _missing(files):
            raise PackageError(f"the packages lack {', '.join(missing)}")
    return files


def default_cache() -> Path:
    """Where the unpacked files are kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "throttlefs-guest"


def _in_cache(cache: Path) -> GuestFiles:
    try:
        listed = (cache / "modules.builtin").read_text()
    except FileNotFoundError:
        listed = ""
    built_in = {os.path.basename(line).removesuffix(".ko") for line in listed.splitlines()}
    modules = tuple(cache / f"{name}.ko" for name in MODULES if name not in built_in)
    return GuestFiles(cache / "vmlinuz", cache / "busybox", modules)


def _missing(files: GuestFiles) -> list[str]:
    builtin = files.kernel.with_name("modules.builtin")
    wanted = (files.kernel, builtin, files.busybox, *files.modules)
    return [path.name for path in wanted if not path.exists()]


def _kernel_packages() -> list[str]:
    """The packages that the current cloud kernel is in, whose names hold its version."""
    said = _run("apt-cache", "depends", "--important", _KERNEL)
    found = re.search(r"Depends: linux-image-(\S+-cloud-amd64)", said)
    if found is None:
        raise PackageError(f"no package {_KERNEL} is known here: this needs Debian on amd64")
    version = found[1]
    # From Linux 7 on Debian has kernel and modules in packages of their own.
    said = _run("apt-cache", "depends", "--important", f"linux-image-{version}")
    parts = re.findall(rf"Depends: (linux-\w+-{re.escape(version)})$", said, re.MULTILINE)
    return [f"linux-image-{version}", *parts]


def _download(directory: Path) -> list[Path]:
    try:
        _run("apt-get", "download", _BUSYBOX, *_kernel_packages(), directory=directory)
    except PackageError:
        # The lists may be missing or name a version that the archive no longer has.
        _run("apt-get", "update")
        _run("apt-get", "download", _BUSYBOX, *_kernel_packages(), directory=directory)
    return sorted(directory.glob("*.deb"))


def _unpack(package: Path, wanted: Collection[str], cache: Path) -> None:
    """Put the *wanted* files of the package into *cache*.

    They are named by the end of their paths, less the kernel's version.
    """
    with (
        subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
        ) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            path = "/" + re.sub(r"(?<=/vmlinuz)-.*", "", member.name.lstrip("./"))
            path, compressed, _ = path.partition(".xz")  # modules from Debian 13 on
            if member.isfile() and any(path.endswith("/" + end) for end in wanted):
                name = path.rpartition("/")[2]
                content = archive.extractfile(member)
                assert content is not None
                temporary = cache / f"{name}.new"
                data = content.read()
                temporary.write_bytes(lzma.decompress(data) if compressed else data)
                temporary.rename(cache / name)


def _run(*command: str, directory: Path | None = None) -> str:
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError:
        raise PackageError(f"{command[0]} is missing: this needs Debian") from None
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["no reason given"]
        raise PackageError(f"{' '.join(command)} failed: {said[-1]}")
    return result.stdout
