"""The command line: ``glscl data make`` and its companions, a file a group.

Each command is a thin wrapper over the package; heavy imports wait until a command
runs. An error the user can mend is one sentence on standard error and exit status 1.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer
from typer import Option

from glscl import __version__
from glscl.cli import data, demo, search, training
from glscl.cli.common import OneSentence

app = typer.Typer(
    cls=OneSentence,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.command("demo")(demo.demo)
app.command("train")(training.train)
app.command("import")(training.import_)
app.command("eval")(training.evaluate)
app.command("index")(search.index)
app.command("search")(search.search)
app.command("serve")(search.serve)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, Option(help="Show where in the program an error arose.")
    ] = False,
) -> None:
    """Text-video retrieval with CLIP."""
    # A file name need not be text; what is not is shown as a question mark.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
