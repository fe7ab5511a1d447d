"""Fault rules as they are written: what they mean, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from throttlefs.settings.config import parse_config
from throttlefs.settings.config_table import ConfigError
from throttlefs.settings.fault_words import (
    EFFECT_HELP,
    GOES_WITH,
    KEYS,
    OP_HELP,
    TRIGGER_HELP,
    Effect,
    FaultError,
    Op,
    op_names,
)
from throttlefs.settings.faults import Fault, assignments

SECOND = 10**9


def parsed(line: str) -> Fault:
    return Fault.parse(assignments(line.split()))


@pytest.mark.parametrize(
    ("line", "ops", "effect", "value"),
    [
        ("error=EIO", Op.READ | Op.WRITE, Effect.ERROR, "EIO"),
        ("error=enospc op=create", Op.CREATE, Effect.ERROR, "ENOSPC"),
        ("delay=1.5s op=flush", Op.FLUSH, Effect.DELAY, 3 * SECOND // 2),
        ("hang op=read", Op.READ, Effect.HANG, True),
        ("corrupt=noise", Op.READ, Effect.CORRUPT, "noise"),
        ("torn=512", Op.WRITE, Effect.TORN, 512),
        ("lose", Op.WRITE, Effect.LOSE, True),
        ("lose op=flush,discard", Op.FLUSH | Op.DISCARD, Effect.LOSE, True),
        ("misdirect=+4K", Op.WRITE, Effect.MISDIRECT, 4096),
        ("misdirect=-512", Op.WRITE, Effect.MISDIRECT, -512),
    ],
)
def test_a_rule_has_an_effect_and_operations(
    line: str, ops: Op, effect: Effect, value: object
) -> None:
    fault = parsed(line)
    assert (fault.ops, fault.effect, fault.value, fault.error) == (ops, effect, value, None)


def test_an_error_may_go_with_what_is_lost() -> None:
    for line, effect in (("torn=512 error=EIO", Effect.TORN), ("error=ENOSPC lose", Effect.LOSE)):
        fault = parsed(line)
        assert fault.effect is effect
        assert fault.error in ("EIO", "ENOSPC")
        assert parsed(str(fault)) == fault


def test_a_table_of_the_config_file() -> None:
    config = parse_config(
        """
        [[fault]]
        path = ["db/*.img", "x"]
        op = ["write", "discard"]
        range = "1M-2M"
        lose = true
        every = 3
        after = 10
        times = 2
        at = "10s"
        lasting = "1s"
        repeat = "1min"

        [[fault]]
        delay = "1ms"
        probability = 0.25
        seed = 7
        """,
        "limits.toml",
    )
    first, second = config.faults
    assert [glob.text for glob in first.globs] == ["db/*.img", "x"]
    assert first.ops == Op.WRITE | Op.DISCARD
    assert first.range == (1 << 20, 2 << 20)
    assert (first.every, first.after, first.times) == (3, 10, 2)
    assert first.period is not None
    assert first.period.repeat == 60 * SECOND
    assert (second.probability, second.seed, second.period) == (0.25, 7, None)


REFUSED = [
    ("nth=3", "the rule does nothing: give it an effect, one of error, delay, hang, corrupt"),
    ("error=EIO delay=1s", "delay and error are two effects: give each a rule of its own"),
    ("hang lose", "hang and lose are two effects"),
    ("torn=512 lose", "torn and lose are two effects"),
    ("error=ENOSYS", "error: ENOSYS cannot be used: the kernel remembers it for the whole mount"),
    ("error=EINTR", "error: EINTR cannot be used: programs take it for a signal"),
    ("torn=512 error=ERESTART", "error: ERESTART cannot be used"),
    ("error=ENOSPCE", "error: 'ENOSPCE' is not the name of an errno; did you mean ENOSPC?"),
    ("error=5", "error: '5' is not the name of an errno"),
    ("error=EIO nth=0", "nth: '0' is not a whole number from 1 to 10^9"),
    ("error=EIO every=0", "every: '0' is not a whole number"),
    ("error=EIO times=-1", "times: '-1' is not a whole number"),
    ("error=EIO after=x", "after: 'x' is not a whole number"),
    ("error=EIO seed=9223372036854775808", "seed: '9223372036854775808' is not a whole number"),
    ("error=EIO probability=2", "probability: '2' is not a number above 0 and at most 1"),
    ("error=EIO probability=0", "probability: '0' is not a number above 0"),
    ("error=EIO probability=nan", "probability: 'nan' is not a number above 0"),
    ("error=EIO nth=2 every=2", "nth is one request, so it does not go with every"),
    ("error=EIO nth=2 probability=0.5", "nth is one request, so it does not go with probability"),
    ("error=EIO times=2 nth=2", "nth is one request, so it does not go with times"),
    ("delay=2", "delay: '2' has no unit"),
    ("delay=0", "delay: 0 is no time at all"),
    ("hang=maybe", "hang: 'maybe' is not true"),
    ("corrupt=rot", "corrupt: 'rot' is none of flip, zeros, noise"),
    ("corrupt=flip op=write", "corrupt goes with op=read, not with write"),
    ("corrupt=flip op=read,write", "corrupt goes with op=read, not with write"),
    ("torn=512 op=read", "torn goes with op=write, not with read"),
    ("torn=0", "torn: 0 is too little"),
    ("lose op=rename", "lose goes with op=write or flush or discard, not with rename"),
    ("misdirect=4K", "misdirect: '4K' is not +BYTES or -BYTES"),
    ("misdirect=+0", "misdirect: 0 is too little"),
    ("misdirect=+4K op=flush", "misdirect goes with op=write, not with flush"),
    ("error=EIO op=wirte", "op: 'wirte' is not the name of an operation; did you mean write?"),
    ("error=EIO op=fsync", "op: 'fsync' is not the name of an operation; did you mean flush?"),
    ("error=EIO op=", "op: '' is not the name of an operation"),
    ("error=EIO range=5", "range: '5' is not FROM-TO"),
    ("error=EIO range=2M-1M", "range: '2M-1M' is empty"),
    ("error=EIO range=1x-2", "range: '1x' is not a number"),
    (
        "error=EIO op=write,flush range=0-1M",
        "range goes with op=read, write, discard, allocate, not",
    ),
    ("error=EIO path=", "path: the pattern is empty"),
    ("error=EIO lasting=0", "lasting: 0 is no time at all"),
    ("error=EIO repeat=1s", "repeat needs lasting"),
    ("error=EIO lasting=2s repeat=2s", "repeat=2s is not longer than lasting=2s"),
    ("error=EIO at=soon", "at: 'soon' is not a time"),
    ("eror=EIO", "unknown key 'eror'; did you mean 'error'?"),
    ("error=EIO error=EIO", "error is given twice"),
    ("EIO", "'EIO' is not NAME=VALUE"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_by_name(line: str, message: str) -> None:
    with pytest.raises(FaultError) as caught:
        parsed(line)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"error": 5}, "error: '5' is not the name of an errno"),
        ({"error": "EIO", "op": []}, "op: '[]' is not the name"),
        ({"error": "EIO", "op": [1]}, "op: '1' is not the name"),
        ({"error": "EIO", "path": 5}, "path: '5' is not a string"),
        ({"error": "EIO", "path": []}, "path: '[]' is not a string"),
        ({"error": "EIO", "nth": True}, "nth: 'True' is not a whole number"),
        ({"error": "EIO", "probability": True}, "probability: 'True' is not a number"),
        ({"hang": False}, "hang: 'False' is not true"),
        ({"torn": "x"}, "torn: 'x' is not a number"),
        ({"delay": {}}, "delay: "),
    ],
)
def test_values_of_the_wrong_type_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(FaultError) as caught:
        Fault.parse(values)
    assert str(caught.value).startswith(message)


def test_a_file_says_which_table_is_wrong() -> None:
    text = '[[fault]]\nerror = "EIO"\n[[fault]]\nerror = "EIO"\nnth = 0\n'
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "limits.toml")
    assert str(caught.value).startswith("limits.toml: [[fault]] number 2: nth: '0' is not a whole")
    with pytest.raises(ConfigError) as caught:
        parse_config("[fault]\nerror = 'EIO'\n", "limits.toml")
    assert str(caught.value) == "limits.toml: fault is not an array of tables: write [[fault]]"


def test_every_word_is_explained() -> None:
    assert set(OP_HELP) == set(op_names(Op(~0)))
    assert {text.partition("=")[0] for text in EFFECT_HELP} == {one.value for one in Effect}
    words = {text.partition("=")[0] for text in TRIGGER_HELP}
    assert words | {one.value for one in Effect} | {"path", "op", "range", "seed"} == set(KEYS)


times = st.integers(1, 10**6).map(lambda ms: f"{ms}ms")
names = st.text("abc*?[]\\/ .-", min_size=1, max_size=8)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    effect = draw(st.sampled_from(Effect))
    values: dict[str, Any] = {
        Effect.ERROR: st.sampled_from(["EIO", "ENOSPC", "EROFS"]),
        Effect.DELAY: times,
        Effect.HANG: st.just(True),
        Effect.CORRUPT: st.sampled_from(["flip", "zeros", "noise"]),
        Effect.TORN: st.integers(1, 2**40),
        Effect.LOSE: st.just(True),
        Effect.MISDIRECT: st.integers(1, 2**40).map(lambda n: f"+{n}"),
    }
    rule = {effect.value: draw(values[effect])}
    if effect in (Effect.TORN, Effect.LOSE) and draw(st.booleans()):
        rule["error"] = "EIO"
    possible = op_names(GOES_WITH.get(effect, Op(~0)))
    rule["op"] = draw(st.lists(st.sampled_from(possible), min_size=1, unique=True))
    for name in ("every", "after", "times"):
        if draw(st.booleans()):
            rule[name] = draw(st.integers(1, 10**9))
    if draw(st.booleans()):
        rule["probability"] = draw(st.floats(1e-9, 1))
    if draw(st.booleans()):
        rule["path"] = draw(st.lists(names, min_size=1, max_size=2))
    if draw(st.booleans()):
        rule["at"] = draw(times)
    return rule


@given(rules())
def test_a_rule_is_written_as_it_is_read(rule: dict[str, Any]) -> None:
    try:
        fault = Fault.parse(rule)
    except FaultError as exc:
        assume("path" not in str(exc))
        raise
    assert Fault.parse(fault.as_dict()) == fault
