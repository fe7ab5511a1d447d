"""Several users at once: processes that do as they are told, on two directories one after the
other, and say what came of it."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACL_UNDEFINED = 0xFFFFFFFF
_OWNER, _USER, _GROUP_OWNER, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True)
class Person:
    """A user with his groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def become(self) -> None:
        """Be this user for good."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


ROOT = Person(0, 0)
ANNA = Person(1001, 1001, (2000,))
BERT = Person(1002, 1002, (2000, 2001))
CARL = Person(1003, 1001)
PEOPLE = (ROOT, ANNA, BERT, CARL)


def acl(owner: int, users: Sequence[tuple[int, int]], group: int, mask: int, other: int) -> bytes:
    """An ACL as an extended attribute; permissions are 0 to 7."""
    entries = [(_OWNER, owner, ACL_UNDEFINED), *((_USER, bits, uid) for uid, bits in users)]
    entries += [(_GROUP_OWNER, group, ACL_UNDEFINED)]
    entries += [(_MASK, mask, ACL_UNDEFINED), (_OTHER, other, ACL_UNDEFINED)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@dataclass(frozen=True)
class Failed:
    """What came of something: the name of an error."""

    error: str


def outcome(work: Callable[[], Any]) -> Any:
    """What *work* returns, or its error."""
    try:
        return work()
    except OSError as exc:
        return Failed(errno.errorcode[exc.errno or 0])


class Worker:
    """A process of *person*, in which functions are called one after the other."""

    def __init__(self, person: Person) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._requests)
                os.close(self._answers)
                self._work(person, requests, answers)
            finally:
                os._exit(1)
        os.close(requests)
        os.close(answers)
        self._from = os.fdopen(self._answers, "rb")

    @staticmethod
    def _work(person: Person, requests: int, answers: int) -> None:
        person.become()
        with os.fdopen(requests, "rb") as source:
            while True:
                function, arguments = pickle.load(source)
                os.write(answers, pickle.dumps(function(*arguments)))

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of a module there; what it returns."""
        self.begin(function, *arguments)
        return self.answer()

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function of a module there, and do not wait for it."""
        os.write(self._requests, pickle.dumps((function, arguments)))

    def answer(self) -> Any:
        """What the function returns that was begun."""
        return pickle.load(self._from)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._requests)
        self._from.close()


@contextmanager
def workers(people: Sequence[Person]) -> Iterator[list[Worker]]:
    """A process for each of *people*, started while the caller's descriptors are open."""
    started: list[Worker] = []
    try:
        for person in people:
            started.append(Worker(person))
        yield started
    finally:
        for worker in started:
            worker.end()


@contextmanager
def directories(paths: Sequence[Path]) -> Iterator[list[int]]:
    """Descriptors of *paths*, for users who may not walk there."""
    opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths]
    try:
        yield opened
    finally:
        for descriptor in opened:
            os.close(descriptor)
