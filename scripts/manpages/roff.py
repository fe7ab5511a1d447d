"""Text to man(7) macros: paragraphs, lists of terms, literal blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CODE = re.compile(r"`([^`]+)`")
_ROW = re.compile(r" *(\S.*?)  +(\S.*)")
_REFERENCE = re.compile(r"\b([a-z](?:[a-z0-9_.]|\\-)*)(\([1-9]\))")


def escape(text: str) -> str:
    """*text* for roff: nothing in it is a request or an escape, and - is a minus sign."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(c if ord(c) < 127 else f"\\[u{ord(c):04X}]" for c in text)
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def inline(text: str) -> str:
    """A paragraph's text, on one line; what stands in backquotes, and throttlefs(1), is bold."""
    text = escape(" ".join(text.split()))
    text = _REFERENCE.sub(r"\\fB\1\\fR\2", text)
    return _CODE.sub(r"\\fB\1\\fR", text)


class Page:
    """A man page under construction."""

    def __init__(self, title: str, section: int, date: str, version: str, summary: str) -> None:
        manual = {1: "User Commands", 5: "File Formats"}[section]
        head = f'.TH {title.upper()} {section} {date} "throttlefs {version}" "{manual}"'
        self._lines = ['.\\" Made by scripts/build-man: edit its sources, not this.', head]
        self.section("NAME")
        self._lines.append(f"{escape(title)} \\- {escape(summary)}")

    def section(self, name: str) -> None:
        """Begin a section."""
        self._lines.append(f".SH {_quoted(name)}")

    def subsection(self, name: str) -> None:
        """Begin a subsection."""
        self._lines.append(f".SS {_quoted(name)}")

    def synopsis(self, lines: Iterable[tuple[str, str]]) -> None:
        """Commands, each with its arguments."""
        for number, (command, arguments) in enumerate(lines):
            if number:
                self._lines.append(".br")
            self._lines += [f".B {escape(command)}", escape(arguments)]

    def text(self, text: str) -> None:
        """Paragraphs, lists of terms (rows of two columns) and literal blocks (indented)."""
        for block in re.split(r"\n\s*\n", text.strip("\n")):
            lines = [line for line in block.split("\n") if line.strip("\b ")]
            if not lines:
                continue
            if lines[0].startswith("  "):
                self._indented(lines)
            elif len(lines) > 1 and all(line.startswith("  ") for line in lines[1:]):
                self._paragraph(lines[0])  # a heading such as "Examples:"
                self._indented(lines[1:])
            else:
                self._paragraph(block)

    def _paragraph(self, text: str) -> None:
        self._lines += [*self._gap(), inline(text)]

    def _gap(self) -> list[str]:
        # A heading brings its own.
        return [] if self._lines[-1].startswith((".SH", ".SS")) else [".PP"]

    def _indented(self, lines: list[str]) -> None:
        rows = [_ROW.fullmatch(line) for line in lines]
        if all(rows):
            self.terms((row[1], row[2]) for row in rows if row)
        else:
            self.literal("\n".join(line[2:] for line in lines))

    def terms(self, rows: Iterable[tuple[str, str]]) -> None:
        """A list of terms and what each means."""
        for term, meaning in rows:
            self._lines += [".TP", f".B {escape(term)}", inline(meaning)]

    def literal(self, text: str) -> None:
        """Lines that stay as they are, as in a terminal or a file."""
        self._lines += [*self._gap(), ".in +4n", ".EX", escape(text), ".EE", ".in"]

    def finish(self) -> str:
        """The page."""
        return "\n".join(self._lines) + "\n"


def _quoted(name: str) -> str:
    name = escape(name)
    return f'"{name}"' if " " in name else name
