"""Which image a command means: paths, symlinks, names that are not UTF-8, files unlinked."""

from __future__ import annotations

import os

import pytest

from tests.unit.control.bare_mount import Mount
from throttlefs.control.device_names import device_name


def test_a_file_can_be_told_limits_before_it_is_opened(mount: Mount) -> None:
    mount.set_image("dir/c.img", bps="9K")
    image, _ = mount.open("dir/c.img")
    assert image.meter.limits.as_dict() == {"bps": 9216}
    mount.close(image)
    assert mount.limits("dir/c.img")["bps"] == 9216


def test_looking_at_a_file_leaves_nothing_behind(mount: Mount) -> None:
    assert mount.limits("ruled.img") == {"group": None, "weight": 100, "iops": 50}
    assert mount.limits("a.img") == {"group": None, "weight": 100, "bps": 4 << 20}
    assert list(mount.governor.throttle.images()) == []


@pytest.mark.parametrize(
    "link", ["a.img", "./a.img", "dir/../a.img", "dir/../dir/../a.img"], ids=str
)
def test_symlinks_lead_to_the_image(mount: Mount, link: str) -> None:
    (mount.source / "link").symlink_to(link)
    mount.set_image("link", bps=5)
    assert mount.limits("a.img")["bps"] == 5


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "dir/../../x", "link"])
def test_no_path_leads_out_of_the_mount(mount: Mount, target: str) -> None:
    (mount.source.parent / "x").write_text("")
    (mount.source / "link").symlink_to(target)
    assert "'link' not found" in mount.error("x-throttlefs-set", device="link", values={"bps": 1})


@pytest.mark.parametrize(
    "device", ["", ".", "..", "a.img/x", "a\0b", "x" * 5000, "\ud800", "%\ud800"]
)
def test_a_strange_name_is_not_found(mount: Mount, device: str) -> None:
    assert "not found" in mount.error("x-throttlefs-set", device=device, values={"bps": 1})


@pytest.mark.parametrize("name", [b"\xff\xfe.img", b"100%.img", b"%41.img", b"%\xff", "ü".encode()])
def test_any_name_goes_there_and_back(mount: Mount, name: bytes) -> None:
    with open(os.path.join(os.fsencode(mount.source), name), "wb"):
        pass
    mount.open(os.fsdecode(name))
    mount.set_image(device_name(name), bps=5)
    assert mount.limits(device_name(name))["bps"] == 5
    assert device_name(name) in [drive["device"] for drive in mount.run("query-block")]


def test_a_name_that_only_looks_encoded_is_taken_as_it_stands(mount: Mount) -> None:
    for name in ("A.img", "%41.img"):
        (mount.source / name).write_bytes(b"")
    mount.set_image("%41.img", bps=5)
    assert mount.limits("%41.img")["bps"] == 5
    assert mount.limits("A.img")["bps"] == 4 << 20


def test_an_unlinked_image_goes_by_its_name_while_it_is_open(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    os.unlink(mount.source / "a.img")
    mount.set_image("a.img", bps=5)
    assert image.meter.limits.bps == 5
