"""Limits by path and groups, from a file, on a real mount."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.pace import takes, takes_less_than
from tests.support import Mounted, MountFactory, run_throttlefs, wait_for

KIB, MIB = 1 << 10, 1 << 20


def write(path: Path) -> None:
    """1 MiB in blocks of 64 KiB, the first of which goes at once: 0.94 s at 1 MiB/s."""
    with open(path, "wb", buffering=0) as file:
        for _ in range(16):
            file.write(bytes(64 * KIB))


def reload(mounted: Mounted, said: str = "reloaded the limits") -> None:
    before = mounted.log.count(said)
    os.kill(mounted.pid, signal.SIGHUP)
    wait_for(lambda: mounted.log.count(said) > before)


def test_tables_decide_by_path(make_mount: MountFactory, tmp_path: Path) -> None:
    config = tmp_path / "limits.toml"
    config.write_text('[[image]]\npath="slow-*"\nbps="1M"\n')
    mounted = make_mount("bps=100M", "--config", str(config))
    takes_less_than(0.5, lambda: write(mounted.path / "fast"))
    takes(0.94, lambda: write(mounted.path / "slow-1"), rel=0.3)


def test_a_group_is_one_budget(make_mount: MountFactory, tmp_path: Path) -> None:
    mounted = make_mount("bps=2M,group=all")

    def both() -> None:
        writers = [
            subprocess.Popen(
                ["dd", "if=/dev/zero", f"of={mounted.path}/{name}", "bs=64k", "count=32"],
                stderr=subprocess.DEVNULL,
            )
            for name in "ab"
        ]
        assert [writer.wait(60) for writer in writers] == [0, 0]

    takes(2.0, both)


def test_sighup_reloads_and_a_broken_file_changes_nothing(
    make_mount: MountFactory, tmp_path: Path
) -> None:
    config = tmp_path / "limits.toml"
    config.write_text('[defaults]\nbps="100M"\n')
    mounted = make_mount("", "--config", str(config))
    takes_less_than(0.5, lambda: write(mounted.path / "f"))
    config.write_text('[defaults]\nbps="1M"\n')
    reload(mounted)
    takes(0.94, lambda: write(mounted.path / "f"), rel=0.3)
    config.write_text('[defaults]\nbsp="100M"\n')
    reload(mounted, "not reloaded")
    assert "'bps'" in mounted.log
    takes(0.94, lambda: write(mounted.path / "g"), rel=0.3)


def test_new_limits_act_at_once_on_what_waits(make_mount: MountFactory, tmp_path: Path) -> None:
    config = tmp_path / "limits.toml"
    config.write_text('[defaults]\nbps="1K"\n')
    mounted = make_mount("", "--config", str(config))
    writer = subprocess.Popen(
        ["dd", "if=/dev/zero", f"of={mounted.path}/f", "bs=64k", "count=16"],
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: (mounted.source / "f").exists())
    assert writer.poll() is None
    config.write_text('[defaults]\nbps="0"\n')
    reload(mounted)
    assert writer.wait(60) == 0, "it would take a quarter of an hour"


def test_limits_change_100_times_a_second_under_verified_load(
    make_mount: MountFactory, tmp_path: Path
) -> None:
    """Nothing is lost and nothing wrong while fio verifies what it writes."""
    config = tmp_path / "limits.toml"
    config.write_text("")
    mounted = make_mount("", "--config", str(config))
    load = subprocess.Popen(
        [
            "fio",
            "--name=verify",
            f"--filename={mounted.path}/f",
            "--rw=randrw",
            "--bsrange=4k-64k",
            "--size=32M",
            "--iodepth=16",
            "--ioengine=libaio",
            "--direct=1",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_backlog=128",
            "--time_based",
            "--runtime=10",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
    )
    kinds = [
        "",
        '[defaults]\nbps="50M"\niops=2000\n',
        '[[image]]\npath="*"\ngroup="g"\nweight=7\n[group.g]\nbps="80M"\nparent="h"\n[group.h]\n',
        '[defaults]\nbps_wr="30M"\nbps_wr_max="60M"\nbps_wr_max_length=2\n',
        '[[image]]\npath="f"\niops=3000\niops_size="16K"\n',
    ]
    changes = 0
    temporary = tmp_path / "new.toml"
    while load.poll() is None:
        temporary.write_text(kinds[changes % len(kinds)])
        temporary.rename(config)
        os.kill(mounted.pid, signal.SIGHUP)
        changes += 1
        time.sleep(0.01)
    output, _ = load.communicate()
    assert load.returncode == 0, output.decode()
    assert changes > 300
    assert "not reloaded" not in mounted.log
    assert "internal error" not in mounted.log


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[image]]\npath='x'\nbsp=1\n", ["image", "bsp", "bps"]),
        ("[[image]]\npath='x'\ngroup='nix'\n", ["nix"]),
        ("[group.a]\nparent='b'\n[group.b]\nparent='a'\n", ["a", "b"]),
        ("bps = \n", ["line 1"]),
    ],
)
def test_mistakes_name_file_table_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "mnt").mkdir()
    config = tmp_path / "limits.toml"
    config.write_text(text)
    result = run_throttlefs("mount", tmp_path / "src", tmp_path / "mnt", "--config", config)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1), result.stderr
    for word in ["limits.toml", *words]:
        assert word in result.stderr
    result = run_throttlefs("mount", tmp_path / "src", tmp_path / "mnt", "-o", "config=/no/file")
    assert (result.returncode, "/no/file" in result.stderr) == (1, True)
