"""A plain matcher of patterns, which `GlobSet` is compared with.

It keeps the set of positions that a pattern may be at, character by character.
"""

from throttlefs.settings.globs import Glob, Wildcard

_BETWEEN = "before a directory's name"
_WITHIN = "within a directory's name"


def matches(glob: Glob, path: str) -> bool:
    """Whether all of *path* matches *glob*."""
    steps: list[object] = []
    for step in glob.steps:
        steps += [_BETWEEN, _WITHIN] if step is Wildcard.DIRECTORIES else [step]
    positions = _settled(steps, {0})
    for character in path:
        following: set[int] = set()
        for position in positions:
            if position < len(steps):
                _advance(steps[position], position, character, following)
        positions = _settled(steps, following)
    return len(steps) in positions


def _advance(step: object, position: int, character: str, following: set[int]) -> None:
    """Add to *following* where *character* leads from *position*."""
    if step is Wildcard.STAR:
        if character != "/":
            following.add(position)
    elif step is Wildcard.GLOBSTAR:
        following.add(position)
    elif step is _BETWEEN:
        following.add(position if character == "/" else position + 1)
    elif step is _WITHIN:
        following.add(position - 1 if character == "/" else position)
    elif step is Wildcard.ANY:
        if character != "/":
            following.add(position + 1)
    elif isinstance(step, str):
        if step == character:
            following.add(position + 1)
    elif character in step:  # type: ignore[operator]
        following.add(position + 1)


def _settled(steps: list[object], positions: set[int]) -> set[int]:
    """*positions* and those reached from them without a character."""
    pending = list(positions)
    while pending:
        position = pending.pop()
        step = steps[position] if position < len(steps) else None
        skipped = {_BETWEEN: 2, Wildcard.STAR: 1, Wildcard.GLOBSTAR: 1}.get(step, 0)  # type: ignore[arg-type]
        if skipped and position + skipped not in positions:
            positions.add(position + skipped)
            pending.append(position + skipped)
    return positions
