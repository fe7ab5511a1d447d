"""``python -m throttlefs`` is the same as the ``throttlefs`` command."""

from throttlefs.cli.main import program

program()
