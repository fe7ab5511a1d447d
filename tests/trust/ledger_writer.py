"""A program that writes to a file and keeps a ledger of what was acknowledged (see `ledger`).

Ends at SIGTERM, after ``--writes`` of them, or at the first error, unless it is told to go on.
Prints a JSON object at its end: how many writes succeeded, and which errors came how often.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import signal
import threading
import time
from collections import Counter

from tests.trust import ledger
from tests.trust.kernel_aio import KernelAio

_ENDED = threading.Event()
_PAUSE_AFTER_ERROR_S = 0.005


def name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))


class LedgerWriter:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.blocks = ledger.blocks_of(args.layout, args.seed)
        self.generations = [0] * len(self.blocks)
        self.fd = -1
        self.ledger = os.open(args.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.random = random.Random(args.seed)
        self.left = args.writes or 1 << 62
        self.writes = 0
        self.errors: Counter[str] = Counter()
        self.lock = threading.Lock()

    # -- what happened ---------------------------------------------------------------------

    def is_over(self) -> bool:
        over = _ENDED.is_set() or self.left <= 0
        return over or (bool(self.errors) and not self.args.go_on)

    def succeeded(self, block: ledger.Block, generation: int) -> None:
        with self.lock:
            os.write(self.ledger, ledger.entry(block, generation))
            self.generations[block.number] = generation
            self.writes += 1
            self.left -= 1

    def failed(self, error: OSError) -> None:
        with self.lock:
            self.errors[name_of(error)] += 1
        time.sleep(_PAUSE_AFTER_ERROR_S)

    # -- ways to write ---------------------------------------------------------------------

    def open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | (os.O_DIRECT if self.args.direct else 0)
        self.fd = os.open(self.args.file, flags, 0o644)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd < 0:
            return  # it could not be opened again
        try:
            os.close(fd)
        except OSError as error:
            self.failed(error)

    def run(self) -> None:
        try:
            self.open()
            if self.args.allocate:
                os.ftruncate(self.fd, ledger.end_of(self.blocks))
        except OSError as error:
            self.failed(error)
            if self.args.go_on:
                self.reopen_if_closed()  # it may be that another one has just taken all room
            if self.fd < 0:
                return
        if self.args.how == "aio":
            self.write_by_aio()
        else:
            count = self.args.depth if self.args.how == "threads" else 1
            threads = [
                threading.Thread(target=self.write_one_by_one, args=(self.blocks[i::count],))
                for i in range(count)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.close()

    def write_one_by_one(self, blocks: list[ledger.Block]) -> None:
        chosen = random.Random(f"{self.args.seed} {blocks[0].number}")
        rounds = 0
        while not self.is_over():
            block = chosen.choice(blocks)
            generation = self.generations[block.number] + 1
            try:
                self.write_all(block.offset, ledger.content(self.args.seed, block, generation))
                self.succeeded(block, generation)
                rounds += 1
                if self.args.fsync and rounds % self.args.fsync == 0:
                    self.fsync()
                if self.args.reopen and rounds % self.args.reopen == 0:
                    self.close()
                    time.sleep(self.args.rest)
                    self.open()
            except OSError as error:
                self.failed(error)
                self.reopen_if_closed()

    def reopen_if_closed(self) -> None:
        while self.fd < 0 and not self.is_over():
            try:
                self.open()
            except OSError as error:
                self.failed(error)

    def write_all(self, offset: int, data: bytes) -> None:
        """As a program does it: after a short write it goes on from there."""
        done = 0
        while done < len(data):
            written = os.pwrite(self.fd, memoryview(data)[done:], offset + done)
            if not written:
                raise OSError(errno.ENODATA, "a write of nothing")
            done += written

    def fsync(self) -> None:
        os.fsync(self.fd)
        os.write(self.ledger, ledger.SYNCED)

    def write_by_aio(self) -> None:
        aio = KernelAio(self.args.depth)
        idle = list(self.blocks)
        self.random.shuffle(idle)
        while len(aio) or not self.is_over():
            while idle and len(aio) < self.args.depth and self.left > len(aio):
                if self.is_over():
                    break
                block = idle.pop(0)
                data = ledger.content(self.args.seed, block, self.generations[block.number] + 1)
                try:
                    aio.write(block.number, self.fd, block.offset, data)
                except OSError as error:
                    idle.append(block)
                    self.failed(error)
                    break
            if not len(aio):
                continue
            for done in aio.wait():
                block = self.blocks[done.number]
                idle.insert(self.random.randrange(len(idle) + 1), block)
                if done.result == block.size:
                    self.succeeded(block, self.generations[block.number] + 1)
                elif done.result >= 0:
                    self.failed(OSError(-1, "SHORT"))
                else:
                    self.failed(OSError(-done.result, ""))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("ledger")
    parser.add_argument("--layout", default="any")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--how", choices=["sync", "threads", "aio"], default="sync")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--allocate", action="store_true", help="make the file its full size first")
    parser.add_argument("--writes", type=int, default=0)
    parser.add_argument("--fsync", type=int, default=0, help="after so many writes")
    parser.add_argument("--reopen", type=int, default=0, help="after so many writes")
    parser.add_argument("--rest", type=float, default=0.0, help="seconds, before it opens again")
    parser.add_argument("--go-on", action="store_true", help="after errors")
    signal.signal(signal.SIGTERM, lambda *_: _ENDED.set())
    writer = LedgerWriter(parser.parse_args())
    writer.run()
    print(json.dumps({"writes": writer.writes, "errors": writer.errors}))


if __name__ == "__main__":
    main()
