"""The command line: ``glscl data make`` and its companions, a file a group.

Each command is a thin wrapper over the package; heavy imports wait until a command
runs. An error the user can mend is one sentence on standard error and exit status 1.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from glscl import __version__
from glscl.cli import data, demo, search, training
from glscl.cli.common import Debug

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Text-video retrieval with CLIP.",
)
app.add_typer(data.app, name="data")
for name, command in (
    ("demo", demo.demo),
    ("train", training.train),
    ("import", training.import_),
    ("eval", training.evaluate),
    ("index", search.index),
    ("search", search.search),
    ("serve", search.serve),
):
    app.command(name)(command)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option(help="Show where in the program an error arose.")
    ] = False,
) -> None:
    """Text-video retrieval with CLIP."""
    Debug.on = debug
    # A file name need not be text; what is not is shown as a question mark.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
