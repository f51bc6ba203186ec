"""The stored runs of all heads on one ground: by method, and as one summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from book.experiments.formulas import HeadMacs, Sizes, folded_macs, head_macs
from book.experiments.ground import GROUND, Ground, stored_trials, validation_score
from book.experiments.summary import all_values, spread

RUNS = Path("book/results/heads")
COMMAND = "python -m book.experiments heads"
#: The row of the closed forms (``book.experiments.formulas``) that counts a method.
COUNTED = {
    **{name: name for name in ("CLIP4Clip", "TS2-Net", "X-CLIP", "X-Pool", "WTI")},
    **{name: name for name in ("DiCoSA", "GLCCL", "GLSCL")},
    "mean pooling": "CLIP4Clip",
    "DRL": "WTI",  # CDCR is a loss
    "EERCF": "EERCF, frames",
}


def by_method(folder: Path = RUNS) -> dict[str, list[dict[str, Any]]]:
    """The runs of every method, seeds from 0, as many as all methods have.

    Raises ``FileNotFoundError`` where no seed has a run of every method.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in GROUND}
    for path in sorted(folder.glob("*-seed*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["name"] in found:
            found[run["name"]][run["seed"]] = run
    seeds = 0
    while all(seeds in runs for runs in found.values()):
        seeds += 1
    if not seeds:
        raise FileNotFoundError(f"{folder}: no seed has a run of every method.")
    return {name: [runs[s] for s in range(seeds)] for name, runs in found.items()}


def macs(sizes: Sizes) -> dict[str, tuple[HeadMacs, HeadMacs]]:
    """The counts of every method at these sizes: as defined, and folded."""
    plain, folded = head_macs(sizes), folded_macs(sizes)
    return {
        name: (plain[row], folded.get(row, plain[row])) for name, row in COUNTED.items()
    }


def on_gpu(record: Path) -> dict[str, Any]:
    """The heads in a record of ``benchmarks.device``, with its most captions.

    ``gpu``, ``sizes`` and ``captions``; ``heads``: by method the milliseconds for 10⁶
    pairs and the peak GiB beside the features, in the faster form, plain or folded.
    """
    stored = json.loads(record.read_text(encoding="utf-8"))
    captions = max(row["N"] for row in stored["heads"])
    rows = {row["head"]: row for row in stored["heads"] if row["N"] == captions}

    def costs(row: Mapping[str, Any]) -> dict[str, float]:
        folds = row.get("folded_seconds", float("inf")) < row["seconds"]
        form = "folded_" if folds else ""
        return {
            "milliseconds": 1e3 * row[f"{form}seconds"],
            "gib": row[f"{form}peak_mib"] / 1024,
        }

    return {
        "gpu": stored["provenance"]["gpu"],
        "sizes": stored["sizes"],
        "captions": captions,
        "heads": {name: costs(rows[row]) for name, row in COUNTED.items()},
    }


def summarise(folder: Path, ground: Ground, command: str) -> dict[str, Any]:
    """Settings tried and chosen, means over seeds and costs, by method."""
    runs = by_method(folder)
    every = [run for some in runs.values() for run in some]
    return {
        "command": command,
        "setup": every[0]["setup"],
        "trial_epochs": ground.trial_epochs,
        "clip": every[0]["clip"],
        "provenance": all_values([run["provenance"] for run in every]),
        "seconds": sum(run["seconds"] for run in every),
        "methods": {
            name: _row(stored_trials(name, folder, ground), some)
            for name, some in runs.items()
        },
    }


def _row(
    trials: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    recalls = {
        direction: {
            k: spread([run["test"][direction][k] for run in runs])
            for k in ("R1", "R5", "R10", "MdR", "MnR")
        }
        for direction in ("t2v", "v2t")
    }
    kinds = {
        kind: spread([run["test"]["kinds"][kind]["R1"] for run in runs])
        for kind in runs[0]["test"]["kinds"]
    }
    return {
        "trials": [
            {"changes": t["changes"], "validation": validation_score(t)} for t in trials
        ],
        "changes": runs[0]["changes"],
        "seeds": [run["seed"] for run in runs],
        "parameters": runs[0]["parameters"],
        "train_seconds": spread([run["train_seconds"] for run in runs]),
        "kept_bytes": runs[0]["kept_bytes"],
        "milliseconds": min(run["milliseconds"] for run in runs),
        **recalls,
        "kinds": kinds,
    }


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 1 of ``values`` (N,), the mean rank where they are equal."""
    x = np.asarray(values, float)
    below = (x[:, None] > x).sum(1)
    return below + ((x[:, None] == x).sum(1) + 1) / 2


def rank_correlation(one: ArrayLike, two: ArrayLike) -> float:
    """Spearman's correlation of two lists (N,)."""
    return float(np.corrcoef(ranks(one), ranks(two))[0, 1])


def chance_of_correlation(one: ArrayLike, two: ArrayLike) -> float:
    """Share of all orders of ``two`` (N ≤ 8) that correlate with ``one`` as much."""
    x, y = ranks(one), ranks(two)
    if len(x) > 8:
        raise ValueError(f"Expected at most 8 values, got {len(x)}.")
    orders = np.array(list(permutations(y)))
    sums = orders @ x  # the correlation rises with it
    return float((sums >= x @ y - 1e-9).mean())
