"""No test draws from a source without a seed: what fails once must fail again."""

import ast
import random
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parents[1]
UNSEEDED = {"os.urandom", "os.getrandom", "uuid.uuid1", "uuid.uuid4", "random.SystemRandom"}


def called(node: ast.Call) -> str:
    """The dotted name of what is called; empty if it is no name."""
    parts, at = [], node.func
    while isinstance(at, ast.Attribute):
        parts.append(at.attr)
        at = at.value
    return ".".join([at.id, *reversed(parts)]) if isinstance(at, ast.Name) else ""


def draws_unseeded(text: str) -> list[str]:
    """The calls and strings of a Python file that draw without a seed, with their lines."""
    found = []
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = called(node)
            module, _, function = name.partition(".")
            seeded = module != "random" or function in {"Random", ""}
            if (
                name in UNSEEDED
                or module == "secrets"
                or not seeded
                or (name in {"random.Random", "Random"} and not node.args)
            ):
                found.append(f"{node.lineno}: {name}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for source in ("/dev/u" + "random", "random" + "blob("):
                if source in node.value:
                    found.append(f"{node.lineno}: {source}")
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("random.choice(a)", ["1: random.choice"]),
        ("a\nrandom.Random()", ["2: random.Random"]),
        ("random.Random(1).choice(a)", []),
        ("os.urandom(8)", ["1: os.urandom"]),
        ("secrets.token_bytes(8)", ["1: secrets.token_bytes"]),
        ("run('dd', 'if=/dev/u" + "random')", ["1: /dev/u" + "random"]),
    ],
)
def test_what_is_found(text: str, found: list[str]) -> None:
    assert draws_unseeded(text) == found


def test_everything_random_has_a_seed() -> None:
    files = {file: draws_unseeded(file.read_text()) for file in TESTS.rglob("*.py")}
    assert Path(__file__) in files
    assert {str(file): found for file, found in files.items() if found} == {}


def test_hypothesis_and_the_fixture_are_repeatable(
    rng: random.Random, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--hypothesis-seed")
    assert settings.default.derandomize == (seed is None)
    assert settings.default.database is None
    assert rng.random() == random.Random(f"{seed} {request.node.nodeid}").random()
