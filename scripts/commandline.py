"""How the commands of scripts/ end: a mistake is one line on stderr and an exit status."""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

import click


def run(command: click.Command, name: str) -> NoReturn:
    """Run a command under the name that its user typed, and end this process with its status."""
    try:
        status = command.main(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f"; see {context.command_path} --help" if context else ""
        # What libraries say may have several lines.
        said = " ".join(error.format_message().split()).rstrip(".")
        print(f"{name}: {said}{hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        # The reader of the output has gone, as with `| head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    sys.exit(status or 0)
