"""One loss over the batch of all processes, with the gradients of one process.

Plain torch.distributed: a wrapper such as DistributedDataParallel averages gradients
during the backward pass, but the exact large-batch mode runs it in two passes, and what
a contrastive loss needs (gathered features, one average at the end) is less code than
talking a wrapper out of its own. ``torchrun`` and ``accelerate launch`` both set the
environment that ``start`` reads.

The rule. Every one of the R processes gathers all features and computes the same loss,
so each knows the whole gradient of its own features. ``gather`` hands it on × R and
``average_gradients`` divides the sum over processes by R: what was computed before the
gathering adds up over processes, what is used after it (the logit scale) is counted
once. The released code does the second without the first, which divides the gradients
of the encoders by R.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """The number of this process, 0 when there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """R, how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def start(device: torch.device) -> None:
    """Join the other processes of ``torchrun``; does nothing when there are none.

    The processes stay together until they end: leaving and joining again at the same
    address can meet a store that is about to close, and wait for ever.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(dist.destroy_process_group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].chunk(world_size())[rank()] * world_size()


def gather(x: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks: (N, ...) to (R N, ...).

    Every process must hold the same number of rows. Differentiable, see above.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def own_rows(count: int) -> list[int]:
    """Which of ``count`` rows this process computes: as many as every other one.

    ``gather(x)[:count]`` puts them in order. Where ``count`` cannot be divided, the last
    processes begin again at the first row.
    """
    size = -(-count // world_size())
    return [(rank() * size + i) % count for i in range(size)]


def wait() -> None:
    """Go on when all processes have come here."""
    if world_size() > 1:
        dist.barrier()


def largest(number: int) -> int:
    """The largest ``number`` of all processes."""
    if world_size() == 1:
        return number
    numbers: list[int] = [0] * world_size()
    dist.all_gather_object(numbers, number)
    return max(numbers)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes."""
    if world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= world_size()


def share_weights(model: nn.Module) -> None:
    """Give every process the weights of rank 0."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)
