"""The optimiser of the released recipe, its schedule, and its parameter groups.

Three choices decide a parameter's update: its group (CLIP or new, decayed or not), the
schedule's multiplier of that group's learning rate, and BertAdam or AdamW.
Source: the released training recipe of GLSCL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from glscl.config import TrainConfig

#: Parameters of CLIP, by the prefix of their name in a model.
CLIP_PREFIX = "backbone."
DecayRule = Literal["released", "matrices"]
# Elements that BertAdam updates at a time: few calls, and temporary copies of no more. On
# a CPU calls cost little and a tensor alone is more likely in its cache.
AT_ONCE = {"cpu": 1, "other": 2**24}


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, the gradient of each parameter clipped separately.

    With g clipped to ``max_grad_norm`` (× min(1, max_grad_norm / (‖g‖ + 1e-6))):

        m ← b1 m + (1 − b1) g,   v ← b2 v + (1 − b2) g²,
        p ← p − lr (m / (√v + eps) + weight_decay p).

    Without the correction the first steps differ from Adam's in length (for a constant
    gradient 0.7 times at step 1, 1.5 times at step 15), which a warm-up makes harmless.
    The schedule sets ``lr`` of the groups. Raises ``ValueError`` for settings outside
    their range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        max_grad_norm: float = 1.0,
    ):
        if lr < 0 or eps < 0 or weight_decay < 0 or max_grad_norm <= 0:
            raise ValueError(
                "lr, eps and weight_decay must not be negative and max_grad_norm must "
                f"be positive, got {lr}, {eps}, {weight_decay} and {max_grad_norm}."
            )
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), got {betas}.")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "max_grad_norm": max_grad_norm})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; parameters without a gradient do not change."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]
            for parameters in _parts(used):
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """The update of several tensors, each operation on all of them at once."""
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(m=torch.zeros_like(p), v=torch.zeros_like(p))
        m, v = ([self.state[p][name] for p in parameters] for name in "mv")
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        factors = (group["max_grad_norm"] / (norms + 1e-6)).clamp(max=1.0)
        g = torch._foreach_mul(gradients, factors.unbind())
        b1, b2 = group["betas"]
        # As tensors: on a CPU, in place, torch rounds a number to float16 first.
        numbers = torch.tensor([b1, b2, group["lr"]], dtype=torch.float64)
        decay1, decay2, lr = numbers.unbind()
        torch._foreach_mul_(m, decay1)
        torch._foreach_add_(m, g, alpha=1 - b1)
        torch._foreach_mul_(v, decay2)
        torch._foreach_addcmul_(v, g, g, value=1 - b2)
        denominators = torch._foreach_add(torch._foreach_sqrt(v), group["eps"])
        update = torch._foreach_div(m, denominators)
        decayed = torch._foreach_mul(parameters, group["weight_decay"])
        torch._foreach_add_(update, decayed)
        torch._foreach_mul_(update, lr)
        torch._foreach_sub_(parameters, update)


def _parts(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype, ``AT_ONCE`` elements or a little more together."""
    alike: dict[torch.dtype, list[Tensor]] = {}
    for p in parameters:
        part = alike.setdefault(p.dtype, [])
        part.append(p)
        limit = AT_ONCE["cpu" if p.device.type == "cpu" else "other"]
        if sum(x.numel() for x in part) >= limit:
            yield alike.pop(p.dtype)
    yield from alike.values()


def released_multiplier(step: int, total: int, warmup: float = 0.1) -> float:
    """The released schedule: the learning rate's multiplier at ``step`` from 0.

    With x = step / total: x / warmup below ``warmup``, else ½ (1 + cos πx). The cosine
    counts from step 0, so it drops to 0.976 when a warm-up of 0.1 ends, and it is not
    clamped: past ``total`` it rises again.
    """
    x = step / total
    if x < warmup:
        return x / warmup
    return 0.5 * (1 + math.cos(math.pi * x))


def cosine_multiplier(step: int, total: int, warmup: float = 0.1) -> float:
    """A cosine that starts at 1 where the warm-up ends and stays 0 past ``total``.

    The warm-up counts from 1, so that the first step has a learning rate above 0.
    """
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / rising
    x = min(1.0, (step - rising) / max(1, total - rising))
    return 0.5 * (1 + math.cos(math.pi * x))


MULTIPLIERS: dict[str, Callable[[int, int, float], float]] = {
    "released": released_multiplier,
    "cosine": cosine_multiplier,
}


def is_decayed(name: str, parameter: Tensor, rule: DecayRule) -> bool:
    """Whether weight decay acts on a parameter.

    ``"released"``: unless the name contains ``bias`` or ``LayerNorm.weight``, which
    lets CLIP's ``ln_*.weight``, the decoder's norms, embeddings, queries and the logit
    scale decay. ``"matrices"``: only matrices that multiply features, so no bias,
    norm, scale, embedding or query.
    """
    if rule == "released":
        return "bias" not in name and "LayerNorm.weight" not in name
    tables = ("embedding", "positions", "queries")
    return parameter.ndim >= 2 and not any(word in name for word in tables)


#: What ``freeze`` can exclude from training, by the prefixes of parameters' names.
FROZEN: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "conv1": ("visual.conv1.",),
    "embeddings": (
        "visual.conv1.",
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.ln_pre.",
        "token_embedding.",
        "positional_embedding",
    ),
    "visual": ("visual.",),
}


def freeze(model: nn.Module, part: str) -> None:
    """Exclude a part of CLIP from training; every other parameter becomes trainable.

    ``"nothing"``, as in the releases of X-Pool and DRL; ``"conv1"``: its patch
    convolution, as GLSCL's release; ``"embeddings"``: all layers before the residual
    blocks of both towers, as the releases of EERCF and GLCCL; ``"visual"``: its whole
    visual tower. Raises ``ValueError`` for another part.
    """
    if part not in FROZEN:
        raise ValueError(f"Cannot freeze {part!r}: expected one of {sorted(FROZEN)}.")
    prefixes = tuple(f"{CLIP_PREFIX}clip.{name}" for name in FROZEN[part])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """The trainable parameters as up to four groups: new or CLIP, decayed or not.

    Each has a ``name``, its peak learning rate under ``lr`` and ``peak_lr``, and its
    ``weight_decay``. Frozen parameters are in none; empty groups are left out.
    """
    members: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            clip = name.startswith(CLIP_PREFIX)
            decayed = is_decayed(name, parameter, config.decay)
            members.setdefault((clip, decayed), []).append(parameter)
    groups = []
    for (clip, decayed), parameters in sorted(members.items()):
        peak = config.learning_rate * (config.clip_lr_scale if clip else 1.0)
        groups.append(
            {
                "name": f"{'clip' if clip else 'new'}{'' if decayed else ', no decay'}",
                "params": parameters,
                "lr": peak,
                "peak_lr": peak,
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
        )
    return groups


def make_optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser a recipe names, over ``parameter_groups``."""
    groups = parameter_groups(model, config)
    if config.optimiser == "bertadam":
        return BertAdam(groups, lr=config.learning_rate)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def set_learning_rates(optimiser: torch.optim.Optimizer, multiplier: float) -> None:
    """Set the learning rate of every group to ``multiplier`` times its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * multiplier
