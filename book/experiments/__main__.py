"""``python -m book.experiments``: the long runs whose results the book shows, and costs."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from book.experiments.ablations import (
    LONGER,
    RELATED,
    SWEEPS,
    VARIANTS,
    Setup,
    run_all,
    stored_runs,
    variant_videos,
)
from book.experiments.arithmetic import ARITHMETIC, MINI_RATES
from book.experiments.formulas import Sizes, cost_table, cost_text
from book.experiments.ground import EPOCHS, GROUND, TRIAL_EPOCHS, Ground
from book.experiments.ground import run_all as run_all_heads
from book.experiments.ground_summary import summarise as summarise_heads
from book.experiments.mini_model import FOLDER, best_variant, package, train
from book.experiments.summary import summarise
from glscl.cli.common import OneSentence
from glscl.util.files import write_json
from glscl.util.tables import markdown

ABLATION_EPOCHS = 6  # few, so that the runs can be repeated often
app = typer.Typer(
    cls=OneSentence,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The long runs whose results the book shows.",
)
Root = Annotated[Path, typer.Option("--data", help="Folder of the data.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]
Seeds = Annotated[int, typer.Option(help="Seeds, from 0.")]
Epochs = Annotated[int, typer.Option(help="Epochs of every run.")]
Clips = Annotated[int, typer.Option(help="Training clips.")]
TestClips = Annotated[int, typer.Option(help="Test clips.")]
Processes = Annotated[int, typer.Option(help="Runs at the same time.")]


@app.callback()
def main() -> None:
    """The long runs whose results the book shows."""


@app.command("ablate")
def ablate(
    root: Root = Path("data/mini"),
    out: Out = Path("book/results"),
    seeds: Seeds = 5,
    epochs: Epochs = ABLATION_EPOCHS,
    train_clips: Clips = 1500,
    test_clips: TestClips = 1000,
    processes: Processes = 1,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="Only these.")
    ] = None,
    related: Annotated[
        bool, typer.Option(help="Also EERCF and GLCCL, and each without its parts.")
    ] = False,
) -> None:
    """Train variants × seeds; runs that are stored are kept. Writes ablation.json.

    The summary covers every stored run of the same setup, so variants may have
    different numbers of seeds.
    """
    setup = Setup(str(root), train_clips, test_clips=test_clips, epochs=epochs)
    names = variants or [*VARIANTS, *(RELATED if related else ())]
    _train(names, seeds, out / "ablation", setup, processes)


@app.command("sweeps")
def sweeps(
    root: Root = Path("data/mini"),
    out: Out = Path("book/results"),
    seeds: Seeds = 5,
    test_clips: TestClips = 1000,
    processes: Processes = 1,
) -> None:
    """Train the full model with one setting changed at a time. Writes sweeps.json."""
    setup = Setup(str(root), test_clips=test_clips, epochs=ABLATION_EPOCHS)
    names = ["GIM + LIM", "all", *SWEEPS]
    _train(names, seeds, out / "sweeps", setup, processes)


@app.command("longer")
def longer(
    root: Root = Path("data/mini"),
    out: Out = Path("book/results"),
    seeds: Seeds = 5,
    test_clips: TestClips = 1000,
    processes: Processes = 1,
) -> None:
    """Train the full model with more epochs and hard negatives. Writes longer.json."""
    setup = Setup(str(root), test_clips=test_clips, epochs=ABLATION_EPOCHS)
    _train(["all", *LONGER], seeds, out / "longer", setup, processes)


@app.command("arithmetic")
def arithmetic(
    root: Root = Path("data/mini"),
    out: Out = Path("book/results"),
    seeds: Seeds = 5,
    epochs: Epochs = 5,
    train_clips: Clips = 1000,
    test_clips: TestClips = 1000,
    processes: Processes = 1,
) -> None:
    """Train the mini model with the published learning rates, in three kinds of arithmetic.

    And with its own rates, to compare. Writes arithmetic.json.
    """
    setup = Setup(str(root), train_clips, test_clips=test_clips, epochs=epochs)
    names = [*ARITHMETIC, *MINI_RATES]
    _train(names, seeds, out / "arithmetic", setup, processes)


@app.command("heads")
def heads(
    root: Root = Path("data/heads"),
    out: Out = Path("book/results"),
    seeds: Seeds = 5,
    epochs: Epochs = EPOCHS,
    trial_epochs: Annotated[
        int, typer.Option(help="Epochs of every trial of the search.")
    ] = TRIAL_EPOCHS,
    train_clips: Clips = 800,
    val_clips: Annotated[int, typer.Option(help="Validation clips.")] = 100,
    test_clips: TestClips = 1000,
    processes: Processes = 1,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Only these.")
    ] = None,
) -> None:
    """Every similarity head on one ground, equally searched, × seeds.

    Stored trials and runs are kept. Writes heads.json.
    """
    setup = Setup(str(root), train_clips, val_clips, test_clips, epochs)
    ground = Ground(setup, trial_epochs)
    folder = out / "heads"
    run_all_heads(methods or GROUND, range(seeds), folder, ground, processes)
    summary = summarise_heads(folder, ground, _command())
    write_json(folder.with_suffix(".json"), summary, indent=None)
    for name, row in summary["methods"].items():
        R1 = row["t2v"]["R1"]
        typer.echo(f"{name:14s} R@1 {R1['mean']:5.1f} ± {R1['std']:.1f} %")


@app.command("mini_model")
def mini_model(
    root: Root = Path("data/mini"),
    run: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path(
        "runs/mini_model"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the model.")] = FOLDER,
) -> None:
    """Train the mini GLSCL of the package, and store it with its test table.

    A run that was stopped goes on.
    """
    torch.set_num_threads(1)  # sums are then taken in one order
    variant, setup = best_variant()
    setup = replace(setup, data=str(root))
    model, found = train(variant, setup, run)
    about = {"command": _command(), "variant": variant}
    stored = package(model, found, variant_videos(variant, setup), about, out)
    typer.echo(markdown(stored.record["test"]))


@app.command("flops")
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
    sizes = Sizes(D=dim, F=frames, L=tokens, Q=queries, P=patches)
    typer.echo(cost_text(cost_table(sizes, captions, videos)))


def _train(
    names: list[str], seeds: int, folder: Path, setup: Setup, processes: int
) -> None:
    """Train variants × seeds, write the summary of ``folder`` and print its means."""
    run_all(names, range(seeds), folder, setup, processes)
    summary = summarise(stored_runs(folder, setup), _command())
    write_json(folder.with_suffix(".json"), summary, indent=None)
    for name, row in summary["variants"].items():
        R1 = row["t2v"]["R1"]
        typer.echo(
            f"{name:18s} text to video R@1 {R1['mean']:5.1f} ± {R1['std']:.1f} % "
            f"({len(row['seeds'])} seeds)"
        )
    for pair in summary["differences"]:
        low, high = pair["interval"]
        typer.echo(
            f"{pair['variant']} − {pair['baseline']}: {pair['mean']:+.1f} "
            f"[{low:+.1f}, {high:+.1f}]"
        )


def _command() -> str:
    return shlex.join(["python", "-m", "book.experiments", *sys.argv[1:]])


if __name__ == "__main__":
    app()
