"""What a run did, and which of its weights are kept.

The programs that this package reproduces look at a split within and after epochs; what
is kept is the end of an epoch that is better than all looks before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from glscl.metrics import Metrics


class Rule(NamedTuple):
    """How the metrics of looks compare, and whether the ``later`` of equal ones wins."""

    score: Callable[[Metrics], tuple[float, ...]]
    later: bool


#: By ``TrainConfig.keep``; all read text→video. ``"released"``: GLSCL and GLCCL,
#: ``"recalls"``: EERCF.
#:
#: :meta hide-value:
RULES = {
    "best": Rule(lambda m: (m["t2v"]["R1"], -m["t2v"]["MnR"]), later=False),
    "released": Rule(lambda m: (m["t2v"]["R1"],), later=True),
    "recalls": Rule(
        lambda m: (m["t2v"]["R1"] + m["t2v"]["R5"] + m["t2v"]["R10"],), later=True
    ),
}


@dataclass
class History:
    """What a run did.

    ``steps``: one record a step with every part of the loss, the learning rates, κ, the
    gradient norm and the seconds. ``looks`` and ``epochs``: a record with the metrics on
    the validation split for each look within an epoch, and for each end of one, with
    whether its weights were ``kept``. ``best_epoch``: the epoch (from 0) whose weights
    the run ends with, None without validation.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None

    def records(self) -> list[dict[str, Any]]:
        """All of it in the order in which it came."""
        every: list[dict[str, Any]] = [*self.steps, *self.looks, *self.epochs]
        return sorted(
            every, key=lambda record: record.get("step", 0) or record["after"]
        )

    @property
    def seconds(self) -> float:
        """Time spent in steps and validation, resumed parts included."""
        return sum(record["seconds"] for record in self.records())

    def wins(self, metrics: Metrics, keep: str) -> bool:
        """Whether an epoch that ends with ``metrics`` is kept by the rule ``keep``."""
        score, later = RULES[keep]
        before = [score(look["validation"]) for look in self.looks + self.epochs]
        new = score(metrics)
        return not before or new > max(before) or (later and new == max(before))
