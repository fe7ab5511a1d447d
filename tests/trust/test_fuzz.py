"""Whatever people and programs send: nothing undeclared is raised, nothing is changed by halves."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.soak import Soak, Tally
from tests.trust.fuzzing import TARGETS, Check, Target
from tests.trust.fuzzing.sessions import World, new_world, session
from tests.trust.fuzzing.target import NASTY, Mutator
from throttlefs.control.server import ControlServer

_WITHIN_S = 20.0
"""For 64 KiB, on a busy machine; what is quadratic would take minutes."""


@pytest.fixture(params=TARGETS.values(), ids=list(TARGETS))
def target(request: pytest.FixtureRequest) -> Target:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def check(target: Target) -> Iterator[Check]:
    with target.opened() as check:
        yield check


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Any bytes and text, and valid inputs put together anew from their words."""
    pieces = st.sampled_from([*target.words, *target.seeds, *NASTY]) | st.binary(max_size=8)
    return (
        st.lists(pieces, max_size=12).map(b"".join)
        | st.binary(max_size=200)
        | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass"))
        | st.tuples(st.sampled_from(target.seeds), pieces, st.integers(0, 400)).map(
            lambda parts: parts[0][: parts[2]] + parts[1] + parts[0][parts[2] :]
        )
    )


def test_structured_and_random_inputs(
    target: Target, check: Check, soak: Soak, tally: Tally
) -> None:
    @settings(
        max_examples=soak.choose(60, 5_000),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(target))
    def examine(data: bytes) -> None:
        tally.note(checked="whatever is sent")
        check(data)

    examine()


def test_mutations_of_valid_inputs(
    target: Target, check: Check, soak: Soak, tally: Tally, rng: random.Random
) -> None:
    seed = rng.randrange(1 << 32)
    mutator = Mutator(target, seed)
    for seed_input in target.seeds:
        check(seed_input)
    ends = time.monotonic() + soak.choose(0.3, 3600.0)
    for number in range(soak.choose(1_000, target.long)):
        data = mutator.next()
        try:
            check(data)
        except BaseException as error:
            error.add_note(f"seed {seed}, input {number}: {data!r}")
            raise
        tally.note(checked="mutations of what is valid")
        if time.monotonic() > ends:
            break


def test_long_inputs_take_no_quadratic_time(
    target: Target, check: Check, soak: Soak, tally: Tally, rng: random.Random
) -> None:
    size = 64 << 10
    words = [*target.words, *target.seeds, *NASTY]
    for word in soak.choose(rng.sample(words, 3), words):
        for data in (word * (size // len(word)), target.seeds[0] + word * (size // len(word))):
            if target.name == "config" and word == b".a" * 50:
                continue  # Python's own tomllib is quadratic in the parts of one key
            began = time.monotonic()
            check(data)
            assert time.monotonic() - began < _WITHIN_S, data[:100]
            tally.note(checked="64 KiB in time")


def test_nothing_stays_open(target: Target) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with target.opened() as check:
        for data in target.seeds:
            check(data)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_real_socket_answers_the_same_in_any_pieces(
    tmp_path: Path, soak: Soak, tally: Tally, rng: random.Random
) -> None:
    """Mutated commands over the socket of the server, beside the same ones in one piece."""
    seed = rng.randrange(1 << 32)
    mutator, chance = Mutator(TARGETS["qmp_session"], seed), random.Random(seed)

    async def ask(world: World, data: bytes) -> list[bytes]:
        path = str(tmp_path / "qmp.sock")
        server = ControlServer(world.run_command)
        server.listen(path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            stream = await trio.open_unix_socket(path)
            nursery.start_soon(send, stream, b'{"execute": "qmp_capabilities"}' + data + b"\n")
            answers = bytearray()
            with trio.fail_after(60):
                async for piece in stream:
                    answers += piece
            nursery.cancel_scope.cancel()
        server.close()
        return bytes(answers).split(b"\r\n")[2:-1]

    async def send(stream: trio.SocketStream, data: bytes) -> None:
        while data:
            size = chance.choice((1, 2, 7, 100, 5000))
            await stream.send_all(data[:size])
            data = data[size:]
        await stream.send_eof()

    with new_world() as world:
        for number in range(soak.choose(60, 5_000)):
            data = mutator.next()[:3000]
            world.reset()
            expected = session(world.run_command, [data])
            world.reset()
            got = [json.loads(answer) for answer in trio.run(ask, world, data)]
            assert got == expected, f"seed {seed}, input {number}: {data!r}"
            tally.note(checked="answers over a socket beside those in one piece")
