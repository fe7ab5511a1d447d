"""Data that come back from the spill file: how much at once, and in which order."""

from __future__ import annotations

from collections import defaultdict

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from throttlefs.fuse.returning import Returning

MOST, SHARE = 20, 10


class World:
    """Writes that hold their memory until a test lets them go."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.returning = Returning(MOST, SHARE)
        self.nursery = nursery
        self.came: dict[str, list[int]] = defaultdict(list)  # since the last check
        self.order: dict[str, list[int]] = defaultdict(list)
        self.holding: dict[int, tuple[str, int, trio.Event]] = {}
        self.scopes: dict[int, trio.CancelScope] = {}
        self.count = 0

    async def ask(self, image: str, size: int) -> int:
        self.count += 1
        self.nursery.start_soon(self.write, self.count, image, size)
        await wait_all_tasks_blocked()
        return self.count

    async def write(self, number: int, image: str, size: int) -> None:
        with trio.CancelScope() as self.scopes[number]:
            await self.returning.enter(image, size)
            self.came[image].append(number)
            done = trio.Event()
            self.holding[number] = image, size, done
            await done.wait()
            self.returning.leave(image, size)
        del self.scopes[number]

    async def finish(self, number: int) -> None:
        self.holding.pop(number)[2].set()
        await wait_all_tasks_blocked()

    async def cancel(self, number: int) -> None:
        self.scopes[number].cancel()
        await wait_all_tasks_blocked()

    def check(self) -> None:
        of: dict[str, list[int]] = defaultdict(list)
        for image, size, _ in self.holding.values():
            if size:
                of[image].append(size)
        for sizes in of.values():
            assert len(sizes) == 1 or sum(sizes) <= SHARE
        if any(len(sizes) > 1 for sizes in of.values()):
            singles = sum(sum(sizes) for sizes in of.values() if len(sizes) == 1)
            assert sum(map(sum, of.values())) <= MOST + singles
        for image, numbers in self.came.items():
            # trio runs those that were let in together in any order.
            self.order[image] += sorted(numbers)
            numbers.clear()
            assert self.order[image] == sorted(self.order[image])


def test_an_image_has_its_share_and_the_others_theirs() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            numbers = [await world.ask("hangs", 5) for _ in range(4)]
            assert sorted(world.holding) == numbers[:2]
            others = [await world.ask("other", 5) for _ in range(2)]
            assert sorted(world.holding) == numbers[:2] + others
            late = await world.ask("late", 15)  # an image may always have one
            assert late in world.holding
            later = await world.ask("late", 1)
            assert later not in world.holding
            for number in (*others, late):
                await world.finish(number)
            assert sorted(world.holding) == [*numbers[:2], later]
            for number in (*numbers, later):
                await world.finish(number)

    trio.run(main)


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 12))
        | st.tuples(st.sampled_from(["finish", "cancel"]), st.integers(0, 100)),
        max_size=40,
    )
)
def test_all_come_back_in_order_within_the_bounds(steps: list[tuple[str, int]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            for what, number in steps:
                waits = sorted(world.scopes.keys() - world.holding.keys())
                if what == "finish":
                    if world.holding:
                        await world.finish(sorted(world.holding)[number % len(world.holding)])
                elif what == "cancel":
                    if waits:
                        await world.cancel(waits[number % len(waits)])
                else:
                    await world.ask(what, number)
                world.check()
                assert world.holding or not world.scopes, "somebody waits for nobody"
            while world.holding:
                await world.finish(min(world.holding))
                world.check()
            assert not world.scopes
            assert not world.returning._queues
            assert world.returning._all == 0

    trio.run(main)
