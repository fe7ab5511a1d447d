"""What ``mount`` and ``run`` share: their options, and how a mount is begun."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from throttlefs.errors import ThrottlefsError, UsageError
from throttlefs.settings.device import DEVICE_HELP
from throttlefs.settings.limits import LIMIT_HELP
from throttlefs.settings.volatile import NEEDING_VOLATILE

if TYPE_CHECKING:
    from throttlefs.daemon.request import MountRequest
    from throttlefs.host.owner import Owner
    from throttlefs.settings.options import MountOptions


class OptionString(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """The value of -o; completes the last option of the list."""

    name = "opts"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The options that begin as the last one of *incomplete* does."""
        from throttlefs.settings.option_help import OPTION_HELP

        before, comma, last = incomplete.rpartition(",")
        known = {f"{name}=": text for name, text in {**LIMIT_HELP, **DEVICE_HELP}.items()}
        if last.startswith("profile="):
            from throttlefs.settings.profiles import shipped

            library = shipped()
            known = {f"profile={one}": library.profile(one).summary for one in library.names}
        for form, text in OPTION_HELP.items():
            name, equals, _ = form.partition("=")
            known[name + equals] = text
        return [
            CompletionItem(before + comma + name, help=text)
            for name, text in known.items()
            if name.startswith(last)
        ]


_OPTIONS = (
    click.option(
        "-o",
        "opts",
        metavar="OPTS",
        type=OptionString(),
        multiple=True,
        help="Limits and mount options, separated by commas.",
    ),
    click.option(
        "--config",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="Limits by path, and groups, from this TOML file; wins over -o config=FILE.",
    ),
    click.option(
        "--qmp",
        metavar="unix:PATH",
        help="One more control socket, at PATH; every mount has one in the runtime directory. "
        "QEMU's ,server=on,wait=off may follow.",
    ),
    click.option(
        "--log-file",
        type=click.Path(dir_okay=False),
        help="Log to this file. Without it a background mount logs to the system's log.",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Log in more detail."),
)

Function = Callable[..., Any]


def mount_options(function: Function) -> Function:
    """Give the command *function* the options of a mount, the fields of `MountCall`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class MountCall:
    """What a command line says about a mount."""

    opts: tuple[str, ...]
    config: str | None
    qmp: str | None
    log_file: str | None
    verbose: bool

    def prepare(
        self, source: str, target: str, owner: Owner | None = None, foreground: bool = False
    ) -> MountRequest:
        """Check everything and set up the log; the mount is to end with *owner*.

        Raises `ThrottlefsError`; nothing has been mounted then.
        """
        from throttlefs.daemon.logs import set_up_logging
        from throttlefs.host.paths import check_log_file, check_paths, check_visible
        from throttlefs.host.undo_directory import check_undo_directory
        from throttlefs.settings.option_values import OptionError
        from throttlefs.settings.options import parse_options
        from throttlefs.settings.qmp_address import parse_qmp_address

        try:
            options = parse_options(list(self.opts))
            qmp = None if self.qmp is None else os.path.abspath(parse_qmp_address(self.qmp))
        except OptionError as exc:
            raise UsageError(str(exc)) from None
        if self.config is not None or options.config is not None:
            # Absolute, for the daemon's working directory is another.
            options = replace(options, config=os.path.abspath(self.config or options.config or ""))
        if options.fault_log is not None:
            options = replace(options, fault_log=os.path.abspath(options.fault_log))
        if options.password_file is not None:
            options = replace(options, password_file=os.path.abspath(options.password_file))
        paths = check_paths(source, target, options.nonempty)
        log_path = None if self.log_file is None else os.path.abspath(self.log_file)
        if log_path is not None:
            check_log_file(paths, log_path)
        if options.fault_log is not None:
            check_log_file(paths, options.fault_log)
        if qmp is not None:
            check_visible(paths, "the socket", qmp, "choose a place outside of it")
        if options.volatile:
            options = replace(options, volatile_dir=os.path.abspath(options.volatile_dir))
            check_undo_directory(paths, options.volatile_dir)
        set_up_logging(foreground, log_path, self.verbose)

        # Late: pyfuse3 and trio take most of the start-up time, and a typo need not wait for them.
        from throttlefs.daemon.environment import check_environment
        from throttlefs.daemon.request import MountRequest
        from throttlefs.host.runtime import runtime_directory
        from throttlefs.policy.loading import read_policy
        from throttlefs.policy.sizes import check_sizes

        check_environment(options)
        state = os.path.realpath(runtime_directory())
        try:
            check_visible(
                paths, "the runtime directory", state, "set XDG_RUNTIME_DIR to another place"
            )
        except ThrottlefsError:
            # If it was made just now, DST would not be empty the next time.
            with contextlib.suppress(OSError):
                os.rmdir(state)
            raise
        check_sizes(read_policy(options), paths.source, paths.is_file)
        return MountRequest(paths, options, state, qmp, owner)


def start_in_background(request: MountRequest, from_outside: Collection[int]) -> int:
    """Mount and serve in a daemon, which closes the descriptors *from_outside*; returns its id.

    Raises `ThrottlefsError`; nothing stays mounted then.
    """
    from throttlefs.daemon.background import DaemonDiedError, run_in_background
    from throttlefs.daemon.mount import serve_mount
    from throttlefs.host.unmounting import clear_dead_mount

    try:
        return run_in_background(lambda ready: serve_mount(request, ready), from_outside)
    except DaemonDiedError:
        clear_dead_mount(request.paths.target)
        raise


_OF_THE_MACHINE = frozenset(
    ("attr_timeout", "cache", "engine", "entry_timeout", "fault_log", "fsname", "max_background")
) | {"max_inflight", "metrics", "server", *NEEDING_VOLATILE}
"""Options that do not say what requests are held to."""


def held_text(options: MountOptions) -> str:
    """What the mount is held to, as ``-o`` has it; empty if to nothing."""
    from throttlefs.settings.option_values import SWITCHES

    off: dict[str, Any] = dict.fromkeys(SWITCHES, False)
    return str(replace(options, flags=(), given=options.given - _OF_THE_MACHINE, **off))
