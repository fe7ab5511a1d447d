"""What a profile is made of: fio's reports, as fio 3 writes them."""

from __future__ import annotations

import json
import tomllib

import pytest

from throttlefs.measure.report import ReportError, read_report, settings_of
from throttlefs.settings.profile_text import write_profile
from throttlefs.settings.profiles import read_profiles, split_settings


def side(
    latency: tuple[float, ...] = (), per_second: float = 0, block: int = 4096
) -> dict[str, object]:
    """One direction of a job; *latency* is in us."""
    names = ("50.000000", "99.000000", "99.900000")
    percentiles = {name: us * 1000 for name, us in zip(names, latency, strict=False)}
    return {
        "total_ios": round(per_second * 10),
        "io_bytes": round(per_second * 10) * block,
        "iops": per_second,
        "bw_bytes": per_second * block,
        "clat_ns": {"percentile": percentiles} if latency else {"min": 0},
    }


def job(
    read: dict[str, object] | None = None,
    write: dict[str, object] | None = None,
    sync: tuple[float, ...] = (),
    **options: object,
) -> dict[str, object]:
    flushes = side(sync, 100 if sync else 0)
    return {
        "error": 0,
        "job options": {"bs": "4k", **{name: str(value) for name, value in options.items()}},
        "read": read or side(),
        "write": write or side(),
        "sync": {"total_ios": flushes["total_ios"], "lat_ns": flushes["clat_ns"]},
    }


def report(*jobs: dict[str, object], **more: object) -> str:
    return json.dumps({"fio version": "fio-3.33", "timestamp": 1795651120, "jobs": jobs, **more})


def settings(*jobs: dict[str, object], **more: object) -> dict[str, str | int]:
    return settings_of(read_report(report(*jobs, **more)))


def test_a_whole_report_becomes_a_profile() -> None:
    text = report(
        job(read=side((100, 500, 2000), 10_000), iodepth=1),
        job(read=side((800, 900, 1000), 40_000), iodepth=32),
        job(read=side((8000,), 500, 1 << 20), iodepth=8, bs="1M"),
        job(write=side((200, 600), 5_000), iodepth=1),
        job(write=side((1600, 1700), 20_200), iodepth=32),
        job(write=side((300, 700), 300), sync=(3000, 9000, 20000), fsync=1),
    )
    found = read_report(text)
    assert (found.version, found.date, found.directions) == ("fio-3.33", "2026-11-25", ["rd", "wr"])
    assert settings_of(found) == {
        "latency_rd": "100us/500us/2ms",
        "latency_wr": "200us/600us",
        "latency_flush": "3ms/9ms/20ms",
        "queue_depth": 4,
        "bps_rd": 524_000_000,
    }
    written = tomllib.loads(write_profile("x", settings_of(found)))["profile"]
    limits, device = split_settings(read_profiles(written)["x"].values)
    assert limits.bps_rd == 524_000_000
    assert device.latency_flush == (3_000_000, 9_000_000, 20_000_000)


def test_the_direction_with_fewer_places_gets_a_limit() -> None:
    found = settings(
        job(read=side((100,), 10_000)),
        job(read=side((100,), 80_000), iodepth=32),
        job(write=side((100,), 10_000)),
        job(write=side((100,), 21_234), iodepth=32),
    )
    assert found["queue_depth"] == 8
    assert found["iops_wr"] == 21_200
    assert "iops_rd" not in found


def test_depths_may_be_jobs_or_stand_among_the_global_options() -> None:
    jobs = job(read=side((100,), 1000)), job(read=side((100,), 3000), numjobs=16)
    assert settings(*jobs)["queue_depth"] == 3
    deep = job(read=side((100,), 3000))
    found = settings(deep, **{"global options": {"iodepth": "16"}})
    assert found == {"latency_rd": "100us"}, "without a depth of 1 there is nothing to compare"


def test_a_device_that_takes_all_there_is_has_at_least_so_many_places() -> None:
    found = settings(job(read=side((100,), 1000)), job(read=side((90,), 50_000), iodepth=8))
    assert found["queue_depth"] == 8


def test_an_fsync_after_each_write_does_not_count_as_the_latency_of_writes() -> None:
    flushed = job(write=side((900,), 100), sync=(3000,), fsync=1)
    plain = job(write=side((500,), 2000))
    assert settings(flushed, plain)["latency_wr"] == "500us"
    assert settings(flushed)["latency_wr"] == "900us", "better than none"


@pytest.mark.parametrize(
    ("block", "bytes_each"),
    [
        ("4k", 4096),
        ("4KiB", 4096),
        ("512", 512),
        ("64k-128k", 9000),
        ("", 9000),
        ("1M,4k", 1 << 20),
    ],
)
def test_the_size_of_requests(block: str, bytes_each: int) -> None:
    found = read_report(report(job(read=side((100,), 10, block=9000), bs=block)))
    assert found.runs[0].block == bytes_each


def test_sizes_of_reads_and_writes_may_differ() -> None:
    both = job(read=side((100,), 10), write=side((100,), 10), bs="1M,4k")
    assert [run.block for run in read_report(report(both)).runs] == [1 << 20, 4096]


def test_percentiles_of_the_whole_latency_will_do() -> None:
    one = side((), 100)
    one["lat_ns"] = {"percentile": {"50.000000": 5000, "99.000000": 4999, "99.900000": 7000}}
    assert settings(job(read=one))["latency_rd"] == "5us/5us/7us", "percentiles never fall"


def test_what_stands_before_the_report_is_left_out() -> None:
    text = "fio: a warning\n" + report(job(read=side((100,), 10)))
    assert settings_of(read_report(text)) == {"latency_rd": "100us"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this is no report of fio's in JSON; make one with"),
        ("fio: no such file\n", "this is no report of fio's in JSON; make one with"),
        ("[1]", "this is no report of fio's in JSON"),
        ("some words\n{", "this is no report of fio's in JSON: some words"),
        ("{}", "this is no report of fio's in JSON"),
        ('{"jobs": []}', "this is no report of fio's in JSON"),
        ('{"jobs": [{}]}', "this is no report of fio's as fio 3 writes it"),
        ('{"jobs": [1]}', "this is no report of fio's as fio 3 writes it"),
        ("{" * 100_000, "this is no report of fio's in JSON"),
        (report(job(read=side((), 10))), "the report has no reads or writes with percentiles"),
        (report(job(iodepth="many")), "this is no report of fio's as fio 3 writes it"),
    ],
)
def test_other_things_get_one_line(text: str, message: str) -> None:
    with pytest.raises(ReportError) as caught:
        read_report(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_job_that_failed_says_why() -> None:
    failed = job() | {"error": 5}
    with pytest.raises(ReportError, match=r"fio: io_u error on file x: Input/output error"):
        read_report("fio: io_u error on file x: Input/output error\n" + report(failed))
    with pytest.raises(ReportError, match="fio: errno 5"):
        read_report(report(failed))


def test_large_requests_alone_tell_no_latency() -> None:
    with pytest.raises(ReportError, match="add one with bs=4k and iodepth=1"):
        settings(job(read=side((9000,), 10, 1 << 20), bs="1M"))
