"""The command line: ``glscl data make`` and its companions.

Each command is a thin wrapper over the package; heavy imports wait until a command
runs. An error the user can mend is one sentence on standard error and exit status 1.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
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


Dataset = Annotated[
    str | None,
    typer.Option(help="msrvtt, msvd, didemo, lsmdc, activitynet, vatex; or mini."),
]
Variant = Annotated[str | None, typer.Option(help="MSR-VTT: 9k, 7k or full.")]
VideoFolder = Annotated[
    Path | None, typer.Option("--videos", help="Where videos lie, if not ROOT/videos.")
]


Missing = Annotated[
    str, typer.Option(help="Videos without a file: refuse, or drop them and say so.")
]
Report = Annotated[
    Path | None, typer.Option(help="Report of `data verify`: what it calls unreadable.")
]
Cache = Annotated[
    Path | None, typer.Option(help="Kept frames and features, if not in DATA/cache.")
]


def _every_video(
    root: Path, dataset: str | None, variant: str | None, videos: Path | None
) -> list[Any]:
    """The videos of a data set, after saying what it lacks, or all below a folder."""
    from glscl.data.benchmarks import Dataset
    from glscl.data.source import DataSource
    from glscl.data.split import VideoItem
    from glscl.data.videofiles import list_videos
    from glscl.evaluate import markdown

    if dataset is None:
        items = [VideoItem(p.stem, p) for p in list_videos(videos or root)]
        if not items:
            raise FileNotFoundError(f"There is no video below {videos or root}.")
        return items
    source = DataSource(dataset, root, variant, videos)
    found = source.open()
    if isinstance(found, Dataset):
        typer.echo(markdown(found.table()))
    _say(source.notes())
    return source.every_video()


def _say(sentences: list[str]) -> None:
    """Print lines, once when several processes run the same command."""
    from glscl import parallel

    if parallel.rank() == 0:
        for sentence in sentences:
            typer.echo(sentence)


@data.command("verify")
@sentence_errors
def data_verify(
    root: Annotated[Path, typer.Argument(help="Folder of the data, or of videos.")],
    dataset: Dataset = None,
    variant: Variant = None,
    videos: VideoFolder = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    timeout: Annotated[float, typer.Option(help="Seconds for one video.")] = 60.0,
    thorough: Annotated[
        bool, typer.Option(help="Decode all frames, stop at any damage.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write a report, JSON.")] = None,
) -> None:
    """Open every video and decode its first and last sampled frame.

    Without --dataset every video below ROOT is taken. Ends with status 1 when a video is
    missing or cannot be read.
    """
    from glscl.data.verify import verify
    from glscl.evaluate import markdown

    items = _every_video(root, dataset, variant, videos)
    report = verify(items, workers=workers, timeout=timeout, thorough=thorough)
    if out is not None:
        report.write(out)
    if report.bad:
        shown = [{"video": v.id, "problem": v.problem} for v in report.bad]
        typer.echo(markdown(shown))
    typer.echo(report.summary())
    if report.bad:
        raise typer.Exit(1)


@data.command("prepare")
@sentence_errors
def data_prepare(
    root: Annotated[Path, typer.Argument(help="Folder of the data, or of videos.")],
    out: Annotated[Path, typer.Argument(help="Folder of the copies.")],
    dataset: Dataset = None,
    variant: Variant = None,
    videos: VideoFolder = None,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 3.0,
    size: Annotated[int, typer.Option(help="Shorter side in pixels, at most.")] = 224,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    timeout: Annotated[float, typer.Option(help="Seconds for one video.")] = 600.0,
) -> None:
    """Write small copies of the videos; use them with --videos OUT.

    Copies that are there already stay. Ends with status 1 when a video cannot be read.
    """
    from glscl.data.prepare import prepare
    from glscl.evaluate import markdown

    items = _every_video(root, dataset, variant, videos)
    done = prepare(items, out, fps, size, workers, timeout)
    if done.problems:
        problems = done.problems.items()
        typer.echo(markdown([{"video": k, "problem": v} for k, v in problems]))
    typer.echo(done.summary())
    if done.problems:
        raise typer.Exit(1)


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


Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the model or the recipe, NAME=VALUE."),
]


def _parse_changes(pairs: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE pairs; values are JSON, or else plain text."""
    import json

    changes: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, got {pair!r}.")
        try:
            changes[name] = json.loads(text)
        except json.JSONDecodeError:
            changes[name] = text
    return changes


@app.command("train")
@sentence_errors
def train(
    out: Annotated[Path, typer.Option(help="Folder of checkpoint, log, best model.")],
    dataset: Dataset = "mini",
    root: Annotated[Path, typer.Option("--data", help="Folder of the data.")] = Path(
        "data/mini"
    ),
    variant: Variant = None,
    videos: VideoFolder = None,
    missing: Missing = "refuse",
    report: Report = None,
    cache: Cache = None,
    preset: Annotated[
        str | None, typer.Option(help="Model and recipe, if not those of DATASET.")
    ] = None,
    method: Annotated[str, typer.Option(help="glscl, eercf or glccl.")] = "glscl",
    changes: Changes = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    micro_batch: Annotated[
        int | None, typer.Option(help="Pairs at a time; same loss, less memory.")
    ] = None,
    accumulate: Annotated[int, typer.Option(help="Parts with their own loss.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that load data.")] = 0,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints.")
    ] = None,
    select_on: Annotated[
        str, typer.Option(help="Split that chooses the epoch: validation or test.")
    ] = "validation",
    resume: Annotated[
        bool, typer.Option(help="Go on with a run in the folder.")
    ] = True,
    tensorboard: Annotated[bool, typer.Option(help="Write event files too.")] = False,
) -> None:
    """Train on a benchmark; `torchrun -m glscl.cli train` for many GPUs."""
    from glscl.data.source import DataSource
    from glscl.runs import train_on
    from glscl.train import RunOptions

    name = dataset or "mini"
    source = DataSource(name, root, variant, videos, missing, report, cache)  # type: ignore[arg-type]
    options = RunOptions(
        device=device,
        precision=precision,  # type: ignore[arg-type]
        micro_batch=micro_batch,
        accumulate=accumulate,
        workers=workers,
        folder=out,
        resume=resume,
        checkpoint_every=checkpoint_every,
        select_on=select_on,  # type: ignore[arg-type]
        tensorboard=tensorboard,
    )
    history = train_on(source, preset or name, _parse_changes(changes), options, method)
    best = history.epochs[history.best_epoch or 0]["validation"]["t2v"]
    _say(
        [
            *source.notes(hold_out=select_on == "validation"),
            f"best epoch {history.best_epoch}: {select_on} text to video R@1 "
            f"{best['R1']:.1f} % ({best['queries']} queries, {best['gallery']} videos), "
            f"{history.seconds:.0f} s; model in {out}/best-{history.best_epoch:03d}",
        ]
    )


@app.command("import")
@sentence_errors
def import_(
    file: Annotated[Path, typer.Argument(help="Checkpoint of the released code.")],
    out: Annotated[Path, typer.Argument(help="Folder of the model to write.")],
    preset: Annotated[str, typer.Option(help="Benchmark it was trained for.")],
    share: Annotated[
        bool, typer.Option(help="One set of queries and one decoder for both sides.")
    ] = True,
) -> None:
    """Turn a checkpoint of the authors into a model that `eval` takes."""
    from glscl.runs import import_checkpoint

    model = import_checkpoint(file, out, preset, share)
    typer.echo(f"{model.backbone.name}, {model.config.num_queries} queries: {out}")


@app.command("eval")
@sentence_errors
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
    dataset: Dataset = "mini",
    root: Annotated[Path, typer.Option("--data", help="Folder of the data.")] = Path(
        "data/mini"
    ),
    variant: Variant = None,
    videos: VideoFolder = None,
    missing: Missing = "refuse",
    report: Report = None,
    cache: Cache = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Write OUT.json, OUT.csv and OUT.md.")
    ] = None,
    qb_norm: Annotated[
        bool, typer.Option(help="Also with QB-Norm, bank: training captions.")
    ] = False,
    dsl: Annotated[
        bool, typer.Option(help="Also with the dual softmax (transductive).")
    ] = False,
    worst: Annotated[int, typer.Option(help="Worst captions to list.")] = 10,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    workers: Annotated[int, typer.Option(help="Processes that load data.")] = 0,
) -> None:
    """Print and write the retrieval table of a model; `torchrun` shares the work."""
    from glscl import parallel
    from glscl.data.source import DataSource
    from glscl.evaluate import markdown, write_tables
    from glscl.runs import evaluate_on

    name = dataset or "mini"
    source = DataSource(name, root, variant, videos, missing, report, cache)  # type: ignore[arg-type]
    rows, failures, about = evaluate_on(
        source, model, split, qb_norm, dsl, worst, device, workers
    )
    _say([markdown(table) for table in (rows, failures) if table] + about["notes"])
    if out is not None and parallel.rank() == 0:
        for path in write_tables(out, rows, failures, about):
            typer.echo(f"written to {path}")


@app.command("ablate")
@sentence_errors
def ablate(
    root: Annotated[Path, typer.Option("--data", help="Folder of the data.")] = Path(
        "data/mini"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(
        "book/results"
    ),
    seeds: Annotated[int, typer.Option(help="Seeds, from 0.")] = 5,
    epochs: Annotated[int, typer.Option(help="Epochs of every run.")] = 10,
    train_clips: Annotated[int, typer.Option(help="Training clips.")] = 1500,
    processes: Annotated[int, typer.Option(help="Runs at the same time.")] = 1,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="Only these.")
    ] = None,
    sweeps: Annotated[
        bool, typer.Option(help="Also one setting at a time: Q, layers, τ, sharing.")
    ] = False,
    siblings: Annotated[
        bool, typer.Option(help="Also EERCF and GLCCL, and each without its parts.")
    ] = False,
    longer: Annotated[
        bool, typer.Option(help="Also more epochs, and siblings in the batch.")
    ] = False,
) -> None:
    """Train variants × seeds; whatever is there already is kept. Writes ablation.json."""
    import sys

    from glscl.ablate import LONGER, SIBLINGS, SWEEPS, VARIANTS, Setup
    from glscl.ablate import ablate as run

    tables = ((SWEEPS, sweeps), (SIBLINGS, siblings), (LONGER, longer))
    more = [name for table, asked in tables if asked for name in table]
    names = variants or [*VARIANTS, *more]
    setup = Setup(data=str(root), train_clips=train_clips, epochs=epochs)
    command = shlex.join(["glscl", *sys.argv[1:]])
    summary = run(out, seeds, names, setup, processes, command)
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


Index = Annotated[Path, typer.Option("--index", help="Folder of the index.")]


@app.command("index")
@sentence_errors
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of videos.")],
    path: Index = Path("video-index"),
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder of a saved model, or a CLIP: mini, NAME:WEIGHTS. "
            "[default: the index's, else OpenAI's ViT-B/32]"
        ),
    ] = None,
    window: Annotated[float, typer.Option(help="Seconds, for a new index.")] = 10.0,
    overlap: Annotated[
        float, typer.Option(help="Share with the next one, for a new index.")
    ] = 0.5,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    workers: Annotated[int, typer.Option(help="Processes that decode.")] = 0,
) -> None:
    """Index a folder of videos, or only what changed in it since."""
    from glscl.search.build import known_source, search_model, update
    from glscl.search.windows import Windows

    old = known_source(path)
    source = model or old or "ViT-B-32-quickgelu:openai"
    report = update(
        path,
        folder,
        search_model(source),
        Windows(window, overlap) if old is None else None,
        source=str(Path(source).resolve()) if Path(source).is_dir() else source,
        device=device,
        workers=workers,
    )
    for name, problem in report.broken.items():
        typer.echo(f"skipped {name}: {problem}", err=True)
    typer.echo(
        f"{len(report.added)} added, {len(report.changed)} changed, "
        f"{len(report.removed)} removed, {report.unchanged} unchanged, "
        f"{len(report.broken)} skipped; {report.windows} windows in "
        f"{report.seconds['total']:.0f} s; index in {path}"
    )


@app.command("search")
@sentence_errors
def search(
    texts: Annotated[list[str] | None, typer.Argument(help="Sentences.")] = None,
    path: Index = Path("video-index"),
    k: Annotated[int, typer.Option(help="Moments for a sentence.")] = 10,
    shortlist: Annotated[int, typer.Option(help="Windows scored exactly.")] = 100,
    exact: Annotated[bool, typer.Option(help="Score every window.")] = False,
    batch: Annotated[
        Path | None, typer.Option(help="File with a sentence a line.")
    ] = None,
    folder: Annotated[str, typer.Option(help="Only videos below it.")] = "",
    after: Annotated[
        datetime | None, typer.Option(help="Only videos changed since.")
    ] = None,
    before: Annotated[
        datetime | None, typer.Option(help="Only videos changed before.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--html", help="Write a page that plays them.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser.")
    ] = False,
) -> None:
    """Find the moments of indexed videos that fit a sentence."""
    import webbrowser

    from glscl.search.index import VideoIndex, Where
    from glscl.search.page import clock, write_page

    sentences = [*(texts or [])]
    if batch is not None:
        lines = batch.read_text(encoding="utf-8").splitlines()
        sentences += [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise ValueError("Type a sentence, or name a file of sentences with --batch.")
    opened = VideoIndex.open(path)
    where = Where(folder, after, before)
    answers = opened.search_all(sentences, k, shortlist, exact, where)
    for sentence, found in zip(sentences, answers, strict=True):
        typer.echo(f"{sentence}: {len(found)} moments")
        for one in found:
            span = f"{clock(one.start)} to {clock(one.end)}"
            typer.echo(f"  {one.score:6.3f}  {span}  {one.path}")
    if page is None and show:
        page = path / "found.html"
    if page is not None:
        write_page(page, dict(zip(sentences, answers, strict=True)))
        typer.echo(f"written to {page}")
    if show and page is not None:
        webbrowser.open(page.resolve().as_uri())


@app.command("serve")
@sentence_errors
def serve(
    path: Index = Path("video-index"),
    host: Annotated[
        str, typer.Option(help="Address; others than this machine can reach 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: any free one.")] = 8421,
    show: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser.")
    ] = False,
) -> None:
    """Search in a browser: a page of this machine, for this machine."""
    import webbrowser

    from glscl.search.index import VideoIndex
    from glscl.search.serve import SearchServer

    with SearchServer(VideoIndex.open(path), (host, port)) as server:
        typer.echo(f"serving {path} at {server.url} (Ctrl-C ends it)")
        if show:
            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    app()
