"""Commands, attributes and command lines on the limiter of a mount that has no FUSE.

Whatever fails has changed nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from tests.unit.control.bare_mount import Mount
from throttlefs.cli.main import main
from throttlefs.control import locate
from throttlefs.control.client import NoSuchImageError
from throttlefs.control.images import Images
from throttlefs.control.locate import Located
from throttlefs.control.server import _Client
from throttlefs.errors import ThrottlefsError
from throttlefs.fuse.limit_attributes import LIMIT_PREFIX, LimitAttributes
from throttlefs.host.mountinfo import MountEntry
from throttlefs.policy.state import group_state, image_state
from throttlefs.policy.tuning import Tuner
from throttlefs.settings.config import parse_config
from throttlefs.settings.limits import LIMIT_NAMES

from .target import Check, Target, check_line


class World(Mount):
    """A mount with two images open, whose state can be compared and put back."""

    def __init__(self, source: Path) -> None:
        for name in ("a.img", "b.img", "ruled.img"):
            (source / name).write_bytes(b"x")
        super().__init__(source)
        images = Images(self.inodes, self.governor, self.statistics)
        self.attributes = LimitAttributes(self.inodes, Tuner(self.governor, images.is_open))
        root = self.inodes.root
        fd = self.inodes.open_now(root, b"a.img")
        self.inode = self.inodes.adopt(root, b"a.img", fd, os.fstat(fd))
        self.image, _ = self.open("a.img")
        self.open("ruled.img")

    def state(self) -> object:
        throttle = self.governor.throttle
        return (
            self.governor.policy.default,
            {group.name: group_state(group) for group in throttle.groups()},
            {
                image.key: (image.override, image_state(image))
                for image in throttle.images()
                # Others are only remembered until somebody looks.
                if image is self.image or self.governor.is_changed(image.key)  # type: ignore[arg-type]
            },
        )

    def reset(self) -> None:
        self.restore()

    async def run_command(self, name: str, arguments: Mapping[str, Any]) -> object:
        """As the table does; fails if an error has changed anything."""
        before = self.state()
        try:
            return await self.table.run(name, arguments)
        except ThrottlefsError:
            assert self.state() == before, "an error has changed something"
            raise


@contextmanager
def new_world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        try:
            yield world
        finally:
            world.inodes.close()


class _Connection:
    """A client's end: what it sends, in pieces, and what it was answered."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.answers = bytearray()

    async def recv(self, size: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def send(self, data: bytes) -> int:
        self.answers += data
        return len(data)


Run = Callable[[str, Mapping[str, Any]], Awaitable[object]]


def session(run: Run, pieces: list[bytes]) -> list[dict[str, Any]]:
    """The answers to *pieces* after the greeting, each a line of strict JSON."""
    connection = _Connection([b'{"execute": "qmp_capabilities"}', *pieces, b"\n"])
    trio.run(_Client(connection, run).serve)  # type: ignore[arg-type]
    lines = connection.answers.split(b"\r\n")
    assert lines.pop() == b""
    answers = [json.loads(line, parse_constant=_refuse) for line in lines]
    for answer in answers:
        if "error" in answer:
            check_line(answer["error"]["desc"])
            assert set(answer["error"]) == {"class", "desc"}
    return answers[2:]


def _refuse(constant: str) -> object:
    raise AssertionError(f"{constant} is no JSON")


@contextmanager
def qmp_session() -> Iterator[Check]:
    """Commands through the server: the same answers however they are cut, all or nothing."""
    with new_world() as world:

        def check(data: bytes) -> None:
            world.reset()
            pieces = [data[at : at + 4096] for at in range(0, len(data), 4096)]
            answers = session(world.run_command, pieces)
            saved = world.run("x-throttlefs-query-config")["toml"]
            parse_config(saved, "saved.toml")
            if sum(data) % 4 == 0:
                world.reset()
                step = 1 + sum(data[:8]) % 300
                pieces = [data[at : at + step] for at in range(0, len(data), step)]
                assert session(world.run_command, pieces) == answers

        yield check


@contextmanager
def attributes() -> Iterator[Check]:
    """An attribute's name, "=" and its value, set on a file and on the mount; then read."""
    with new_world() as world:

        def check(data: bytes) -> None:
            name, _, value = data.partition(b"=")
            name = LIMIT_PREFIX + name
            for inode in (world.inode, world.inodes.root):
                before = world.state()
                try:
                    world.attributes.set(inode, name, value, 0)
                except OSError:
                    assert world.state() == before
                else:
                    try:
                        got = world.attributes.get(inode, name)
                    except OSError:
                        assert name.endswith(b"group")
                    else:
                        after = world.state()
                        world.attributes.set(inode, name, got, 0)
                        assert world.state() == after
                before = world.state()
                try:
                    world.attributes.remove(inode, name, 0)
                except OSError:
                    assert world.state() == before
            world.reset()

        yield check


class _Direct:
    """A client that has no socket in between; what it hands over is JSON all the same."""

    def __init__(self, world: World) -> None:
        self._world = world

    def run(self, command: str, **arguments: object) -> Any:
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        text = json.dumps({"execute": command, "arguments": named}).encode()
        (answer,) = session(self._world.run_command, [text])
        if "error" in answer:
            missing = answer["error"]["class"] == "DeviceNotFound"
            raise (NoSuchImageError if missing else ThrottlefsError)(answer["error"]["desc"])
        return answer["return"]


@contextmanager
def command_line() -> Iterator[Check]:
    """set and show with any arguments: output, or one line of an error and its status."""
    with new_world() as world:
        table = [
            MountEntry(1, 0, 1, b"/", "ext4", b"/dev/x", "rw"),
            MountEntry(2, 0, 2, b"/mnt", "fuse.throttlefs", b"/s", "rw", os.geteuid()),
        ]

        @contextmanager
        def direct(located: Located) -> Iterator[_Direct]:
            try:
                yield _Direct(world)
            except NoSuchImageError:
                raise ThrottlefsError(f"{located.path}: there is no such file") from None

        def check(data: bytes) -> None:
            words = [os.fsdecode(word) for word in data.replace(b"\0", b"").split(b"\x1f")]
            out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
            sys.argv = ["throttlefs", ("set", "show")[sum(data) % 2], *words]
            before = world.state()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as end:
                    status = end.code
            if status == 0:
                assert err.getvalue() == ""
            else:
                assert status in (1, 2)
                line = err.getvalue()
                assert line.startswith("throttlefs: ")
                check_line(line.removesuffix("\n"), len(data) * 8 + 500)
                assert world.state() == before
            world.reset()

        originals = locate.read_mounts, Located.session, sys.argv
        locate.read_mounts = lambda: table
        Located.session = direct  # type: ignore[assignment,method-assign]
        try:
            yield check
        finally:
            locate.read_mounts, Located.session, sys.argv = originals  # type: ignore[method-assign]


def command(name: str, **arguments: object) -> bytes:
    """A command as a client sends it."""
    named = {key.replace("__", "-"): value for key, value in arguments.items()}
    return json.dumps({"execute": name, "arguments": named}).encode()


_ZEROS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
_NAMES = [name.encode() for name in (*LIMIT_NAMES, "group", "weight", "parent")]

TARGETS = (
    Target(
        "qmp_session", qmp_session,
        (
            command("block_set_io_throttle", device="a.img", **{**_ZEROS, "bps": 5, "bps_max": 9}),
            command("block_set_io_throttle", id="b.img", group="new", **{**_ZEROS, "iops": 5}),
            command("x-throttlefs-set", device="a.img", values={"group": "tenant", "weight": 7}),
            command("x-throttlefs-set", group__name="g", values={"parent": "tenant", "bps": "1M"})
            + command("x-throttlefs-set", all=True, values={"group": "g"})
            + command("x-throttlefs-remove-group", group__name="g"),
            command("x-throttlefs-set", device="ruled.img", off=True, values={"iops_rd": 4}),
            command("query-block") + command("query-blockstats", query__nodes=True)
            + command("x-throttlefs-query-stats", histograms=True),
            command("x-throttlefs-query", device="%61.img") + command("x-throttlefs-reload"),
            command("object-add", qom__type="throttle-group", id="g", limits={"bps-total": 5})
            + command("qom-set", path="g", property="limits", value={"bps-total-max": 9})
            + command("qom-get", path="/objects/g", property="x-iops-size")
            + command("qom-list", path="/objects") + command("object-del", id="g"),
        ),
        (
            *_NAMES, b'"group-name": ', b'"device": ', b'"id": ', b'"off": true', b'"tenant"',
            b'"\\ud800"', b'"%\\ud800"', b"1e999", b"1e3", b'"values": {}', b'"all": true',
            b'"../x"',
            b'"x\\u0000"', b"false", b"[1]", b"{}", b'{"execute": "query-block"}',
        ),
        40_000,
    ),
    Target(
        "attributes", attributes,
        (b"bps=1M", b"group=tenant", b"weight=5", b"iops_max_length=3", b"x-bps-read=7"),
        (*_NAMES, b"=", b"0", b"1M", b"tenant", b"throttling.", b"x-"), 60_000,
    ),
    Target(
        "command_line", command_line,
        (
            b"/mnt/a.img\x1fbps=2M\x1fiops_wr=500", b"/mnt\x1foff\x1f--all", b"--json\x1f/mnt",
            b"--group\x1fdb\x1f/mnt\x1fweight=200\x1fparent=tenant", b"/mnt/a.img",
            b"--toml\x1f/mnt",
            b"/mnt/../mnt/./b.img\x1fgroup=tenant,bps=5",
        ),
        (
            *_NAMES, b"\x1f", b"=1M", b"--all", b"--group", b"--", b"off", b"/mnt/", b"..", b"-h",
            b",",
        ),
        20_000,
    ),
)  # fmt: skip
