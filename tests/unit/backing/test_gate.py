"""Writes that are to be alone on an inode are; others run together; nobody is overtaken."""

from __future__ import annotations

import gc

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from throttlefs.backing.gate import WriteGate, gate_of


async def settle() -> None:
    for _ in range(5):
        await trio.lowlevel.checkpoint()


class Visitors:
    """Tasks that go through a gate and say when."""

    def __init__(self, gate: WriteGate, nursery: trio.Nursery) -> None:
        self.gate = gate
        self.nursery = nursery
        self.inside: list[int] = []
        self.done = [trio.Event() for _ in range(20)]
        self.scopes = [trio.CancelScope() for _ in range(20)]

    async def come(self, number: int, *, alone: bool) -> None:
        self.nursery.start_soon(self._visit, number, alone)
        await settle()

    async def _visit(self, number: int, alone: bool) -> None:
        with self.scopes[number]:
            await self.gate.enter(alone=alone)
        if self.scopes[number].cancelled_caught:
            return
        self.inside.append(number)
        await self.done[number].wait()
        self.inside.remove(number)
        self.gate.leave(alone=alone)

    async def go(self, number: int) -> None:
        self.done[number].set()
        await settle()


def test_order() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            visitors = Visitors(WriteGate(), nursery)
            await visitors.come(0, alone=False)
            await visitors.come(1, alone=False)
            assert sorted(visitors.inside) == [0, 1]
            await visitors.come(2, alone=True)
            await visitors.come(3, alone=False)  # must not overtake 2, or 2 might starve
            await visitors.come(4, alone=True)
            await visitors.come(5, alone=True)
            await visitors.go(0)
            assert visitors.inside == [1]
            await visitors.go(1)
            assert visitors.inside == [2]
            await visitors.go(2)
            assert visitors.inside == [3]
            await visitors.go(3)
            assert visitors.inside == [4]
            await visitors.come(6, alone=False)
            await visitors.come(7, alone=False)
            await visitors.go(4)
            assert visitors.inside == [5]
            await visitors.go(5)
            assert sorted(visitors.inside) == [6, 7]
            await visitors.go(6)
            await visitors.go(7)
            assert visitors.inside == []

    trio.run(main)


def test_who_gives_up_lets_those_behind_him_in() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            visitors = Visitors(WriteGate(), nursery)
            await visitors.come(0, alone=False)
            await visitors.come(1, alone=True)
            await visitors.come(2, alone=False)
            assert visitors.inside == [0]
            visitors.scopes[1].cancel()
            await settle()
            assert sorted(visitors.inside) == [0, 2]
            await visitors.go(0)
            await visitors.go(2)

    trio.run(main)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), max_size=30))
def test_who_wants_to_be_alone_is(plan: list[tuple[bool, int, bool]]) -> None:
    async def main() -> None:
        gate, inside, finished = WriteGate(), [], []

        async def write(number: int, alone: bool, length: int, cancelled: bool) -> None:
            with trio.CancelScope() as scope:
                if cancelled:
                    scope.cancel()
                await gate.enter(alone=alone)
                inside.append(alone)
                assert not (alone or True in inside) or len(inside) == 1
                with trio.CancelScope(shield=True):
                    for _ in range(length):
                        await trio.lowlevel.checkpoint()
                inside.remove(alone)
                gate.leave(alone=alone)
            finished.append(number)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for number, (alone, length, cancelled) in enumerate(plan):
                    nursery.start_soon(write, number, alone, length, cancelled)
        assert sorted(finished) == list(range(len(plan)))

    trio.run(main)


def test_one_gate_for_an_inode_as_long_as_it_is_held() -> None:
    gate = gate_of(1, 2)
    assert gate_of(1, 2) is gate
    assert gate_of(2, 1) is not gate
    from throttlefs.backing import gate as module

    del gate
    gc.collect()
    assert (1, 2) not in module._gates


def test_entering_an_empty_gate_is_no_checkpoint() -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            gate = WriteGate()
            await gate.enter(alone=False)
            gate.leave(alone=False)
        assert not scope.cancelled_caught

    trio.run(main)
