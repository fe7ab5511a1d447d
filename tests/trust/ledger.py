"""What was acknowledged to a program, written down outside of the mount, and the audit of it.

A file is cut into blocks of mixed sizes. A writer writes each of them again and again, a
generation further each time, and notes the generation in its ledger after the write returned.
So at any time a block may hold what the ledger says, or the next generation, which was under
way: nothing else, and nothing at all in the gaps between blocks.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from pathlib import Path

_ENTRY = struct.Struct("<II")
_SYNCED = 0xFFFF_FFFF
"""In place of a block's number: an fsync has returned, which made all entries before durable."""

_POOL_SIZE = 3 << 20
_pool = b""


@dataclass(frozen=True)
class Block:
    """A piece of a file that is always written as a whole."""

    number: int
    offset: int
    size: int


ALIGNED = (512, 4096, 4096, 8192, 16384, 65536, 131072, 1 << 20)
ANY = (3, 100, 513, 1000, 4095, 4097, 70_001, 300_000, *ALIGNED)


def blocks_of(layout: str, seed: int) -> list[Block]:
    """The blocks of a file: ``aligned`` or ``any`` mixed sizes, or ``small:COUNT`` of 4 KiB."""
    kind, _, count = layout.partition(":")
    if kind == "small":
        return [Block(number, 4096 * number, 4096) for number in range(int(count))]
    sizes = {"aligned": ALIGNED, "any": ANY}[kind]
    chosen = random.Random(seed)
    blocks, offset = [], 0
    for number in range(24):
        size = chosen.choice(sizes)
        blocks.append(Block(number, offset, size))
        offset += size
        if kind == "aligned":
            offset = -(-offset // 4096) * 4096
        elif chosen.random() < 0.3:
            offset += chosen.choice((1, 512, 5000))
    return blocks


def end_of(blocks: list[Block]) -> int:
    return blocks[-1].offset + blocks[-1].size


def content(seed: int, block: Block, generation: int) -> bytes:
    """What a block holds; generation 0 is a hole."""
    global _pool
    if not generation:
        return bytes(block.size)
    if not _pool:
        _pool = random.Random(0).randbytes(_POOL_SIZE)
    start = (seed * 7_654_321 + block.number * 65_537 + generation * 4_099) % (_POOL_SIZE >> 1)
    return _pool[start : start + block.size]


def entry(block: Block, generation: int) -> bytes:
    """The ledger's line for an acknowledged write."""
    return _ENTRY.pack(block.number, generation)


SYNCED = _ENTRY.pack(_SYNCED, 0)


def acknowledged(ledger: Path) -> int:
    """How many writes a ledger has."""
    return ledger.stat().st_size // _ENTRY.size if ledger.exists() else 0


@dataclass
class Audit:
    """*writes* were acknowledged; of these *lost* blocks are not in the file, for *reasons*."""

    writes: int
    lost: int
    reasons: list[str]


def audit(
    file: Path,
    ledger: Path,
    layout: str,
    seed: int,
    *,
    synced_only: bool = False,
    promised: int | None = None,
) -> Audit:
    """Compare the file with the ledger, byte for byte.

    After a crash of the whole machine only a part has to be there, and whatever was written
    later may be: with *synced_only* what was acknowledged before the last fsync, and in any case
    no more than the first *promised* entries, those from before the crash.
    """
    blocks = blocks_of(layout, seed)
    data = ledger.read_bytes()
    data = data[: len(data) // _ENTRY.size * _ENTRY.size]
    latest = [0] * len(blocks)
    durable = list(latest)
    for place, (number, generation) in enumerate(_ENTRY.iter_unpack(data)):
        if number != _SYNCED:
            latest[number] = max(latest[number], generation)
        if (number == _SYNCED or not synced_only) and (promised is None or place < promised):
            durable = list(latest)
    found = file.read_bytes() if file.exists() else b""  # after a crash it may never have been
    if len(found) > end_of(blocks):
        return Audit(len(data) // _ENTRY.size, 1, [f"{file.name} has {len(found)} bytes"])
    found = found.ljust(end_of(blocks), b"\0")
    reasons = []
    place = 0
    for block in blocks:
        if found[place : block.offset].strip(b"\0"):
            reasons.append(f"{file.name}: something in the gap before block {block.number}")
        place = block.offset + block.size
        here = found[block.offset : place]
        allowed = range(durable[block.number], latest[block.number] + 2)
        wrong = _wrong_bytes(here, [content(seed, block, generation) for generation in allowed])
        if wrong:
            reasons.append(
                f"{file.name}: {len(wrong)} of {block.size} bytes at {block.offset} are not of"
                f" generation {allowed.start} to {allowed.stop - 1} of block {block.number},"
                f" from {wrong[0]} to {wrong[-1]}: {here[wrong[0] : wrong[0] + 16].hex()}"
            )
    return Audit(len(data) // _ENTRY.size, len(reasons), reasons)


def _wrong_bytes(found: bytes, versions: list[bytes]) -> list[int]:
    """The places that are from none of *versions*: a write that was cut off is in part there."""
    if found in versions:
        return []
    pairs = enumerate(zip(found, *versions, strict=True))
    return [place for place, (byte, *choice) in pairs if byte not in choice]
