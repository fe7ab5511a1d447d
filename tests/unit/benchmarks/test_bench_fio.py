"""Job files, logs and reports of fio."""

import configparser
import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.completions import Completion
from benchmarks.errors import BenchmarkError
from benchmarks.fio import Job, Logged, job_file, parse_log, parse_summaries


def parsed(*jobs: Job, log: Path | None = None) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(job_file(jobs, 1.25, log))
    return parser


def test_a_job_file_says_how_long_how_deep_and_where() -> None:
    found = parsed(Job(Path("/x/image"), "randread", "4k", 32), Job(Path("/x/b"), "write", "1m"))
    first, second = found["job1"], found["job2"]
    assert (first["filename"], first["iodepth"], first["bs"]) == ("/x/image", "32", "4k")
    assert (first["ioengine"], second["ioengine"]) == ("libaio", "psync")
    assert first["runtime"] == "1250ms"
    assert found["global"]["invalidate"] == "0"
    assert "write_lat_log" not in found["global"]


def test_several_files_and_colons_in_their_names() -> None:
    found = parsed(Job([Path("/x/a:1"), Path("/x/b")], "randread"))
    assert found["job1"]["filename"] == r"/x/a\:1:/x/b"


def test_mixed_sizes_are_a_bssplit() -> None:
    found = parsed(Job(Path("/x"), "randrw", "4k/50:64k/50"))
    assert found["job1"]["bssplit"] == "4k/50:64k/50"
    assert "bs" not in found["job1"]


def test_what_is_done_once_neither_repeats_nor_hits_a_block_twice() -> None:
    once = parsed(Job(Path("/x"), "randread", repeat=False))["job1"]
    again = parsed(Job(Path("/x"), "randread"))["job1"]
    assert "time_based" not in once
    assert "norandommap" not in once
    assert (again["time_based"], again["norandommap"]) == ("1", "1")


def test_logs_go_where_they_are_wanted() -> None:
    assert parsed(Job(Path("/x"), "read"), log=Path("/y/io"))["global"]["write_lat_log"] == "/y/io"


def test_a_log_is_read_on_the_clock_of_the_caller() -> None:
    text = "1700000000001, 1112988, 0, 65536, 0\n1700000000044, 44573018, 1, 4096, 0, 0\n"
    offset = -1_700_000_000_000 * 1_000_000
    assert parse_log(text, offset) == [
        Logged(Completion(1_000_000, False, 65536), 1112988),
        Logged(Completion(44_000_000, True, 4096), 44573018),
    ]


def report(error: int = 0, before: str = "") -> str:
    def side(ios: int, runtime: int) -> dict[str, Any]:
        return {"total_ios": ios, "runtime": runtime, "io_bytes": ios * 4096}

    job = {"error": error, "read": side(3000, 2000), "write": side(1000, 1999)}
    return before + json.dumps({"jobs": [job]})


def test_a_report_sums_reads_and_writes() -> None:
    (summary,) = parse_summaries(report(before="note: both iodepth >= 1 and synchronous\n"))
    assert (summary.requests, summary.bytes, summary.per_second) == (4000, 4000 * 4096, 2000)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (report(5, "fio: io_u error on file x: Input/output error\n"), "x: Input/output error"),
        (report(5), "errno 5"),
        ("fio: file hash not empty\n", "file hash"),
        ("fio: half a report\n{", "half a report"),
        ("", "no report"),
    ],
)
def test_an_error_is_told_in_the_words_of_fio(text: str, reason: str) -> None:
    with pytest.raises(BenchmarkError, match=reason):
        parse_summaries(text)
