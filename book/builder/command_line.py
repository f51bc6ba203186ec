"""The commands of ``glscl`` with their arguments and options, as ``--help`` says them."""

import html
import re
from typing import Any

from book.builder.project import BuildError, Project
from book.builder.records import table

_CODE = re.compile(r"`([^`]+)`")


def make(project: Project, words: str) -> str:
    """Usage, purpose and options of the command with this name, such as ``data make``.

    ``BuildError`` for a command that there is not.
    """
    command = commands().get(words)
    if command is None:
        raise BuildError(f"No command 'glscl {words}'; there are {list(commands())}.")
    context = command.make_context(words, [], resilient_parsing=True)
    usage = " ".join(["glscl", words, *command.collect_usage_pieces(context)])
    records = [one.get_help_record(context) for one in command.get_params(context)]
    rows = [
        (f"<code>{html.escape(name)}</code>", _text(said))
        for name, said in filter(None, records)
    ]
    shown = table(f"glscl {words}", ("argument or option", "meaning"), rows)
    purpose = f"<p>{_text(command.help or '')}</p>"
    return f"<p><code>{html.escape(usage)}</code></p>\n{purpose}\n{shown}"


def commands() -> dict[str, Any]:
    """Every command by its name, those of groups as ``group command``."""
    import typer

    from glscl.cli import app

    def below(group: Any, before: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, command in group.commands.items():
            inside = hasattr(command, "commands")
            words = f"{before}{name}"
            found |= below(command, f"{words} ") if inside else {words: command}
        return found

    return below(typer.main.get_command(app), "")


def _text(said: str) -> str:
    """Help as HTML: words in backquotes are code."""
    return _CODE.sub(r"<code>\1</code>", html.escape(" ".join(said.split())))
