"""The rooms of the package, and which of them may know which (docs/architecture.md)."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "throttlefs"
ARCHITECTURE = (PACKAGE.parent / "docs" / "architecture.md").read_text()

SHARED = {"", "errors", "waiting", "stats"}
"""What every room may import: "" is the package itself, with its version and names."""

MAY_IMPORT = {
    "errors": set(),
    "waiting": set(),
    "stats": set(),
    "settings": {"", "errors"},
    "host": {"", "errors"},
    "throttle": SHARED | {"settings"},
    "device": SHARED | {"settings"},
    "cluster": SHARED | {"settings", "throttle"},
    "backing": SHARED | {"settings", "host"},
    "policy": SHARED | {"settings", "host", "throttle"},
    "fuse": SHARED | {"settings", "host", "throttle", "device", "backing", "policy"},
    "control": SHARED | {"settings", "host", "throttle", "device", "cluster", "policy", "fuse"},
    "daemon": SHARED
    | {"settings", "host", "throttle", "device", "cluster", "backing", "policy", "fuse", "control"},
    "measure": SHARED | {"settings", "host"},
    "cli": SHARED | {"settings", "host", "policy", "control", "daemon", "measure"},
    "testing": {"", "errors", "settings", "host", "control", "daemon", "cli"},
    "": set(),
    "__main__": {"cli"},
}

_TIED = {"throttle.node", "throttle.group"}
"""A node of the limiter's tree and its group know each other; no other modules may."""


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module: str) -> set[str]:
    """The modules of the package that *module* imports; late imports too."""
    file = FILES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
            bases = [name for name in names if name.split(".")[0] == "throttlefs"]
            assert not bases, f"{module}: write 'from {bases[0]} import ...'"
            continue
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
        elif node.module and node.module.split(".")[0] == "throttlefs":
            base = node.module.partition(".")[2]
        else:
            continue
        for name in node.names:
            whole = f"{base}.{name.name}".lstrip(".")
            found.add(whole if whole in FILES else base)
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_rooms_that_its_own_may_know(module):
    own = room(module)
    others = {name for name in imports_of(module) if room(name) != own}
    wrong = {name for name in others if room(name) not in MAY_IMPORT[own]}
    assert not wrong, f"{module} in room {own!r} must not import {sorted(wrong)}"


def test_every_room_is_in_the_rules():
    assert {room(module) for module in FILES} == MAY_IMPORT.keys()


def test_the_rules_have_no_circle():
    """Rooms can be put in an order in which each knows only those before it."""
    placed: set[str] = set()
    while placed != MAY_IMPORT.keys():
        free = {name for name, known in MAY_IMPORT.items() if known <= placed} - placed
        assert free, f"a circle among {sorted(MAY_IMPORT.keys() - placed)}"
        placed |= free


def test_no_modules_import_each_other():
    graph = {module: imports_of(module) - {module} for module in FILES}
    # A package's face imports its modules, which is no circle: they do not import it.
    reach = {module: set(known) for module, known in graph.items()}
    changed = True
    while changed:
        changed = False
        for known in reach.values():
            more = set().union(*(reach[name] for name in known)) - known
            if more:
                known |= more
                changed = True
    circles = {module for module, known in reach.items() if module in known}
    assert circles <= _TIED, f"import each other: {sorted(circles - _TIED)}"


def test_rooms_are_imported_whole_from_outside_and_by_dots_inside():
    for module, file in FILES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                parts = node.module.split(".")
                if parts[0] == "throttlefs" and len(parts) > 1 and "." in module:
                    assert parts[1] != room(module), f"{module}: import {node.module} by dots"


def test_the_table_in_the_docs_has_these_rules():
    rows = re.findall(r"^\| `(\w+)` \| .* \| ?(.*?) ?\|$", ARCHITECTURE, re.MULTILINE)
    shown: dict[str, set[str]] = {}
    for name, known in rows:
        shown[name] = set(shown) if known == "all above" else set(re.findall(r"\w+", known))
    shared = {*SHARED, "__main__"}
    rules = {name: known - shared for name, known in MAY_IMPORT.items() if name not in shared}
    assert shown == rules


@pytest.mark.parametrize(
    ("page", "least"), [("architecture", 30), ("changing", 30), ("limiter", 5)]
)
def test_every_module_that_the_docs_name_exists(page, least):
    text = (PACKAGE.parent / "docs" / f"{page}.md").read_text()
    found = re.findall(r"`([\w/]+\.py)`", text)
    names = {name for name in found if not name.startswith(("tests/", "scripts/"))}
    assert len(names) > least, "the names were not found"
    files = [*FILES.values(), *(PACKAGE.parent / "tests" / "unit").rglob("*.py")]
    paths = {str(file.relative_to(PACKAGE)) for file in FILES.values()}
    assert names <= paths | {file.name for file in files}
