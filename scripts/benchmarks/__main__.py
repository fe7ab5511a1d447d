"""``python -m benchmarks`` is what ``./scripts/bench`` runs."""

from commandline import run

from benchmarks.cli import main

run(main, "scripts/bench")
