"""Checks and softmaxes of masked scores; float32 or better for all arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from glscl.util.shapes import check_shape

SOFTMAX_TEMPERATURE = 0.01  #: of ``mixed_weighted_mean``
_values_checked = True


@contextmanager
def values_unchecked() -> Iterator[None]:
    """A context in which masks and scores are believed, only their shapes are checked.

    To look at a value waits for the device. A training step looks once, at its end.
    """
    global _values_checked
    before, _values_checked = _values_checked, False
    try:
        yield
    finally:
        _values_checked = before


def to_common_float(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one common dtype, at least float32."""
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in tensors)


def autocast_disabled(x: Tensor) -> torch.autocast:
    """A context that turns autocast off on the device of ``x``."""
    return torch.autocast(device_type=x.device.type, enabled=False)


def masked_softmax(scores: Tensor, mask: Tensor | None, dim: int = -1) -> Tensor:
    """The softmax along ``dim`` where ``mask``, broadcast, is True; None: of all."""
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim)


def mixed_weighted_mean(
    scores: Tensor,
    mix: Tensor | None = None,
    mask: Tensor | None = None,
    temperature: float | None = None,
) -> Tensor:
    """Σ_i x_i (softmax(x / τ) W)_i of scores x (..., N): (...), almost their maximum.

    ``mix``: W (N, N), which X-CLIP, EERCF and GLCCL learn, from the identity on; None:
    weights are not mixed. ``mask``: (..., N), broadcast, True = real; the others have
    weight 0, also where the mixing gives them some. ``temperature``: τ, by default
    ``SOFTMAX_TEMPERATURE``.
    """
    tau = SOFTMAX_TEMPERATURE if temperature is None else temperature
    if mask is None:
        weights = (scores / tau).softmax(-1)
    else:
        # One pass over the scores; a row that is all masked has equal weights, not NaN.
        hidden = torch.zeros_like(mask, dtype=scores.dtype)
        hidden = hidden.masked_fill(~mask, torch.finfo(scores.dtype).min / 2)
        weights = torch.add(hidden, scores, alpha=1 / tau).softmax(-1)
    if mix is not None:
        weights = weights @ mix if mask is None else weights @ mix * mask
    return (scores * weights).sum(-1)


def validate_mask(
    mask: Tensor, axes: str, name: str, item: str, **sizes: int
) -> Tensor:
    """``mask`` as booleans (True = real), its shape and rows checked.

    ``axes``: the two axes, as for ``check_shape``. Raises ``ValueError`` naming the axis
    that does not fit, or the first ``item`` whose row is all False.
    """
    check_shape(mask, axes, name, **sizes)
    mask = mask.bool()
    if _values_checked and (empty := ~mask.any(dim=1)).any():
        row = int(empty.nonzero()[0])
        raise ValueError(
            f"{name}: row {row} is all False, but every {item} needs a real position."
        )
    return mask


def check_finite(scores: Tensor, **features: Tensor) -> None:
    """Raise ``ValueError`` when a score is NaN or infinite.

    The error names the row of ``features``, each (N, ...), that is not finite. The
    features are searched only when a score is not finite, so the check costs little.
    """
    # A finite sum of the scores proves in one pass that all of them are finite.
    if not _values_checked or scores.sum().isfinite() or scores.isfinite().all():
        return
    for name, x in features.items():
        rows = ~x.flatten(1).isfinite().all(dim=1)
        if rows.any():
            row = int(rows.nonzero()[0])
            raise ValueError(f"{name}: row {row} has NaN or infinite features.")
    raise ValueError(
        f"The features of {' and '.join(features)} are too large: their inner products "
        f"overflow {scores.dtype}."
    )
