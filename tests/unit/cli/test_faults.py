"""``throttlefs fault log`` of a file that is none."""

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Mistake


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\n", b"5\n", b"[" * 100_000], ids=["bytes", "number", "deep"]
)
def test_a_line_that_is_not_of_a_fault_log(
    mistake: Mistake, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "log"
    file.write_bytes(content)
    assert mistake("fault", "log", file, status=1) == f"{file}: line 1 is not of a fault log"
