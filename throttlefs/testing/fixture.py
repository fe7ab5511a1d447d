"""The work of the fixture ``slow_disk``."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from throttlefs.errors import ThrottlefsError
from throttlefs.settings.option_values import OptionError
from throttlefs.settings.options import parse_options

from .capability import is_denial, why_not
from .disk import Disk
from .mounting import Mounting
from .sweeping import sweep

_SWEPT = pytest.StashKey[bool]()


def disk_of_test(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Mount ``tmp_path/slow_disk.src`` on ``tmp_path/slow_disk`` for one test.

    Skips the test where nobody may mount, or fails it with ``slow_disk_required``.
    """
    config = request.config
    _sweep_once(config)
    problem = why_not()
    if problem is not None:
        _cannot_mount(config, problem)
    options = _marked(request.node)
    defaults = config.getini("slow_disk_options")
    seed = _add_seed(config, request.node, options, defaults)
    source, target = tmp_path / "slow_disk.src", tmp_path / "slow_disk"
    source.mkdir()
    target.mkdir()
    log_file = options.pop("log_file", tmp_path / "slow_disk.log")
    mounting = Mounting(source, target, log_file, options.pop("qmp", None), options, defaults)
    try:
        request.node.add_report_section(
            "setup", "slow_disk", f"options: {mounting.options_text}\n{seed}log: {log_file}\n"
        )
        disk = mounting.__enter__()
    except ThrottlefsError as exc:
        if is_denial(exc):
            _cannot_mount(config, str(exc))
        pytest.fail(f"slow_disk: {exc}", pytrace=False)
    try:
        yield disk
    finally:
        mounting.__exit__(None, None, None)


def _sweep_once(config: pytest.Config) -> None:
    """Sweep before the first disk of a run; not in a worker of xdist, for it is not alone."""
    if not hasattr(config, "workerinput") and not config.stash.get(_SWEPT, False):
        config.stash[_SWEPT] = True
        sweep()


def _cannot_mount(config: pytest.Config, problem: str) -> NoReturn:
    if config.getini("slow_disk_required"):
        pytest.fail(f"slow_disk: {problem} (slow_disk_required is true)", pytrace=False)
    pytest.skip(f"slow_disk: {problem}")


def _marked(node: Any) -> dict[str, Any]:
    """The options of all markers of a test; of two values the nearer holds."""
    options: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("slow_disk"))):
        if marker.args:
            pytest.fail(
                f"slow_disk({marker.args[0]!r}): the marker takes options by name, e.g. bps='1M'",
                pytrace=False,
            )
        options |= marker.kwargs
    return options


def _add_seed(config: pytest.Config, node: Any, options: dict[str, Any], defaults: str) -> str:
    """Give the disk a seed if neither *options* nor *defaults* do; returns a line that names it."""
    seed = options.get("seed")
    if seed is None:
        seed = _seed_in(defaults)
    if seed is None:
        given = config.getoption("slow_disk_seed")
        seed = options["seed"] = zlib.crc32(node.nodeid.encode()) if given is None else given
    return f"seed: {seed} (--slow-disk-seed={seed} takes it for every test)\n"


def _seed_in(defaults: str) -> str | int | None:
    try:
        found = parse_options([defaults])
    except OptionError:
        return None  # the mount says what is wrong
    return found.beside_profile.get("seed", found.device.seed)
