"""``python -m manpages DIRECTORY`` is what ``./scripts/build-man`` runs."""

import sys
from pathlib import Path

from manpages.pages import PAGES

directory = Path(sys.argv[1])
directory.mkdir(parents=True, exist_ok=True)
for name, make in PAGES.items():
    (directory / name).write_text(make(), encoding="utf-8")
