"""What the kernel, the network and the runtime directory hand over."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pyfuse3
import trio
import trio.testing

from tests.unit.fuse.test_channel import Rig, in_header, keeping, read_request, write_request
from throttlefs.control.protocol import (
    BadRequestError,
    Framer,
    QmpError,
    failure,
    parse_request,
    success,
)
from throttlefs.daemon import metrics_server
from throttlefs.host import runtime
from throttlefs.host.mountinfo import MountEntry, parse_mountinfo

from .target import Check, Target, check_line, plain


def mountinfo(data: bytes) -> None:
    """Lines of /proc/self/mountinfo: each is an entry or left out."""
    for entry in parse_mountinfo(data):
        assert min(entry.mount_id, entry.major, entry.minor) >= 0
    assert len(parse_mountinfo(data)) <= data.count(b"\n") + 1


def qmp_text(data: bytes) -> None:
    """A client's stream: values and errors are the same however it is cut, answers are JSON."""
    whole = _found([data])
    step = 1 + sum(data[:8]) % 700
    assert _found([data[at : at + step] for at in range(0, len(data), step)]) == whole
    if len(data) < 3000:
        assert _found([data[at : at + 1] for at in range(len(data))]) == whole
    for found in whole:
        if isinstance(found, str):
            check_line(found)
            continue
        try:
            request = parse_request(found)
        except BadRequestError as error:
            check_line(str(error))
            line = failure(error, error)
        else:
            line = success({}, request)
        assert line.isascii()
        assert b"Infinity" not in line or b"Infinity" in found


def _found(pieces: list[bytes]) -> list[bytes | str]:
    framer = Framer()
    return [
        str(found) if isinstance(found, QmpError) else found
        for piece in [*pieces, b"\n"]
        for found in framer.feed(piece)
    ]


@contextmanager
def record() -> Iterator[Check]:
    """A record in the runtime directory: sound, or none."""
    with tempfile.TemporaryDirectory() as directory:
        original = runtime.directories_of
        runtime.directories_of = lambda _uid: [directory]
        entry = MountEntry(1, 0, 45, b"/mnt", "fuse.throttlefs", b"/src", "rw")
        path = os.path.join(directory, "0-45.json")

        def check(data: bytes) -> None:
            with open(path, "wb") as file:
                file.write(data)
            found = runtime.read_record(entry)
            if found is not None:
                assert not found.is_alive() or found.start_time > 0
                assert isinstance(found.source + found.target, str)

        try:
            yield check
        finally:
            runtime.directories_of = original


@contextmanager
def channel() -> Iterator[Check]:
    """Requests of the kernel's: an answer or none, whatever they claim to be."""
    rig = Rig()
    keeping(rig)

    def on_read(fh: int, off: int, size: int) -> bytes:
        if size > 100_000:
            raise pyfuse3.FUSEError(errno.EINVAL)
        return bytes(size)

    rig.on_read = on_read

    def check(data: bytes) -> None:
        rig.kernel.send(data or b"\0")
        assert rig.channel.take()
        assert not rig.channel.ended
        while rig.started:
            rig.finish()
        try:
            while True:
                _, error, _ = rig.answer()
                assert -4096 < error <= 0
        except BlockingIOError:
            pass

    try:
        yield check
    finally:
        rig.kernel.close()
        rig.fuse.close()


def metrics(data: bytes) -> None:
    """A request to the HTTP server: a whole answer, the same however it is cut."""

    async def ask(pieces: list[bytes]) -> bytes:
        client, server = trio.testing.memory_stream_pair()

        async def text() -> bytes:
            return b"the metrics"

        for piece in pieces:
            await client.send_all(piece)
        await client.send_stream.aclose()
        head, body = await metrics_server.respond(await metrics_server.read_request(server), text)
        return head + body

    data = data[:4000]
    step = 1 + sum(data[:8]) % 90
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    answer = trio.run(ask, [data] if data else [])
    assert trio.run(ask, pieces) == answer
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1]
    assert status in (b"200", b"400", b"404", b"405")
    assert body or data.startswith(b"HEAD ")


_COMMAND = b'{"execute": "block_set_io_throttle", "arguments": {"device": "a.img", "bps": 0}}'

TARGETS = (
    plain(
        mountinfo,
        [
            b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
            b"40 22 0:45 / /mnt/a\\040b rw shared:9 master:2 - fuse.throttlefs /s rw,user_id=0\n"
        ],
        [b" - ", b":", b"\\040", b"\\777", b"user_id=", b"\r", b"\n", b" "],
    ),
    plain(
        qmp_text,
        [
            _COMMAND, b'{"execute": "x", "id": {"a": [1, -2.5e3, "\\ud800\\n", null, true]}}\n[]',
            b'{"execute":\n"quit"}{"execute": "quit", "id": 7}\njunk\n{}',
        ],
        [b"{", b"}", b'"', b"\\", b":", b",", b"[1,", b'"id": ', b"1e999", b"\\u0000", b"\n"],
        long=100_000,
    ),
    Target(
        "record", record,
        (b'{"pid": 5, "start_time": 7, "source": "/a", "target": "/b"}',),
        (b'"pid": ', b"null", b"1.5", b"[]", b"-1", b"true", b'"x"', b"99999999999"), 60_000,
    ),
    Target(
        "channel", channel,
        (
            read_request(7, 3, 1 << 40, 4096), write_request(8, 4, 512, b"x" * 5000),
            in_header(42, 9, 24) + b"\1\0\0\0\0\0\0\0" + bytes(16), in_header(36, 9, 8) + bytes(8),
            read_request(9, 3, 0, 1 << 20, opcode=28), in_header(1, 2, 5) + b"name\0",
        ),
        tuple(bytes([n, 0, 0, 0]) for n in (0, 1, 15, 16, 26, 28, 36, 42, 44)), 120_000,
    ),
    plain(
        metrics,
        [b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"HEAD / HTTP/1.0\n\n", b"POST / x\r\n\r\n"],
        [b"\r\n\r\n", b"GET ", b"HEAD ", b"/metrics", b"?a", b" ", b"\n\n"], long=20_000,
    ),
)  # fmt: skip
