"""``glscl data``: make the built-in benchmark, check the videos of a real one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from glscl.cli import common

app = typer.Typer(no_args_is_help=True, help="Make and inspect data.")
Root = Annotated[Path, Option(help="Folder of the built-in benchmark.")]


@app.command("make")
def data_make(
    root: Root = Path("data/mini"),
    train: Annotated[int, Option(help="Training clips.", max=1_000_000)] = 3000,
    val: Annotated[int, Option(help="Validation clips.", max=1_000_000)] = 300,
    test: Annotated[int, Option(help="Test clips.", max=1_000_000)] = 300,
    seed: Annotated[int, Option(help="Seed of every clip.")] = 0,
    workers: common.Processes = 2,
) -> None:
    """Generate the built-in benchmark: real MP4 files and their captions."""
    from glscl.mini.synthetic import make_benchmark

    benchmark = make_benchmark(root, train, val, test, seed=seed, workers=workers)
    for name in ("train", "val", "test"):
        split = benchmark.split(name)
        typer.echo(f"{name}: {len(split.videos)} clips, {len(split.captions)} captions")
    typer.echo(f"written to {root}")


@app.command("show")
def data_show(
    root: Root = Path("data/mini"),
    split: Annotated[str, Option(help="train, val or test.")] = "test",
    count: Annotated[int, Option(help="How many clips.", min=1)] = 3,
) -> None:
    """List clips of the built-in benchmark with their captions."""
    from glscl.mini.synthetic import load_benchmark

    chosen = load_benchmark(root).split(split)
    for index, video in enumerate(chosen.videos[:count]):
        typer.echo(f"{video.id}  {video.path}")
        for caption in chosen.captions:
            if caption.video == index:
                typer.echo(f"    {caption.kind:7s} {caption.text}")


def _every_video(
    root: Path,
    dataset: str | None,
    variant: str | None,
    videos: Path | None,
    leave_out: Path | None = None,
) -> list[Any]:
    """The videos of a data set, after saying what it lacks, or all below a folder.

    ``leave_out``: a folder whose videos are not taken.
    """
    from glscl.data.benchmarks import Dataset
    from glscl.data.split import VideoItem
    from glscl.data.videofiles import by_relative_name, list_videos
    from glscl.runs import DataSource
    from glscl.util.tables import markdown

    if dataset is None:
        folder = videos or root
        unreadable: dict[Path, str] = {}
        paths = list_videos(folder, unreadable)
        for name, reason in unreadable.items():
            typer.echo(f"skipped {name}: {reason}", err=True)
        if leave_out is not None:
            outside = leave_out.resolve()
            paths = [path for path in paths if outside not in path.resolve().parents]
        if not paths:
            raise FileNotFoundError(f"There is no video below {folder}.")
        named = by_relative_name(folder, paths)
        return [VideoItem(name, path) for name, path in named.items()]
    source = DataSource(dataset, root, variant, videos)
    found = source.open()
    if isinstance(found, Dataset):
        typer.echo(markdown(found.table()))
    common.echo_rank0(*source.notes())
    return source.every_video()


def _end(problems: Mapping[str, str], summary: str) -> None:
    """Print the problems by video and the summary; status 1 where there are any."""
    from glscl.util.tables import markdown

    if problems:
        rows = [{"video": name, "problem": said} for name, said in problems.items()]
        typer.echo(markdown(rows))
    typer.echo(summary)
    if problems:
        raise typer.Exit(1)


@app.command("verify")
def data_verify(
    root: Annotated[Path, Argument(help="Folder of the data, or of videos.")],
    dataset: common.Dataset = None,
    variant: common.Variant = None,
    videos: common.VideoFolder = None,
    workers: common.Processes = 2,
    thorough: Annotated[
        bool, Option(help="Decode all frames, stop at any damage.")
    ] = False,
    out: Annotated[Path | None, Option(help="Write a report, JSON.")] = None,
) -> None:
    """Open every video and decode its first and last sampled frame.

    Without --dataset every video below ROOT is taken. Ends with status 1 when a video is
    missing or cannot be read.
    """
    from glscl.data.verify import verify

    items = _every_video(root, dataset, variant, videos)
    report = verify(items, workers=workers, thorough=thorough)
    if out is not None:
        report.write(out)
    _end({video.id: video.problem for video in report.bad}, report.summary())


@app.command("prepare")
def data_prepare(
    root: Annotated[Path, Argument(help="Folder of the data, or of videos.")],
    out: Annotated[Path, Argument(help="Folder of the copies.")],
    dataset: common.Dataset = None,
    variant: common.Variant = None,
    videos: common.VideoFolder = None,
    fps: Annotated[float, Option(help="Frames a second.", min=0.01, max=240)] = 3.0,
    size: Annotated[
        int, Option(help="Shorter side in pixels, at most.", min=16, max=8192)
    ] = 224,
    workers: common.Processes = 2,
) -> None:
    """Write small copies of the videos; use them with --videos OUT.

    Copies that are there already stay. Ends with status 1 when a video cannot be read.
    """
    from glscl.data.prepare import prepare

    items = _every_video(root, dataset, variant, videos, leave_out=out)
    done = prepare(items, out, fps, size, workers)
    _end(done.problems, done.summary())
