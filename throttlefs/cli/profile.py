"""The commands on profiles of disks: list, show, measure, import."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from throttlefs.errors import ThrottlefsError, UsageError

from .control import Seconds

if TYPE_CHECKING:
    from throttlefs.settings.profiles import Library, Profile

_LARGEST_REPORT = 64 << 20

_CONFIG = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Know the profiles of this configuration file as well.",
)
_NAME = click.option(
    "--name",
    metavar="NAME",
    default="measured",
    show_default=True,
    help="The name of the new profile.",
)
_OUTPUT = click.option(
    "-O",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the profile to FILE, not to stdout.",
)


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """Bytes, as everywhere: 512M, 1G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from throttlefs.settings.units import UnitError, parse_bytes

        try:
            return value if isinstance(value, int) else parse_bytes(value)
        except UnitError as error:
            self.fail(str(error), param, ctx)


@click.group(short_help="Profiles of real disks.")
def profile() -> None:
    """Show the profiles of real disks that -o profile=NAME takes, and make one of a disk of yours.

    A profile is a named set of limits and of settings of a slow device.
    """


@profile.command("list", short_help="List all profiles.")
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_profiles(config: str | None, as_json: bool) -> None:
    """List all profiles."""
    from .table import Column, Wide, print_table
    from .text import name_text

    library = _library(config)
    found = [(name, library.profile(name).summary) for name in library.names]
    if as_json:
        print(json.dumps([{"name": n, "summary": text} for n, text in found], indent=2))
        return
    columns = Column("profile", wide=Wide.ELIDED), Column("", wide=Wide.FOLDED)
    print_table(columns, [[name_text(name), name_text(text)] for name, text in found])


@profile.command("show", short_help="Show what a profile says, and where that comes from.")
@click.argument("name", metavar="NAME")
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show_profile(name: str, config: str | None, as_json: bool) -> None:
    """Show what the profile NAME says, and where each figure comes from, in TOML.

    The text can stand in a configuration file as it is.

    \b
    Examples:
      throttlefs profile show hdd-7200
      throttlefs profile show aws-gp3 > my.toml
    """
    from throttlefs.settings.profile_text import write_profile

    from .text import in_utf8, print_utf8

    library = _library(config)
    try:
        chain, settings = library.chain(in_utf8(name)), library.settings(in_utf8(name))
    except ValueError as error:
        raise UsageError(str(error)) from None
    sources = _sources(chain, settings)
    if as_json:
        shown = {
            "name": chain[0].name,
            "summary": chain[0].summary,
            "bases": [one.name for one in chain[1:]],
            "settings": settings,
            "sources": [
                {field: getattr(source, field) for field in source.__slots__} for source in sources
            ],
        }
        print(json.dumps(shown, indent=2))
        return
    print_utf8(write_profile(chain[0].name, settings, chain[0].summary, sources))


def _sources(chain: list[Profile], settings: dict[str, Any]) -> list[Any]:
    """The sources of *settings*: those of a base only for what the profiles above do not say."""
    from dataclasses import replace

    found, said = [], set[str]()
    for one in chain:
        for source in one.sources:
            of = tuple(name for name in source.of if name in settings and name not in said)
            if of:
                found.append(replace(source, of=of))
        said.update(one.values)
    return found


@profile.command("measure", short_help="Make a profile of a disk by measuring it.")
@click.argument("path", metavar="PATH", type=click.Path())
@_NAME
@_OUTPUT
@click.option(
    "--size",
    metavar="SIZE",
    type=_Size(),
    default="1G",
    show_default=True,
    help="How large a file is made; of a file or device that is there, how much is used at most.",
)
@click.option(
    "--seconds",
    metavar="S",
    type=Seconds(0.1, 3600),
    default=5.0,
    show_default=True,
    help="How long each of up to seven steps takes.",
)
@click.option(
    "--depth",
    metavar="N",
    type=click.IntRange(1, 1024),
    default=32,
    show_default=True,
    help="The most requests under way at once.",
)
@click.option("--destroy", is_flag=True, help="PATH is a file or device: overwrite what it has.")
def measure_disk(
    path: str,
    name: str,
    output: str | None,
    size: int,
    seconds: float,
    depth: int,
    destroy: bool,
) -> None:
    """Measure the disk at PATH with fio, and print a profile of it in TOML.

    In a directory this makes a file of its own, which has no name and is gone at the end. A file
    or device that is there is only read. With --destroy it is overwritten; what is in use, or holds
    a filesystem, partitions or the like, is refused.

    \b
    Examples:
      throttlefs profile measure --name cellar /srv/images > cellar.toml
      throttlefs mount images/ mnt/ -o config=cellar.toml,profile=cellar
    """
    from throttlefs.measure.fio import measure
    from throttlefs.measure.report import read_report
    from throttlefs.measure.target import SMALLEST, opened
    from throttlefs.settings.units import format_bytes

    _check_new(name, output)
    if size < SMALLEST:
        raise UsageError(f"--size: {format_bytes(size)} is too little; at least 1M")

    def progress(what: str) -> None:
        click.echo(what, err=True)

    with opened(path, size, destroy, progress) as target:
        text = measure(target, depth, seconds, progress)
        measured = f"{path}, {format_bytes(target.size)}, depths 1 and {depth}"
    _write(name, read_report(text), measured, output)


@profile.command("import", short_help="Make a profile of what fio measured elsewhere.")
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@_NAME
@_OUTPUT
def import_report(file: str, name: str, output: str | None) -> None:
    """Print a profile, in TOML, of what fio reported in FILE (- is stdin).

    FILE is what fio prints with --output-format=json. Jobs of small requests with iodepth=1 give
    the latencies, one with a greater iodepth the queue depth, one with fsync=1 the flushes, and
    requests of 128 KiB and more the bytes a second.

    \b
    Example:
      throttlefs profile import --name theirs fio.json > theirs.toml
    """
    from throttlefs.measure.report import read_report

    _check_new(name, output)
    _write(name, read_report(_read(file)), file, output)


def _read(file: str) -> str:
    try:
        with open(sys.stdin.fileno() if file == "-" else file, "rb", closefd=file != "-") as stream:
            content = stream.read(_LARGEST_REPORT + 1)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    if len(content) > _LARGEST_REPORT:
        raise UsageError(f"{file}: larger than 64 MiB, which no report of fio's is")
    return content.decode("utf-8", "replace")


def _write(name: str, report: Any, measured: str, output: str | None) -> None:
    from throttlefs.measure.report import settings_of
    from throttlefs.settings.profile_text import write_profile
    from throttlefs.settings.profiles import ProfileError, Source, read_profiles
    from throttlefs.settings.units import printable

    from .text import in_utf8, print_utf8

    name = in_utf8(name)
    settings = settings_of(report)
    origin = f"{report.version}: {printable(in_utf8(measured))}"
    source = Source(tuple(settings), "measured", origin, "", report.date, "")
    text = write_profile(name, settings, f"measured on {report.date}", [source])
    try:
        read_profiles({name: dict(settings)})
    except ProfileError as error:
        raise UsageError(str(error)) from None
    if output is None:
        print_utf8(text)
        return
    try:
        with open(output, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ThrottlefsError(f"{output}: {error.strerror}") from None


def _check_new(name: str, output: str | None) -> None:
    """Raise `UsageError` for what would only be noticed when the measuring is over."""
    from throttlefs.settings.profiles import ProfileError, check_profile_name

    from .text import in_utf8

    try:
        check_profile_name(in_utf8(name))
    except ProfileError as error:
        raise UsageError(f"--name: {error}") from None
    if output is None:
        return
    if not output:
        raise UsageError("--output needs the name of a file")
    place = output if os.path.exists(output) else os.path.dirname(os.path.abspath(output))
    if not os.access(place, os.W_OK):
        raise UsageError(f"{output}: its directory does not exist, or it cannot be written to")


def _library(config: str | None) -> Library:
    from throttlefs.settings.profiles import shipped

    if config is None:
        return shipped()
    from throttlefs.policy.loading import load_config

    try:
        return load_config(config).profiles
    except ValueError as error:
        raise UsageError(str(error)) from None
