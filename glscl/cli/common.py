"""What all commands share: options, and errors as one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup

Dataset = Annotated[
    str | None,
    Option(
        help="msrvtt, msvd, didemo, lsmdc, activitynet, vatex; mini; or your own: a "
        "table (.csv, .json, .jsonl) with the columns path, caption and, if it has one, "
        "split."
    ),
]
Variant = Annotated[str | None, Option(help="MSR-VTT: 9k, 7k or full.")]
VideoFolder = Annotated[
    Path | None, Option("--videos", help="Where videos lie, if not ROOT/videos.")
]


Missing = Annotated[
    str, Option(help="Videos without a file: refuse, or drop them and say so.")
]
Report = Annotated[
    Path | None, Option(help="Report of `data verify`: what it calls unreadable.")
]
FrameCache = Annotated[
    float, Option(help="Gigabytes of decoded frames to keep; 0: none.", min=0)
]
#: As many processes as any machine has use for.
Processes = Annotated[int, Option(help="Processes.", min=1, max=256)]
Loaders = Annotated[int, Option(help="Processes that load data.", min=0, max=256)]
Cache = Annotated[
    Path | None, Option(help="Kept frames and features, if not in DATA/cache.")
]


class OneSentence(TyperGroup):
    """Commands whose errors, those a user can mend, are one sentence and exit status 1.

    With ``--debug``, an option of the group, they are raised as they are.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, BrokenPipeError):  # a status; nobody reads, as of `| head`
            raise
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"glscl: {_sentence(error)}", err=True)
            raise typer.Exit(1) from error


def _sentence(error: Exception) -> str:
    """What an error says, without the numbers of the operating system."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename  # of two, that which was to be written
        where = f"{name}: " if name else ""
        return f"{where}{error.strerror}."
    return str(error) or "Out of memory."  # the one error that may say nothing


def echo_rank0(*sentences: str) -> None:
    """Print lines, once where several processes run the same command."""
    from glscl.util import parallel

    if parallel.rank() == 0:
        for sentence in sentences:
            typer.echo(sentence)
