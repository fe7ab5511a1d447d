"""Whose device is whose: ``-o``, the file, groups; and sizes that are too small."""

from __future__ import annotations

import pytest

from throttlefs.errors import ThrottlefsError, UsageError
from throttlefs.policy.loading import read_policy
from throttlefs.policy.policy import make_policy
from throttlefs.policy.sizes import check_sizes
from throttlefs.settings.config import parse_config
from throttlefs.settings.device import NO_DEVICE, Device
from throttlefs.settings.options import parse_options

SLOW = Device.parse({"latency": "5ms"})
SLOWER = Device.parse({"latency": "9ms"})


def policy(options, config=""):
    return make_policy(parse_options([options]), parse_config(config, "limits.toml"))


def test_a_device_in_o_is_each_images_own_or_the_groups():
    assert policy("latency=5ms").for_path(b"a").device == SLOW
    shared = policy("latency=5ms,group=disk")
    assert shared.for_path(b"a").device == NO_DEVICE
    assert shared.groups["disk"].device == SLOW
    # The limits of the file stay.
    assert policy("latency=5ms", "[defaults]\nbps = 5").for_path(b"a").limits.bps == 5


FILE = """
[defaults]
latency = "5ms"
[[image]]
path = "own"
latency = "9ms"
[[image]]
path = "grouped"
group = "disk"
[[image]]
path = "limited"
bps = 5
[[image]]
path = "none"
latency = "0"
[group.disk]
latency = "9ms"
"""


@pytest.mark.parametrize(
    ("path", "device"),
    [
        (b"any", SLOW),
        (b"own", SLOWER),
        (b"grouped", NO_DEVICE),
        (b"limited", SLOW),
        (b"none", NO_DEVICE),
    ],
)
def test_a_table_decides(path, device):
    assert policy("", FILE).for_path(path).device == device


def test_o_comes_before_defaults_and_a_groups_table_before_o():
    assert policy("latency=9ms", FILE).for_path(b"any").device == SLOWER
    assert policy("latency=0", FILE).for_path(b"any").device == NO_DEVICE
    assert policy("latency=5ms,group=disk", FILE).groups["disk"].device == SLOWER


def test_a_group_with_a_head_needs_a_size_wherever_it_is_said(tmp_path):
    file = tmp_path / "limits.toml"
    file.write_text('[group.disk]\nseek = "1ms/18ms"\n')
    with pytest.raises(UsageError, match=r"^group 'disk': seek needs size, .* size=100G$"):
        read_policy(parse_options([f"config={file}"]))
    file.write_text('[group.disk]\nseek = "1ms/18ms"\nsize = "1T"\n')
    assert read_policy(parse_options([f"config={file}"])).groups["disk"].device.size == 1 << 40


def test_a_wrong_setting_in_the_file_has_the_status_of_one_in_o(tmp_path):
    file = tmp_path / "limits.toml"
    for text, status in (('latency = "5"', 2), ('bps = "5X"', 1)):
        file.write_text(f"[defaults]\n{text}\n")
        with pytest.raises(ThrottlefsError) as caught:
            read_policy(parse_options([f"config={file}"]))
        assert caught.value.exit_status == status


# Sizes.


@pytest.fixture
def source(tmp_path):
    for name, size in (("small.img", 1 << 20), ("below/large.img", 1 << 30)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            file.truncate(size)
    (tmp_path / "link").symlink_to("/dev/zero")
    return tmp_path


def test_a_size_below_an_images_is_refused(source):
    check_sizes(policy("size=1G"), str(source), is_file=False)
    with pytest.raises(UsageError) as caught:
        check_sizes(policy("size=512M"), str(source), is_file=False)
    assert str(caught.value) == (
        "size=512M is below that of the image 'below/large.img', which has 1G: "
        "say a larger size, or none"
    )
    with pytest.raises(UsageError, match=r"^size=1K is below that of the image 'small\.img'"):
        check_sizes(policy("size=1K"), str(source / "small.img"), is_file=True)


def test_only_the_device_that_an_image_goes_through_counts(source):
    small = '[[image]]\npath = "below/*"\ngroup = "g"\n[group.g]\nparent = "h"\n[group.h]\n'
    check_sizes(policy("", small + 'size = "1G"'), str(source), is_file=False)
    with pytest.raises(UsageError, match=r"'below/large\.img'"):
        check_sizes(policy("", small + 'size = "1M"'), str(source), is_file=False)
    own = '[[image]]\npath = "below/*"\nsize = "2G"\n'
    check_sizes(policy("size=1M", own), str(source), is_file=False)


def test_without_a_size_nothing_is_looked_at():
    check_sizes(policy("latency=5ms"), "/does/not/exist", is_file=False)
    check_sizes(policy("size=5M"), "/does/not/exist", is_file=False)
