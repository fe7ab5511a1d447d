"""The text of QMP: taking a stream apart whatever is in it, and QEMU's words for mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.control import protocol
from throttlefs.control.protocol import (
    MAX_DEPTH,
    MAX_REQUEST,
    BadRequestError,
    Framer,
    QmpError,
    TooLongError,
    parse_request,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


def split(*pieces: bytes) -> list[bytes | str]:
    """What a framer makes of *pieces*: values, and errors as text."""
    framer = Framer()
    return [
        str(found) if isinstance(found, QmpError) else found
        for piece in pieces
        for found in framer.feed(piece)
    ]


@given(st.lists(OBJECTS, max_size=4), st.data(), st.sampled_from(["", "\n", "\r\n", "  "]))
def test_values_arrive_whole_however_they_are_cut(
    values: list[Any], data: st.DataObject, between: str
) -> None:
    ascii_only = data.draw(st.booleans())
    indent = data.draw(st.sampled_from([None, 2]))
    text = "".join(
        json.dumps(value, ensure_ascii=ascii_only, indent=indent) + between for value in values
    ).encode("utf-8", "surrogatepass")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = split(*pieces)
    assert [json.loads(one.decode("utf-8", "surrogatepass")) for one in found] == values  # type: ignore[union-attr]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_after_any_garbage_the_session_goes_on(garbage: bytes, cuts: list[int]) -> None:
    command = b'{"execute": "query-version"}'
    text = garbage + b'\n"\n' + command + b"\n" + command + b"\n"
    cuts = sorted(cut for cut in cuts if cut < len(text))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert split(*pieces)[-1] == command


@given(st.binary(max_size=200), st.integers(0, 200))
def test_the_cut_does_not_matter(text: bytes, cut: int) -> None:
    assert split(text[:cut], text[cut:], b"\n") == split(text, b"\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"junk\n", ["JSON parse error, invalid keyword 'junk'"]),
        (b"{bad}\n", ["JSON parse error, invalid keyword 'bad'"]),
        (b"\x00\xff\n", ["JSON parse error, stray '\\x00'"]),
        (b"}\n{}", ["JSON parse error, stray '}'", b"{}"]),
        (b'{"a": "x\n{}', ["JSON parse error, a string has no end", b"{}"]),
        (b'{"a": 1\n{}\n', ["JSON parse error, a command has no end", b"{}"]),
        (b'{"execute"\n{}\n', ["JSON parse error, a command has no end", b"{}"]),
        (b'{"a": 01}\n{}', ["JSON parse error, invalid keyword '01'", b"{}"]),
        (b'{"a": [{}, {}]}{"b":\n{}}', [b'{"a": [{}, {}]}', b'{"b":\n{}}']),
        (
            b"[" * (MAX_DEPTH + 1) + b"\n{}",
            [f"JSON parse error, nested deeper than {MAX_DEPTH}", b"{}"],
        ),
        (b"\xc3\x28{}\n{}", ["JSON parse error, stray '\\xc3'", b"{}"]),
    ],
)
def test_what_is_no_json_is_skipped_to_the_end_of_its_line(
    text: bytes, expected: list[bytes | str]
) -> None:
    assert split(text) == expected
    assert split(*(bytes([byte]) for byte in text)) == expected


def test_a_value_of_too_many_parts_is_refused() -> None:
    text = b"[" + b"1," * protocol.MAX_TOKENS + b"1]\n{}"
    assert split(text) == [f"JSON parse error, more than {protocol.MAX_TOKENS} tokens", b"{}"]


def test_a_command_may_be_one_mebibyte_and_no_more() -> None:
    framer = Framer()
    frame = b'{"execute": "%s"}'
    longest = frame % (b"x" * (MAX_REQUEST - len(frame) + 2))
    assert len(longest) == MAX_REQUEST
    pieces = [longest[at : at + 4096] for at in range(0, len(longest), 4096)]
    assert [found for piece in pieces for found in framer.feed(piece)] == [longest]

    def overflow() -> None:
        list(framer.feed(b'{"'))
        for _ in range(MAX_REQUEST // 4096 + 1):
            list(framer.feed(b"x" * 4096))

    with pytest.raises(TooLongError, match="longer than 1048576 bytes"):
        overflow()


def test_what_is_skipped_takes_no_memory() -> None:
    framer = Framer()
    assert len(list(framer.feed(b"!" + b"x" * 4095))) == 1
    for _ in range(1000):
        assert not list(framer.feed(b"x" * 4096))
    assert list(framer.feed(b"\n{}")) == [b"{}"]


def refused(text: bytes) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        parse_request(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'"x"', "QMP input must be a JSON object"),
        (b"[1]", "QMP input must be a JSON object"),
        (b'{"exec": "x"}', "QMP input member 'exec' is unexpected"),
        (b'{"arguments": {}}', "QMP input lacks member 'execute'"),
        (b'{"execute": 5}', "QMP input member 'execute' must be a string"),
        (b'{"execute": "x", "arguments": 5}', "QMP input member 'arguments' must be an object"),
        (b'{"execute": "x", "execute": "y"}', "JSON parse error, duplicate key"),
        (b'{"execute" "x"}', "JSON parse error, invalid syntax"),
        (b'{"execute": "x",}', "JSON parse error, invalid syntax"),
        (b'{"execute": "\xff"}', "JSON parse error, invalid syntax"),
        (b"[}", "JSON parse error, invalid syntax"),
        (b'{"execute": "x", "id": 1e400}', "JSON parse error, invalid syntax"),
        (b'{"execute": "x", "\\u001b[31m": 1}', "QMP input member '\\x1b[31m' is unexpected"),
    ],
)
def test_mistakes_have_the_words_of_qemu(text: bytes, message: str) -> None:
    assert str(refused(text)) == message


def test_a_refused_command_keeps_its_id() -> None:
    error = refused(b'{"execute": "x", "id": 7, "more": 1}')
    answer = json.loads(protocol.failure(error, error))
    assert answer["id"] == 7
    assert answer["error"]["class"] == "GenericError"


@given(OBJECTS, st.text(min_size=1), JSON)
def test_a_command_and_its_id_come_through(
    arguments: dict[str, Any], name: str, request_id: Any
) -> None:
    command = {"execute": name, "arguments": arguments, "id": request_id}
    request = parse_request(json.dumps(command).encode())
    assert (request.name, request.arguments, request.id) == (name, arguments, request_id)
    answer = json.loads(protocol.success({}, request))
    assert answer == {"return": {}, "id": request_id}


def test_an_answer_without_an_id_has_none() -> None:
    assert json.loads(protocol.success([], parse_request(b'{"execute": "x"}'))) == {"return": []}


def test_everything_ends_in_a_line_of_its_own() -> None:
    for line in (protocol.greeting(), protocol.event("SHUTDOWN", {}), protocol.encode("\n\u2028")):
        assert line.endswith(b"\r\n")
        assert line.count(b"\n") == 1
        assert line.isascii()


def test_a_name_in_a_message_is_printable_and_short() -> None:
    text = str(protocol.DeviceNotFoundError("a\n\ud800" + "x" * 5000))
    assert text.isprintable()
    assert len(text) < 300
