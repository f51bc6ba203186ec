"""The stored runs of the ablation as arrays: seeds by queries, for paired comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from book.experiments.ablations import run_path

RUNS = Path("book/results/ablation")
SWEEP_RUNS = Path("book/results/sweeps")  # with one setting changed
LONGER_RUNS = Path("book/results/longer")  # with more epochs and hard negatives


def command(folder: Path = RUNS) -> str:
    """What makes the runs in ``folder`` again."""
    return summary(folder)["command"]


def runs(variant: str, folder: Path = RUNS) -> list[dict[str, Any]]:
    """The records of a variant, seed by seed; ``FileNotFoundError`` if there are none."""
    paths, seed = [], 0
    while (path := run_path(folder, variant, seed)).is_file():
        paths.append(path)
        seed += 1
    if not paths:
        raise FileNotFoundError(f"{run_path(folder, variant, 0)}: no stored run.")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def summary(folder: Path = RUNS) -> dict[str, Any]:
    """The summary over all seeds and variants."""
    return json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))


def by_kind(titles: Mapping[str, str], folder: Path = RUNS) -> pd.DataFrame:
    """R@1 of each kind of caption, of the variants that ``titles`` names.

    Columns are the mean and the standard deviation over seeds.
    """
    variants = summary(folder)["variants"]
    rows = {
        f"{title}, {kind}": {"R@1": row["mean"], "std over seeds": row["std"]}
        for name, title in titles.items()
        for kind, row in variants[name]["kinds"].items()
    }
    return pd.DataFrame(rows).T


def made(variant: str, folder: Path = RUNS) -> str:
    """What made the stored runs of a variant, as a caption."""
    stored = summary(folder)
    seeds = len(stored["variants"][variant]["seeds"])
    how = f"{stored['setup']['epochs']} epochs, {seeds} seeds"
    return f"Stored: {how}, made by {stored['command']}."


def hits(variant: str, k: int = 1, folder: Path = RUNS) -> NDArray[np.float64]:
    """Which test captions have their video among the first ``k``: (S, A), 0 or 100."""
    ranks = [run["test"]["ranks"] for run in runs(variant, folder)]
    return (np.array(ranks) <= k).astype(np.float64) * 100


def pair(
    one: str, two: str, k: int = 1, folder: Path = RUNS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``hits`` of two variants for the seeds that both have."""
    first, second = hits(one, k, folder), hits(two, k, folder)
    seeds = min(len(first), len(second))
    return first[:seeds], second[:seeds]


def videos(folder: Path = RUNS, variant: str = "all") -> NDArray[np.int64]:
    """The test video of every caption (A,); every video has as many captions."""
    test = runs(variant, folder)[0]["test"]
    captions, gallery = len(test["ranks"]), int(test["t2v"]["gallery"])
    return np.arange(captions) // (captions // gallery)


def of_kind(kind: str, folder: Path = RUNS, variant: str = "all") -> NDArray[np.bool_]:
    """Which test captions (A,) are of a kind.

    The captions of every video come in the order in which a record lists the kinds.
    """
    test = runs(variant, folder)[0]["test"]
    gallery = int(test["t2v"]["gallery"])
    order = [
        name
        for name, found in test["kinds"].items()
        for _ in range(int(found["queries"]) // gallery)
    ]
    return np.tile(np.array(order) == kind, gallery)
