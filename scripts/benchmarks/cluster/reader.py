"""Reads a file for ever, several requests at a time: ``reader.py PATH BYTES DEPTH``.

Says "ready", begins when it gets a line, and says when that was (ns of CLOCK_MONOTONIC).
"""

from __future__ import annotations

import mmap
import os
import random
import sys
import threading
import time


def _read(descriptor: int, block: int, blocks: int, seed: int) -> None:
    buffer = mmap.mmap(-1, block)  # aligned, as O_DIRECT wants it
    draw = random.Random(seed)
    while True:
        os.preadv(descriptor, [buffer], draw.randrange(blocks) * block)


def main(path: str, block: int, depth: int) -> None:
    """Read until killed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    blocks = os.fstat(descriptor).st_size // block
    print("ready", flush=True)
    sys.stdin.readline()
    print(time.monotonic_ns(), flush=True)
    for number in range(depth):
        threading.Thread(target=_read, args=(descriptor, block, blocks, number)).start()


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
