"""Variants × seeds on the built-in benchmark: who helps, by how much, how surely.

    glscl ablate --seeds 5

Every run is one JSON file with its settings and provenance; a run whose file is there
with the same settings is not run again, so the command resumes and extends. Epochs are
chosen on the validation split, the test split is looked at once per run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from book.experiments.related_methods import sibling_measures
from glscl.backbone import load_backbone
from glscl.config import TrainConfig, get_preset, override
from glscl.data.loader import weights_digest
from glscl.data.pairs import CachedVideos
from glscl.evaluate import (
    Retrieval,
    cached_videos,
    concept_measures,
    evaluate,
    sibling_wins,
)
from glscl.metrics import bootstrap_interval, by_kind, text_to_video_ranks
from glscl.mini.synthetic import (
    SIBLING_KINDS,
    load_benchmark,
    make_benchmark,
    with_siblings,
)
from glscl.model import GLSCL
from glscl.optim import CLIP_PREFIX
from glscl.retriever import Retriever
from glscl.runs import METHODS
from glscl.train import RunOptions, fit
from glscl.util.files import write_json
from glscl.util.provenance import provenance

NO_LOSSES: dict[str, Any] = {"icl_weight": 0.0, "alpha": 0.0}
BASELINE: dict[str, Any] = {"pooling": "mean", "local": False}
#: What each row of the main table changes in the mini preset.
VARIANTS: dict[str, dict[str, Any]] = {
    "mean pooling": {**BASELINE, "temporal_layers": 0},
    "temporal": BASELINE,
    "+ LIM": {**NO_LOSSES, "pooling": "mean"},
    "+ GIM": {"local": False},
    "GIM + LIM": NO_LOSSES,
    "GIM + LIM + ICL": {"alpha": 0.0},
    "GIM + LIM + IDL": {"icl_weight": 0.0},
    "all": {},
}
#: The losses at other weights, then one setting at a time, from the full model.
SWEEPS: dict[str, dict[str, Any]] = {
    "ICL 1.0": {"icl_weight": 1.0, "alpha": 0.0},
    "ICL 1.0, batch": {"icl_weight": 1.0, "alpha": 0.0, "icl_normalise": "batch"},
    "IDL 1e-4": {"icl_weight": 0.0, "alpha": 1e-4},
    **{f"Q = {n}": {"num_queries": n} for n in (1, 4, 16)},
    **{f"decoder layers = {n}": {"num_decoder_layers": n} for n in (1, 2)},
    **{f"τ = {t:g}": {"temperature": t} for t in (3.0, 30.0, 300.0)},
    "separate queries": {"share_queries": False},
    "separate decoders": {"share_decoder": False},
    "nothing shared": {"share_queries": False, "share_decoder": False},
    "positions": {"position_std": 1.0},
}
#: The other methods in the mini preset, with and without what is theirs.
RELATED: dict[str, dict[str, Any]] = {
    "eercf": {"method": "eercf"},
    "eercf without pearson": {"method": "eercf", "pearson_weight": 0.0},
    "eercf without patches": {"method": "eercf", "patches": False},
    "glccl": {"method": "glccl"},
    "glccl without csc": {"method": "glccl", "csc_weight": 0.0},
}
_FAMILY = ["colour", "motion", "order"]
_FAMILIES: dict[str, Any] = {"siblings": _FAMILY, "group_size": 1 + len(_FAMILY)}
#: The full model with more steps; with hard negatives, clips of which one thing is
#: changed, anywhere in the epoch or in the batch of the original; and with positions of
#: frames that are heard beside the frames (of these and CLIP's own, which are a hundredth
#: of a feature, the better on validation). An epoch of families is four times as long, so
#: all but the last have about the same number of steps.
LONGER: dict[str, dict[str, Any]] = {
    "all, longer": {"epochs": 30},
    "siblings apart": {**_FAMILIES, "group_size": 1, "epochs": 8},
    "siblings together": {**_FAMILIES, "epochs": 8},
    "together, positions": {**_FAMILIES, **SWEEPS["positions"], "epochs": 8},
    "together, positions, longer": {**_FAMILIES, **SWEEPS["positions"], "epochs": 20},
}
#: Every variant by name.
ALL_VARIANTS = {**VARIANTS, **SWEEPS, **RELATED, **LONGER}
#: Which differences the summary reports, each seed against the same seed.
PAIRS: tuple[tuple[str, str], ...] = (
    ("temporal", "mean pooling"),
    ("+ LIM", "temporal"),
    ("+ GIM", "temporal"),
    ("GIM + LIM", "temporal"),
    ("GIM + LIM", "+ GIM"),
    ("GIM + LIM", "+ LIM"),
    ("GIM + LIM + ICL", "GIM + LIM"),
    ("GIM + LIM + IDL", "GIM + LIM"),
    ("all", "GIM + LIM"),
    ("eercf", "all"),
    ("glccl", "all"),
    ("eercf", "eercf without pearson"),
    ("eercf", "eercf without patches"),
    ("glccl", "glccl without csc"),
    ("all, longer", "all"),
    ("siblings apart", "all, longer"),
    ("siblings together", "siblings apart"),
    ("together, positions", "siblings together"),
    ("together, positions, longer", "together, positions"),
    ("together, positions, longer", "all, longer"),
    # A loss at another weight stands alone: its model is compared with that of none.
    *(
        (name, "GIM + LIM" if "icl_weight" in SWEEPS[name] else "all")
        for name in SWEEPS
    ),
)


@dataclass(frozen=True)
class Setup:
    """What all runs of an ablation share: the data and changes to the mini recipe."""

    data: str = "data/mini"
    train_clips: int = 1500
    val_clips: int = 300
    test_clips: int = 300
    epochs: int = 10
    pretrained: str | None = "builtin"


@lru_cache(maxsize=3)
def mini_videos(
    setup: Setup, patches: bool = False, siblings: tuple[str, ...] = ()
) -> dict[str, CachedVideos]:
    """The splits of the built-in benchmark as features of the mini CLIP, cached.

    ``patches``: whether patches come with the frames, as EERCF needs them.
    ``siblings``: the kinds of siblings that follow each training clip.
    """
    backbone = load_backbone("mini", setup.pretrained)
    benchmark = make_benchmark(
        setup.data,
        setup.train_clips,
        setup.val_clips,
        setup.test_clips,
        progress=False,
    )
    splits = {name: benchmark.split(name) for name in ("train", "val", "test")}
    if siblings:
        splits["train"] = with_siblings(benchmark, "train", siblings)
    return {
        name: cached_videos(
            split,
            backbone,
            get_preset("mini").model,
            Path(setup.data) / "cache",
            patches,
        )
        for name, split in splits.items()
    }


@lru_cache(maxsize=1)
def sibling_videos(setup: Setup) -> CachedVideos:
    """The validation clips of ``mini_videos``, each followed by all its siblings."""
    backbone = load_backbone("mini", setup.pretrained)
    sizes = setup.train_clips, setup.val_clips, setup.test_clips
    families = with_siblings(load_benchmark(setup.data, *sizes), "val")
    config, cache = get_preset("mini").model, Path(setup.data) / "cache"
    return cached_videos(families, backbone, config, cache)


@lru_cache(maxsize=1)
def clip_digest(setup: Setup) -> str:
    """A hash of the mini CLIP's weights: other weights make other results."""
    return weights_digest(load_backbone("mini", setup.pretrained))


def train_variant(
    changes: Mapping[str, Any],
    seed: int,
    videos: Mapping[str, CachedVideos],
    setup: Setup | None = None,
    progress: bool = False,
) -> tuple[Retriever, dict[str, Any]]:
    """A variant of a mini model, trained with one seed, and the record of its run.

    ``changes``: the ``method`` (GLSCL where it is not said), settings of its model and
    recipe that differ from the mini preset, and the ``siblings`` among the training
    videos. ``videos``: as ``variant_videos`` gives them.
    The seed decides the new modules' start, the data order and dropout. Deterministic
    on a CPU.
    """
    setup = setup or Setup()
    method = changes.get("method", "glscl")
    preset = get_preset("mini", method=method)
    of_model, of_recipe = settings_of(changes)
    config = override(preset.model, {**of_model, "pretrained": setup.pretrained})
    recipe = override(preset.train, {"epochs": setup.epochs, "seed": seed, **of_recipe})
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = load_backbone(config.backbone, config.pretrained)
        model = METHODS[method](backbone, config)
    options = RunOptions(progress=progress)
    history = fit(model, videos["train"], recipe, videos["val"], options)
    best = history.best_epoch
    test = evaluate(model, videos["test"], recipe.eval_batch_size)
    record = {
        "seed": seed,
        "method": method,
        "parameters": new_parameters(model),
        "model": asdict(model.config),
        "recipe": asdict(recipe),
        "best_epoch": best,
        "validation_R1": [e["validation"]["t2v"]["R1"] for e in history.epochs],
        "loss": [step["total"] for step in history.steps],
        "seconds": time.perf_counter() - started,
        "val": None if best is None else history.epochs[best]["validation"],
        "test": result_record(test),
    }
    if isinstance(model, GLSCL) and model.config.local:
        record["concepts"] = concept_measures(model, videos["val"])
    if method != "glscl":
        record["measures"] = sibling_measures(model, videos["val"], videos["test"])
    return model, record


def settings_of(changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The changes of a variant that are settings of the model, and of the recipe."""
    recipe = {field.name for field in fields(TrainConfig)}
    others = {"method", "siblings"}
    return (
        {k: v for k, v in changes.items() if k not in recipe | others},
        {k: v for k, v in changes.items() if k in recipe},
    )


def new_parameters(model: Retriever) -> int:
    """How many numbers a model learns besides those of CLIP."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not name.startswith(CLIP_PREFIX)
    )


def result_record(result: Retrieval) -> dict[str, Any]:
    """Metrics of both directions, by kind of caption, and every caption's rank."""
    own = result.split.caption_to_video
    kinds = [caption.kind for caption in result.split.captions]
    return {
        **result.metrics,
        "kinds": by_kind(result.similarity, own, kinds),
        "ranks": text_to_video_ranks(result.similarity, own).rank().tolist(),
    }


def run_path(folder: Path, variant: str, seed: int) -> Path:
    """The file of one run, its name made of letters, digits and dashes."""
    plain = variant.replace("τ", "tau").replace("+", "and").replace("=", "")
    words = "-".join("".join(c if c.isalnum() else " " for c in plain).split())
    return folder / f"{words.lower()}-seed{seed}.json"


def variant_videos(variant: str, setup: Setup) -> dict[str, CachedVideos]:
    """The videos that a variant trains and is measured on."""
    changes = ALL_VARIANTS[variant]
    patches = changes.get("method") == "eercf" and changes.get("patches", True)
    return mini_videos(setup, patches, tuple(changes.get("siblings", ())))


def run_once(variant: str, seed: int, folder: Path, setup: Setup) -> dict[str, Any]:
    """The record of one run, from its file if that holds the same settings."""
    path = run_path(folder, variant, seed)
    settings: dict[str, Any] = {
        "variant": variant,
        "changes": ALL_VARIANTS[variant],
        "setup": asdict(setup),
        "clip": clip_digest(setup),
    }
    if path.exists():
        stored = json.loads(path.read_text())
        if all(stored.get(name) == value for name, value in settings.items()):
            return stored
    videos = variant_videos(variant, setup)
    model, record = train_variant(settings["changes"], seed, videos, setup)
    if variant in LONGER:
        families = sibling_videos(setup)
        record["sibling_wins"] = sibling_wins(model, families, SIBLING_KINDS)
    record = {**settings, **record, "provenance": provenance()}
    write_json(path, record, indent=None)
    return record


def run_all(
    variants: Iterable[str],
    seeds: Iterable[int],
    folder: Path,
    setup: Setup | None = None,
    processes: int = 1,
) -> list[dict[str, Any]]:
    """All runs, seed by seed, in ``processes`` one-thread processes.

    Raises ``ValueError`` for a variant that does not exist.
    """
    setup = setup or Setup()
    variants = list(variants)
    for name in variants:
        if name not in ALL_VARIANTS:
            raise ValueError(
                f"Unknown variant {name!r}: expected one of {list(ALL_VARIANTS)}."
            )
    jobs = [(name, seed) for seed in seeds for name in variants]
    for name in variants:
        variant_videos(name, setup)  # decoded once, here, not by every process
    job = partial(_job, folder=folder, setup=setup)
    with ProcessPoolExecutor(processes, get_context("spawn"), _one_thread) as pool:
        return list(pool.map(job, jobs))


def stored_runs(folder: Path, setup: Setup) -> list[dict[str, Any]]:
    """Every record of ``setup`` in ``folder``, in the order of the tables and seeds."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    order = list(ALL_VARIANTS)
    same = {"setup": asdict(setup), "clip": clip_digest(setup)}
    return sorted(
        (record for record in records if same.items() <= record.items()),
        key=lambda record: (order.index(record["variant"]), record["seed"]),
    )


def _one_thread() -> None:
    torch.set_num_threads(1)


def _job(job: tuple[str, int], folder: Path, setup: Setup) -> dict[str, Any]:
    return run_once(*job, folder, setup)


def summarise(records: Sequence[Mapping[str, Any]], command: str) -> dict[str, Any]:
    """The table of an ablation: means and deviations over seeds, paired differences.

    All numbers are of the test split, R@k in %; ``concepts`` are of the validation
    split.
    """
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        runs.setdefault(record["variant"], {})[record["seed"]] = record
    return {
        "command": command,
        "setup": records[0]["setup"],
        "clip": records[0]["clip"],
        "provenance": _all_values([record["provenance"] for record in records]),
        "seconds": sum(record["seconds"] for record in records),
        "variants": {name: _row(list(of.values())) for name, of in runs.items()},
        "differences": [
            difference(runs[one], runs[two], one, two)
            for one, two in PAIRS
            if one in runs and two in runs and runs[one].keys() & runs[two].keys()
        ],
    }


def _all_values(provenances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Every value that a key of the provenances has, as one text."""
    return {
        key: ", ".join(sorted({str(found[key]) for found in provenances}))
        for key in provenances[0]
    }


def _row(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "changes": runs[0]["changes"],
        "seeds": [run["seed"] for run in runs],
        "seconds": sum(run["seconds"] for run in runs) / len(runs),
        "validation_R1": _spread([run["val"]["t2v"]["R1"] for run in runs]),
    }
    for direction in ("t2v", "v2t"):
        row[direction] = {
            name: _spread([run["test"][direction][name] for run in runs])
            for name in ("R1", "R5", "R10", "MdR", "MnR")
        }
    row["kinds"] = {
        kind: _spread([run["test"]["kinds"][kind]["R1"] for run in runs])
        for kind in runs[0]["test"]["kinds"]
    }
    if "concepts" in runs[0]:
        row["concepts"] = {
            name: _spread([run["concepts"][name] for run in runs])
            for name in runs[0]["concepts"]
        }
    told = [run["sibling_wins"] for run in runs if "sibling_wins" in run]
    if told:
        row["sibling_wins"] = {
            kind: _spread([wins[kind] for wins in told]) for kind in told[0]
        }
    return row


def _spread(values: Sequence[float]) -> dict[str, Any]:
    x = torch.tensor(values, dtype=torch.float64)
    deviation = x.std().item() if len(values) > 1 else 0.0
    return {"mean": x.mean().item(), "std": deviation, "each": list(values)}


def difference(
    one: Mapping[int, Mapping[str, Any]],
    two: Mapping[int, Mapping[str, Any]],
    name: str,
    baseline: str,
) -> dict[str, Any]:
    """Text→video R@1 of ``one`` minus ``two``, seed by seed, with an interval.

    The interval (95 %) is of the mean over the shared seeds when test videos are drawn
    again with all their captions.
    """
    seeds = sorted(one.keys() & two.keys())
    hits = [
        100 * (_first(one[seed]) - _first(two[seed])) for seed in seeds
    ]  # per seed (A,)
    mean = torch.stack(hits).mean(dim=0)
    videos = one[seeds[0]]["test"]["t2v"]["gallery"]
    groups = torch.arange(len(mean)) // (len(mean) // videos)
    return {
        "variant": name,
        "baseline": baseline,
        "seeds": seeds,
        "each": [x.mean().item() for x in hits],
        "mean": mean.mean().item(),
        "interval": bootstrap_interval(mean, groups),
    }


def _first(run: Mapping[str, Any]) -> torch.Tensor:
    """Which captions (A,) have their video first."""
    return (torch.tensor(run["test"]["ranks"]) <= 1).double()


def ablate(
    folder: str | Path = "book/results",
    seeds: int = 5,
    variants: Sequence[str] = tuple(VARIANTS),
    setup: Setup | None = None,
    processes: int = 1,
    command: str = "glscl ablate",
) -> dict[str, Any]:
    """Run what is missing, write ``ablation.json`` and return it.

    The summary covers every run of the same setup that is in ``folder``, so variants
    may have different numbers of seeds.
    """
    folder, setup = Path(folder), setup or Setup()
    run_all(variants, range(seeds), folder / "ablation", setup, processes)
    summary = summarise(stored_runs(folder / "ablation", setup), command)
    write_json(folder / "ablation.json", summary, indent=None)
    return summary
