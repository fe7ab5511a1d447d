"""The pytest plugin where nothing can be mounted, or nothing needs to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inner_pytest import Suite

CANNOT_MOUNT = """
    from throttlefs.testing import fixture

    fixture.why_not = lambda: "/dev/fuse is missing; load the kernel module"
"""

USES_IT = """
    def test_disk(slow_disk):
        raise AssertionError("not reached")
"""


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path / "suite")


def test_where_nobody_can_mount_a_test_is_skipped_with_the_reason(suite: Suite) -> None:
    suite.write(conftest=CANNOT_MOUNT, test_it=USES_IT)
    result = suite.run()
    assert result.returncode == 0, result.stdout
    assert "slow_disk: /dev/fuse is missing; load the kernel module" in result.stdout
    assert "1 skipped" in result.stdout


def test_where_the_disk_is_required_it_fails(suite: Suite) -> None:
    suite.write(conftest=CANNOT_MOUNT, test_it=USES_IT, ini="[pytest]\nslow_disk_required = true\n")
    result = suite.run()
    assert result.returncode == 1
    assert "missing; load the kernel module (slow_disk_required is true)" in result.stdout
    assert "1 error" in result.stdout


def test_a_marker_without_names(suite: Suite) -> None:
    suite.write(
        test_it="""
            import pytest

            @pytest.mark.slow_disk("bps=1M")
            def test_disk(slow_disk):
                pass
        """
    )
    result = suite.run()
    assert "slow_disk('bps=1M'): the marker takes options by name, e.g. bps='1M'" in result.stdout


def test_a_marker_with_a_value_that_is_none(suite: Suite) -> None:
    suite.write(
        test_it="""
            import pytest

            @pytest.mark.slow_disk(bps=[1])
            def test_disk(slow_disk):
                pass
        """
    )
    result = suite.run()
    assert "slow_disk: bps: [1] is neither a number nor text, e.g. bps='1M'" in result.stdout
    assert "1 error" in result.stdout
    assert "fixture.py" not in result.stdout


def test_the_marker_is_known(suite: Suite) -> None:
    result = suite.run("--markers")
    assert "@pytest.mark.slow_disk(**options): how the disk of the fixture" in result.stdout


def test_a_run_that_uses_no_disk_loads_nothing_more(suite: Suite) -> None:
    suite.write(
        conftest="""
            import sys

            def pytest_unconfigure(config):
                print("loaded:", *sys.modules)
        """,
        test_it="def test_nothing(tmp_path): pass",
    )

    def loaded(*args: str) -> set[str]:
        lines = suite.run("-s", *args).stdout.splitlines()
        (line,) = [line for line in lines if line.startswith("loaded:")]
        return set(line.split()[1:])

    more = loaded() - loaded("-p", "no:throttlefs")
    assert more == {"throttlefs", "throttlefs.testing", "throttlefs.testing.plugin"}


def test_a_whole_run_needs_its_own_place(suite: Suite) -> None:
    result = suite.run("--slow-disk=bps=1M", "--basetemp=x")
    assert result.returncode == 4
    assert "--slow-disk and --basetemp: give one of them" in result.stderr
