"""The table of an ablation: means over seeds, and differences seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from book.experiments.ablations import SWEEPS
from glscl.metrics import bootstrap_interval

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
    ("hard negatives apart", "all, longer"),
    ("hard negatives together", "hard negatives apart"),
    ("together, positions", "hard negatives together"),
    ("together, positions, longer", "together, positions"),
    ("together, positions, longer", "all, longer"),
    # The arithmetic at equal rates, then the mini preset's rates.
    ("published rates, bf16", "published rates, float32"),
    ("published rates, released", "published rates, float32"),
    ("mini rates", "published rates, float32"),
    # A loss at another weight stands alone: its model is compared with that of none.
    *(
        (name, "GIM + LIM" if "icl_weight" in SWEEPS[name] else "all")
        for name in SWEEPS
    ),
)


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
        "provenance": all_values([record["provenance"] for record in records]),
        "seconds": sum(record["seconds"] for record in records),
        "variants": {name: _row(list(of.values())) for name, of in runs.items()},
        "differences": [
            difference(runs[one], runs[two], one, two)
            for one, two in PAIRS
            if one in runs and two in runs and runs[one].keys() & runs[two].keys()
        ],
    }


def all_values(provenances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
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
        "validation_R1": spread([run["val"]["t2v"]["R1"] for run in runs]),
    }
    for direction in ("t2v", "v2t"):
        row[direction] = {
            name: spread([run["test"][direction][name] for run in runs])
            for name in ("R1", "R5", "R10", "MdR", "MnR")
        }
    row["kinds"] = {
        kind: spread([run["test"]["kinds"][kind]["R1"] for run in runs])
        for kind in runs[0]["test"]["kinds"]
    }
    if "concepts" in runs[0]:
        row["concepts"] = {
            name: spread([run["concepts"][name] for run in runs])
            for name in runs[0]["concepts"]
        }
    if all("movement" in run for run in runs):
        row["movement"] = {
            name: {
                "start": runs[0]["movement"][name]["start"],
                **{
                    what: spread([run["movement"][name][what][-1] for run in runs])
                    for what in ("distance", "moved")
                },
            }
            for name in runs[0]["movement"]
        }
    name = "hard_negative_accuracy"
    measured = [run[name] for run in runs if name in run]
    if measured:
        row[name] = {
            kind: spread([accuracy[kind] for accuracy in measured])
            for kind in measured[0]
        }
    return row


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and deviation over seeds, and each value."""
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
