from throttlefs.host.mountinfo import parse_mountinfo

TEXT = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,resuid=65534
40 22 0:45 / /mnt/with\040space\134back rw,nosuid,nodev shared:9 master:2 - fuse.throttlefs /src\011tab rw,user_id=0
41 22 0:46 / /mnt/plain ro - tmpfs  rw
broken line
"""  # noqa: E501


def test_fields_and_escapes() -> None:
    root, fuse, plain = parse_mountinfo(TEXT)
    assert (root.point, root.fstype, root.source) == (b"/", "ext4", b"/dev/vda")
    assert (fuse.mount_id, fuse.major, fuse.minor) == (40, 0, 45)
    assert (fuse.point, fuse.source) == (b"/mnt/with space\\back", b"/src\ttab")
    assert fuse.fstype == "fuse.throttlefs"
    assert fuse.options == "rw,nosuid,nodev"
    assert plain.source == b""


def test_a_carriage_return_in_a_name_ends_no_line() -> None:
    (entry,) = parse_mountinfo(b"40 22 0:45 / /mnt/a\rb rw - fuse.throttlefs /src rw,user_id=0\n")
    assert entry.point == b"/mnt/a\rb"


def test_what_the_kernel_would_not_write_is_left_out() -> None:
    strange = [b"x 22 0:45", b"40 22 0", b"40 22 0:y", b"40:0 22 45", b"40 22 0:" + b"9" * 5000]
    lines = b"".join(line + b" / /mnt rw - tmpfs none rw\n" for line in strange)
    assert parse_mountinfo(lines) == []
    (entry,) = parse_mountinfo(rb"40 22 0:45 / /a\777 rw - tmpfs none rw")
    assert entry.point == rb"/a\777"
