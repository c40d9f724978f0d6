"""`ledger completion`: the scripts by which shells complete commands, options and words."""

import os
import sys

import click

SHELLS = ("bash", "zsh", "fish")
# The script sets this variable when it asks for completions. click derives the name from ours.
VARIABLE = "_LEDGER_COMPLETE"

HELP = """
Print the script by which SHELL completes the commands, options and words of
ledger. Write it to:

\b
bash   ~/.local/share/bash-completion/completions/ledger
zsh    _ledger in a folder of your fpath, such as ~/.zfunc
fish   ~/.config/fish/completions/ledger.fish
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
        raise RuntimeError(f"click has no completion for {shell}")
    sys.stdout.write(script(root, {}, "ledger", VARIABLE).source())


def complete_for_shell(command: click.Command) -> int | None:
    """Prints completions if a shell asks for them, and returns the exit status; else None."""
    instruction = os.environ.get(VARIABLE)
    if not instruction:
        return None
    from click.shell_completion import shell_complete

    return shell_complete(command, {}, "ledger", VARIABLE, instruction)
