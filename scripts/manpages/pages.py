"""What the two pages consist of; the prose that no ``--help`` has is here."""

from __future__ import annotations

import inspect

import click

from manpages.roff import Page
from throttlefs import __version__
from throttlefs.cli.main import cli
from throttlefs.settings.limits import LIMIT_HELP, LIMIT_NAMES

_DATE = "2026-11-23"

_DESCRIPTION = """
throttlefs is a FUSE filesystem that holds disk images to QEMU's I/O limits. `throttlefs mount
SRC DST -o bps=1M` shows the files of SRC at DST, and every read and write of them waits until the
limits allow it. A virtual machine, dd, fio or a database opens the file in DST and needs to know
nothing of this.

SRC and DST are two directories or two files. As a file SRC may be a disk image or a block device;
DST shows its contents as a regular file of its size. DST must exist and be empty, unless
`-o nonempty` is given. Neither may lie inside the other.

A request goes as soon as all earlier ones of its image are paid for, and its own cost delays the
next. Idle time earns nothing (2 ms, for late timers) unless a `_max` allows a burst. fsync,
truncate and metadata cost nothing.
"""

_MOUNT8 = """
`mount -t fuse.throttlefs SRC DST -o bps=1M` works as well, and so does a line of fstab(5):

  /srv/images /srv/slow fuse.throttlefs bps=10M,allow_other,nodev,nosuid,nofail 0 0

mount(8) passes no PATH on, so throttlefs must be in /usr/local/bin or /usr/bin. With mount(8),
root's mounts allow devices and setuid programs unless `nodev` and `nosuid` are given. With
`throttlefs mount` they do not, unless `dev` and `suid` are given. `remount` is not possible:
`throttlefs set` changes limits.

Access times are those of SRC. With `noatime` reading does not move them, with `nodiratime` it does
not move those of directories, if the daemon may ask for that: on files of its user, or as root
(O_NOATIME in open(2)). Without these options, or with `atime` or `relatime`, the filesystem of SRC
decides. So `strictatime` and `lazytime` are refused here: give them to the mount of SRC.
"""

_CACHE_MODES = """
  writeback     The page cache is used, and a write is answered when it is cached; the default.
  none          No page cache (O_DIRECT); a write is answered when it is written.
  writethrough  The page cache is used, and a write is answered when it is durable (O_DSYNC).
  directsync    No page cache, and a write is answered when it is durable.
  unsafe        As writeback, and fsync does nothing: data are lost when the host goes down.
"""

_SIGNALS = """
  SIGHUP           Read the config file again. This restores the limits of the file and of -o, and
                   undoes the changes of throttlefs set. `throttlefs show --json` names the
                   daemon's pid.
  SIGTERM, SIGINT  Let all requests go that wait, and unmount. If the mount stays in use for 10
                   seconds, detach it and serve what is open to the end, under the limits. A second
                   signal ends the daemon at once, and requests under way fail.
"""

_ENVIRONMENT = """
  XDG_RUNTIME_DIR  Where an ordinary user's control sockets and records of mounts are.
  NOTIFY_SOCKET    Set by systemd: the mount reports when it is ready (Type=notify, with -f).
  JOURNAL_STREAM   Set by systemd: with -f, log lines carry priorities for the journal.
"""

_FILES = """
  /run/throttlefs/  Control sockets and records of root's mounts; /tmp/throttlefs-0/ without a
                    writable /run.
  /etc/fuse.conf    `user_allow_other` there lets ordinary users give -o allow_other.
"""

_EXIT = """
  0    Success.
  1    Something failed, or the daemon refused it; one line on stderr says what, and the cure. A
       mount that failed leaves nothing mounted.
  2    The command line was wrong.
  130  Interrupted.
"""

_BUGS = """
Shared mmap(2) fails with ENODEV unless `-o auto_cache` is given, because files are opened past the
page cache of the mount; otherwise nothing would be limited. Before Linux 6.2 the kernel sends one
synchronous write of a file at a time. A request that waits cannot be interrupted. There is no
ioctl(2).
"""

_CONFIG_DESCRIPTION = """
The file that `throttlefs mount --config FILE` (or `-o config=FILE`) reads, and reads again on
SIGHUP. It has limits for images by their path, for groups of images, and for all other images. It
is TOML. A file with a mistake is refused as a whole: at the mount that is an error, at SIGHUP the
limits stay as they are and the log says why.

An image is held to its last change by `throttlefs set`, else to the first `[[image]]` table whose
path matches, else to the default: `-o`, or `[defaults]` for what -o lacks. Limits do not add up. A
table with a limit of its own, or with a group, replaces all of its images' own limits; a table with
neither keeps the default's. Any limit in `-o` replaces all limits of `[defaults]`.
"""

_CONFIG_TABLES = """
  [defaults]    What holds for images that no table matches: limits, group and weight.
  [[image]]     For the images whose path matches `path`: limits, group and weight. The first that
                matches decides.
  [group.NAME]  A group whose images share its limits by weight: limits, weight and `parent`, the
                group that this one is part of.
"""

_CONFIG_KEYS = """
  path    A pattern on the path relative to the mount. * and ? stop at a slash, ** does not, [abc]
          is a set. If SRC is one file, its name is the path. If a path is longer than 4096 bytes,
          only the directories within these bytes and the name of the file count.
  group   The group to be in; an empty string for none.
  weight  The share in the group, 1 to 10000; 100 if not given.
  parent  The group around a group.
"""

_CONFIG_EXAMPLE = """
  [defaults]                 # for what no table matches
  iops = 1000

  [[image]]
  path = "db/*.img"
  bps = "20M"
  bps_max = "60M"
  bps_max_length = 10

  [[image]]
  path = "vm/**"
  group = "vms"
  weight = 200

  [group.vms]
  bps = "50M"
  parent = "host"

  [group.host]
  iops = 5000
"""


def throttlefs_1() -> str:
    """throttlefs(1)."""
    page = Page("throttlefs", 1, _DATE, __version__, "hold disk images to QEMU's I/O limits")
    context = click.Context(cli, info_name="throttlefs", **cli.context_settings)
    page.section("SYNOPSIS")
    page.synopsis(
        (f"throttlefs {name}", _usage(context, command)) for name, command in cli.commands.items()
    )
    page.section("DESCRIPTION")
    page.text(_DESCRIPTION)
    page.section("COMMANDS")
    for name, command in cli.commands.items():
        page.subsection(f"throttlefs {name} {_usage(context, command)}")
        command.get_help(click.Context(command, context, name))  # mount makes its help then
        page.text(inspect.cleandoc(command.help or ""))
        page.terms(_options(context, command))
    page.section("CACHE MODES")
    page.text("What `-o cache=` says of the images behind, as QEMU has it:")
    page.text(_rows_joined(_CACHE_MODES))
    page.section("MOUNT(8) AND FSTAB(5)")
    page.text(_MOUNT8)
    for name, text in (
        ("SIGNALS", _SIGNALS),
        ("EXIT STATUS", _EXIT),
        ("ENVIRONMENT", _ENVIRONMENT),
        ("FILES", _FILES),
        ("BUGS", _BUGS),
    ):
        page.section(name)
        page.text(_rows_joined(text))
    page.section("SEE ALSO")
    page.text("throttlefs.toml(5), mount(8), fuse(4), qemu-img(1)")
    return page.finish()


def throttlefs_toml_5() -> str:
    """throttlefs.toml(5)."""
    page = Page(
        "throttlefs.toml", 5, _DATE, __version__, "limits by path, and groups, for throttlefs"
    )
    page.section("DESCRIPTION")
    page.text(_CONFIG_DESCRIPTION)
    page.section("TABLES")
    page.text(_rows_joined(_CONFIG_TABLES))
    page.section("KEYS")
    page.text(_rows_joined(_CONFIG_KEYS))
    page.text(
        "Limits take a number, or a string with one of the suffixes K, M, G and T: powers of 1024 "
        "for bytes, of 1000 for requests. A rate may be a fraction, down to 0.001 a second. "
        "0 means no limit. QEMU's dashed names mean the same."
    )
    page.terms((name, LIMIT_HELP[name]) for name in LIMIT_NAMES)
    page.section("EXAMPLE")
    page.literal("\n".join(line[2:] for line in _CONFIG_EXAMPLE.strip("\n").split("\n")))
    page.section("SEE ALSO")
    page.text("throttlefs(1)")
    return page.finish()


PAGES = {"throttlefs.1": throttlefs_1, "throttlefs.toml.5": throttlefs_toml_5}


def _usage(context: click.Context, command: click.Command) -> str:
    return " ".join(command.collect_usage_pieces(click.Context(command, context)))


def _options(context: click.Context, command: click.Command) -> list[tuple[str, str]]:
    rows = []
    for parameter in command.get_params(click.Context(command, context)):
        record = parameter.get_help_record(click.Context(command, context))
        if record is not None and isinstance(parameter, click.Option):
            rows.append(record)
    return rows


def _rows_joined(text: str) -> str:
    """*text* with the continuation lines of its two-column rows joined to them."""
    lines: list[str] = []
    for line in text.strip("\n").split("\n"):
        if line.startswith("      ") and lines:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return "\n".join(lines)
