"""Messages for words that belong elsewhere on the command line: limits outside of ``-o``."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from throttlefs.errors import UsageError
from throttlefs.settings.options import as_option


class MountOptionsCommand(click.Command):
    """A command that takes limits and mount options in ``-o`` only, and says so."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*; raises `UsageError` for an option that belongs into ``-o``."""
        given = list(args)
        ctx.allow_extra_args = True  # to look at them here, not in click
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            hint = _for_option(exc.option_name, given)
            if hint is not None:
                raise UsageError(
                    f"no such option: {exc.option_name};"
                    f" limits and mount options go into -o: {hint}"
                ) from None
            raise
        if not ctx.resilient_parsing:
            _refuse_stray_words(ctx)
        return rest


class LimitsCommand(click.Command):
    """A command that takes limits as words without dashes, and says so if they have dashes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*; raises `UsageError` for a limit that is given as an option."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            hint = _for_option(exc.option_name, given)
            if hint is not None:
                raise UsageError(
                    f"no such option: {exc.option_name}; limits are written without dashes:"
                    f" {hint.removeprefix('-o ')}"
                ) from None
            raise


def _for_option(option: str, args: Sequence[str]) -> str | None:
    """What to write in ``-o`` instead of *option*, one of *args*; None if nothing is like it."""
    if not option.startswith("--"):
        return None
    name = as_option(option.removeprefix("--"))
    if name is None:
        return None
    return f"-o {name}{_value_after(option, args)}"


def _value_after(option: str, args: Sequence[str]) -> str:
    for number, arg in enumerate(args):
        if arg.startswith(option + "="):
            return arg.removeprefix(option)
        if arg == option:
            following = args[number + 1 : number + 2]
            return f"={following[0]}" if following and following[0][:1].isdigit() else ""
    return ""


def _refuse_stray_words(ctx: click.Context) -> None:
    """Refuse options among the paths, and words after them. Raises `UsageError` or click's own."""
    paths = [ctx.params[name] for name in ("source", "target") if name in ctx.params]
    words = [word for word in (*paths, *ctx.args) if word is not None]
    stray = [word for word in words if _is_option(word, word in ctx.args)]
    if stray:
        raise UsageError(
            f"{stray[0]} is no path: limits and mount options go into -o: -o {','.join(stray)}"
        )
    if ctx.args:
        ctx.fail(f"SRC and DST are given, and {ctx.args[0]} is one word too many")


def _is_option(word: str, extra: bool) -> bool:
    """Whether *word* is an option. Only an *extra* word may be an option without a value."""
    name, equals, _ = word.partition("=")
    return (extra or bool(equals)) and as_option(name) is not None and not os.path.lexists(word)
