"""The commands, QMP and Python for the power of a real volatile mount, and what they print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

import throttlefs
from tests.qmp import RawClient, socket_of
from tests.support import Mounted, MountFactory, fails, run_throttlefs


@pytest.fixture
def mounted(make_mount: MountFactory) -> Mounted:
    """A volatile mount with one file, whose first word is flushed and whose second is not."""
    mounted = make_mount("volatile")
    path = mounted.path / "words"
    path.write_bytes(b"kept ")
    printed("sync", mounted.path)
    with open(path, "ab") as file:
        file.write(b"lost")
    return mounted


def printed(*words: object) -> str:
    ran = run_throttlefs(*words)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def seed_that_loses(mounted: Mounted) -> int:
    """A seed with which the second word is lost; found without losing anything."""
    for seed in range(200):
        said = json.loads(printed("power-cut", mounted.path, "--dry-run", "--json", "--seed", seed))
        assert (said["seed"], said["dry-run"]) == (seed, True)
        assert (mounted.source / "words").read_bytes() == b"kept lost"
        if said["files"] and said["files"][0]["size-after"] == 5:
            return seed
    raise AssertionError("no seed loses it")


def test_from_the_cut_to_the_next_mount(mounted: Mounted) -> None:
    shown = printed("show", mounted.path).splitlines()[1]
    assert shown.startswith("volatile: power is on; 4 KiB and 0 changes are not flushed")
    seed = seed_that_loses(mounted)
    assert "is on; cut it with: throttlefs power-cut" in fails("power-on", mounted.path)
    lines = printed("power-cut", mounted.path, "--seed", seed).splitlines()
    assert lines[0].startswith(f"power is off, seed {seed}: lost ")
    assert lines[2].split()[0] == "words"
    assert lines[2].split()[-2:] == ["9", "5"]
    assert (mounted.source / "words").read_bytes() == b"kept "
    assert "volatile: power is off" in printed("show", mounted.path)
    assert "is off already; switch it on with: throttlefs power-on" in fails(
        "power-cut", mounted.path
    )
    assert "is off; switch it on with" in fails("sync", mounted.path)
    assert (mounted.source / "words").read_bytes() == b"kept "
    printed("power-on", mounted.path)
    assert (mounted.path / "words").read_bytes() == b"kept "
    mounted.umount()
    assert [entry.name for entry in mounted.source.iterdir()] == ["words"]


def test_events_tell_every_client(mounted: Mounted) -> None:
    with RawClient(socket_of(mounted.entry)) as client:
        seed = seed_that_loses(mounted)
        printed("power-cut", mounted.path, "--seed", seed)
        event = client.receive()
        assert (event["event"], event["data"]) == (
            "X_THROTTLEFS_POWER",
            {"state": "off", "seed": seed},
        )
        assert client.run("x-throttlefs-query")["return"]["power"]["state"] == "off"
        printed("power-on", mounted.path)
        event = client.receive()
        assert (event["event"], event["data"]) == ("X_THROTTLEFS_POWER", {"state": "on"})


def test_in_trio(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()

    async def use() -> None:
        async with throttlefs.mounted(tmp_path / "src", volatile=True) as disk:
            await trio.Path(disk / "a").write_bytes(b"x" * 5000)
            await disk.sync()
            assert (await disk.power_cut(seed=1)).lost_bytes == 0
            with pytest.raises(OSError, match="Input/output error"):
                await trio.Path(disk / "a").read_bytes()
            with pytest.raises(throttlefs.ThrottlefsError, match="is off"):
                await disk.sync()
            await disk.power_on()
            assert await trio.Path(disk / "a").read_bytes() == b"x" * 5000
            assert (await disk.show())["power"]["dirty-bytes"] == 0

    trio.run(use)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("volatile,volatile_dir=nix", "volatile_dir {place}/nix: the undo log cannot be there"),
        ("volatile,volatile_dir=mnt", "volatile_dir {place}/mnt lies in DST"),
        ("volatile,volatile_dir=/proc", "has no files without a name (O_TMPFILE)"),
    ],
)
def test_a_place_where_the_undo_log_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    for name in ("src", "mnt"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert message.format(place=tmp_path) in fails("mount", "src", "mnt", "-o", options)
    assert not list((tmp_path / "src").iterdir())
