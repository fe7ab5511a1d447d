"""The timer of the dispatcher, on the real clock."""

from __future__ import annotations

import time

import pytest
import trio

from throttlefs.settings.limits import Limits
from throttlefs.throttle import READ, ImagePolicy, Throttle, TimerfdAlarm

MS = 1_000_000


@pytest.fixture
def alarm() -> TimerfdAlarm:
    return TimerfdAlarm()


def test_it_goes_off_at_the_instant_and_not_before(alarm: TimerfdAlarm) -> None:
    async def main() -> None:
        for delay in (1, 200_000, 5 * MS, 30 * MS):
            instant = time.monotonic_ns() + delay
            alarm.set(instant)
            await alarm.wait()
            assert instant <= time.monotonic_ns() < instant + 2000 * MS

    trio.run(main)
    alarm.close()


@pytest.mark.parametrize("instant", [0, 1, -5], ids=["zero", "one", "negative"])
def test_an_instant_that_has_passed_goes_off_at_once(alarm: TimerfdAlarm, instant: int) -> None:
    """Zero above all, which means "disarm" to the kernel."""

    async def main() -> None:
        alarm.set(instant)
        with trio.fail_after(5):
            await alarm.wait()

    trio.run(main)
    alarm.close()


def test_switched_off_it_does_not_go_off(alarm: TimerfdAlarm) -> None:
    async def main() -> None:
        alarm.set(time.monotonic_ns() + 10 * MS)
        alarm.set(None)
        with trio.move_on_after(0.1) as scope:
            await alarm.wait()
        assert scope.cancelled_caught

    trio.run(main)
    alarm.close()


def test_set_anew_it_goes_off_at_the_new_instant(alarm: TimerfdAlarm) -> None:
    async def main() -> None:
        alarm.set(time.monotonic_ns())
        late = time.monotonic_ns() + 50 * MS
        while time.monotonic_ns() < late - 45 * MS:
            pass  # it has gone off, and nobody has looked yet
        alarm.set(late)
        await alarm.wait()
        assert time.monotonic_ns() >= late
        alarm.set(time.monotonic_ns() + 3_600_000 * MS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarm.wait)
            await trio.sleep(0.01)
            alarm.set(time.monotonic_ns() + MS)

    trio.run(main)
    alarm.close()


def test_a_very_late_instant_is_no_error(alarm: TimerfdAlarm) -> None:
    alarm.set(1 << 80)
    alarm.close()


def test_closing_twice_closes_once(alarm: TimerfdAlarm) -> None:
    alarm.close()
    alarm.close()


def test_a_real_image_gets_its_rate(alarm: TimerfdAlarm) -> None:
    """A loose check that clock, timer and dispatcher belong together."""

    async def main() -> None:
        throttle = Throttle(alarm=alarm)
        throttle.set_default(ImagePolicy(Limits(iops=500)))
        image = throttle.image("disk")
        requests = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(throttle.dispatcher.run)
            start = time.monotonic()
            while time.monotonic() < start + 0.5:
                if not image.try_admit(READ, 4096):
                    await image.admit(READ, 4096)
                requests += 1
            seconds = time.monotonic() - start
            nursery.cancel_scope.cancel()
        assert requests <= 500 * seconds + 2
        assert requests >= 100

    trio.run(main)
    alarm.close()
