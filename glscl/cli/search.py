"""``glscl index``, ``search`` and ``serve``: your own videos."""

from __future__ import annotations

import os
import webbrowser
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

Index = Annotated[
    str, Option("--index", help="Folder of the index, or s3://…, gs://….")
]
MOST = 10_000  # moments in an answer
Open = Annotated[bool, Option("--open", help="Open the page in a browser.")]
#: Threads of torch that have nothing to do leave the cores to those of the index; read
#: by OpenMP when torch is imported.
IDLE = ("OMP_WAIT_POLICY", "PASSIVE")


def index(
    folder: Annotated[Path, Argument(help="Folder of videos.")],
    path: Index = "video-index",
    model: Annotated[
        str | None,
        Option(
            help="Folder of a saved model, or a CLIP model: mini or NAME:WEIGHTS. "
            "[default: that of the index, or OpenAI's ViT-B/32 for a new one]"
        ),
    ] = None,
    method: Annotated[
        str | None,
        Option(
            help="Method of a CLIP model: glscl, eercf, glccl, clip4clip, ts2net, xclip "
            "or xpool; a saved model says its own. [default: that of the index, or glscl]"
        ),
    ] = None,
    window: Annotated[
        float | None, Option(help="Window length in seconds. [default: 10]")
    ] = None,
    overlap: Annotated[
        float | None,
        Option(help="Share of a window that overlaps the next. [default: 0.5]"),
    ] = None,
    device: Annotated[str, Option(help="cpu, cuda or cuda:N.")] = "cpu",
    workers: Annotated[int, Option(min=0, help="Processes that decode videos.")] = 0,
    retry_broken: Annotated[
        bool, Option("--retry-broken", help="Read again what was skipped.")
    ] = False,
    shard: Annotated[
        str | None,
        Option(help="I/N: take the I-th of N shares of the files, from 0."),
    ] = None,
) -> None:
    """Index a folder of videos; of an indexed folder, only what has changed.

    Several machines share the work with --shard 0/N to N-1/N, or under torchrun. A last
    call without --shard leaves the index tidy for searching.
    """
    from glscl.search.build import is_folder, known_index, search_model, update
    from glscl.search.table import named_path
    from glscl.search.windows import Windows
    from glscl.util.files import printable
    from glscl.util.parallel import usable_device

    known = known_index(path)
    made_with, cut = (known.model, known.windows) if known else ({}, {})
    source = made_with.get("source") or "ViT-B-32-quickgelu:openai"
    source = source if model is None else model
    chosen = {"seconds": window, "overlap": overlap}
    cut = cut | {name: x for name, x in chosen.items() if x is not None}
    # What can be refused at once, before weights are downloaded.
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    windows, share, device = Windows(**cut), _shard(shard), usable_device(device)
    loaded = search_model(source, method or made_with.get("method") or "glscl")
    if method not in (None, loaded.method):
        raise ValueError(f"{source} holds a model of {loaded.method}, not of {method}.")
    report = update(
        path,
        folder,
        loaded,
        windows,
        source=str(Path(source).resolve()) if is_folder(source) else source,
        device=device,
        workers=workers,
        retry_broken=retry_broken,
        shard=share,
    )
    for name, problem in report.broken.items():
        typer.echo(printable(f"skipped {named_path(name)}: {problem}"), err=True)
    typer.echo(
        f"{len(report.added)} added, {len(report.changed)} changed, "
        f"{len(report.removed)} removed, {report.unchanged} unchanged, "
        f"{len(report.broken)} skipped; {report.windows} windows in "
        f"{report.seconds['total']:.0f} s; index in {path}"
    )


def _shard(text: str | None) -> tuple[int, int]:
    """The numbers in ``I/N``, by default those of this process of torchrun."""
    if text is None:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    first, _, second = text.partition("/")
    numbers = first.isdecimal() and second.isdecimal()
    if not numbers or int(first) >= int(second):
        raise ValueError(f"--shard must be I/N with I from 0 to N - 1, got {text!r}.")
    return int(first), int(second)


def search(
    texts: Annotated[list[str] | None, Argument(help="Sentences.")] = None,
    path: Index = "video-index",
    k: Annotated[
        int, Option(min=1, max=MOST, help="Moments to find for each sentence.")
    ] = 10,
    shortlist: Annotated[
        int, Option(min=1, max=MOST, help="Windows that are reranked.")
    ] = 200,
    exact: Annotated[bool, Option(help="Score every window.")] = False,
    batch: Annotated[
        Path | None, Option(help="File with one sentence on each line.")
    ] = None,
    below: Annotated[str, Option(help="Only videos below this folder.")] = "",
    after: Annotated[
        datetime | None, Option(help="Only videos changed at or after this.")
    ] = None,
    before: Annotated[
        datetime | None, Option(help="Only videos changed before this.")
    ] = None,
    page: Annotated[
        Path | None, Option("--html", help="Write a page that shows the moments.")
    ] = None,
    show: Open = False,
) -> None:
    """Find the moments of indexed videos that fit a sentence."""
    os.environ.setdefault(*IDLE)

    from glscl.data.annotations import read_lines
    from glscl.search.index import VideoIndex, Where
    from glscl.search.page import clock, write_page
    from glscl.util.files import printable

    sentences = [*(texts or [])]
    if batch is not None:
        sentences += [line for _, line in read_lines(batch)]
    if not sentences:
        raise ValueError("Type a sentence, or name a file of sentences with --batch.")
    opened = VideoIndex.open(path)
    where = Where(below, after, before)
    answers = opened.search_all(sentences, k, shortlist, exact, where)
    for sentence, found in zip(sentences, answers, strict=True):
        typer.echo(printable(f"{sentence}: {len(found)} moments"))
        for one in found:
            span = f"{clock(one.start)} to {clock(one.end)}"
            typer.echo(printable(f"  {one.score:6.3f}  {span}  {one.path}"))
    if page is None and show:
        page = Path("found.html")
    if page is not None:
        write_page(page, dict(zip(sentences, answers, strict=True)))
        typer.echo(f"written to {page}")
        if show:
            webbrowser.open(page.resolve().as_uri())


def serve(
    path: Index = "video-index",
    host: Annotated[
        str, Option(help="Address; 0.0.0.0 also admits other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(help="Port; 0: any free one.")] = 8421,
    show: Open = False,
) -> None:
    """Search in a browser, on a page that this machine serves."""
    os.environ.setdefault(*IDLE)

    from glscl.search.index import VideoIndex
    from glscl.search.serve import SearchServer

    server = SearchServer(VideoIndex.open(path), host, port)
    typer.echo(f"serving {path} at {server.url} (Ctrl-C ends it)")
    if show:
        webbrowser.open(server.url)
    server.run()
