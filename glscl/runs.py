"""What the commands ``glscl train`` and ``glscl eval`` do, as functions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from glscl.backbone import load_backbone
from glscl.config import TrainConfig, get_preset, override
from glscl.data.loader import FrameCache
from glscl.data.pairs import DecodedVideos, Videos
from glscl.data.synthetic import load_benchmark
from glscl.evaluate import (
    Retrieval,
    cached_videos,
    caption_scores,
    encode_gallery,
    evaluate,
    frame_spec,
    result_table,
    worst_queries,
)
from glscl.methods import METHODS, load_model
from glscl.metrics import dual_softmax, qb_norm
from glscl.retriever import Retriever
from glscl.train import History, RunOptions, fit


def train_mini(
    preset: str,
    root: Path,
    changes: Mapping[str, Any],
    options: RunOptions,
    method: str = "glscl",
) -> History:
    """Train on the built-in benchmark under ``root``, the model and recipe of ``preset``.

    ``method``: a name in ``METHODS``. ``changes``: settings of the model or the recipe
    that differ. With the visual tower frozen its features are computed once; otherwise
    videos are decoded, and augmented if the recipe says so. Under ``torchrun`` each
    process takes the device of its number.

    Raises ``ValueError`` for unknown settings and what ``fit`` raises.
    """
    chosen = get_preset(preset, method=method)
    ours = {field.name for field in fields(chosen.model)}
    model_config = override(
        chosen.model, {k: v for k, v in changes.items() if k in ours}
    )
    recipe = override(chosen.train, {k: v for k, v in changes.items() if k not in ours})
    benchmark = load_benchmark(root)
    if options.device == "cuda" and "LOCAL_RANK" in os.environ:
        options = replace(options, device=f"cuda:{os.environ['LOCAL_RANK']}")
    torch.manual_seed(recipe.seed)
    model = METHODS[method](
        load_backbone(model_config.backbone, model_config.pretrained), model_config
    )
    validation = "test" if options.select_on == "test" else "val"
    train, chooser = (
        _videos(model, recipe, benchmark.split(name), root)
        for name in ("train", validation)
    )
    return fit(model, train, recipe, chooser, options)


def _videos(model: Retriever, recipe: TrainConfig, split: Any, root: Path) -> Videos:
    if recipe.freeze == "visual" and recipe.augment is None:
        return cached_videos(
            split, model.backbone, model.config, root, model.uses_patches
        )
    return DecodedVideos(
        split,
        frame_spec(model.backbone, model.config),
        FrameCache(root / "cache" / "frames"),
        recipe.augment if split.name == "train" else None,
    )


def evaluate_mini(
    folder: Path,
    root: Path,
    split: str = "test",
    with_qb_norm: bool = False,
    with_dsl: bool = False,
    worst: int = 10,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """The table of a saved model on a split, its worst captions, and what was run.

    Post-processed rows carry their name. QB-Norm is for text to video, so its rows of
    the other direction are left out.
    """
    model = load_model(folder)
    benchmark = load_benchmark(root)
    chosen = benchmark.split(split)
    videos = cached_videos(
        chosen, model.backbone, model.config, root, model.uses_patches
    )
    result: Retrieval = evaluate(model, videos)
    scores = [("raw", result.similarity)]
    if with_dsl:
        scores.append(("DSL, transductive", dual_softmax(result.similarity)))
    rows = result_table(scores, chosen)
    if with_qb_norm:
        bank = caption_scores(
            model, benchmark.split("train").texts, encode_gallery(model, videos)
        )
        normed = result_table(
            [("QB-Norm, bank: training captions", qb_norm(result.similarity, bank))],
            chosen,
        )
        rows += [row for row in normed if row["direction"] == "text to video"]
    about = {
        "model": str(folder),
        "method": model.method,
        "data": str(root),
        "split": split,
        "settings": asdict(model.config),
        "seed of the data": benchmark.seed,
    }
    return rows, worst_queries(result, worst) if worst else [], about
