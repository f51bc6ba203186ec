"""The published learning rates on the mini model, in three kinds of arithmetic.

    python -m book.experiments arithmetic --seeds 5

On a GPU the release keeps CLIP's matrices in float16 and updates them in float16, which
moves them further than the learning rate says. ``ARITHMETIC`` are recipes of the mini
model that differ in this alone, ``MINI_RATES`` in the rates; ``Movement`` measures how far
weights go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from glscl.config import get_preset
from glscl.optim import CLIP_PREFIX
from glscl.retriever import Retriever

_MINI, _RELEASED = get_preset("mini").train, get_preset("msrvtt", "released").train
#: The released recipe as far as it concerns steps; batch and epochs stay those of mini.
PUBLISHED_RATES: dict[str, Any] = {
    name: getattr(_RELEASED, name)
    for name in (
        "optimiser",
        "learning_rate",
        "clip_lr_scale",
        "weight_decay",
        "warmup",
        "schedule",
        "decay",
    )
}
#: The published rates in each arithmetic.
ARITHMETIC: dict[str, dict[str, Any]] = {
    "published rates, float32": PUBLISHED_RATES,
    "published rates, bf16": {**PUBLISHED_RATES, "precision": "bf16"},
    "published rates, released": {**PUBLISHED_RATES, "clip_arithmetic": "released"},
}
#: The mini preset's rates, in float32.
MINI_RATES: dict[str, dict[str, Any]] = {
    "mini rates": {
        **PUBLISHED_RATES,
        "learning_rate": _MINI.learning_rate,
        "clip_lr_scale": _MINI.clip_lr_scale,
    }
}


def weight_set(name: str) -> str:
    """Which of three sets a weight of a model belongs to, by its name.

    ``"CLIP's matrices"`` are what the release converts to float16: weights and biases
    of linear, convolution and attention layers, and the projections.
    """
    if not name.startswith(CLIP_PREFIX):
        return "new modules"
    kept = (".ln_", "embedding", "logit_scale")
    return "rest of CLIP" if any(x in name for x in kept) else "CLIP's matrices"


class Movement:
    """How far the trained weights of a model are from where they were.

    ``sets``: of each ``weight_set`` the norm of the weights at the ``start``, and at the
    end of every epoch the ``distance`` (norm of the difference) and the share of the
    weights that ``moved`` at all. ``after_step`` is for ``fit`` to call after every step.
    """

    def __init__(self, model: Retriever, steps_per_epoch: int):
        self._model = model
        self._steps_per_epoch = steps_per_epoch
        self._start = {
            name: weight.detach().float().clone()
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }
        norms = self._sums({name: x.square() for name, x in self._start.items()})
        self.sets: dict[str, dict[str, Any]] = {
            name: {"start": square**0.5, "distance": [], "moved": []}
            for name, square in norms.items()
        }

    def after_step(self, record: Mapping[str, float]) -> None:
        """Append the distances if the step of ``record`` is the last of its epoch."""
        if record["step"] % self._steps_per_epoch:
            return
        weights = dict(self._model.named_parameters())
        moved = {n: weights[n].detach().float() - x for n, x in self._start.items()}
        squares = self._sums({n: x.square() for n, x in moved.items()})
        changed = self._sums({n: x != 0 for n, x in moved.items()})
        sizes = self._sums({n: torch.ones_like(x) for n, x in moved.items()})
        for name, found in self.sets.items():
            found["distance"].append(squares[name] ** 0.5)
            found["moved"].append(changed[name] / sizes[name])

    def _sums(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """The sum over the weights of each set."""
        sums: dict[str, float] = {}
        for name, x in values.items():
            key = weight_set(name)
            sums[key] = sums.get(key, 0.0) + x.double().sum().item()
        return sums
