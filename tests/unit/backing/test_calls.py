"""Calls that an engine hands to threads: results, errors, and cancellation."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.unit.backing.conftest import new_engine, running


def test_other_calls_run_in_threads(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(kind) as engine:
            results: list[int] = []

            async def client(number: int) -> None:
                results.append(await engine.call(pow, number, 2))

            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(client, number)
            assert sorted(results) == [number**2 for number in range(50)]
            assert await engine.call(threading.get_ident) != threading.get_ident()
            with pytest.raises(FileNotFoundError):
                await engine.call(os.open, tmp_path / "missing", os.O_RDONLY)

    trio.run(main)


def test_a_cancelled_call_is_waited_for(kind: str) -> None:
    """Its result may be a descriptor, which somebody has to close."""
    may_end, results = threading.Event(), []

    async def main() -> None:
        async with running(kind) as engine:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def call() -> None:
                        results.append(await engine.call(may_end.wait, 30))

                    nursery.start_soon(call)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
                    with trio.CancelScope(shield=True):
                        await trio.testing.wait_all_tasks_blocked()
                    assert not results
                    may_end.set()

    trio.run(main)
    assert results == [True]


def test_an_engine_is_cancelled_amid_a_call(kind: str) -> None:
    results: list[str] = []

    async def main() -> None:
        engine = new_engine(kind)
        called, may_end = threading.Event(), threading.Event()

        def work() -> str:
            called.set()
            may_end.wait(30)
            return "done"

        async def call() -> None:
            results.append(await engine.call(work))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            nursery.start_soon(call)
            while not called.is_set():
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
            trio.lowlevel.current_trio_token().run_sync_soon(may_end.set)
        engine.close()

    trio.run(main)
    assert results == ["done"]
