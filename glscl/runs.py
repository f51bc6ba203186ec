"""Data, models and runs by name: what the commands do, as functions.

``DataSource`` opens the built-in benchmark or a real one, ``load_model`` a saved model
of any method; ``train_on`` and ``evaluate_on`` are ``glscl train`` and ``glscl eval``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from glscl import evaluate
from glscl.backbone import MINI, load_backbone
from glscl.config import DataOptions, Preset, TrainConfig
from glscl.data import benchmarks
from glscl.data.loader import FrameCache, VideoDataset
from glscl.data.pairs import Videos, rand_augment
from glscl.data.split import Split, VideoItem
from glscl.data.verify import read_unreadable
from glscl.eercf import EERCF
from glscl.glccl import GLCCL
from glscl.heads.clip4clip import CLIP4Clip
from glscl.heads.dicosa import DiCoSA
from glscl.heads.drl import DRL
from glscl.heads.ts2net import TS2Net
from glscl.heads.xclip import XCLIP
from glscl.heads.xpool import XPool
from glscl.metrics import dual_softmax, qb_norm
from glscl.mini import synthetic
from glscl.model import GLSCL
from glscl.retriever import Retriever
from glscl.train import History, RunOptions, fit
from glscl.util import parallel
from glscl.util.files import cache_folder
from glscl.weights import read_directory


@dataclass(frozen=True)
class DataSource(DataOptions):
    """A data set by name and folder, and what to do about missing videos.

    Raises ``ValueError`` for a value of another type.
    """

    @property
    def cache_folder(self) -> Path:
        """Where frames and features are kept."""
        return cache_folder(self.root) if self.cache is None else self.cache

    def open(self, hold_out: bool = True) -> synthetic.Benchmark | benchmarks.Dataset:
        """The data, by split; ``hold_out`` as in ``benchmarks.load``.

        Raises what ``synthetic.load_benchmark`` and ``benchmarks.load`` raise.
        """
        if self.name == MINI:
            return synthetic.load_benchmark(self.root)
        return benchmarks.load(
            self.name,
            self.root,
            self.variant,
            self.videos,
            self.missing,
            read_unreadable(self.report) if self.report else (),
            hold_out,
        )

    def every_video(self) -> list[VideoItem]:
        """The videos of all splits, missing ones where they should be."""
        data = self.open(hold_out=False)
        if isinstance(data, benchmarks.Dataset):
            return data.every_video()
        return [video for name in data.sizes for video in data.split(name).videos]

    def notes(self, hold_out: bool = True) -> list[str]:
        """Each way in which this is not the published benchmark, as a sentence."""
        data = self.open(hold_out)
        return data.differences() if isinstance(data, benchmarks.Dataset) else []


METHODS: dict[str, type[Retriever]] = {
    kind.method: kind
    for kind in (GLSCL, EERCF, GLCCL, CLIP4Clip, TS2Net, XCLIP, XPool, DRL, DiCoSA)
}


def load_model(path: str | Path) -> Retriever:
    """The model that ``save`` wrote to ``path``, in evaluation mode, on the CPU.

    Raises ``FileNotFoundError`` for missing files, ``ValueError`` for files that are not
    a model of a known method.
    """
    method = read_directory(Path(path)).method
    if method not in METHODS:
        raise ValueError(
            f"{path} holds a model of an unknown method {method!r}: expected one of "
            f"{list(METHODS)}."
        )
    return METHODS[method].load(path)


def train_on(
    source: DataSource, preset: Preset, options: RunOptions, method: str = "glscl"
) -> History:
    """Train on ``source`` with the model and recipe of ``preset``.

    ``method``: a name in ``METHODS``, that of the preset. With the visual tower frozen
    its features are computed once; otherwise videos are decoded, and augmented if the
    recipe says so. Choosing the weights on the test split, as most published results do,
    leaves all of train to train on. Under ``torchrun`` each process takes the device of
    its number.

    Raises ``ValueError`` for unknown settings, what ``DataSource.open`` and ``fit``
    raise.
    """
    config, recipe = preset.model, preset.train
    chooser = "test" if recipe.select_on == "test" else "val"
    data = source.open(hold_out=chooser == "val")
    options = replace(options, device=process_device(options.device))
    torch.manual_seed(recipe.seed)
    model = METHODS[method](load_backbone(config.backbone, config.pretrained), config)
    about = source, options.device, options.workers, recipe
    train, validation = (
        _videos(model, data.split(name), *about) for name in ("train", chooser)
    )
    return fit(model, train, recipe, validation, options)


def process_device(device: str) -> str:
    """The device of this process, ``cuda:N`` under ``torchrun``, whose group it joins."""
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    parallel.start(torch.device(parallel.usable_device(device)))
    return device


def _videos(
    model: Retriever,
    split: Split,
    source: DataSource,
    device: str,
    workers: int,
    recipe: TrainConfig | None = None,
) -> Videos:
    """A split as input of a model: encoded once, unless the ``recipe`` changes pixels
    or what encodes them.
    """
    folder = source.cache_folder
    spec = evaluate.frame_spec(model.backbone, model.config)
    kept = FrameCache.limited(folder / "frames", split, spec, source.frame_cache)
    if recipe is None or (recipe.freeze == "visual" and recipe.augment is None):
        about = model.backbone, model.config, folder, model.uses_patches
        return evaluate.cached_videos(split, *about, device, workers, kept)
    augment = recipe.augment if split.name == "train" else None
    augmented = rand_augment(augment) if augment else None
    return VideoDataset(split, spec, kept, augmented, recipe.augment_on)


def evaluate_on(
    source: DataSource,
    folder: Path,
    split: str = "test",
    with_qb_norm: bool | Mapping[str, Any] = False,
    with_dsl: bool = False,
    worst: int = 10,
    device: str = "cpu",
    workers: int = 0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """The table of a saved model on a split, its worst captions, and what was run.

    Post-processed rows carry their name. QB-Norm is for text to video, so its rows of
    the other direction are left out; ``with_qb_norm`` may hold its ``k``, ``beta``,
    ``theta`` and the captions of its ``bank``, by default all of the training split.
    """
    # Unless val is evaluated, the videos held out for it are videos of train.
    device, data = process_device(device), source.open(hold_out=split == "val")
    model = load_model(folder).to(device)
    chosen = data.split(split)
    videos = _videos(model, chosen, source, device, workers)
    result = evaluate.evaluate(model, videos, device=device)
    scores = [("raw", result.similarity)]
    if with_dsl:
        scores.append(("DSL, transductive", dual_softmax(result.similarity)))
    rows = evaluate.result_table(scores, chosen)
    if with_qb_norm:
        given = {} if with_qb_norm is True else dict(with_qb_norm)
        texts = given.pop("bank", None) or data.split("train").texts
        bank = evaluate.scores_by_block(model, videos, texts, device=device)
        normed = qb_norm(result.similarity, bank, **given)
        scores = [("QB-Norm, bank: training captions", normed)]
        table = evaluate.result_table(scores, chosen)
        rows += [row for row in table if row["direction"] == "text to video"]
    about = {
        "model": str(folder),
        "method": model.method,
        "data": source.name,
        "root": str(source.root),
        "split": split,
        "videos": len(chosen.videos),
        "notes": source.notes(hold_out=split == "val"),
        "settings": asdict(model.config),
    }
    return rows, evaluate.worst_queries(result, worst) if worst else [], about
