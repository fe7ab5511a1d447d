"""``throttlefs profile``: what it prints, and the line that each mistake gets."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.unit.cli.conftest import Mistake
from tests.unit.cli.test_top import answer, direction, image
from throttlefs.cli.main import cli
from throttlefs.cli.mounting import OptionString
from throttlefs.cli.sampling import rows
from throttlefs.cli.top import View, render
from throttlefs.settings.profiles import read_profiles, shipped


def printed(*words: object) -> str:
    result = CliRunner().invoke(cli, ["profile", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


def report(**more: object) -> str:
    percentiles = {"50.000000": 100_000, "99.000000": 900_000}
    side = {"total_ios": 9, "io_bytes": 9, "iops": 10.0, "bw_bytes": 40960}
    nothing = {"total_ios": 0}
    job = {
        "error": 0,
        "job options": {"bs": "4k"},
        "read": side | {"clat_ns": {"percentile": percentiles}},
        "write": nothing,
        "sync": nothing,
    }
    return json.dumps({"fio version": "fio-3.33", "timestamp": 0, "jobs": [job | more]})


def test_list_has_every_profile_in_a_line() -> None:
    lines = printed("list").splitlines()
    for name in shipped().names:
        assert any(
            line.startswith(f"{name} ") and shipped().profile(name).summary in line
            for line in lines
        )
    assert [one["name"] for one in json.loads(printed("list", "--json"))] == shipped().names


@pytest.mark.parametrize("name", shipped().names)
def test_show_prints_what_a_configuration_file_takes(name: str) -> None:
    found = read_profiles(tomllib.loads(printed("show", name))["profile"])[name]
    assert found.values == shipped().settings(name)
    assert {of for source in found.sources for of in source.of} == set(found.values)
    shown = json.loads(printed("show", "--json", name))
    assert shown["settings"] == shipped().settings(name)
    assert shown["bases"] == [profile.name for profile in shipped().chain(name)[1:]]


def test_profiles_of_a_file_are_there_as_well(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[profile.mine]\nbase = "aws-gp3"\niops = 6000\nsummary = "bought"\n')
    assert "bought" in printed("list", "--config", file)
    shown = tomllib.loads(printed("show", "mine", "--config", file))["profile"]["mine"]
    assert (shown["iops"], shown["bps"]) == (6000, "125M")
    assert {of for source in shown["source"] for of in source["of"]} == {
        "bps", "iops_size", "latency_rd", "latency_wr",
    }, "the source of what is replaced is not its own"  # fmt: skip


def test_import_prints_a_profile_or_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "fio.json"
    file.write_text(report())
    text = printed("import", file, "--name", "theirs")
    table = tomllib.loads(text)["profile"]["theirs"]
    assert table["latency_rd"] == "100us/900us"
    assert table["source"][0]["origin"] == f"fio-3.33: {file}"
    assert str(table["source"][0]["date"]) == "1970-01-01"
    assert printed("import", file, "--name", "theirs", "-O", tmp_path / "out.toml") == ""
    assert (tmp_path / "out.toml").read_text() == text


def test_mistakes(mistake: Mistake, tmp_path: Path) -> None:
    file = tmp_path / "fio.json"
    file.write_text(report())
    assert mistake("profile", "show", "hdd7200") == (
        "unknown profile 'hdd7200'; did you mean 'hdd-7200'?"
    )
    assert mistake("profile", "import", tmp_path / "none").endswith("No such file or directory")
    assert mistake("profile", "import", tmp_path).endswith("Is a directory")
    assert "is no report of fio's" in mistake("profile", "import", __file__, status=1)
    assert "a profile's name has no comma" in mistake("profile", "import", file, "--name", "a,b")
    assert "cannot be written to" in mistake("profile", "import", file, "-O", "/nonexistent/x")
    assert "the name of a file" in mistake("profile", "import", file, "-O", "")
    assert "has no comma" in mistake("profile", "measure", tmp_path / "none", "--name", "a,b")
    assert "not a number" in mistake("profile", "measure", tmp_path / "none", "--seconds", "nan")
    assert "at least 1M" in mistake("profile", "measure", tmp_path, "--size", "4k")
    assert "'x' is not a number" in mistake("profile", "measure", tmp_path, "--size", "x")
    assert "No such file" in mistake("profile", "measure", tmp_path / "none")
    assert "leave out --destroy" in mistake("profile", "measure", tmp_path, "--destroy")
    assert "cannot be read" in mistake("profile", "list", "--config", tmp_path / "none")


def test_a_profile_of_a_file_that_includes_itself(mistake: Mistake, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[profile.a]\nbase = "b"\n[profile.b]\nbase = "a"\n')
    assert "profile 'a' includes itself: a -> b -> a" in mistake(
        "profile", "list", "--config", file
    )


def test_completion_knows_the_profiles() -> None:
    option = OptionString()
    items = option.shell_complete(None, None, "bps=1M,profile=hdd")  # type: ignore[arg-type]
    assert [(item.value, item.help) for item in items] == [
        ("bps=1M,profile=hdd-7200", shipped().profile("hdd-7200").summary)
    ]
    named = option.shell_complete(None, None, "prof")  # type: ignore[arg-type]
    assert [item.value for item in named] == ["profile="]


def test_top_says_the_profile() -> None:
    now = answer(
        1,
        image("limited", disk={"profile": "aws-gp3"}, limits={"iops": 10}, read=direction(5)),
        image("card", disk={"profile": "sd-card", "latency_rd": "667us"}, read=direction(4)),
    )
    console = Console(width=150, color_system=None, force_terminal=True)
    with console.capture() as capture:
        console.print(render([("/mnt", rows(now, answer(0)))], View(), 150, 50))
    text = capture.get()
    assert "iops=10 (aws-gp3)" in text
    assert "profile=sd-card" in text
    assert "667us" not in text, "the name says it"
