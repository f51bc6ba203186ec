"""The command line: ``glscl data make`` and its companions.

Each command is a thin wrapper over the package; heavy imports wait until a command
runs. An error the user can mend is one sentence on standard error and exit status 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from glscl import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Text-video retrieval with CLIP.",
)
data = typer.Typer(no_args_is_help=True, help="Make and inspect data.")
app.add_typer(data, name="data")

Root = Annotated[Path, typer.Option(help="Folder of the built-in benchmark.")]


def sentence_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the errors a user can mend into one sentence and exit status 1."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (ValueError, RuntimeError, OSError) as error:
            typer.echo(f"glscl: {_sentence(error)}", err=True)
            raise typer.Exit(1) from error

    return wrapped


def _sentence(error: Exception) -> str:
    """What an error says, without the numbers of the operating system."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}."
    return str(error)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Text-video retrieval with CLIP."""


@data.command("make")
@sentence_errors
def data_make(
    root: Root = Path("data/mini"),
    train: Annotated[int, typer.Option(help="Training clips.")] = 3000,
    val: Annotated[int, typer.Option(help="Validation clips.")] = 300,
    test: Annotated[int, typer.Option(help="Test clips.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of every clip.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Generate the built-in benchmark: real MP4 files and their captions."""
    from glscl.data.synthetic import make_benchmark

    benchmark = make_benchmark(root, train, val, test, seed=seed, workers=workers)
    for name in ("train", "val", "test"):
        split = benchmark.split(name)
        typer.echo(f"{name}: {len(split.videos)} clips, {len(split.captions)} captions")
    typer.echo(f"written to {root}")


@data.command("show")
@sentence_errors
def data_show(
    root: Root = Path("data/mini"),
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    count: Annotated[int, typer.Option(help="How many clips.")] = 3,
) -> None:
    """List clips of the built-in benchmark with their captions."""
    from glscl.data.synthetic import load_benchmark

    chosen = load_benchmark(root).split(split)
    for index, video in enumerate(chosen.videos[:count]):
        typer.echo(f"{video.id}  {video.path}")
        for caption in chosen.captions:
            if caption.video == index:
                typer.echo(f"    {caption.kind:7s} {caption.text}")


@app.command("flops")
@sentence_errors
def flops(
    dim: Annotated[int, typer.Option(help="Channels D.")] = 512,
    frames: Annotated[int, typer.Option(help="Frames F of a video.")] = 12,
    tokens: Annotated[int, typer.Option(help="Tokens L of a caption.")] = 32,
    queries: Annotated[int, typer.Option(help="Concepts Q.")] = 8,
    patches: Annotated[int, typer.Option(help="Patches P of a frame.")] = 49,
    captions: Annotated[int, typer.Option(help="Captions to score.")] = 1000,
    videos: Annotated[int, typer.Option(help="Videos of the gallery.")] = 1000,
) -> None:
    """Print what every similarity head costs, in multiply-adds (MACs)."""
    from glscl.flops import Sizes, cost_table, cost_text

    sizes = Sizes(D=dim, F=frames, L=tokens, Q=queries, P=patches)
    typer.echo(cost_text(cost_table(sizes, captions, videos)))


if __name__ == "__main__":
    app()
