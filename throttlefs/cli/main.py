"""The command line: parse, call, print."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import click
from click.shell_completion import get_completion_class

from throttlefs import __version__
from throttlefs.errors import ThrottlefsError, UsageError
from throttlefs.host.descriptors import beside_standard, open_standard
from throttlefs.settings.device import DEVICE_HELP
from throttlefs.settings.limits import LIMIT_HELP, RATES

from .cluster import cluster
from .control import COMMANDS, MountPath
from .faults import fault
from .hints import MountOptionsCommand
from .mount8 import with_subcommand
from .mounting import MountCall, held_text, mount_options, start_in_background
from .power import COMMANDS as POWER_COMMANDS
from .profile import profile
from .running import run
from .scenarios import scenario
from .text import message_text, name_text, write_anything

_PROGRAM = "throttlefs"
# Older versions of click than 8.2 print the help themselves, and have no such exception.
_NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max(len(left) for left, _ in rows)
    # \b keeps click from rewrapping the paragraph.
    return "\b\n" + "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)


def _mount_help() -> str:
    from throttlefs.settings.option_help import OPTION_HELP

    limits = [(name, LIMIT_HELP[name]) for name in RATES]
    limits += [
        ("NAME_max", "rate allowed in a burst, for each of the six; at least the rate"),
        ("NAME_max_length", "a burst's volume is NAME_max x so many seconds; 1 if not given"),
        ("iops_size", LIMIT_HELP["iops_size"]),
        ("NAME_per_gib", "what the rate has more for each GiB of the size of the disk"),
        ("NAME_at_least, NAME_at_most", "bounds of a rate that grows with the size"),
    ]
    return f"""Show the files of SRC at DST and hold them to limits.

SRC and DST are two directories or two files; SRC may be a block device then, too.

Every file has its own limits, as a QEMU drive has. Values take the suffixes K, M, G and T:
powers of 1024 for bytes, of 1000 for requests. A rate may be a fraction, down to 0.001 a second.
0 means no limit; all limits given hold.

Limits (-o NAME=VALUE,...; QEMU's dashed names, such as bps-total, mean the same):

{_table(limits)}

A slow disk (-o NAME=VALUE,...; times have a unit: ns, us, ms, s, min or h):

{_table(DEVICE_HELP.items())}

Other options (-o ...):

{_table(OPTION_HELP.items())}

mount(8)'s options (ro, noatime, nodev, noexec, ...) are understood too. -o may be repeated; of
two values for one option the later wins. A comma in a value is written \\, (with a backslash).

Examples:

\b
  throttlefs mount images/ mnt/ -o bps=1M
  throttlefs mount images/ mnt/ -o bps_rd=10M,bps_wr=5M,iops=500
  throttlefs mount images/ mnt/ -o iops=1000,iops_max=4000,iops_max_length=60
  throttlefs mount images/ mnt/ -o group=disk,size=1T,seek=1ms/18ms,rpm=7200,latency_flush=8ms
"""


class _MountCommand(MountOptionsCommand):
    """``mount``. Its help reads the tables of options, so it is made when asked for."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.help = _mount_help()
        super().format_help_text(ctx, formatter)


@click.group(
    name=_PROGRAM,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name=_PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Hold disk images to QEMU's I/O limits.

    throttlefs mount SRC DST -o bps=1M shows the files of SRC at DST; every read and write of
    them waits until the limits allow it. Point a VM, dd or fio at the file in DST.
    """


@cli.command(cls=_MountCommand, short_help="Show SRC at DST, held to limits.")
@click.argument("source", metavar="SRC", type=MountPath())
@click.argument("target", metavar="DST", type=MountPath())
@mount_options
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; log to stderr.")
@click.option(
    "--end-with",
    metavar="PID",
    help="End the mount when process PID ends; what is still open a second later fails.",
)
def mount(source: str, target: str, foreground: bool, end_with: str | None, **call: Any) -> None:
    """Show the files of SRC at DST and hold them to limits (see _mount_help)."""
    from_outside = beside_standard()  # nothing has been opened yet
    from throttlefs.host.owner import parse_owner

    owner = None if end_with is None else parse_owner(end_with)
    request = MountCall(**call).prepare(source, target, owner, foreground)
    if foreground:
        from throttlefs.daemon.mount import serve_mount
        from throttlefs.host.notify import notify

        raise SystemExit(serve_mount(request, lambda: notify("READY=1")))
    start_in_background(request, from_outside)
    if sys.stdout.isatty():
        from .presentation import mount_text

        held = held_text(request.options)
        shown = mount_text(source, target)
        print(f"{shown}, held to {name_text(held)}" if held else f"{shown}, without limits")


@cli.command(short_help="End mounts.")
@click.argument("targets", metavar="DST...", nargs=-1, type=MountPath())
@click.option("--all", "every", is_flag=True, help="End every mount that you have made.")
@click.option(
    "-l",
    "--lazy",
    is_flag=True,
    help="Detach at once; programs that have files open are served until they close them.",
)
def umount(targets: tuple[str, ...], every: bool, lazy: bool) -> None:
    """End the mount at each DST. What waits for a limit goes through at once; nothing is lost.

    A mount that stays in use for 10 seconds is left as it is, and the message names who uses it.
    The others are ended all the same.
    """
    from throttlefs.host.unmounting import end_mount, mount_to_end, mounts_of_this_user

    if every and targets:
        raise UsageError(f"--all and {targets[0]}: give one of them")
    if not every and not targets:
        raise UsageError("DST is missing: name a mount, or give --all; throttlefs list shows yours")
    # Looked up at once, for a path may be relative to where we are now.
    found = mounts_of_this_user() if every else []
    failed = []
    for target in targets:
        try:
            found.append(mount_to_end(target))
        except ThrottlefsError as exc:
            failed.append(exc)
    os.chdir("/")  # or this process itself may keep one busy
    for mount in found:
        try:
            end_mount(mount, lazy)
        except ThrottlefsError as exc:
            failed.append(exc)
    for one in failed[:-1]:
        sys.stderr.write(f"{_PROGRAM}: {message_text(str(one), sys.argv[1:])}\n")
    if failed:
        raise failed[-1]


@cli.command(short_help="Print the script for shell completion.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL; for bash: eval "$(throttlefs completion bash)"."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, _PROGRAM, "_THROTTLEFS_COMPLETE").source())


for command in (run, *COMMANDS, profile, cluster, fault, scenario, *POWER_COMMANDS):
    cli.add_command(command)


def program() -> NoReturn:
    """`main` for a process that does nothing else: it ends without taking its modules apart.

    That would take Python as long as a tenth of a mount.
    """
    try:
        main()
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # `main` has said what there is to say of it
    os._exit(status)


def main() -> NoReturn:
    """Run the command line; each mistake becomes one line on stderr and an exit status."""
    _start_whole()
    try:
        arguments = with_subcommand(sys.argv[1:], cli.commands)
        cli.main(arguments, prog_name=_PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except ThrottlefsError as exc:
        _fail(str(exc), exc.exit_status)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except _NO_ARGUMENTS as exc:
        click.echo(exc.format_message(), err=True)
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        hint = (
            f"; see {exc.ctx.command_path} --help"
            if isinstance(exc, click.UsageError) and exc.ctx
            else ""
        )
        _fail(exc.format_message().rstrip(".") + hint, exc.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone, as with `| head`.
        _drop_output()
        sys.exit(1)
    except ImportError as exc:
        _fail(_why_not_loaded(exc), 1)
    except OSError as exc:
        if _is_nowhere():
            os.chdir("/")
            _fail("the working directory is gone; change to another with cd", 1)
        if exc.errno not in _OUTPUT_ERRORS or exc.filename is not None:
            raise
        _drop_output()
        _fail(f"cannot write the output: {exc.strerror}", 1)
    sys.exit(0)


def _start_whole() -> None:
    """Mend what the program that started us may have left behind.

    That is closed streams, for which Python has None; SIGCHLD ignored, which makes each wait for a
    child fail (waitpid(2)); and a locale that lacks characters.
    """
    for number in open_standard():
        name = ("stdin", "stdout", "stderr")[number]
        stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    write_anything(sys.stdout, sys.stderr)


def _why_not_loaded(error: ImportError) -> str:
    """What to do about a package that is missing, or was built for another system.

    Raises *error* again if it is our own package.
    """
    package = (error.name or "pyfuse3").partition(".")[0]
    if package == _PROGRAM:
        raise error
    return (
        f"{package} cannot be loaded: {error}; install it anew with:"
        f" {sys.executable} -m pip install --force-reinstall --no-cache-dir {package}"
    )


def _is_nowhere() -> bool:
    """Whether the working directory was removed, or was on a mount that was detached."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _drop_output() -> None:
    """Send the rest of stdout nowhere, or Python would complain when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fail(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"{_PROGRAM}: {message_text(message, sys.argv[1:])}\n")
    sys.exit(status)
