"""``glscl train``, ``eval`` and ``import``: models on a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer import Argument, Option

from glscl.cli import common

Changes = Annotated[
    list[str] | None,
    Option("--set", help="A setting of the model or the recipe, NAME=VALUE."),
]
Root = Annotated[
    Path, Option("--data", help="Folder of the data, or of a table's paths.")
]
MicroBatch = Annotated[
    int | None, Option(help="Pairs at a time; same loss, less memory.")
]
Preset = Annotated[
    str | None,
    Option(help="Model and recipe, if not those of DATASET (of a table: msrvtt)."),
]
Tag = Annotated[str, Option(help="Whose settings: recommended, released or readme.")]
Method = Annotated[
    str,
    Option(
        help="glscl, eercf, glccl; or a head alone: clip4clip, ts2net, xclip, xpool, "
        "drl, dicosa."
    ),
]
Resume = Annotated[bool, Option(help="Go on with a run in the folder.")]
CheckpointEvery = Annotated[int | None, Option(help="Steps between checkpoints.")]


def train(
    out: Annotated[Path, Option(help="Folder of checkpoint, log, best model.")],
    dataset: common.Dataset = "mini",
    root: Root = Path("data/mini"),
    variant: common.Variant = None,
    videos: common.VideoFolder = None,
    missing: common.Missing = "refuse",
    report: common.Report = None,
    cache: common.Cache = None,
    frame_cache: common.FrameCache = 20.0,
    preset: Preset = None,
    tag: Tag = "recommended",
    method: Method = "glscl",
    changes: Changes = None,
    device: Annotated[str, Option(help="cpu, cuda or cuda:N.")] = "cpu",
    precision: Annotated[str, Option(help="fp32, bf16 or fp16.")] = "fp32",
    micro_batch: MicroBatch = None,
    accumulate: Annotated[int, Option(help="Parts with their own loss.")] = 1,
    workers: common.Loaders = 0,
    checkpoint_every: CheckpointEvery = None,
    resume: Resume = True,
    tensorboard: Annotated[bool, Option(help="Write event files too.")] = False,
) -> None:
    """Train on a benchmark; `torchrun -m glscl.cli train` for many GPUs."""
    from glscl.config import get_preset
    from glscl.data.formats import is_table
    from glscl.runs import DataSource, process_device, train_on
    from glscl.train import RunOptions
    from glscl.util.settings import parse

    name, if_missing = dataset or "mini", cast(Any, missing)  # checked by DataSource
    source = DataSource(
        name, root, variant, videos, if_missing, report, cache, frame_cache
    )
    options = RunOptions(
        device=device,
        precision=precision,  # type: ignore[arg-type]
        micro_batch=micro_batch,
        accumulate=accumulate,
        workers=workers,
        folder=out,
        resume=resume,
        checkpoint_every=checkpoint_every,
        tensorboard=tensorboard,
    )
    preset = preset or ("msrvtt" if is_table(name) else name)
    chosen = get_preset(preset, tag, method).changed(parse(changes or []))  # type: ignore[arg-type]
    process_device(options.device)
    settings = ", ".join(f"{k}={v}" for k, v in chosen.settings().items())
    common.echo_rank0(f"{method}, {chosen.name}, {chosen.tag}: {settings}")
    history = train_on(source, chosen, options, method)
    best = history.epochs[history.best_epoch or 0]["validation"]["t2v"]
    select_on = chosen.train.select_on
    common.echo_rank0(*source.notes(hold_out=select_on == "validation"))
    common.echo_rank0(
        f"best epoch {history.best_epoch}: {select_on} text to video R@1 "
        f"{best['R1']:.1f} % ({best['queries']} queries, {best['gallery']} videos), "
        f"{history.seconds:.0f} s; model in {out}/best-{history.best_epoch:03d}"
    )


def import_(
    file: Annotated[Path, Argument(help="Checkpoint of the released code.")],
    out: Annotated[Path, Argument(help="Folder of the model to write.")],
    preset: Annotated[str | None, Option(help="Benchmark it was trained for.")] = None,
    method: Annotated[str, Option(help="glscl or eercf.")] = "glscl",
    changes: Annotated[
        list[str] | None,
        Option("--set", help="What the file does not say: dropout=0, share=false."),
    ] = None,
) -> None:
    """Turn a checkpoint of the authors into a model that `eval` takes."""
    from glscl.eercf import EERCF
    from glscl.model import GLSCL
    from glscl.util.settings import parse

    kinds: dict[str, type[GLSCL | EERCF]] = {"glscl": GLSCL, "eercf": EERCF}
    if method not in kinds:
        raise ValueError(f"Cannot import {method!r}: expected one of {list(kinds)}.")
    model = kinds[method].from_authors(file, preset=preset, **parse(changes or []))
    model.save(out)
    settings = ", ".join(f"{k}={v}" for k, v in vars(model.config).items())
    typer.echo(f"{out}: {method}, {settings}")


def evaluate(
    model: Annotated[Path, Argument(help="Folder of a saved model.")],
    dataset: common.Dataset = "mini",
    root: Root = Path("data/mini"),
    variant: common.Variant = None,
    videos: common.VideoFolder = None,
    missing: common.Missing = "refuse",
    report: common.Report = None,
    cache: common.Cache = None,
    frame_cache: common.FrameCache = 20.0,
    split: Annotated[str, Option(help="train, val or test.")] = "test",
    out: Annotated[
        Path | None, Option(help="Write OUT.json, OUT.csv and OUT.md.")
    ] = None,
    qb_norm: Annotated[
        bool, Option(help="Also with QB-Norm, bank: training captions.")
    ] = False,
    dsl: Annotated[
        bool, Option(help="Also with the dual softmax (transductive).")
    ] = False,
    worst: Annotated[int, Option(help="Worst captions to list.")] = 10,
    device: Annotated[str, Option(help="cpu, cuda or cuda:N.")] = "cpu",
    workers: common.Loaders = 0,
) -> None:
    """Print and write the retrieval table of a model; `torchrun` shares the work."""
    from glscl.evaluate import write_tables
    from glscl.runs import DataSource, evaluate_on
    from glscl.util import parallel
    from glscl.util.tables import markdown

    name, if_missing = dataset or "mini", cast(Any, missing)  # checked by DataSource
    source = DataSource(
        name, root, variant, videos, if_missing, report, cache, frame_cache
    )
    rows, failures, about = evaluate_on(
        source, model, split, qb_norm, dsl, worst, device, workers
    )
    tables = [markdown(table) for table in (rows, failures) if table]
    common.echo_rank0(*tables, *about["notes"])
    if out is not None and parallel.rank() == 0:
        for path in write_tables(out, rows, failures, about):
            typer.echo(f"written to {path}")
