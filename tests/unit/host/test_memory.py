"""Garbage and freed memory are given back, a little at a time. Each test in its own process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from throttlefs.host import memory


def run(script: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


COUNTING = """
import gc
from throttlefs.host import memory
gc.collect()
memory.collect_in_steps()
looked_at = []
def count(phase, info):
    if phase == "start" and info["generation"] == 2:
        looked_at.append(sum(len(gc.get_objects(generation)) for generation in range(3)))
gc.callbacks.append(count)
kept = [[number] for number in range(500_000)]
"""


def test_a_collection_looks_at_few_objects_however_many_there_are() -> None:
    """Each holds up every request: 0.1 us for an object."""
    most, times = run(COUNTING + "print(max(looked_at), len(looked_at))").split()
    assert int(most) < 60_000
    assert int(times) > 5, "and all are looked at once"


def test_an_idle_daemon_looks_at_nothing_again() -> None:
    script = "memory.give_back(); looked_at.clear(); memory.give_back(); print(looked_at[0])"
    assert int(run(COUNTING + script)) < 5000


def test_circles_of_garbage_are_still_found() -> None:
    script = """
class Circle:
    living = 0
    def __init__(self): self.me = self; Circle.living += 1
    def __del__(self): Circle.living -= 1
for number in range(100_000): Circle()
memory.give_back()
print(Circle.living)
"""
    # One that is being made when a collection comes is taken for living (Python 3.12 on).
    assert int(run(COUNTING + script)) < 100


@pytest.mark.skipif(not hasattr(memory._libc, "mallinfo2"), reason="no glibc 2.33 or newer")
def test_freed_memory_goes_in_steps() -> None:
    """Not all at once: nobody can allocate in the meantime."""
    script = """
import time
from throttlefs.host import memory
memory.keep_buffers()
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
trims, trim = [], memory._malloc_trim
def noted(keep):
    before = memory._free().keepcost
    trim(keep)
    trims.append((before - memory._free().keepcost) >> 20)
memory._malloc_trim = noted
memory._STEP_TAKES_S = 1000
buffers = [bytearray(1 << 20) for _ in range(200)]
del buffers
before = resident()
memory.give_back()
while memory._trimming.is_set(): time.sleep(0.01)
print(before, resident(), max(trims), len(trims))
"""
    before, after, most, steps = map(int, run(script).split())
    assert before > 200
    assert after < 60
    assert most <= 17
    assert steps > 10


@pytest.mark.skipif(not hasattr(memory._libc, "mallinfo2"), reason="no glibc 2.33 or newer")
def test_memory_that_threads_have_freed_goes_too() -> None:
    """Waiting writes come back from their file in threads: hundreds of MiB stayed with these."""
    script = """
import threading, time
from throttlefs.host import memory
memory.keep_buffers()
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
have, freed, ended = [], [], []
def work():
    buffers = [b"x" * (1 << 20) for _ in range(25)]
    have.append(1)
    while len(have) < 8: time.sleep(0.01)  # a lock would be allocated behind the buffers
    del buffers
    freed.append(1)
    while not ended: time.sleep(0.01)
for _ in range(8): threading.Thread(target=work, daemon=True).start()
while len(have) < 8: time.sleep(0.001)
while len(freed) < 8: time.sleep(0.01)
memory.give_back()
while memory._trimming.is_set(): time.sleep(0.01)
print(resident())
ended.append(1)
"""
    assert int(run(script)) < 60
