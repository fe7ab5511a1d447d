"""What /proc says of threads, and whether they die: recorded texts, and this very process."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from signal import Signals

import pytest

from tests.support import wait_for
from tests.unit.host import recorded
from tests.unit.host.recorded import Recorded
from throttlefs.host.departed import Departed
from throttlefs.host.dying import process_is_dying, waiting_thread_is_dying
from throttlefs.host.task_reader import Look, Sight, TaskReader, take_look
from throttlefs.host.tasks import Task, parse_task, process_of, read_task


def says_exit() -> bool:
    """Whether the kernel says what a process died of that is gone."""
    departed = Departed()
    with subprocess.Popen(["sleep", "60"]) as process:
        this = read_task(process.pid)
        assert this is not None
        departed.remember(this)
        process.kill()
    return departed.take(process.pid) is not None


SAYS_EXIT = says_exit()


@pytest.fixture
def departed() -> Iterator[Departed]:
    departed = Departed()
    yield departed
    departed.close()


def task(text: Recorded) -> Task:
    return parse_task(*text)


def bit(signal: Signals) -> int:
    return 1 << (signal - 1)


def test_a_recorded_thread_is_taken_apart() -> None:
    found = task(recorded.READ_TERM)
    assert (found.number, found.group) == (recorded.READ_TERM.pid, recorded.READ_TERM.pid)
    assert found.pending == bit(Signals.SIGKILL)
    assert found.group_pending == bit(Signals.SIGTERM)
    assert found.blocked == 0
    assert found.caught & bit(Signals.SIGALRM)
    assert found.started % 10_000_000 == 0
    assert (found.exits, found.traced) == (False, False)
    assert (task(recorded.AIO_TERM).exits, task(recorded.AIO_TERM).exit_signal) == (True, 15)
    assert task(recorded.READ_TRACED_QUIT).traced


@pytest.mark.parametrize("cut", [b"SigPnd", b"Tgid", b"SigCgt", b"TracerPid"])
def test_a_text_without_what_is_needed_is_an_error(cut: bytes) -> None:
    pid, status, stat = recorded.READ_KILL
    with pytest.raises(ValueError, match=str(pid)):
        parse_task(pid, status.replace(cut, b"Other"), stat)
    with pytest.raises(ValueError, match=str(pid)):
        parse_task(pid, status, stat[:100])


def test_a_name_that_looks_like_fields_changes_nothing() -> None:
    pid, status, stat = recorded.AIO_KILL
    name = stat[stat.index(b"(") : stat.rindex(b")") + 1]
    assert parse_task(pid, status, stat.replace(name, b"(a) D 1 (2 3\n4)")) == task(
        recorded.AIO_KILL
    )


@pytest.mark.parametrize(
    ("text", "thread_dies", "process_dies"),
    [
        (recorded.WAITS, False, False),
        (recorded.READ_ALARM, False, False),
        (recorded.READ_KILL, True, True),
        (recorded.READ_TERM, True, False),  # as a process it shows when it exits
        (recorded.READ_QUIT, True, False),
        (recorded.READ_STOP, False, False),
        (recorded.READ_TRACED_QUIT, False, False),
        (recorded.AIO_KILL, True, True),
        (recorded.AIO_TERM, False, True),
        (recorded.AIO_QUIT, False, True),
        (recorded.AIO_EXIT0, False, False),
    ],
)
def test_who_dies(text: Recorded, thread_dies: bool, process_dies: bool) -> None:
    assert waiting_thread_is_dying(task(text)) is thread_dies
    assert process_is_dying(task(text)) is process_dies


@pytest.mark.parametrize("where", ["blocked", "ignored", "caught"])
def test_a_signal_that_would_dump_core_must_take_effect(where: str) -> None:
    quits = task(recorded.READ_QUIT)
    assert waiting_thread_is_dying(quits)
    assert not waiting_thread_is_dying(dataclasses.replace(quits, **{where: bit(Signals.SIGQUIT)}))
    other = dataclasses.replace(quits, **{where: bit(Signals.SIGINT)})
    assert waiting_thread_is_dying(other)


def test_sigkill_is_not_the_debuggers_to_take() -> None:
    assert waiting_thread_is_dying(dataclasses.replace(task(recorded.READ_KILL), traced=True))


def test_a_thread_that_another_threads_execve_kills_takes_nobody_with_it() -> None:
    killed = dataclasses.replace(task(recorded.WAITS), pending=bit(Signals.SIGKILL))
    assert waiting_thread_is_dying(killed)
    assert not process_is_dying(killed)


def test_a_stopped_process_has_a_signal_for_an_exit_status_and_does_not_die() -> None:
    """/proc/PID/stat shows SIGSTOP there (``group_exit_code``)."""
    stopped = dataclasses.replace(task(recorded.READ_STOP), exit_signal=int(Signals.SIGSTOP))
    assert not process_is_dying(stopped)


def test_threads_of_this_process_are_found_with_their_process(departed: Departed) -> None:
    numbers: list[int] = []
    go_on = threading.Event()

    def run() -> None:
        numbers.append(threading.get_native_id())
        go_on.wait(60)

    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: bool(numbers))
    sight = take_look(Look(numbers[0], 0, 0), departed)
    go_on.set()
    thread.join()
    assert sight.thread is not None
    assert sight.leader is not None
    assert (sight.thread.group, sight.leader.number) == (os.getpid(), os.getpid())
    assert sight.leader.started < before - 10_000_000
    assert abs(sight.thread.started - before) < 20_000_000_000
    wait_for(lambda: read_task(numbers[0]) is None)
    gone = take_look(Look(numbers[0], os.getpid(), 0), departed)
    assert gone.thread is None
    assert gone.leader is not None
    assert gone.leader.started == sight.leader.started


def test_a_process_that_exits_is_seen_to_by_its_zombie() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        found = read_task(process.pid)
    assert found is not None
    assert process_is_dying(found)


def test_who_is_gone_and_was_never_seen_is_nobody(departed: Departed) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert read_task(process.pid) is None
    look = Look(process.pid, process.pid, 0)
    assert take_look(look, departed) == (look, None, None)


@pytest.mark.skipif(not SAYS_EXIT, reason="before Linux 6.15 nobody says how one ended who is gone")
@pytest.mark.parametrize(("number", "dies"), [(Signals.SIGKILL, True), (None, False)])
def test_who_was_seen_and_is_gone_is_seen_once_more(
    departed: Departed, number: Signals | None, dies: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        look = Look(process.pid, 0, 0)
        seen = take_look(look, departed).leader
        if number is not None:
            process.send_signal(number)
    assert seen is not None
    gone = take_look(look._replace(group=process.pid), departed)
    assert gone.thread is None
    assert gone.leader is not None
    assert gone.leader.started == seen.started
    assert process_is_dying(gone.leader) is dies
    assert take_look(look._replace(group=process.pid), departed).leader is None


def test_few_processes_are_remembered(departed: Departed) -> None:
    before = len(os.listdir("/proc/self/fd"))
    this = read_task(os.getpid())
    assert this is not None
    for started in range(1000):
        departed.remember(dataclasses.replace(this, started=started))
    assert len(os.listdir("/proc/self/fd")) == before + 1


def test_a_reader_answers_from_a_thread_with_no_descriptors_of_ours() -> None:
    assert TaskReader.is_usable()
    reader = TaskReader()
    try:
        looks = [Look(os.getpid(), 0, number) for number in range(20)]
        for look in looks:
            reader.ask(look)
        answers = []
        wait_for(lambda: answers.extend(reader.answers()) or len(answers) == 20)  # type: ignore[func-returns-value]
        # Whose thread it is was found out when it was asked.
        assert [sight.look for sight in answers] == [
            look._replace(group=os.getpid()) for look in looks
        ]
        assert all(sight.leader is not None for sight in answers)
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "owners")
        table = f"/proc/self/task/{thread.native_id}/fd"
        links = {name: os.readlink(f"{table}/{name}") for name in os.listdir(table)}
        assert links.pop(str(reader.fileno())) == "anon_inode:[eventfd]"
        assert all("pidfd" in link for link in links.values())
        assert len(os.listdir("/proc/self/fd")) > 4
    finally:
        reader.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_thread_that_ends_before_its_turn_is_of_a_known_process() -> None:
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait, args=(60,))
    thread.start()
    number = thread.native_id
    assert number is not None
    assert process_of(number) == process_of(os.getpid()) == os.getpid()
    reader = TaskReader()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reader, "start", lambda: None)
            reader.ask(Look(number, 0, 5))
        ends.set()
        thread.join()
        wait_for(lambda: process_of(number) == 0)
        reader.start()
        answers: list[Sight] = []
        wait_for(lambda: answers.extend(reader.answers()) or bool(answers))  # type: ignore[func-returns-value]
        ((look, shown, leader),) = answers
        assert (look, shown) == (Look(number, os.getpid(), 5), None)
        assert leader is not None
        assert leader.number == os.getpid()
    finally:
        ends.set()
        reader.close()


def test_the_process_of_one_thread_of_many_is_its_first_thread() -> None:
    ends = threading.Event()
    threads = [threading.Thread(target=ends.wait, args=(60,)) for _ in range(50)]
    try:
        for thread in threads:
            thread.start()
        assert {process_of(thread.native_id or 0) for thread in threads} == {os.getpid()}
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def test_a_reader_that_is_stuck_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    stuck = Look(1, 1, 0)

    def look(one: Look, _: object) -> object:
        if one is stuck:
            go_on.wait(60)
        return one, None, None

    monkeypatch.setattr("throttlefs.host.task_reader.take_look", look)
    reader = TaskReader()
    try:
        reader.ask(stuck)
        answers: list[object] = []

        def asks_again() -> bool:
            reader.ask(Look(2, 2, 0))
            answers.extend(reader.answers())
            return bool(answers)

        wait_for(asks_again)
        assert reader._threads == 2
    finally:
        go_on.set()
        reader.close()


def test_a_reader_that_gets_no_thread_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reader = TaskReader()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            reader.start()
            reader.ask(Look(1, 0, 1))
        assert reader._threads == 0
        reader.ask(Look(os.getpid(), 0, 2))
        answers: list[Sight] = []

        def has_both() -> bool:
            answers.extend(reader.answers())
            return len(answers) == 2

        wait_for(has_both)
        assert [sight.look.asked for sight in answers] == [1, 2]
    finally:
        reader.close()
