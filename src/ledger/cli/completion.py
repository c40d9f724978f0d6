"""`ledger completion`: what makes a shell complete the names of commands, options and words."""

import os
import sys

import click

SHELLS = ("bash", "zsh", "fish")
# The shell's script sets it, by the name that click gives it.
VARIABLE = "_LEDGER_COMPLETE"

HELP = """
Print what makes SHELL complete the commands, options and words of ledger.

\b
bash   its place is ~/.local/share/bash-completion/completions/ledger
zsh    its place is _ledger in a folder of your fpath, such as ~/.zfunc
fish   its place is ~/.config/fish/completions/ledger.fish
"""


@click.command(help=HELP)
@click.argument(
    "shell", metavar="SHELL", type=click.Choice(SHELLS), help=f"One of {', '.join(SHELLS)}."
)
def completion(shell: str) -> None:
    from click.shell_completion import get_completion_class

    from ledger.cli.app import root

    script = get_completion_class(shell)
    if script is None:
        raise RuntimeError(f"the library does not complete in {shell}")
    sys.stdout.write(script(root, {}, "ledger", VARIABLE).source())


def answer_shell(command: click.Command) -> int | None:
    """The exit status after answering a shell that asks for completions; None if none asks."""
    instruction = os.environ.get(VARIABLE)
    if not instruction:
        return None
    from click.shell_completion import shell_complete

    return shell_complete(command, {}, "ledger", VARIABLE, instruction)
