"""``python -m benchmarks`` is what ``./scripts/bench`` runs."""

from benchmarks.cli import main

main(prog_name="scripts/bench")
