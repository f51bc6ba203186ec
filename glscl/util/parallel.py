"""One loss over the batch of all processes, with the gradients of one process.

Plain torch.distributed: a wrapper such as DistributedDataParallel averages gradients
during one backward pass, but training with ``micro_batch`` has several. A contrastive
loss needs no more than gathered features and one average at the end. ``torchrun`` and
``accelerate launch`` both set the environment variables that ``start`` reads.

Each of the R processes gathers all features and computes the same loss, hence the whole
gradient of the features that it encoded. The backward pass of ``gather`` multiplies this
gradient by R, and ``average_gradients`` divides the sum over processes by R. So gradients
of the encoders, before the gathering, are summed over processes; those of parameters used
after it (the logit scale) are counted once. The released code averages without
multiplying, which divides the gradients of the encoders by R.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """The number of this process, 0 when there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """R, the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def usable_device(device: str) -> str:
    """``device``; ``ValueError`` where it is a CUDA device that this machine lacks."""
    wanted, count = torch.device(device), torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= count:
        found = f"{count or 'no'} CUDA device{'s' if count > 1 else ''}"
        raise ValueError(f"device {device!r} was given, but torch finds {found}.")
    return device


def start(device: torch.device) -> None:
    """Join the other processes of ``torchrun``; does nothing when there are none.

    They stay connected until they end: to leave and join again at the same address can
    reach a store that is about to close, and then hangs.
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

    Every process must have the same number of rows. Differentiable, see above.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def rows_of_rank(count: int) -> list[int]:
    """Which of ``count`` rows this process computes: the same number on every process.

    ``gather(x)[:count]`` restores their order. Where R does not divide ``count``, the
    last processes compute the first rows again.
    """
    size = -(-count // world_size())
    return [(rank() * size + i) % count for i in range(size)]


def barrier() -> None:
    """Wait until all processes have called this."""
    if world_size() > 1:
        dist.barrier()


def max_over_ranks(number: int) -> int:
    """The maximum of ``number`` over all processes."""
    if world_size() == 1:
        return number
    numbers: list[int] = [0] * world_size()
    dist.all_gather_object(numbers, number)
    return max(numbers)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange.

    Where dtypes differ the sum is taken in their common one.
    """
    if world_size() == 1:
        return
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    means = (flat / world_size()).split([g.numel() for g in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def broadcast_weights(model: nn.Module) -> None:
    """Set the weights of every process to those of rank 0."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)
