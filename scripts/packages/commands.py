"""What this project changes in setuptools' commands; pyproject.toml names the classes.

The source distribution holds everything that a checkout has, tests and scripts too, so it passes
its own tests. Links of the README that are relative there, as PyPI shows only that one page, are
absolute in the metadata.
"""

from __future__ import annotations

import re

from setuptools.command.egg_info import egg_info
from setuptools.command.sdist import sdist

_TREES = ("docs", "scripts", "tests", ".ci")
_FILES = ("CHANGELOG.md", ".gitignore")
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!https?:|mailto:)(?P<target>[^)\s]+)\)")


def with_absolute_links(readme: str, repository: str) -> str:
    """The text of README.md with the links that lead into the project made to lead into
    *repository*, the URL of a forge that has the paths of GitHub.
    """

    def absolute(link: re.Match[str]) -> str:
        target = link["target"]
        if target.startswith("#"):
            target = "README.md" + target
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({repository}/{kind}/HEAD/{target})"

    return _LINK.sub(absolute, readme)


class EggInfo(egg_info):
    """Writes the metadata, of which PyPI takes the page that it shows."""

    def run(self) -> None:
        metadata = self.distribution.metadata
        metadata.long_description = with_absolute_links(
            metadata.long_description, metadata.project_urls["Source"]
        )
        super().run()


class Sdist(sdist):
    """Writes the source distribution."""

    def make_distribution(self) -> None:
        for tree in _TREES:
            self.filelist.graft(tree)
        for name in _FILES:
            self.filelist.include(name)
        self.filelist.global_exclude("*.py[cod]")
        super().make_distribution()
