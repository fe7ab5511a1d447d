"""A checkout in a world of fakes, to test the scripts that install what is missing."""

import os
import re
import shutil
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
NOBODY = 65534
REAL_TOOLS = ["bash", "cat", "env", "find", "flock", "grep", "ln", "mkdir", "mktemp", "mv"]
REAL_TOOLS += ["readlink", "rm", "sha256sum", "sleep", "stat", "tail", "tee", "touch"]

# $FAKES/NAME.does, if there, is what a test makes the command NAME do beforehand.
FAKE = """#!/bin/bash
name=${0##*/}
echo "$name $*" >>"$FAKES/log"
if [[ -e $FAKES/$name.does ]]; then . "$FAKES/$name.does"; fi
"""

FAKE_PYTHON = """#!/bin/bash
echo "python $*" >>"$FAKES/log"
case "$*" in
    *probe_python.py)
        if [[ -e $FAKES/${0##*/}.probe ]]; then . "$FAKES/${0##*/}.probe"; fi
        readlink -f -- "$0" ;;
    *probe_fuse.py)
        [[ -e $FAKES/libfuse3.so ]] || { echo "pyfuse3: libfuse3.so.3 is not there"; exit 1; }
        echo "$FAKES/libfuse3.so" ;;
    *'-m venv'*)
        for directory; do :; done
        mkdir -p "$directory/bin" && ln -s "$0" "$directory/bin/python" ;;
    *'-m pip '*install*)
        if [[ -e $FAKES/pip.does ]]; then . "$FAKES/pip.does"; fi
        [[ $* != *--no-binary* ]] || touch "$FAKES/libfuse3.so"
        for name in throttlefs ruff mypy; do ln -sf "$FAKES/any" "${0%/*}/$name"; done ;;
    *'-m pytest'*)
        if [[ -e $FAKES/pytest.does ]]; then . "$FAKES/pytest.does"; fi
        echo '=== 3 passed in 0.01s ===' ;;
esac
"""


class World:
    """The real scripts, run by an ordinary user whose PATH leads to fakes alone.

    The fakes log what they are asked, so that a test can tell what was installed and what was
    left alone; ``does`` makes one of them do more.
    """

    def __init__(self, directory: Path) -> None:
        self.checkout = directory / "a checkout"
        self.fakes = directory / "fakes"
        self.fakes.mkdir()
        (self.checkout / "scripts").mkdir(parents=True)
        for name in ("throttlefs", "test", "lib", "constraints.txt"):
            copy = shutil.copytree if name == "lib" else shutil.copy
            copy(CHECKOUT / "scripts" / name, self.checkout / "scripts" / name)
        shutil.copy(CHECKOUT / "pyproject.toml", self.checkout)
        # The distribution's Python is a fake, too.
        install = self.checkout / "scripts" / "lib" / "install.sh"
        text = install.read_text()
        assert "/usr/bin/python3" in text
        install.write_text(text.replace("/usr/bin/python3", f"{self.fakes}/python3"))
        for tool in REAL_TOOLS:
            if path := shutil.which(tool):
                (self.fakes / tool).symlink_to(path)
        for name in ("any", "sync", "fusermount3", "gcc", "pkg-config"):
            self.fake(name)
        for name in re.findall(r"([\w.-]+):[\w.-]+", (CHECKOUT / "scripts" / "test").read_text()):
            if not (self.fakes / name).exists():
                self.fake(name)
        self.fake("python3", FAKE_PYTHON)
        (self.fakes / "log").touch()
        (self.fakes / "libfuse3.so").touch()
        if os.geteuid() == 0:
            for each in (directory, *directory.rglob("*")):
                os.chown(each, NOBODY, NOBODY, follow_symlinks=False)

    @property
    def venv(self) -> Path:
        return self.checkout / ".venv"

    @property
    def launcher(self) -> Path:
        return self.checkout / "scripts" / "throttlefs"

    def fake(self, name: str, script: str = FAKE) -> None:
        (self.fakes / name).write_text(script)
        (self.fakes / name).chmod(0o755)

    def does(self, name: str, script: str) -> None:
        (self.fakes / f"{name}.does").write_text(script + "\n")

    def log(self) -> str:
        return (self.fakes / "log").read_text()

    def installs(self) -> int:
        return len(re.findall(r"-m pip .*\binstall\b", self.log()))

    def venvs_made(self) -> int:
        return self.log().count("-m venv")

    def start(self, *command: object, **options: object) -> "subprocess.Popen[str]":
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        settings = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "env": {"PATH": str(self.fakes), "FAKES": str(self.fakes)},
            "cwd": "/",
            "start_new_session": True,
            **user,
            **options,
        }
        return subprocess.Popen([*map(str, command or (self.launcher,))], **settings)  # type: ignore[call-overload,no-any-return]

    def run(
        self, *command: object, given: str | None = None, **options: object
    ) -> "subprocess.CompletedProcess[str]":
        if given is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*command, **options) as process:
            out, err = process.communicate(given, timeout=30)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
