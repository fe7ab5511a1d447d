"""The public names: one list, known to type checkers, and cheap until used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import throttlefs

PACKAGE = Path(throttlefs.__file__).parent


def test_the_stub_says_the_same() -> None:
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    said = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                assert name.name == name.asname, "only 'import X as X' makes X public"
                said[name.name] = node.module
    assert said == throttlefs._PUBLIC
    assert sorted(throttlefs.__all__) == sorted(said)


@pytest.mark.parametrize("name", throttlefs.__all__)
def test_every_name_is_there(name: str) -> None:
    value = getattr(throttlefs, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(throttlefs)


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="module 'throttlefs' has no attribute 'mount'"):
        throttlefs.mount  # noqa: B018


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").exists()


def loaded_by(code: str) -> set[str]:
    """The modules that *code* loads beyond those that Python starts with."""
    program = f"import sys; before = set(sys.modules); {code}; print(*set(sys.modules) - before)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(ran.stdout.split())


def test_to_import_it_loads_nothing_else() -> None:
    assert loaded_by("import throttlefs") == {"throttlefs"}


def test_to_use_it_loads_neither_trio_nor_click_nor_pyfuse3() -> None:
    loaded = loaded_by("import throttlefs; throttlefs.mounted, throttlefs.Disk")
    assert "throttlefs.testing.disk" in loaded
    assert not {"trio", "click", "pyfuse3", "rich"} & loaded
