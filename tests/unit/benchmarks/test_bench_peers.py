"""What the peers are told: QEMU's command line, throttlefs' options and configuration."""

import json
import re
import tomllib
from pathlib import Path
from typing import cast

import pytest
from benchmarks.accuracy.cases import GRID, WINDOWS
from benchmarks.accuracy.fairness import SHARINGS
from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.peers import Image, Setup, Throttlefs, is_throttlefs, peer_named
from benchmarks.peers.bindfs import Bindfs
from benchmarks.peers.blkio import Blkio, rules
from benchmarks.peers.native import Native
from benchmarks.peers.qsd import Qsd, command_line, throttle_limits
from benchmarks.peers.throttlefs import config_text, is_uniform, mount_options
from benchmarks.processes import Processes
from benchmarks.scratch import Scratch

from throttlefs.settings.config import parse_config
from throttlefs.settings.limits import Limits

A, B = Path("/images/a"), Path("/images/b")


def test_limits_get_the_names_of_qapi() -> None:
    assert throttle_limits(
        {"bps": 10, "bps_max": 40, "bps_max_length": 2, "iops_wr": 5, "iops_size": 4096}
    ) == {
        "bps-total": 10,
        "bps-total-max": 40,
        "bps-total-max-length": 2,
        "iops-write": 5,
        "iops-size": 4096,
    }


def test_what_qemu_rejects_is_not_measured() -> None:
    with pytest.raises(NotMeasurableError, match="bps beside"):
        throttle_limits({"bps": 10, "bps_rd": 5})
    weighted = Setup([Image(A, group="g", weight=200)], {"g": {"bps": 1}})
    with pytest.raises(NotMeasurableError, match="weights"):
        command_line(weighted, [A])
    both = Setup([Image(A, {"bps": 1}, group="g")], {"g": {"bps": 1}})
    with pytest.raises(NotMeasurableError, match="inside a group"):
        command_line(both, [A])


def test_a_total_is_set_for_each_direction_of_a_device() -> None:
    assert rules({"iops": 3000}) == {"read_iops_device": 3000, "write_iops_device": 3000}
    assert rules({"bps": 50, "bps_wr": 20, "iops_rd": 7}) == {
        "read_bps_device": 50,
        "write_bps_device": 20,
        "read_iops_device": 7,
    }
    assert rules({}) == {}


@pytest.mark.parametrize("limits", [{"bps": 1, "bps_max": 2}, {"iops": 1, "iops_size": 4096}])
def test_the_kernel_has_no_bursts_and_no_iops_size(limits: dict[str, int]) -> None:
    with pytest.raises(NotMeasurableError, match="blk-throttle has no"):
        rules(limits)


def test_the_kernel_limits_no_groups(tmp_path: Path) -> None:
    grouped = Setup([Image(A, group="g")], {"g": {"bps": 1}})
    serving = Blkio().serve(cast(Processes, None), Scratch(tmp_path), grouped)
    with pytest.raises(NotMeasurableError, match="not of groups"), serving:
        pass


def options_of(words: list[str], name: str) -> list[dict[str, object]]:
    return [json.loads(words[n + 1]) for n, word in enumerate(words) if word == f"--{name}"]


def test_several_iothreads_serve_each_export() -> None:
    words = command_line(Setup([Image(A), Image(B)]), [A, B], threads=2)
    threads = [made["id"] for made in options_of(words, "object") if made["qom-type"] == "iothread"]
    assert threads == ["thread0", "thread1"]
    assert [export["iothread"] for export in options_of(words, "export")] == [threads, threads]
    assert all(
        "iothread" not in made
        for made in options_of(command_line(Setup([Image(A)]), [A]), "export")
    )


@pytest.mark.parametrize(
    ("version", "can"), [("7.2.22", False), ("10.0.2", False), ("10.1.0", True)]
)
def test_older_ones_have_one_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, can: bool
) -> None:
    monkeypatch.setattr(Qsd, "_version", lambda _: f"qemu-storage-daemon {version}")
    peer = Qsd(threads=2)
    assert (peer.name, Qsd().name) == ("qsd-threads", "qsd")
    assert peer.version() == f"qemu-storage-daemon {version} with 2 iothreads"
    assert peer._has_threads() == can
    if not can:
        serving = peer.serve(cast(Processes, None), Scratch(tmp_path), Setup([Image(A)]))
        with pytest.raises(NotMeasurableError, match="from QEMU"), serving:
            pass


def test_images_of_a_group_share_a_throttle_group_and_others_have_their_own() -> None:
    group = Setup([Image(A, group="g"), Image(B, group="g")], {"g": {"iops": 7}})
    words = command_line(group, [Path("/p/a"), Path("/p/b")])
    assert [made["id"] for made in options_of(words, "object")] == ["g"]
    throttles = [node for node in options_of(words, "blockdev") if node["driver"] == "throttle"]
    assert [node["throttle-group"] for node in throttles] == ["g", "g"]
    assert [export["mountpoint"] for export in options_of(words, "export")] == ["/p/a", "/p/b"]

    own = command_line(Setup([Image(A, {"iops": 1}), Image(B)]), [Path("/p/a"), Path("/p/b")])
    assert [made["limits"] for made in options_of(own, "object")] == [{"iops-total": 1}, {}]


def test_the_page_cache_is_passed_by_where_it_should_be() -> None:
    words = command_line(Setup([Image(A)], direct=True), [A])
    files = [node for node in options_of(words, "blockdev") if node["driver"] == "file"]
    assert files[0]["cache"] == {"direct": True, "no-flush": False}
    assert mount_options(Setup([Image(A)], direct=True)) == ["cache=none"]


def test_what_holds_for_all_images_is_said_with_options() -> None:
    assert mount_options(Setup([Image(A, {"bps": 5, "bps_max": 9})])) == ["bps=5", "bps_max=9"]
    group = Setup([Image(A, group="g"), Image(B, group="g")], {"g": {"bps": 5}})
    assert is_uniform(group)
    assert mount_options(group) == ["bps=5", "group=g"]


def test_what_differs_between_images_or_is_to_change_is_said_with_a_file() -> None:
    for setup in (
        Setup([Image(A, {"bps": 5}), Image(B)]),
        Setup([Image(A, {"bps": 5}, group="g")], {"g": {"bps": 5}}),
        Setup([Image(A, weight=200)]),
    ):
        assert not is_uniform(setup)
        assert mount_options(setup) == []
    assert mount_options(Setup([Image(A, {"bps": 5})], live=True, options=["x=1"])) == ["x=1"]


def test_the_configuration_says_the_same_to_throttlefs() -> None:
    images = [Image(A, {"bps": 5}, "g", 200), Image(Path("/images/b*[1]"))]
    text = config_text(Setup(images, {"g": {"iops": 7}}))
    assert tomllib.loads(text)["group"] == {"g": {"iops": 7}}
    config = parse_config(text, "limits.toml")
    rule = config.rule_for(b"a")
    assert rule is not None
    assert (rule.group, rule.weight) == ("g", 200)
    assert config.rule_for(b"b*[1]") is not None
    assert config.rule_for(b"b-1") is None


@pytest.mark.parametrize("case", [*GRID, *WINDOWS], ids=lambda case: case.name)
def test_every_case_is_accepted_by_both_sides(case: object) -> None:
    limits = case.limits  # type: ignore[attr-defined]
    throttle_limits(limits)
    Limits(**limits)


def test_every_group_is_accepted_by_throttlefs() -> None:
    for sharing in SHARINGS:
        images = [
            Image(Path(f"/images/{number}"), group="shared", weight=client.weight)
            for number, client in enumerate(sharing.clients)
        ]
        parse_config(config_text(Setup(images, {"shared": {"bps": sharing.bps}})), "x.toml")


@pytest.mark.parametrize(
    "setup", [Setup([Image(A, {"bps": 1})]), Setup([Image(A)], {"g": {"bps": 1}})]
)
def test_what_has_no_limits_is_not_asked_for_any(setup: Setup) -> None:
    nothing = (cast(Processes, None), cast(Scratch, None))
    for peer in (Bindfs(), Native()):
        with pytest.raises(NotMeasurableError, match="no limits"), peer.serve(*nothing, setup):
            pass


def test_another_checkout_is_measured_by_its_own_python(tmp_path: Path) -> None:
    other = tmp_path / "older, much"
    make_checkout(other, other / "throttlefs/__init__.py", "throttlefs, version 9")
    peer = peer_named(f"checkout:{other}")
    assert peer.name == "checkout:older_ much"
    assert is_throttlefs(peer.name)
    assert peer.version() == "checkout:older_ much throttlefs 9"
    assert isinstance(peer, Throttlefs)
    assert peer.installation.command[0] == f"{other}/.venv/bin/python"
    assert peer.installation.scripts == other / "scripts"
    assert peer == peer_named(f"checkout:{other}/.")


def test_what_is_no_checkout_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"has no \.venv"):
        peer_named(f"checkout:{tmp_path}")
    other = tmp_path / "other"
    make_checkout(other, Path("/elsewhere/throttlefs/__init__.py"), "")
    with pytest.raises(BenchmarkError, match=r"/elsewhere/.* not in"):
        peer_named(f"checkout:{other}")
    (other / ".venv/bin/python").write_text("#!/bin/sh\necho no module >&2; exit 1\n")
    with pytest.raises(BenchmarkError, match="no module"):
        peer_named(f"checkout:{other}")
    with pytest.raises(KeyError):
        peer_named("cgroup")


def make_checkout(directory: Path, module: Path, version: str) -> None:
    """Make a directory whose Python says that it has throttlefs, there and of that version."""
    python = directory / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n[ $2 = -c ] && echo '{module}' || echo '{version}'\n")
    python.chmod(0o755)


def test_this_version_says_from_which_commit_it_is() -> None:
    assert re.fullmatch(r"throttlefs \S+( \([0-9a-f]{7,}(-dirty)?\))?", Throttlefs().version())
