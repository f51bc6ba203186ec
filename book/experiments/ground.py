"""All similarity heads on one ground: the same CLIP, clips, recipe, search and seeds.

    python -m book.experiments heads --seeds 5

Each method first has the same number of short trials with one seed, judged on the
validation split: over two learning rates and two values of its own temperature, or over
four learning rates where it has none. Then the best setting is trained with every seed.
The weights of the best epoch on the validation split are tested once. Every trial and
run is one JSON file with its settings and provenance; what is stored is not run again.
Only the head differs between methods: what they change inside CLIP is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from book.experiments.ablations import (
    Setup,
    clip_digest,
    mini_videos,
    new_parameters,
    result_record,
    run_path,
    settings_of,
)
from book.kit.provenance import provenance
from glscl.backbone import load_backbone
from glscl.config import get_preset, override
from glscl.data.pairs import CachedVideos
from glscl.evaluate import caption_batches, encode_gallery, evaluate
from glscl.optim import freeze
from glscl.retriever import Retriever
from glscl.runs import METHODS
from glscl.train import RunOptions, fit
from glscl.util.files import write_json

Changes = dict[str, Any]
EPOCHS, TRIAL_EPOCHS = 8, 2
TRIAL_SEED = 1000  # not among the seeds of the runs
#: Learning rates of new modules and CLIP alike, the image tower being frozen.
TWO_RATES, FOUR_RATES = (5e-4, 1e-3), (2.5e-4, 5e-4, 1e-3, 2e-3)


@dataclass(frozen=True)
class Entry:
    """A method in the comparison: what it changes in its mini preset, what is searched.

    ``own``: the name of the method's own temperature and the two values that are tried.
    """

    changes: Changes
    own: tuple[str, tuple[float, float]] | None = None

    def trials(self) -> list[Changes]:
        """The settings of every trial."""
        if self.own is None:
            return [{**self.changes, "learning_rate": rate} for rate in FOUR_RATES]
        name, values = self.own
        return [
            {**self.changes, "learning_rate": rate, name: value}
            for rate, value in product(TWO_RATES, values)
        ]


#: Every method by the name it has in tables and figures.
GROUND: dict[str, Entry] = {
    "mean pooling": Entry({"method": "clip4clip", "temporal_layers": 0}),
    "CLIP4Clip": Entry({"method": "clip4clip"}),
    "TS2-Net": Entry({"method": "ts2net"}, ("sharpness", (4.0, 16.0))),
    "X-CLIP": Entry({"method": "xclip"}, ("temperature", (0.01, 0.1))),
    "X-Pool": Entry({"method": "xpool"}),
    "WTI": Entry({"method": "drl", "cdcr_weight": 0.0}),
    "DRL": Entry({"method": "drl"}),
    "DiCoSA": Entry({"method": "dicosa"}, ("temperature", (30.0, 100.0))),
    "EERCF": Entry(
        {"method": "eercf", "patches": False}, ("gate_temperature", (0.03, 0.1))
    ),
    "GLCCL": Entry({"method": "glccl"}, ("temperature", (30.0, 100.0))),
    "GLSCL": Entry({"method": "glscl"}, ("temperature", (30.0, 100.0))),
}


@dataclass(frozen=True)
class Ground:
    """The size of the comparison; ``setup``: the data and the epochs of a run."""

    setup: Setup
    trial_epochs: int


def train(
    changes: Mapping[str, Any],
    seed: int,
    epochs: int,
    videos: Mapping[str, CachedVideos],
    pretrained: str | None,
    kind: type[Retriever] | None = None,
) -> tuple[Retriever, dict[str, Any]]:
    """A head, trained with one seed, and the record of its training.

    ``changes``: the ``method``, and settings that differ from its mini preset. ``kind``:
    a class of the reader's own instead of the method's.
    """
    preset = get_preset("mini", method=changes["method"])
    of_model, of_recipe = settings_of(changes)
    config = override(preset.model, {**of_model, "pretrained": pretrained})
    recipe = override(preset.train, {"epochs": epochs, "seed": seed, **of_recipe})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = load_backbone(config.backbone, config.pretrained)
        model = (kind or METHODS[changes["method"]])(backbone, config)
    freeze(model, recipe.freeze)
    started = time.perf_counter()
    options = RunOptions(progress=False)
    history = fit(model, videos["train"], recipe, videos["val"], options)
    best = history.best_epoch or 0
    record = {
        "seed": seed,
        "method": changes["method"],
        "model": asdict(config),
        "recipe": asdict(recipe),
        "parameters": new_parameters(model),
        "best_epoch": best,
        "val": history.epochs[best]["validation"],
        "validation_R1": [e["validation"]["t2v"]["R1"] for e in history.epochs],
        "loss": [step["total"] for step in history.steps],
        "train_seconds": sum(step["seconds"] for step in history.steps),
        "seconds": time.perf_counter() - started,
    }
    return model, record


def kept_for_backward(model: Retriever, videos: CachedVideos, pairs: int = 64) -> int:
    """Bytes that one training step keeps for its backward pass, weights excepted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    split = videos.split
    captions = [split.texts[i] for i in _first_captions(split.caption_to_video, pairs)]
    numbers = range(min(pairs, len(split.videos)))
    frames, mask = (x[list(numbers)] for x in videos.features)
    ids, token_mask = model.backbone.tokenize(captions, model.config.max_words)
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
    ):
        model.train()
        text, video = model(ids, token_mask, frames, mask)
        loss = model.loss(*model.loss_features(text, video))
        total = sum(kept.values())
        del loss
    model.eval()
    return total


def _first_captions(owner: Tensor, videos: int) -> list[int]:
    """The first caption of each of the first ``videos``."""
    found: dict[int, int] = {}
    for caption, video in enumerate(owner.tolist()):
        found.setdefault(video, caption)
    return [found[video] for video in sorted(found)[:videos]]


@torch.no_grad()
def milliseconds(
    model: Retriever,
    videos: CachedVideos,
    captions: int = 250,
    gallery: int = 400,
    repeats: int = 2,
) -> float:
    """Milliseconds per 10⁶ pairs of the trained model's scores, items encoded before.

    The fastest of ``repeats`` runs over the first captions and videos of a split.
    """
    model.eval()
    numbers = range(min(gallery, len(videos.split.videos)))
    video = encode_gallery(model, videos, 100, numbers=numbers)
    texts = videos.split.texts[:captions]
    (text,) = caption_batches(model, texts, len(texts))
    fastest = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        model.similarity(text, video)
        fastest = min(fastest, time.perf_counter() - started)
    return 1e3 * fastest * 1e6 / (len(texts) * len(numbers))


def trial_path(folder: Path, name: str, number: int) -> Path:
    """The file of one trial."""
    path = run_path(folder, name, number)
    return path.with_name(path.name.replace("-seed", "-trial"))


def run_trial(job: tuple[str, int], folder: Path, ground: Ground) -> dict[str, Any]:
    """One setting of a method, trained briefly and looked at on the validation split."""
    name, number = job
    settings = _settings(
        name, GROUND[name].trials()[number], ground.trial_epochs, ground
    )
    path = trial_path(folder, name, number)
    stored = _stored(path, settings)
    if stored is not None:
        return stored
    setup = ground.setup
    videos = mini_videos(setup)
    _, record = train(
        settings["changes"], TRIAL_SEED, ground.trial_epochs, videos, setup.pretrained
    )
    return _write(path, settings, record)


def run_once(job: tuple[str, int], folder: Path, ground: Ground) -> dict[str, Any]:
    """The best setting of a method's trials with one seed, tested once."""
    name, seed = job
    changes = best_trial(stored_trials(name, folder, ground))["changes"]
    settings = _settings(name, changes, ground.setup.epochs, ground)
    path = run_path(folder, name, seed)
    stored = _stored(path, settings)
    if stored is not None:
        return stored
    setup = ground.setup
    videos = mini_videos(setup)
    model, record = train(changes, seed, setup.epochs, videos, setup.pretrained)
    record["kept_bytes"] = kept_for_backward(model, videos["train"])
    record["milliseconds"] = milliseconds(model, videos["test"])
    batch = record["recipe"]["eval_batch_size"]
    record["test"] = result_record(evaluate(model, videos["test"], batch))
    return _write(path, settings, record)


def stored_trials(name: str, folder: Path, ground: Ground) -> list[dict[str, Any]]:
    """The records of a method's trials; ``FileNotFoundError`` if one is missing."""
    found = []
    for number, changes in enumerate(GROUND[name].trials()):
        path = trial_path(folder, name, number)
        settings = _settings(name, changes, ground.trial_epochs, ground)
        stored = _stored(path, settings)
        if stored is None:
            raise FileNotFoundError(f"{path}: no trial with these settings.")
        found.append(stored)
    return found


def best_trial(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trial with the highest mean of text→video R@1, R@5 and R@10 on validation."""
    return max(trials, key=validation_score)


def validation_score(record: Mapping[str, Any]) -> float:
    """The mean of text→video R@1, R@5, R@10: steadier than R@1 alone."""
    found = record["val"]["t2v"]
    return (found["R1"] + found["R5"] + found["R10"]) / 3


def run_all(
    names: Iterable[str],
    seeds: Iterable[int],
    folder: Path,
    ground: Ground,
    processes: int = 1,
) -> None:
    """All trials, then all runs seed by seed, in ``processes`` one-thread processes.

    Raises ``ValueError`` for a method that does not exist.
    """
    names = list(names)
    for name in names:
        if name not in GROUND:
            raise ValueError(
                f"Unknown method {name!r}: expected one of {list(GROUND)}."
            )
    mini_videos(ground.setup)  # decoded once, here, not by every process
    trials = [(name, n) for name in names for n in range(len(GROUND[name].trials()))]
    runs = [(name, seed) for seed in seeds for name in names]
    with ProcessPoolExecutor(processes, get_context("spawn"), _one_thread) as pool:
        for function, jobs in ((run_trial, trials), (run_once, runs)):
            list(pool.map(partial(function, folder=folder, ground=ground), jobs))


def _settings(
    name: str, changes: Mapping[str, Any], epochs: int, ground: Ground
) -> dict[str, Any]:
    return {
        "name": name,
        "changes": dict(changes),
        "epochs": epochs,
        "setup": asdict(ground.setup),
        "clip": clip_digest(ground.setup),
    }


def _stored(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    stored = json.loads(path.read_text())
    return stored if settings.items() <= stored.items() else None


def _write(
    path: Path, settings: Mapping[str, Any], record: Mapping[str, Any]
) -> dict[str, Any]:
    whole = {**settings, **record, "provenance": provenance()}
    write_json(path, whole, indent=None)
    return whole


def _one_thread() -> None:
    torch.set_num_threads(1)
