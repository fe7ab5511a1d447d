"""Fault rules as people write them: which requests, what happens to them, and when.

A rule has one effect. `Fault.parse` reads it from the names and values of a table of the config
file, of a command line or of QMP, and refuses what makes no sense by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import suggest, units
from .fault_words import (
    CONTENTS,
    EFFECT_VALUES,
    GOES_WITH,
    KEYS,
    OTHER_KEYS,
    OTHER_VALUES,
    RANGED,
    Effect,
    FaultError,
    Op,
    op_names,
    read_error,
    read_op,
)
from .globs import Glob, GlobError
from .timeline import Period, PeriodError
from .units import quoted

_RANGE: Final = re.compile(r"([^-]*)-([^-]*)")


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. None stands for what it does not say."""

    ops: Op
    effect: Effect
    value: Any
    """What `effect` does: an errno's name, ns of delay, one of `CORRUPTIONS`, bytes of a unit or of
    a shift; True for a hang or a loss."""
    error: str | None = None
    """The errno that the program gets after a loss or a torn write."""
    globs: tuple[Glob, ...] = ()
    """Patterns of paths, one of which must match; none for all files."""
    range: tuple[int, int | None] | None = None
    """The first byte, and the one after the last; None for no end."""
    nth: int | None = None
    every: int | None = None
    after: int | None = None
    times: int | None = None
    probability: float | None = None
    seed: int | None = None
    period: Period | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Fault:
        """The rule that *values* say, as text or as numbers. Raises `FaultError`."""
        for key in values:
            if key not in KEYS:
                raise FaultError(suggest.unknown("key", key, KEYS))
        effect, value, error = _read_effect(values)
        ops = _read_ops(values, effect)
        others = {
            name: parse(name, values[name])
            for name, parse in OTHER_VALUES.items()
            if name in values
        }
        _refuse_together(others)
        try:
            period = Period.parse(values)
        except PeriodError as exc:
            raise FaultError(str(exc)) from None
        return cls(
            ops,
            effect,
            value,
            error,
            read_paths(values),
            _read_range(values, ops),
            period=period,
            **others,
        )

    @property
    def longest_wait(self) -> int | None:
        """ns that a request waits here at most; None for a hang without an end, 0 for no wait."""
        if self.effect is Effect.DELAY:
            return int(self.value)
        if self.effect is Effect.HANG:
            return None if self.period is None else self.period.lasting
        return 0

    def effect_as_dict(self) -> dict[str, Any]:
        """The effect as it is written."""
        value = self.value
        if self.effect is Effect.DELAY:
            value = units.format_duration(value)
        elif self.effect is Effect.TORN:
            value = units.format_bytes(value)
        elif self.effect is Effect.MISDIRECT:
            value = ("-" if value < 0 else "+") + units.format_bytes(abs(value))
        written = {self.effect.value: value}
        if self.error is not None:
            written["error"] = self.error
        return written

    def as_dict(self) -> dict[str, Any]:
        """Its settings as they are written, which `parse` reads back."""
        paths = [glob.text for glob in self.globs]
        written: dict[str, Any] = {"path": paths if len(paths) > 1 else paths[0]} if paths else {}
        written["op"] = op_names(self.ops)
        if self.range is not None:
            first, end = self.range
            last = "" if end is None else units.format_bytes(end)
            written["range"] = f"{units.format_bytes(first)}-{last}"
        written |= self.effect_as_dict()
        for name in OTHER_KEYS:
            value = getattr(self, name)
            if value is not None:
                written[name] = value
        if self.period is not None:
            written |= self.period.as_dict()
        return written

    def __str__(self) -> str:
        """As it is written at a shell: "op=write error=EIO nth=3"."""
        words = []
        for name, value in self.as_dict().items():
            if value is True:
                words.append(name)
            elif name == "path" and isinstance(value, list):
                words += [f"path={path}" for path in value]
            else:
                text = ",".join(value) if isinstance(value, list) else _number_text(value)
                words.append(f"{name}={text}")
        return " ".join(words)


def _number_text(value: Any) -> str:
    # A float's repr() may have an exponent.
    return f"{value:.12f}".rstrip("0") if isinstance(value, float) and value < 1e-3 else str(value)


def _read_effect(values: Mapping[str, Any]) -> tuple[Effect, Any, str | None]:
    """The effect, its value, and the errno beside it."""
    given = [effect for effect in Effect if effect.value in values]
    if not given:
        names = ", ".join(effect.value for effect in Effect)
        raise FaultError(f"the rule does nothing: give it an effect, one of {names}")
    error = None
    if given[0] is Effect.ERROR and len(given) > 1:
        if given[1] not in (Effect.TORN, Effect.LOSE):
            raise _two_effects(given[1], given[0])
        error = read_error("error", values["error"])
        given = given[1:]
    if len(given) > 1:
        raise _two_effects(*given[:2])
    effect = given[0]
    return effect, EFFECT_VALUES[effect](effect.value, values[effect.value]), error


def _two_effects(one: Effect, other: Effect) -> FaultError:
    return FaultError(f"{one.value} and {other.value} are two effects: give each a rule of its own")


def _read_ops(values: Mapping[str, Any], effect: Effect) -> Op:
    possible = GOES_WITH.get(effect)
    given = values.get("op")
    if given is None:
        return CONTENTS if possible is None else possible & CONTENTS
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list) or not names:
        raise FaultError(f"op: {quoted(given)} is not the name of an operation, or a list of names")
    ops = Op(0)
    for name in names:
        ops |= read_op(name)
    wrong = ops & ~possible if possible is not None else Op(0)
    if wrong and possible is not None:
        raise FaultError(
            f"{effect.value} goes with op={' or '.join(op_names(possible))},"
            f" not with {' and '.join(op_names(wrong))}"
        )
    return ops


def read_paths(values: Mapping[str, Any]) -> tuple[Glob, ...]:
    """The patterns of ``path``, one or a list; none if it is missing. Raises `FaultError`."""
    if "path" not in values:
        return ()
    given = values["path"]
    paths = given if isinstance(given, list) and given else [given]
    globs = []
    for path in paths:
        if not isinstance(path, str):
            raise FaultError(f'path: {quoted(path)} is not a string, e.g. "*.qcow2"')
        try:
            globs.append(Glob(path))
        except GlobError as exc:
            raise FaultError(f"path: {exc}") from None
    return tuple(globs)


def _read_range(values: Mapping[str, Any], ops: Op) -> tuple[int, int | None] | None:
    if "range" not in values:
        return None
    written = values["range"]
    match = _RANGE.fullmatch(written) if isinstance(written, str) else None
    if match is None:
        raise FaultError(f"range: {quoted(written)} is not FROM-TO, e.g. 1M-2M or 1M-")
    wrong = ops & ~RANGED
    if wrong:
        raise FaultError(
            f"range goes with op={', '.join(op_names(RANGED))}, not with"
            f" {' and '.join(op_names(wrong))}, which touches no range of bytes"
        )
    try:
        first = units.parse_bytes(match[1])
        end = units.parse_bytes(match[2]) if match[2] else None
    except units.UnitError as exc:
        raise FaultError(f"range: {exc}") from None
    if end is not None and end <= first:
        raise FaultError(f"range: {quoted(written)} is empty: TO is the first byte after it")
    return first, end


def _refuse_together(others: Mapping[str, Any]) -> None:
    for partner in ("every", "times", "probability"):
        if "nth" in others and partner in others:
            raise FaultError(f"nth is one request, so it does not go with {partner}: leave one out")


def read_rules(tables: object) -> tuple[Fault, ...]:
    """The rules in the ``[[fault]]`` tables of a file. Raises `FaultError`, which says where."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise FaultError("fault is not an array of tables: write [[fault]]")
    rules = []
    for number, table in enumerate(tables, 1):
        try:
            rules.append(Fault.parse(table))
        except FaultError as exc:
            raise FaultError(f"[[fault]] number {number}: {exc}") from None
    return tuple(rules)


def assignments(words: Iterable[str]) -> dict[str, Any]:
    """The names and values of a rule in the *words* of a command line. Raises `FaultError`.

    There may be more than one ``path=``.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            if name not in (Effect.HANG.value, Effect.LOSE.value):
                raise FaultError(f"{quoted(word)} is not NAME=VALUE, e.g. error=EIO")
            value = "true"
        if name == "path":
            values.setdefault(name, []).append(value)
        elif name in values:
            raise FaultError(f"{name} is given twice")
        else:
            values[name] = value
    return values
