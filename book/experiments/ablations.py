"""Variants × seeds on the built-in benchmark: what each part adds, how reliably.

    python -m book.experiments ablate --seeds 5

Every run is one JSON file with its settings and provenance; a run whose file exists
with the same settings is not run again, so the command resumes and extends. Epochs are
chosen on the validation split; the test split is evaluated once per run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from book.experiments.arithmetic import ARITHMETIC, MINI_RATES, Movement
from book.experiments.concepts import concept_measures
from book.experiments.hard_negatives import (
    HARD_NEGATIVE_KINDS,
    hard_negative_accuracy,
    with_hard_negatives,
)
from book.experiments.related_methods import related_measures
from book.kit.measures import by_kind
from book.kit.provenance import provenance
from glscl.backbone import load_backbone
from glscl.config import TrainConfig, get_preset, override
from glscl.data.loader import weights_digest
from glscl.data.pairs import CachedVideos, epoch_order
from glscl.data.split import Split
from glscl.evaluate import Retrieval, cached_videos, evaluate
from glscl.metrics import text_to_video_ranks
from glscl.mini.synthetic import Benchmark, make_benchmark
from glscl.model import GLSCL
from glscl.optim import CLIP_PREFIX, freeze
from glscl.retriever import Retriever
from glscl.runs import METHODS
from glscl.train import RunOptions, fit
from glscl.util.files import cache_folder, write_json

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
#: The related methods in the mini preset, with and without their own parts.
RELATED: dict[str, dict[str, Any]] = {
    "eercf": {"method": "eercf"},
    "eercf without pearson": {"method": "eercf", "pearson_weight": 0.0},
    "eercf without patches": {"method": "eercf", "patches": False},
    "glccl": {"method": "glccl"},
    "glccl without csc": {"method": "glccl", "csc_weight": 0.0},
}
_FAMILY = ["colour", "motion", "order"]
_FAMILIES: dict[str, Any] = {
    "hard_negatives": _FAMILY,
    "group_size": 1 + len(_FAMILY),
}
#: The full model with more steps; with hard negatives, clips of which one thing is
#: changed, anywhere in the epoch or in the batch of the original; and with position
#: embeddings large enough to affect the frame features (CLIP's own are a hundredth of a
#: feature; of the two, these are better on validation). An epoch of families is four
#: times as long, so all but the last have about the same number of steps.
LONGER: dict[str, dict[str, Any]] = {
    "all, longer": {"epochs": 30},
    "hard negatives apart": {**_FAMILIES, "group_size": 1, "epochs": 8},
    "hard negatives together": {**_FAMILIES, "epochs": 8},
    "together, positions": {**_FAMILIES, **SWEEPS["positions"], "epochs": 8},
    "together, positions, longer": {**_FAMILIES, **SWEEPS["positions"], "epochs": 20},
}
#: Every variant by name.
ALL_VARIANTS = {
    **VARIANTS,
    **SWEEPS,
    **RELATED,
    **LONGER,
    **ARITHMETIC,
    **MINI_RATES,
}


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
    setup: Setup,
    patches: bool = False,
    hard_negatives: tuple[str, ...] = (),
    device: str = "cpu",
) -> dict[str, CachedVideos]:
    """The splits of the built-in benchmark as features of the mini CLIP, cached.

    ``patches``: whether patches come with the frames, as EERCF needs them.
    ``hard_negatives``: the kinds of them that follow each training clip. ``device``:
    where what is not stored yet is encoded.
    """
    benchmark = _benchmark(setup)
    splits = {name: benchmark.split(name) for name in ("train", "val", "test")}
    if hard_negatives:
        splits["train"] = with_hard_negatives(benchmark, "train", hard_negatives)
    return _features(splits, setup, patches, device)


@lru_cache(maxsize=1)
def hard_negative_videos(setup: Setup) -> CachedVideos:
    """The validation clips, each followed by all its hard negatives."""
    families = with_hard_negatives(_benchmark(setup), "val")
    return _features({"val": families}, setup)["val"]


def _benchmark(setup: Setup) -> Benchmark:
    sizes = setup.train_clips, setup.val_clips, setup.test_clips
    return make_benchmark(setup.data, *sizes)


def _features(
    splits: Mapping[str, Split],
    setup: Setup,
    patches: bool = False,
    device: str = "cpu",
) -> dict[str, CachedVideos]:
    backbone = load_backbone("mini", setup.pretrained)
    config, cache = get_preset("mini").model, cache_folder(Path(setup.data))
    return {
        name: cached_videos(split, backbone, config, cache, patches, device)
        for name, split in splits.items()
    }


@lru_cache(maxsize=1)
def clip_digest(setup: Setup) -> str:
    """A hash of the mini CLIP's weights: other weights make other results."""
    return weights_digest(load_backbone("mini", setup.pretrained))


def train_variant(
    changes: Mapping[str, Any],
    seed: int,
    videos: Mapping[str, CachedVideos],
    setup: Setup | None = None,
    progress: bool = True,
    device: str = "cpu",
    folder: Path | None = None,
) -> tuple[Retriever, dict[str, Any]]:
    """A variant of a mini model, trained with one seed, and the record of its run.

    ``changes``: the ``method`` (GLSCL by default), settings of its model and
    recipe that differ from the mini preset, the ``precision``, and the
    ``hard_negatives`` among the training videos. ``videos``: as ``variant_videos``
    gives them.
    The seed decides the new modules' start, the data order and dropout. Deterministic
    on a CPU, where the model is at the end; it is trained on ``device``. ``folder``: of
    the checkpoints, from which a run that was stopped goes on.
    """
    model, recipe = new_variant(changes, seed, setup or Setup())
    method = model.method
    precision = changes.get("precision", "fp32")
    options = RunOptions(
        progress=progress, device=device, precision=precision, folder=folder
    )
    freeze(model, recipe.freeze)
    pairs = len(epoch_order(videos["train"].split, recipe, 0))
    movement = Movement(model, max(1, pairs // recipe.batch_size))
    history = fit(
        model, videos["train"], recipe, videos["val"], options, movement.after_step
    )
    model.to("cpu")
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
        "movement": movement.sets,
        "seconds": history.seconds,
        "val": None if best is None else history.epochs[best]["validation"],
        "test": result_record(test),
    }
    if isinstance(model, GLSCL) and model.config.local:
        record["concepts"] = concept_measures(model, videos["val"])
    if method != "glscl":
        record["measures"] = related_measures(model, videos["val"], videos["test"])
    return model, record


def new_variant(
    changes: Mapping[str, Any], seed: int, setup: Setup
) -> tuple[Retriever, TrainConfig]:
    """A variant of a mini model before its training, and the recipe of that."""
    method = changes.get("method", "glscl")
    preset = get_preset("mini", method=method)
    of_model, of_recipe = settings_of(changes)
    config = override(preset.model, {**of_model, "pretrained": setup.pretrained})
    recipe = override(preset.train, {"epochs": setup.epochs, "seed": seed, **of_recipe})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = load_backbone(config.backbone, config.pretrained)
        return METHODS[method](backbone, config), recipe


def settings_of(changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The changes of a variant that are settings of the model, and of the recipe."""
    recipe = {field.name for field in fields(TrainConfig)}
    others = {"method", "hard_negatives", "precision"}
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
    owner = result.split.caption_to_video
    return {
        **result.metrics,
        "kinds": by_kind(result.similarity, result.split),
        "ranks": text_to_video_ranks(result.similarity, owner).rank().tolist(),
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
    return mini_videos(setup, patches, tuple(changes.get("hard_negatives", ())))


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
    model, record = train_variant(settings["changes"], seed, videos, setup, False)
    if variant in LONGER:
        families = hard_negative_videos(setup)
        record["hard_negative_accuracy"] = hard_negative_accuracy(
            model, families, HARD_NEGATIVE_KINDS
        )
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
