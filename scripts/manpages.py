"""What ``./scripts/build-man`` makes in the man pages: commands and limits, from ``--help``.

The rest of docs/man is written by hand, in man(7)'s macros.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from throttlefs import __version__
from throttlefs.cli.main import cli
from throttlefs.settings.device import DEVICE_HELP
from throttlefs.settings.limits import LIMIT_HELP, LIMIT_NAMES

_MADE = re.compile(
    r'^(\.\\" Made by scripts/build-man: (\w+)\n).*?^(\.\\" End of what is made\n)',
    re.MULTILINE | re.DOTALL,
)
_VERSION = re.compile(r'(?m)^(\.TH .* "throttlefs ).*?(")')
_ROW = re.compile(r" *(\S.*?)  +(\S.*)")
_CODE = re.compile(r"`([^`]+)`")
_REFERENCE = re.compile(r"\b([a-z](?:[a-z0-9_.]|\\-)*)(\([1-9]\))")


def renewed(page: str) -> str:
    """A page with the version, and with all that stands between two marks, made anew."""
    page = _VERSION.sub(rf"\g<1>{__version__}\g<2>", page)
    return _MADE.sub(lambda found: found[1] + "\n".join(PARTS[found[2]]()) + "\n" + found[3], page)


def parts_of(page: str) -> list[str]:
    """The names of the parts of a page that are made."""
    return [found[2] for found in _MADE.finditer(page)]


def _synopsis() -> Iterator[str]:
    for number, (name, usage, _) in enumerate(_commands()):
        yield from [".br"] * bool(number)
        yield from (f".B throttlefs {_escape(name)}", _escape(usage))


def _descriptions() -> Iterator[str]:
    for name, usage, context in _commands():
        yield f'.SS "throttlefs {_escape(f"{name} {usage}")}"'
        context.command.get_help(context)  # mount makes its help then
        # The heading brings the first paragraph's gap.
        yield from list(_text(inspect.cleandoc(context.command.help or "")))[1:]
        options = (
            one for one in context.command.get_params(context) if isinstance(one, click.Option)
        )
        records = (option.get_help_record(context) for option in options)
        yield from _terms(record for record in records if record)


def _limits() -> Iterator[str]:
    return _terms((name, LIMIT_HELP[name]) for name in LIMIT_NAMES)


def _device() -> Iterator[str]:
    return _terms(DEVICE_HELP.items())


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "synopsis": _synopsis,
    "commands": _descriptions,
    "limits": _limits,
    "device": _device,
}


def _commands() -> Iterator[tuple[str, str, click.Context]]:
    """Each command's name, what follows it, and its context."""
    top = click.Context(cli, info_name="throttlefs", **cli.context_settings)
    yield from _commands_of(cli, top, "")


def _commands_of(
    group: click.Group, above: click.Context, prefix: str
) -> Iterator[tuple[str, str, click.Context]]:
    for name, command in group.commands.items():
        context = click.Context(command, above, name)
        if isinstance(command, click.Group):
            yield from _commands_of(command, context, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", " ".join(command.collect_usage_pieces(context)), context


def _text(text: str) -> Iterator[str]:
    """Paragraphs, lists of terms (rows of two columns) and literal blocks (indented)."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = [line for line in block.split("\n") if line.strip("\b ")]
        # A heading such as "Examples:" may stand before what is indented.
        head = 0 if not lines or lines[0].startswith("  ") else 1
        indented = lines[head:]
        if not all(line.startswith("  ") for line in indented):
            head, indented = len(lines), []
        if head:
            yield from (".PP", _inline(" ".join(lines[:head])))
        rows = [_ROW.fullmatch(line) for line in indented]
        if all(rows):
            yield from _terms((row[1], row[2]) for row in rows if row)
        else:
            literal = _escape("\n".join(line[2:] for line in indented))
            yield from (".PP", ".in +4n", ".EX", literal, ".EE", ".in")


def _terms(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of terms and what each means."""
    for term, meaning in rows:
        yield from (".TP", f".B {_escape(term)}", _inline(meaning))


def _inline(text: str) -> str:
    """A paragraph's text, on one line; what stands in backquotes, and throttlefs(1), is bold."""
    text = _REFERENCE.sub(r"\\fB\1\\fR\2", _escape(" ".join(text.split())))
    return _CODE.sub(r"\\fB\1\\fR", text)


def _escape(text: str) -> str:
    """Text for roff: nothing in it is a request or an escape, and - is a minus sign."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(c if ord(c) < 127 else f"\\[u{ord(c):04X}]" for c in text)
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


if __name__ == "__main__":
    for path in Path(sys.argv[1]).glob("*.[15]"):
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
