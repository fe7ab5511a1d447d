"""Groups made and changed as QEMU's objects hold the images of a real mount."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from tests.qmp import RawClient, socket_of
from tests.support import Mounted, MountFactory, run_throttlefs, wait_for

OK = {"return": {}}


def image(mounted: Mounted) -> Path:
    (mounted.source / "disk.img").write_bytes(bytes(64 << 10))
    return mounted.path / "disk.img"


def waiting(path: Path) -> int:
    shown = run_throttlefs("show", "--json", path).stdout
    return int(json.loads(shown)["waiting"]["read"])


def test_a_request_that_waits_for_an_object_goes_when_its_limits_change(
    make_mount: MountFactory,
) -> None:
    mounted = make_mount()
    path = image(mounted)
    with RawClient(socket_of(mounted.entry)) as client:
        group = {"qom-type": "throttle-group", "id": "slow"}
        assert client.run("object-add", **group, limits={"bps-total": 10}) == OK
        assert run_throttlefs("set", path, "group=slow").returncode == 0
        fd = os.open(path, os.O_RDONLY)
        assert len(os.pread(fd, 4096, 0)) == 4096  # 400 seconds' worth
        reader = threading.Thread(target=os.pread, args=(fd, 4096, 4096), daemon=True)
        reader.start()
        wait_for(lambda: waiting(path) == 1)
        limits = {"bps-total": 1 << 30}
        assert client.run("qom-set", path="slow", property="limits", value=limits) == OK
        reader.join(20)
        assert not reader.is_alive()
        os.close(fd)
        assert "in use" in client.run("object-del", id="slow")["error"]["desc"]
        assert run_throttlefs("set", path, "group=").returncode == 0
        assert client.run("object-del", id="slow") == OK


def test_qemus_name_of_the_group_in_the_options(make_mount: MountFactory) -> None:
    mounted = make_mount("throttling.group=db,throttling.bps-total=2M")
    path = image(mounted)
    assert os.getxattr(path, "user.throttlefs.throttling.group") == b"db"
    assert run_throttlefs("set", path, "throttling.group=").stdout == (
        "disk.img: group db -> none\n"
    )
    with RawClient(socket_of(mounted.entry)) as client:
        limits = client.run("qom-get", path="/objects/db", property="limits")["return"]
        assert limits["bps-total"] == 2 << 20
        error = client.run("object-del", id="db")["error"]
        assert error["desc"].startswith("object 'db' is in use, can not be deleted: ")
