"""Groups of commands. Listing them loads no module of a command; calling one loads one module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "show_default": False}


class Needs(Enum):
    """What a command of the first level needs to work."""

    SERVER = auto()
    DATABASE = auto()
    NOTHING = auto()


@dataclass(frozen=True, slots=True)
class Leaf:
    """A command: its function as `module:name` below `ledger.cli`, and a summary in a few words.

    A hidden command is an old name, or one that only programs call.
    """

    function: str
    summary: str
    hidden: bool = False
    needs: Needs = Needs.SERVER


@dataclass(frozen=True, slots=True)
class Branch:
    """A group of commands. Without the name of one, the `default` runs, if there is one."""

    entries: Mapping[str, Leaf]
    summary: str
    hidden: bool = False
    needs: Needs = Needs.SERVER
    default: str = ""


class LazyGroup(click.Group):
    """A group that loads a command when it is called. Help shows `entries` in their order."""

    def __init__(
        self,
        *arguments: Any,
        entries: Mapping[str, Leaf | Branch],
        default: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(*arguments, **attributes)
        self.no_args_is_help = not default
        self._entries = entries
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_option = bool(args) and args[0].startswith("-")
        if self._default and (
            not args or (is_option and args[0] not in CONTEXT["help_option_names"])
        ):
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, entry in self._entries.items() if not entry.hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        if isinstance(entry, Branch):
            return LazyGroup(
                cmd_name,
                entries=entry.entries,
                default=entry.default,
                help=entry.summary,
                context_settings=CONTEXT,
            )
        module, _, function = entry.function.partition(":")
        command: click.Command = getattr(import_module(f"ledger.cli.{module}"), function)
        command.context_settings = CONTEXT
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self._entries[name].summary) for name in self.list_commands(ctx)]
            )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        items = [
            CompletionItem(name, help=self._entries[name].summary)
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]


def every_command(
    entries: Mapping[str, Leaf | Branch], names: Sequence[str] = ()
) -> "list[tuple[tuple[str, ...], Leaf]]":
    """All commands, hidden ones included, each with its path: ("payouts", "run")."""
    found: list[tuple[tuple[str, ...], Leaf]] = []
    for name, entry in entries.items():
        path = (*names, name)
        found += (
            every_command(entry.entries, path) if isinstance(entry, Branch) else [(path, entry)]
        )
    return found
