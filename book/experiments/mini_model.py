"""The trained mini GLSCL of the package: its recipe, its run, its test table, its file.

    python -m book.experiments mini_model

The recipe is the variant of GLSCL whose stored runs have the highest mean R@1 on the
validation split; it is trained once more, with the first seed. The test split has no
part in either choice. The image tower is frozen in training, so the file leaves it out:
it is that of the mini CLIP, which the package has already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from book.experiments.ablations import (
    ALL_VARIANTS,
    Setup,
    train_variant,
    variant_videos,
)
from book.kit.provenance import provenance
from glscl.backbone import ASSETS, load_backbone
from glscl.data.pairs import CachedVideos
from glscl.data.split import Split
from glscl.evaluate import Retrieval, evaluate, result_table
from glscl.metrics import text_to_video_ranks
from glscl.model import GLSCL
from glscl.optim import CLIP_PREFIX
from glscl.retriever import Retriever
from glscl.weights import own_weights, save_directory

SUMMARY = Path("book/results/longer.json")
FOLDER = ASSETS / "glscl"
SEED = 0
IMAGE_TOWER = f"{CLIP_PREFIX}clip.visual."


def best_variant(summary: Path = SUMMARY) -> tuple[str, Setup]:
    """The variant of GLSCL that is best on validation, and the setup of its runs."""
    content = json.loads(summary.read_text(encoding="utf-8"))
    means = {
        name: row["validation_R1"]["mean"]
        for name, row in content["variants"].items()
        if "method" not in ALL_VARIANTS[name]
    }
    return max(means, key=lambda name: means[name]), Setup(**content["setup"])


def train(
    variant: str, setup: Setup, folder: Path, seed: int = SEED
) -> tuple[Retriever, dict[str, Any]]:
    """The model and the record of its run, of which ``folder`` keeps the checkpoints."""
    videos = variant_videos(variant, setup)
    changes = ALL_VARIANTS[variant]
    return train_variant(changes, seed, videos, setup, folder=folder)


def package(
    model: Retriever,
    run: Mapping[str, Any],
    videos: Mapping[str, CachedVideos],
    about: Mapping[str, Any],
    folder: Path = FOLDER,
) -> GLSCL:
    """Write a trained ``model`` as the package has it, and return it as that reads it.

    ``run``: the record of its training; ``videos``: its splits; ``about``: what else the
    stored record says. The weights get 16 bits a number; the test table is that of the
    stored model, and the record says what the rounding changes. Raises ``ValueError``
    for an image tower other than that of the mini CLIP.
    """
    made_with = provenance()  # of the checkout before it is written to
    weights = {name: x.half() for name, x in own_weights(model).items()}
    for name, x in own_weights(load_backbone()).items():
        full = CLIP_PREFIX + name
        if full.startswith(IMAGE_TOWER) and not torch.equal(
            weights.pop(full), x.half()
        ):
            raise ValueError(f"{full} was trained: expected a frozen image tower.")
    description = {**model.description(), "built_in_clip": True}
    save_directory(folder, description, weights, "model.safetensors")
    stored, batch = GLSCL.load(folder), run["recipe"]["eval_batch_size"]
    exact, rounded = (evaluate(m, videos["test"], batch) for m in (model, stored))
    description["record"] = {
        **about,
        **record_of(run, videos),
        "rounding": rounding(exact, rounded),
        "test": result_table([("raw", rounded.similarity)], videos["test"].split),
        "provenance": made_with,
    }
    save_directory(folder, description, weights, "model.safetensors")
    return GLSCL.load(folder)


def record_of(
    run: Mapping[str, Any], videos: Mapping[str, CachedVideos]
) -> dict[str, Any]:
    """How the model was trained and is measured, as a model card tells it."""
    splits = {name: cached.split for name, cached in videos.items()}
    sizes = {name: len(split.videos) for name, split in splits.items()}
    model, best = run["model"], run["best_epoch"]
    return {
        "protocol": [
            f"The {len(splits['test'].captions)} captions of the test split are ranked "
            f"against its {sizes['test']} videos, and back.",
            f"A video is up to {model['max_frames']} frames, {model['sample_fps']:g} a "
            f"second; a caption is up to {model['max_words']} tokens.",
            "R1, R5, R10, R50: recall in %; MdR, MnR: median and mean rank; equal scores "
            "count with their expected rank.",
            "low, high: 95 % interval of R1, bootstrap over videos with all their "
            "captions.",
            "The recipe and the epoch were chosen on the validation split.",
        ],
        "data": "the built-in benchmark of glscl",
        "videos": sizes,
        "data_sha256": digest(splits.values()),
        "seed": run["seed"],
        "steps": len(run["loss"]),
        "epochs": run["recipe"]["epochs"],
        "best_epoch": best,
        "validation_R1": None if best is None else run["validation_R1"][best],
        "seconds": run["seconds"],
        "recipe": run["recipe"],
    }


def digest(splits: Iterable[Split]) -> str:
    """SHA-256 of the files and the captions of the videos of ``splits``."""
    found = hashlib.sha256()
    for split in splits:
        for video in split.videos:
            found.update(video.id.encode() + video.path.read_bytes())
        for caption in split.captions:
            found.update(f"{caption.video} {caption.text}\n".encode())
    return found.hexdigest()


def rounding(exact: Retrieval, rounded: Retrieval) -> dict[str, float]:
    """What 16 bits a weight change in the scores and in the ranks."""
    owner = exact.split.caption_to_video
    ranks = [text_to_video_ranks(r.similarity, owner).rank() for r in (exact, rounded)]
    gap = (exact.similarity - rounded.similarity).abs().max().item()
    return {
        "largest_score_difference": gap,
        "captions_of_another_rank": int((ranks[0] != ranks[1]).sum()),
    }
