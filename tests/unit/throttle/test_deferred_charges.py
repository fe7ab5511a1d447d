"""An image that is far below its limits charges late; nobody may be able to tell."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from throttlefs.settings.limits import Limits
from throttlefs.throttle import READ, WRITE, Image, ImagePolicy, Override, Throttle
from throttlefs.throttle.bucket import FEMTO, MICRO

from .virtual import VirtualAlarm

RATES = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")

some_limits = st.builds(
    lambda byte_rates, request_rates: Limits(**byte_rates, **request_rates),
    st.dictionaries(st.sampled_from(RATES[:3]), st.integers(10**6, 10**12), max_size=3),
    st.dictionaries(st.sampled_from(RATES[3:]), st.integers(100, 10**9), max_size=3),
)

some_requests = st.lists(
    st.tuples(
        # Mostly around the slack and around what a request costs.
        st.one_of(st.integers(0, 20_000), st.integers(0, 5_000_000), st.integers(0, 10**9)),
        st.sampled_from((READ, WRITE)),
        st.sampled_from((512, 4096, 65536, 1 << 20)),
    ),
    max_size=60,
)


def make_image(limits: Limits) -> tuple[Image, VirtualAlarm]:
    throttle, alarm = make_throttle(limits)
    return throttle.image("a"), alarm


def make_throttle(limits: Limits) -> tuple[Throttle, VirtualAlarm]:
    alarm = VirtualAlarm()
    throttle = Throttle(clock=lambda: alarm.now, alarm=alarm)
    throttle.set_default(ImagePolicy(limits))
    return throttle, alarm


def levels(image: Image, now: int) -> list[list[int]]:
    return [[bucket.level(now) for bucket in image.meter.buckets[way]] for way in (READ, WRITE)]


@given(some_limits, some_requests)
@example(  # the second comes too early for iops_wr, which it has nothing to do with
    Limits(iops=1_000_000, iops_rd=1_000_001, iops_wr=100),
    [(2_000_000, READ, 512), (1000, READ, 512)],
)
def test_charging_late_is_charging_the_same(
    limits: Limits, requests: list[tuple[int, int, int]]
) -> None:
    late, late_alarm = make_image(limits)
    prompt, prompt_alarm = make_image(limits)
    for pause, direction, nbytes in requests:
        late_alarm.now = prompt_alarm.now = late_alarm.now + pause
        assert late.try_admit(direction, nbytes) == prompt.try_admit(direction, nbytes)
        prompt.settle()
    late.settle()
    assert levels(late, late_alarm.now) == levels(prompt, late_alarm.now)


def test_a_request_that_finds_all_paid_for_is_charged_from_the_slack() -> None:
    image, alarm = make_image(Limits(bps=10**9, iops=1000))
    alarm.now += 10**9
    for _ in range(5):
        assert image.try_admit(READ, 4096)
        alarm.now += 1_000_000  # what a request costs: never anything owed
    last = alarm.now - 1_000_000
    image.settle()
    [by_bytes, by_requests], _ = image.meter.buckets
    assert by_bytes.paid == (last - 2_000_000) * 10**9 * MICRO + 4096 * FEMTO
    assert by_requests.paid == (last - 2_000_000) * 1000 * MICRO + FEMTO


def test_requests_too_close_to_one_another_are_charged_one_by_one() -> None:
    image, alarm = make_image(Limits(iops=1000))
    alarm.now += 10**9
    went = 0
    while image.try_admit(READ, 4096):
        went += 1
    assert went == 3  # two in the slack, and one that the next has to wait for


def test_what_was_not_charged_yet_is_owed_after_a_change() -> None:
    throttle, alarm = make_throttle(Limits(iops=1000))
    image = throttle.image("a")
    alarm.now += 10**9
    assert image.try_admit(READ, 4096)
    throttle.set_override(image, Override(Limits(iops=1)))
    [bucket], _ = image.meter.buckets
    # Two requests' worth of slack, in units, less the one that went.
    assert bucket.level(alarm.now) == -FEMTO
