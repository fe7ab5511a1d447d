"""What was said of one image, and the default: which of them holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle import NO_GROUP, NO_OVERRIDE, ImagePolicy, Override

DEFAULT = ImagePolicy(Limits(bps=1000), "shared", 300)

some_limits = st.sampled_from([NO_LIMITS, Limits(bps=1), Limits(iops=5)])
some_weights = st.integers(1, 10_000)
policies = st.builds(ImagePolicy, some_limits, st.sampled_from([None, "a", "b"]), some_weights)
overrides = st.builds(
    Override,
    st.none() | some_limits,
    st.sampled_from([None, NO_GROUP, "a", "b"]),
    st.none() | some_weights,
)


def test_what_an_override_is_silent_about_follows_the_default() -> None:
    assert NO_OVERRIDE.applied_to(DEFAULT) == DEFAULT
    assert Override(weight=7).applied_to(DEFAULT) == ImagePolicy(Limits(bps=1000), "shared", 7)
    assert Override(NO_LIMITS).applied_to(DEFAULT) == ImagePolicy(NO_LIMITS, "shared", 300)


def test_no_group_takes_an_image_out_of_the_default_group() -> None:
    assert Override(group=NO_GROUP).applied_to(DEFAULT).group is None
    assert Override(group="own").applied_to(DEFAULT).group == "own"


@given(overrides, overrides, policies)
def test_a_later_override_counts_where_it_says_something(
    earlier: Override, later: Override, default: ImagePolicy
) -> None:
    both = later.over(earlier)
    assert both.applied_to(default) == later.applied_to(earlier.applied_to(default))
    assert later.over(NO_OVERRIDE) == NO_OVERRIDE.over(later) == later
