"""Counts of real calls by two tools, fvcore and PyTorch's FlopCounterMode, in MACs.

Both tools miscount some operators; here those are corrected. A multiply-add is counted
where it is written as a product of matrices or an ``einsum`` with a sum; a product that
is written elementwise and summed afterwards is counted by neither tool.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class PhaseMacs(NamedTuple):
    """MACs of one video, one caption and one pair, and those that a call does once."""

    video: int
    query: int
    pair: int
    once: int


def phase_macs(
    head: nn.Module,
    texts: Sequence[Tensor],
    videos: Sequence[Tensor],
    tool: Callable[..., int] | None = None,
) -> PhaseMacs:
    """MACs of ``head(*texts, *videos)`` by phase, each for one item or one pair.

    ``texts``: tensors whose first axis is the A captions, ``videos``: tensors whose
    first axis is the B videos; ``tool``: ``torch_macs`` (default) or ``fvcore_macs``.
    Counts four whole calls, with and without the last caption and the last video: what
    grows with both is the pair's, what grows with the videos alone is the video's. So
    nothing of the head has to be taken apart. Raises ``ValueError`` for fewer than two
    captions or videos.
    """
    A, B = len(texts[0]), len(videos[0])
    if A < 2 or B < 2:
        raise ValueError(f"Expected two captions and videos or more, got {A} and {B}.")
    count = tool or torch_macs

    def macs(captions: int, gallery: int) -> int:
        parts = [x[:captions] for x in texts], [x[:gallery] for x in videos]
        return count(head, *parts[0], *parts[1])

    whole, fewer_captions, fewer_videos = macs(A, B), macs(A - 1, B), macs(A, B - 1)
    pair = whole - fewer_captions - fewer_videos + macs(A - 1, B - 1)
    video, query = whole - fewer_videos - A * pair, whole - fewer_captions - B * pair
    once = whole - A * query - B * video - A * B * pair
    return PhaseMacs(video, query, pair, once)


def torch_macs(function: Callable[..., Any], *inputs: Any) -> int:
    """MACs of one call by PyTorch's ``FlopCounterMode``, which counts two FLOPs each.

    Attention runs in its plain form, since the counter sees 0 in the fused CPU kernels.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with _plain_attention(function), counter:
        function(*inputs)
    flops = counter.get_total_flops()
    if flops % 2:
        raise RuntimeError(f"FlopCounterMode counted {flops} FLOPs, an odd number.")
    return flops // 2


def fvcore_macs(function: nn.Module, *inputs: Any) -> int:
    """MACs of one call of a module by fvcore, which calls them flops.

    ``HANDLES`` replaces fvcore's rules where they are wrong. Raises ``ValueError`` when
    the call uses an operator that is neither counted nor in ``NOT_MULTIPLYING``, so a
    head can never seem cheaper than it is.
    """
    from fvcore.nn import FlopCountAnalysis

    with _plain_attention(function), warnings.catch_warnings():
        # The trace is of fixed sizes, which its warnings are about.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        analysis = FlopCountAnalysis(function, inputs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        analysis.set_op_handle(**HANDLES)
        total = int(analysis.total())
        uncounted = sorted(set(analysis.unsupported_ops()) - NOT_MULTIPLYING)
    if uncounted:
        raise ValueError(
            f"fvcore does not count {', '.join(uncounted)}: expected operators that "
            "have a handle or multiply nothing."
        )
    return total


def _shape(value: Any) -> list[int]:
    sizes = value.type().sizes()
    if sizes is None:
        raise ValueError("An operator has a tensor of unknown shape.")
    return list(sizes)


def _matmul(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Any matmul: every number of the result is an inner product of K terms."""
    return math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def _baddbmm(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    return math.prod(_shape(outputs[0])) * _shape(inputs[1])[-1]


def _einsum(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Product of all sizes, as an integer; 0 where nothing is summed."""
    operands = [list(x.type().sizes()) for x in inputs[1].node().inputs()]
    left, right = inputs[0].toIValue().replace(" ", "").split("->")
    terms = left.split(",")
    if len(terms) != 2 or any(len(set(term)) != len(term) for term in terms):
        raise ValueError(f"einsum {left}->{right}: expected two operands, no diagonal.")
    sizes = {
        letter: size
        for term, shape in zip(terms, operands, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return math.prod(sizes.values()) if set(right) < set(sizes) else 0


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Scores and weighted values: (..., N, E) queries, (..., M, E) keys, (..., M, V)."""
    *batch, N, E = _shape(inputs[0])
    M, V = _shape(inputs[2])[-2:]
    return math.prod(batch) * N * M * (E + V)


def _nothing(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    return 0


#: How the multiply-adds of an operator are counted from the shapes in fvcore's trace.
HANDLES: Mapping[str, Callable[..., int]] = {
    "aten::matmul": _matmul,
    "aten::bmm": _matmul,  # fvcore's does not know it with ``out``
    "aten::mv": _matmul,
    "aten::dot": _matmul,
    "aten::baddbmm": _baddbmm,
    "aten::einsum": _einsum,
    "aten::scaled_dot_product_attention": _attention,
    "aten::layer_norm": _nothing,  # fvcore counts 5 for each number
}
# What the heads and encoders use besides: elementwise, reductions, selections, copies.
_OTHERS = """
add amax argmax clamp_min diagonal div embedding exp expand_as linalg_vector_norm mean
mT min mul mul_ new_ones nonzero_numpy numpy_T ones_like rsqrt scatter sigmoid softmax
sqrt sub sum topk unflatten where
"""
#: Operators that fvcore may leave uncounted.
NOT_MULTIPLYING = frozenset(f"aten::{name}" for name in _OTHERS.split())


@contextlib.contextmanager
def _plain_attention(function: Any) -> Iterator[None]:
    """Evaluation mode without gradients, and no fused kernel that hides its products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    modules = list(function.modules()) if isinstance(function, nn.Module) else []
    training = {module: module.training for module in modules}
    wanted = [
        p for module in modules[:1] for p in module.parameters() if p.requires_grad
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for module in modules:
        module.training = False
    # The module tracker of FlopCounterMode fails under no_grad on a view of a parameter
    # that requires a gradient; here none does.
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module, mode in training.items():
            module.training = mode
