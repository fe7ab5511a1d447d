"""Scrapes by many, often, slowly or not at all: one text for all, and nobody is kept out."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from throttlefs.daemon import metrics_server
from throttlefs.daemon.metrics_server import MetricsServer, SharedText


class Maker:
    """Makes numbered texts that take *takes* seconds, and notes when."""

    def __init__(self, takes: float = 0.0) -> None:
        self.takes = takes
        self.began: list[float] = []
        self.under_way = 0
        self.fails = 0

    async def __call__(self) -> bytes:
        self.began.append(trio.current_time())
        self.under_way += 1
        assert self.under_way == 1, "one at a time"
        try:
            await trio.sleep(self.takes)
            if self.fails:
                self.fails -= 1
                raise ValueError("not this time")
        finally:
            self.under_way -= 1
        return b"%d" % len(self.began)


def on_virtual_time(work: Callable[[], Awaitable[None]]) -> None:
    trio.run(work, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)


def test_all_who_wait_get_one_text_and_who_comes_later_the_next() -> None:
    async def work() -> None:
        make = Maker(takes=0.1)
        shared = SharedText(make)
        got: list[tuple[float, bytes]] = []
        start = trio.current_time()

        async def ask(after: float) -> None:
            await trio.sleep(after)
            text = await shared.get()
            got.append((round(trio.current_time() - start, 3), text))

        async with trio.open_nursery() as nursery:
            for after in (0, 0, 0, 0.05, 0.05, 0.3, 0.9, 1.05, 5):
                nursery.start_soon(ask, after)
        # No text is begun before who gets it asks.
        assert sorted(got) == [
            *[(0.1, b"1")] * 3,
            *[(1.1, b"2")] * 4,
            (2.1, b"3"),
            (5.1, b"4"),
        ]

    on_virtual_time(work)


def test_texts_that_take_long_are_made_for_a_fifth_of_the_time() -> None:
    async def work() -> None:
        make = Maker(takes=2.0)
        shared = SharedText(make)
        for _ in range(4):
            await shared.get()
        gaps = [late - early for early, late in zip(make.began, make.began[1:], strict=False)]
        assert gaps == pytest.approx([10.0, 10.0, 10.0])

    on_virtual_time(work)


def test_who_gives_up_or_fails_leaves_the_others_their_text() -> None:
    async def work() -> None:
        make = Maker(takes=0.5)
        make.fails = 1
        shared = SharedText(make)
        texts: list[bytes] = []

        async def ask() -> None:
            texts.append(await shared.get())

        with pytest.raises(ValueError, match="not this time"):
            await shared.get()
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(2.2):
                nursery.start_soon(ask)
                await shared.get()
            nursery.start_soon(ask)
        assert len(texts) == 2

    on_virtual_time(work)


@pytest.fixture
def server() -> MetricsServer:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return MetricsServer(f"127.0.0.1:{port}")


async def connect(server: MetricsServer) -> trio.SocketStream:
    return await trio.open_tcp_stream(*server._listeners[0].getsockname())


async def scrape(server: MetricsServer) -> bytes:
    async with await connect(server) as stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\n\r\n")
        answer = b"".join([piece async for piece in stream])
        return answer.partition(b"\r\n\r\n")[2]


def serve(server: MetricsServer, make: Maker, work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run, make)
                await work()
                nursery.cancel_scope.cancel()
        server.close()

    trio.run(main, strict_exception_groups=True)


def test_clients_beyond_the_bound_wait_for_their_turn(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "MOST_CLIENTS", 3)
    monkeypatch.setattr(metrics_server, "_BETWEEN_S", 0.01)
    make = Maker()
    most = 0

    async def work() -> None:
        got: list[bytes] = []

        async def one() -> None:
            nonlocal most
            got.append(await scrape(server))
            most = max(most, len(server._clients))

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(one)
        assert len(got) == 30
        assert all(got)

    serve(server, make, work)
    assert most <= 3
    assert len(make.began) <= 30


@pytest.mark.parametrize("asks", [False, True])
def test_clients_that_do_nothing_are_dropped_when_others_come(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    """Neither those that do not ask nor those that do not read the answer keep others out."""
    monkeypatch.setattr(metrics_server, "MOST_CLIENTS", 3)
    monkeypatch.setattr(metrics_server, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(metrics_server, "_BETWEEN_S", 0.01)
    monkeypatch.setattr(metrics_server, "_WITHIN_S", 1000.0)

    class Long(Maker):
        async def __call__(self) -> bytes:
            await super().__call__()
            return bytes(20_000_000)  # more than the sockets hold

    async def work() -> None:
        idle = [await connect(server) for _ in range(3)]
        if asks:
            for stream in idle:
                await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.1)
        for _ in range(3):
            assert len(await scrape(server)) == 20_000_000
        for stream in idle:
            await stream.aclose()

    serve(server, Long(), work)


def test_a_failure_to_make_the_text_is_logged_and_no_end(
    server: MetricsServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "_BETWEEN_S", 0.01)
    make = Maker()
    make.fails = 1

    async def work() -> None:
        assert await scrape(server) == b""
        assert await scrape(server) == b"2"

    serve(server, make, work)
    assert "internal error in the metrics" in caplog.text
