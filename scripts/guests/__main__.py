"""``python -m guests`` is what ``./scripts/guest`` runs."""

from commandline import run

from guests.cli import main

run(main, "scripts/guest")
