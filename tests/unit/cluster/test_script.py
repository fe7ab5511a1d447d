"""The script in a real server, beside the same rules in Python."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store_server import StoreServer
from tests.unit.cluster.store_model import StoreModel
from throttlefs.cluster.client import script as client_script
from throttlefs.cluster.messages import (
    LOOK,
    AnswerError,
    Call,
    ClockView,
    decode_answer,
    decode_overview,
    encode_limits,
    leave,
)
from throttlefs.settings.limits import Limits
from throttlefs.throttle import NOTHING, Flow

SCRIPT = client_script()

TIME = 'local time = redis.call("TIME")'
RUN_ID = 'ends and string.match(info, "^%x+", ends + 1) or ""'
TENANT = Limits(bps=500_000_000)


VALUES = 'redis.call("HVALS", key)'
SORTED = """
local function sorted_values()
  local fields, values = redis.call("HKEYS", KEYS[1]), {}
  table.sort(fields)
  for i, field in ipairs(fields) do values[i] = redis.call("HGET", KEYS[1], field) end
  return values
end
"""


def with_given_time() -> str:
    """The script, but time and the server's id are its last arguments.

    It takes the hosts in the order of their ids, as the model does: a server has them in any.
    """
    changes = {
        TIME: "local time = { ARGV[#ARGV - 2], ARGV[#ARGV - 1] }",
        RUN_ID: "ARGV[#ARGV]",
        VALUES: "sorted_values()",
    }
    changed = SORTED + SCRIPT
    for before, after in changes.items():
        assert changed.count(before) == 1
        changed = changed.replace(before, after)
    return changed


LIMITS = (
    TENANT,
    Limits(bps=500_000_000, bps_rd=200_000_000),
    Limits(bps=500_000_000, iops=20_000, iops_size=65_536),
    Limits(bps_wr=1_000_000, iops_rd=50),
    Limits(bps=100_000_000, bps_max=400_000_000, bps_max_length=3, iops=500, iops_max=700),
    Limits(),
)


class Both:
    """A key in the server and the model of it; all calls go to both."""

    def __init__(self, store: StoreServer, seed: int) -> None:
        self.random = random.Random(seed)
        self.client = store.client()
        self.key = f"both{seed}"
        self.client.delete(self.key)
        self.script = self.client.register_script(with_given_time())
        self.hints = self.client.pubsub()
        self.hints.subscribe(f"{self.key}:hint")
        assert self.hints.get_message(timeout=20)["type"] == "subscribe"
        self.model = StoreModel()
        self.model.now = 1_700_000_000_000_000
        self.sequence = 0
        self.serial = 0
        self.grants: dict[str, tuple[float, ...]] = {}

    def call(self, arguments: list[str]) -> list[str]:
        model = self.model
        seconds, micros = divmod(model.now, 1_000_000)
        answer = self.script(
            keys=[self.key], args=[*arguments, str(seconds), str(micros), model.server]
        )
        expected = model.call(arguments)
        assert answer == expected
        for message in model.published:
            assert self.hints.get_message(timeout=20)["data"] == message
        model.published.clear()
        return expected

    def some_call(self) -> Call:
        draw = self.random
        daemon = f"host{draw.randrange(6)}"
        self.sequence += draw.choice([1, 1, 1, 0])
        clock = None
        if draw.random() < 0.8:
            now = self.model.now + draw.choice([0, 0, 0, -140_000, 300_000, -5_000_000])
            spread = draw.choice([0, 1000, 50_000])
            since = draw.choice([now - 10_000_000, now - 900_000, now])
            clock = ClockView(now - spread, now + spread, since)
        using = draw.choice([self.grants.get(daemon, NOTHING), NOTHING, self._rates()])
        return Call(
            id=daemon,
            sequence=self.sequence,
            serial=draw.choice([self.serial, self.serial, 0, self.serial + 5])
            if draw.random() < 0.2
            else self.serial,
            clock=clock,
            version=draw.choice([0, 1, 1, 1, 3]),
            limits=draw.choice([None, *LIMITS]),
            changes=draw.random() < 0.05,
            weight=draw.choice([100, 100, 1000, 150]),
            fallback=draw.choice([0, 0.1, draw.random()]),
            using=using,
            demand=(self._flow(), self._flow()),
            used=[draw.randrange(10**10) / 8 for _ in range(4)],
            name=daemon,
            on_lost=draw.choice(["share", "closed"]),
        )

    def _rates(self) -> tuple[float, ...]:
        return tuple(self.random.choice([0, self.random.random() * 1e8]) for _ in range(6))

    def _flow(self) -> Flow:
        draw = self.random

        def pair() -> tuple[float, float]:
            size = draw.choice([512, 4096, 262_144])
            rate = draw.random() * draw.choice([0, 10, 1e4])
            return rate * size, rate

        kind = draw.random()
        steady = pair() if kind > 0.5 else (0.0, 0.0)
        return Flow(
            pair() if kind < 0.8 else (0.0, 0.0),
            steady,
            draw.choice([0.0, draw.random()]) if any(steady) else 0.0,
        )

    def step(self) -> None:
        draw, model = self.random, self.model
        kind = draw.random()
        model.now += draw.choice([500, 500, 20_000, 400_000, 1_100_000, 5_000_000])
        if kind < 0.03:
            model.now += draw.choice([-1, 1]) * 3_600_000_000
        elif kind < 0.05:
            model.server += "f"
        elif kind < 0.06:
            model.wipe()
            self.client.delete(self.key)
        if kind > 0.97:
            self.sequence += 1
            self.call(leave(f"host{draw.randrange(6)}", self.sequence))
            return
        call = self.some_call()
        answer = decode_answer(self.call(call.arguments()))
        if answer is not None:
            self.serial = max(self.serial, answer.serial)
            self.grants[call.id] = answer.granted

    def close(self) -> None:
        self.hints.close()
        self.client.delete(self.key)
        self.client.close()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_script_and_model_give_the_same_answers(store, seed):
    both = Both(store, seed)
    try:
        for _ in range(60):
            both.step()
    finally:
        both.close()


# The script itself, as it is loaded.


@pytest.fixture
def script(store):
    with store.client() as client:
        client.flushall()
        yield client.register_script(SCRIPT)


def renew(script, key: str = "tenant", **fields: object):
    call = Call(**{"id": "a", "limits": TENANT, "name": "a", **fields})  # type: ignore[arg-type]
    answer = decode_answer(script(keys=[key], args=call.arguments()))
    assert answer is not None
    return answer


def test_a_new_key_grants_nothing_for_as_long_as_a_lease(script):
    busy = (Flow(growing=(5e8, 0)), Flow())
    first = renew(script, sequence=1, demand=busy)
    assert first.granted == NOTHING
    assert 900_000 <= first.recovering_us <= 1_000_000
    assert first.limits == TENANT
    assert first.version == 1


def test_the_hash_goes_when_nobody_calls(store, script):
    renew(script, sequence=1)
    with store.client() as client:
        assert 50_000 < client.pttl("tenant") <= 60_000


def test_a_call_of_the_past_is_not_heard(script):
    renew(script, sequence=5)
    call = Call(id="a", sequence=5, limits=TENANT)
    assert decode_answer(script(keys=["tenant"], args=call.arguments())) is None


def test_an_overview_names_all_hosts(script):
    renew(script, sequence=1, weight=300, name="one", using=(100.0, *NOTHING[1:]))
    renew(script, id="b", sequence=1, name="two", on_lost="closed")
    overview = decode_overview(script(keys=["tenant"], args=list(LOOK)))
    assert overview.limits == TENANT
    one, two = overview.hosts
    assert (one.name, one.weight, one.held[0], one.on_lost) == ("one", 300, 100.0, "share")
    assert (two.name, two.on_lost) == ("two", "closed")
    assert 0 <= one.age_us < 60_000_000
    script(keys=["tenant"], args=leave("a", 2))
    overview = decode_overview(script(keys=["tenant"], args=list(LOOK)))
    assert [host.name for host in overview.hosts] == ["two"]


def test_limits_with_fractions_come_back_as_they_were(script):
    odd = Limits.parse({"iops": "0.5", "bps": "1.000001", "bps_max": "3", "bps_max_length": 7})
    answer = renew(script, sequence=1, limits=odd)
    assert answer.limits == odd
    assert encode_limits(odd).split()[0] == "1.000001"


def test_what_is_no_answer_is_refused():
    for reply in ([], ["ok"], ["ok", *["x"] * 20]):
        with pytest.raises(AnswerError):
            decode_answer(reply)
    with pytest.raises(AnswerError):
        decode_overview(["ok", "1", "1", "", "half"])
