"""The wheel and the source distribution hold what they should, and their metadata is right.

``scripts/test-in-root --packages`` builds the Debian package, too, installs all, and tries it.
"""

from __future__ import annotations

import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from throttlefs import __version__
from throttlefs.policy.loading import load_config

ROOT = Path(__file__).resolve().parents[2]
# What lies at the top of a checkout. Nothing of git's.
SOURCES = ["CHANGELOG.md", "LICENSE", "README.md", "docs", "pyproject.toml", "scripts", "tests"]
SOURCES += ["throttlefs"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REPOSITORY = PROJECT["project"]["urls"]["Source"]
PACKAGING = ROOT / "scripts" / "packages"
COMPLETIONS = {"bash": "throttlefs", "zsh": "_throttlefs", "fish": "throttlefs.fish"}
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass
class Built:
    """What was built, of which sources."""

    sources: set[str]
    wheel: Path
    sdist: Path

    def metadata(self) -> email.message.Message:
        with zipfile.ZipFile(self.wheel) as wheel:
            text = wheel.read(f"throttlefs-{__version__}.dist-info/METADATA").decode()
        return email.message_from_string(text)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel, built from the source distribution, as pip does for who has no wheel."""
    pytest.importorskip("build")
    tree = tmp_path_factory.mktemp("packages") / "tree"
    tree.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree)
    sources = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    out = tree.parent / "out"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree)
    stem = f"throttlefs-{__version__}"
    return Built(sources, out / f"{stem}-py3-none-any.whl", out / f"{stem}.tar.gz")


def run(*command: object) -> str:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def files_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


# -- the wheel and the source distribution ----------------------------------------------------


def test_twine_finds_nothing(built: Built) -> None:
    pytest.importorskip("twine")
    run(sys.executable, "-m", "twine", "check", "--strict", built.wheel, built.sdist)


def test_the_source_distribution_has_all_sources(built: Built) -> None:
    """With the modes that scripts have."""
    top = f"throttlefs-{__version__}/"
    with tarfile.open(built.sdist) as archive:
        members = {entry.name.removeprefix(top): entry for entry in archive if entry.isfile()}
    added = {name for name in members if "egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert set(members) - added == built.sources
    for name in built.sources:
        assert members[name].mode & 0o111 == (ROOT / name).stat().st_mode & 0o111, name


def test_the_wheel_has_the_whole_package(built: Built) -> None:
    package = {name for name in built.sources if name.startswith("throttlefs/")}
    assert {name for name in files_in(built.wheel) if name.startswith("throttlefs/")} == package


def test_the_wheel_has_pages_completions_and_examples(built: Built) -> None:
    prefix = f"throttlefs-{__version__}.data/data/share/"
    shared = {name.removeprefix(prefix) for name in files_in(built.wheel) if prefix in name}
    assert shared == {
        *(f"man/man{page.suffix[1]}/{page.name}" for page in (ROOT / "docs/man").iterdir()),
        *(f"doc/throttlefs/examples/{one.name}" for one in (ROOT / "docs/examples").iterdir()),
        "bash-completion/completions/throttlefs",
        "zsh/site-functions/_throttlefs",
        "fish/vendor_completions.d/throttlefs.fish",
    }


def test_what_the_metadata_says(built: Built) -> None:
    metadata = built.metadata()
    assert (metadata["Name"], metadata["Version"]) == ("throttlefs", __version__)
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Requires-Python"] == PROJECT["project"]["requires-python"]
    wanted = {Requirement(line) for line in metadata.get_all("Requires-Dist") or []}
    assert {one for one in wanted if one.marker is None} == {
        Requirement(line) for line in PROJECT["project"]["dependencies"]
    }
    urls = [line.partition(", ")[2] for line in metadata.get_all("Project-URL") or []]
    assert len(urls) >= 4
    assert all(url.startswith(REPOSITORY) for url in urls)


def test_links_of_the_readme_lead_somewhere_from_pypi(built: Built) -> None:
    text = built.metadata().get_payload()
    assert isinstance(text, str)
    assert text.lstrip().startswith("# throttlefs\n")
    links = _LINK.findall(text)
    inside = [link for link in links if link.startswith(f"{REPOSITORY}/blob/HEAD/")]
    assert len(inside) >= 10
    for link in links:
        assert link.startswith("https://")
    for link in inside:
        name = link.removeprefix(f"{REPOSITORY}/blob/HEAD/").partition("#")[0]
        assert (ROOT / name).exists(), link


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("[a](docs/x.md#b)", "[a](https://u/blob/HEAD/docs/x.md#b)"),
        ("[a](#two)", "[a](https://u/blob/HEAD/README.md#two)"),
        ("![a](docs/x.svg)", "![a](https://u/raw/HEAD/docs/x.svg)"),
        (
            "[a](https://b.org/c) [d](http://e) <f@g.h>",
            "[a](https://b.org/c) [d](http://e) <f@g.h>",
        ),
        (
            "two [of\nthem](a) [b](c)",
            "two [of\nthem](https://u/blob/HEAD/a) [b](https://u/blob/HEAD/c)",
        ),
    ],
)
def test_relative_links_become_absolute(given: str, made: str) -> None:
    commands = pytest.importorskip("scripts.packages.commands", reason="no setuptools")
    assert commands.with_absolute_links(given, "https://u") == made
    assert commands.with_absolute_links(made, "https://u") == made


def test_what_the_entry_points_name_exists(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        text = wheel.read(f"throttlefs-{__version__}.dist-info/entry_points.txt").decode()
    named = re.findall(r"^[\w-]+ = ([\w.]+)(?::(\w+))?$", text, re.MULTILINE)
    assert ("throttlefs.cli.main", "program") in named
    for module, attribute in named:
        line = f"import {module} as m; print(hasattr(m, {attribute!r}) if {attribute!r} else True)"
        assert run(sys.executable, "-c", line) == "True\n", module


# -- what is made beforehand ------------------------------------------------------------------


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_completions_are_what_the_command_prints(shell: str) -> None:
    file = ROOT / "docs" / "completions" / shell / COMPLETIONS[shell]
    printed = run(sys.executable, "-m", "throttlefs", "completion", shell)
    assert file.read_text() == printed, "run scripts/build-completions"


def test_bash_completes_with_the_file(tmp_path: Path) -> None:
    command = tmp_path / "throttlefs"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m throttlefs "$@"\n')
    command.chmod(0o755)
    script = f"""
        . {ROOT}/docs/completions/bash/throttlefs
        PATH={tmp_path}:$PATH COMP_WORDS=(throttlefs mount a b -o iops=5,bps_r) COMP_CWORD=5
        cd {ROOT} && _throttlefs_completion throttlefs && echo "${{COMPREPLY[@]}}"
    """
    assert run("bash", "-c", script).split()[:2] == ["iops=5,bps_rd=", "iops=5,bps_rd_max="]


def test_click_as_old_as_debian_has_it_completes() -> None:
    """Older versions than 8.2 have one exception less."""
    script = (
        "import click.exceptions, sys; vars(click.exceptions).pop('NoArgsIsHelpError', None);"
        "import throttlefs.cli.main as m; sys.argv = ['throttlefs']; m.main()"
    )
    asked = {"COMP_WORDS": "throttlefs umo", "COMP_CWORD": "1"}
    environment = {**os.environ, **asked, "_THROTTLEFS_COMPLETE": "bash_complete"}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, "plain,umount\n", "")


def test_the_example_of_limits_by_path_is_read() -> None:
    config = load_config(ROOT / "docs/examples/throttlefs.toml")
    assert [rule.group for rule in config.images] == [None, "vms"]


# -- Debian and containers --------------------------------------------------------------------


def control() -> tuple[email.message.Message, email.message.Message]:
    """The source's and the binary package's paragraphs of debian/control."""
    source, package = (PACKAGING / "debian" / "control").read_text().split("\n\n")[:2]
    return email.message_from_string(source), email.message_from_string(package)


def relations(field: str) -> dict[str, str]:
    """Packages and the versions that are asked for, such as ``>= 8.1``."""
    found = re.findall(r"([\w.$:{}-]+)(?: \(([^)]*)\))?[^,]*", re.sub(r"\s+", " ", field))
    return dict(found)


def test_debian_asks_for_what_the_project_asks_for() -> None:
    source, package = control()
    depends = relations(package["Depends"])
    builds = relations(source["Build-Depends"])
    wanted = {
        f"python3-{one.name}": str(one.specifier).replace(">=", ">= ")
        for one in map(Requirement, PROJECT["project"]["dependencies"])
    }
    assert {name: at for name, at in depends.items() if name.startswith("python3-")} == wanted
    assert wanted.items() <= builds.items(), "its tests need them"
    assert "fuse3" in depends
    (backend,) = map(Requirement, PROJECT["build-system"]["requires"])
    assert builds[f"python3-{backend.name}"] == str(backend.specifier).replace(">=", ">= ")
    assert source["Homepage"] == PROJECT["project"]["urls"]["Homepage"]
    assert PROJECT["project"]["description"].removeprefix("A ") in package["Description"]


def test_debian_has_the_version_of_the_project() -> None:
    first = (PACKAGING / "debian" / "changelog").read_text().splitlines()[0]
    assert re.fullmatch(rf"throttlefs \({re.escape(__version__)}-\d+\) \w+; urgency=\w+", first)


def test_debian_has_the_license() -> None:
    def words(text: str) -> list[str]:
        return text[text.index("Permission") :].replace("\n .\n", "\n").split()

    given = (PACKAGING / "debian" / "copyright").read_text()
    assert words(given) == words((ROOT / "LICENSE").read_text())


def test_the_container_copies_what_is_there() -> None:
    text = (PACKAGING / "Containerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for name in line.split()]
    assert set(copied) == set(SOURCES) - {"tests"}


# -- the scripts ------------------------------------------------------------------------------


def copied(source: Path, target: Path) -> set[str]:
    """What scripts/lib/sources.sh copies."""
    script = f'. "{ROOT}/scripts/lib/sources.sh" && copy_sources "$1" "$2"'
    run("bash", "-euo", "pipefail", "-c", script, "bash", source, target)
    return {str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir()}


def test_sources_are_copied_without_git(tmp_path: Path) -> None:
    tree = tmp_path / "a tree"
    kept = ["scripts/build", "throttlefs/dist/x", ".gitignore", "pyproject.toml"]
    left = [".venv/x", "build/x", "dist/x", ".mypy_cache/x", "throttlefs.egg-info/x"]
    left += ["throttlefs/__pycache__/x", ".hypothesis/x"]
    for name in kept + left:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    assert copied(tree, tmp_path / "copy") == set(kept)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_sources_are_copied_with_git(tmp_path: Path) -> None:
    """What is changed or new too, but nothing that git ignores, nor what was removed."""
    tree = tmp_path / "a tree"
    tree.mkdir()
    run("git", "-C", tree, "init", "--quiet")
    (tree / ".gitignore").write_text("/ignored\n")
    for name in ("added", "gone"):
        (tree / name).write_text("x")
    run("git", "-C", tree, "add", ".")
    (tree / "gone").unlink()
    (tree / "ignored").write_text("x")
    (tree / "new").write_text("x")
    assert copied(tree, tmp_path / "copy") == {".gitignore", "added", "new"}


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="no Debian")
@pytest.mark.parametrize(("version", "possible"), [("1.21.22", False), ("1.22.21", True)])
def test_a_debian_that_is_too_old_builds_no_package(
    tmp_path: Path, version: str, possible: bool
) -> None:
    for name in ("apt-get", "dpkg-query"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def build(argument: object) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "scripts/build-deb"), str(argument)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    asked = build("--possible")
    assert (asked.returncode == 0, asked.stdout, asked.stderr) == (possible, "", "")
    if not possible:
        refused = build(tmp_path / "out")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == "throttlefs: building needs Debian 13 or newer\n"
        assert not (tmp_path / "out").exists()
