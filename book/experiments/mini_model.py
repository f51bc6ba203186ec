"""The trained mini GLSCL of the package: which recipe, its run, its test table.

    python -m book.experiments mini_model

The recipe is the variant of GLSCL whose stored runs have the highest mean R@1 on the
validation split; it is trained once more, with the first seed. The test split has no
part in either choice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from book.experiments.ablations import (
    ALL_VARIANTS,
    Setup,
    train_variant,
    variant_videos,
)
from glscl.retriever import Retriever

SUMMARY = Path("book/results/ablation.json")
SEED = 0


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
