"""What similarity heads cost: closed forms, and two tools to check them with.

The unit is the MAC, one multiply-add of a matrix product or a contraction; every count
says so in its name. A FLOP count in the usual sense (two per MAC) is twice as large.
Norms, softmax, activations, biases and elementwise scaling are not MACs.

Three phases, kept apart: once per video (offline), once per caption (query), and for
every pair. The encoders and the frame transformer are common ground and counted on
their own. Sources: FLOPs column of GLSCL, Table I; the papers of each method.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from glscl.costs.heads import Head, Texts, Videos


@dataclass(frozen=True)
class Sizes:
    """Sizes in the letters of the notation; the defaults are MSR-VTT with ViT-B/32."""

    D: int = 512  # channels
    F: int = 12  # frames of a video
    L: int = 32  # tokens of a caption
    Q: int = 8  # concepts of the LIM
    P: int = 49  # patches of a frame
    C: int = 8  # slices of DiCoSA
    H: int = 8  # heads of a decoder layer
    decoder_layers: int = 3
    feedforward: int = 2048  # hidden width of a decoder layer

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")
        for name in ("C", "H"):
            if self.D % vars(self)[name]:
                raise ValueError(
                    f"{name} must divide the {self.D} channels, got {vars(self)[name]}."
                )


@dataclass(frozen=True)
class HeadMacs:
    """MACs of a head by phase.

    ``pair`` is paid for every video of the gallery, ``reranked`` on top of it for a
    caption's ``shortlist`` best videos alone. ``exponentials`` are those of the
    softmaxes of one pair; they are no MACs.
    """

    video: int
    query: int
    pair: int
    exponentials: int = 0
    reranked: int = 0
    shortlist: int = 0

    def per_query(self, gallery: int) -> int:
        """MACs to score one caption with ``gallery`` videos, its own phase left out."""
        return gallery * self.pair + min(self.shortlist, gallery) * self.reranked

    def items(self, captions: int, videos: int) -> int:
        """MACs of the two phases that are paid per item."""
        return captions * self.query + videos * self.video

    def total(self, captions: int, videos: int) -> int:
        """MACs of the whole head for ``captions`` × ``videos`` scores."""
        return self.items(captions, videos) + captions * self.per_query(videos)


def decoder_macs(M: int, sizes: Sizes) -> int:
    """MACs of the LIM decoding one item of ``M`` tokens or frames.

    Per layer: self-attention 4QD² + 2Q²D, cross-attention 2QD² + 2MD² + 2QMD, and the
    feed-forward pair 2QD · width.
    """
    Q, D = sizes.Q, sizes.D
    attention = (6 * Q + 2 * M) * D**2 + 2 * Q**2 * D + 2 * Q * M * D
    return sizes.decoder_layers * (attention + 2 * Q * D * sizes.feedforward)


def folded_decoder_macs(M: int, sizes: Sizes) -> int:
    """MACs of the LIM decoding one item by exact algebra (``decode_folded``).

    Cross-attention without keys and values, QD² for the values, QD² for the output and
    2QHMD, in every layer; 6QD² + 2Q²D for self-attention and queries in every layer but
    the first, where all items are still alike (``shared_decoder_macs``).
    """
    Q, D, H = sizes.Q, sizes.D, sizes.H
    every = 2 * Q * D**2 + 2 * Q * H * M * D + 2 * Q * D * sizes.feedforward
    own = shared_decoder_macs(sizes)
    return sizes.decoder_layers * every + (sizes.decoder_layers - 1) * own


def shared_decoder_macs(sizes: Sizes) -> int:
    """MACs that the folded decoder spends once for all items it decodes together."""
    Q, D = sizes.Q, sizes.D
    return 6 * Q * D**2 + 2 * Q**2 * D


def transformer_macs(tokens: int, width: int, layers: int) -> int:
    """MACs of a transformer over one sequence: 12 N W² + 2 N² W a layer."""
    return layers * (12 * tokens * width**2 + 2 * tokens**2 * width)


def frame_macs(
    width: int = 768,
    layers: int = 12,
    patch: int = 32,
    image: int = 224,
    dim: int = 512,
) -> int:
    """MACs of CLIP's vision transformer for one frame; the defaults are ViT-B/32."""
    patches = (image // patch) ** 2
    embedding = patches * width * 3 * patch**2
    return embedding + transformer_macs(patches + 1, width, layers) + width * dim


def caption_macs(
    tokens: int, width: int = 512, layers: int = 12, dim: int = 512, projected: int = 1
) -> int:
    """MACs of CLIP's text transformer for one caption of ``tokens``, padding included.

    ``projected``: how many tokens go through the text projection: 1 for the sentence
    feature alone, ``tokens`` where every token is kept.
    """
    return transformer_macs(tokens, width, layers) + projected * width * dim


def temporal_macs(sizes: Sizes, layers: int = 4) -> int:
    """MACs of the frame transformer for one video."""
    return transformer_macs(sizes.F, sizes.D, layers)


def eercf_macs(sizes: Sizes, patches: bool, shortlist: int | None = None) -> HeadMacs:
    """EERCF: dense, or (with a ``shortlist``) coarse for all and fine for the best."""
    D, F, P = sizes.D, sizes.F, sizes.P
    fine = 2 * F * D + D + F**2 + (F * P * D if patches else 0)
    exponentials = 2 * F + (F * P if patches else 0)
    if shortlist is None:
        return HeadMacs(0, D**2, D + fine, exponentials)
    return HeadMacs(0, D**2, D, reranked=fine, shortlist=shortlist)


def head_macs(sizes: Sizes) -> dict[str, HeadMacs]:
    """Every head, counted the same way: what its equations say, one ruler for all."""
    D, F, L, Q = sizes.D, sizes.F, sizes.L, sizes.Q
    d = D // sizes.C
    mean = HeadMacs(0, 0, D)
    xpool = HeadMacs(2 * F * D**2, D**2, 2 * F * D + 2 * D**2 + D, F)
    return {
        "CLIP4Clip": mean,
        "CLIP-ViP": mean,
        "CenterCLIP": mean,
        "TS2-Net": HeadMacs(0, 0, F * D, F),
        "X-CLIP": HeadMacs(
            0,
            (1 + L) * D**2,
            (1 + L + F + L * F) * D + 2 * L**2 + 2 * F**2 + F * L**2 + L * F**2,
            2 * (L + F + L * F),
        ),
        "X-Pool": xpool,
        "DiCoSA": HeadMacs(0, 0, 2 * F * D + D + sizes.C * (8 * d**2 + 4 * d), F),
        "Prompt Switch": mean,
        "Prompt Switch, transformer": xpool,
        "GLSCL": HeadMacs(
            decoder_macs(F, sizes), decoder_macs(L, sizes), 2 * F * D + D + Q * D, F
        ),
        "WTI": HeadMacs(F * (D**2 + D), L * (D**2 + D), L * F * D),
        "GLCCL": HeadMacs(
            0,
            (1 + L) * D**2,
            2 * F * D * (1 + L) + (1 + L) ** 2 * D + 4 * L**2 + 2 * L**3,
            (1 + L) * F + 2 * L**2 + 4 * L,
        ),
        "EERCF, frames": eercf_macs(sizes, patches=False),
        "EERCF, frames and patches": eercf_macs(sizes, patches=True),
        "EERCF, frames, two-stage": eercf_macs(sizes, False, shortlist=50),
        "EERCF, patches, two-stage": eercf_macs(sizes, True, shortlist=50),
    }


def folded_macs(sizes: Sizes) -> dict[str, HeadMacs]:
    """The heads that exact algebra makes cheaper; see ``glscl.costs.heads``."""
    D, F, L, Q, C = sizes.D, sizes.F, sizes.L, sizes.Q, sizes.C
    d = D // C
    gim = HeadMacs(F**2 * D, 0, F * D + F**2 + 2 * F, F)
    forms = sum(n * (n + 1) for n in (F, F + 1, F + 2))  # Gram matrices of X-Pool
    tables = sum(n**2 for n in (F, F + 1, F + 2)) * D
    xpool = HeadMacs(4 * F * D**2 + tables, D**2 + 2 * D, 2 * F * D + forms + F + 2, F)
    return {
        "GIM": gim,
        "GLSCL": HeadMacs(
            gim.video + folded_decoder_macs(F, sizes),
            folded_decoder_macs(L, sizes),
            gim.pair + Q * D,
            F,
        ),
        "X-Pool": xpool,
        "Prompt Switch, transformer": xpool,
        "DiCoSA": HeadMacs(
            F * D * 4 * d + F**2 * D,
            4 * d * D,
            F * D + C * (F + F**2 + F + 4 * d * F + 4 * d),
            F,
        ),
        "GLCCL": HeadMacs(
            F**2 * D,
            (1 + L) * D**2,
            2 * F * D * (1 + L)
            + (1 + L) * (F**2 + F)
            + F
            + 2 * L * F
            + L**2 * F
            + 4 * L**2
            + 2 * L**3,
            (1 + L) * F + 2 * L**2 + 4 * L,
        ),
    }


@dataclass(frozen=True)
class PaperLike:
    """A count per pair that comes to a published number, and what it counts."""

    pair: int
    counts: str


def paper_like_macs(sizes: Sizes) -> dict[str, PaperLike]:
    """The counts per pair that come nearest to the published column, in its ruler.

    Found by trying which part of a method gives the printed number; for Prompt Switch
    nothing natural does, and it has no entry.
    """
    D, F, L = sizes.D, sizes.F, sizes.L
    mean = PaperLike(D, "one inner product")
    return {
        "CLIP4Clip": mean,
        "CLIP-ViP": mean,
        "CenterCLIP": PaperLike(3 * D, "three inner products"),
        "TS2-Net": PaperLike(F * D, "one inner product per frame"),
        "X-CLIP": PaperLike((1 + L + F + L * F) * D, "inner products alone"),
        "X-Pool": PaperLike(
            2 * F * D + D**2 + D, "attention, one of its two projections"
        ),
        "DiCoSA": PaperLike(D, "its last inner products alone"),
        "GLSCL": PaperLike(2 * D, "two inner products"),
    }


@dataclass(frozen=True)
class Cost:
    """One row of the table. Per item and pair in MACs, totals in giga-MACs (10⁹).

    ``paper_like_giga``: the count that comes nearest to the published number, for 10⁶
    pairs; ``None`` where none does or nothing is published.
    """

    method: str
    video_macs: int
    query_macs: int
    pair_macs: float
    folded_pair_macs: float
    paper_like_giga: float | None
    pairs_giga: float
    items_giga: float
    total_giga: float


def cost_table(sizes: Sizes, captions: int = 1000, videos: int = 1000) -> list[Cost]:
    """Every head at one size: uniform, folded and paper-like counts side by side.

    Pairs, items and total are uniform counts for all ``captions`` × ``videos``. Raises
    ``ValueError`` for an empty gallery.
    """
    if captions < 1 or videos < 1:
        raise ValueError(
            f"captions and videos must be at least 1, got {captions} and {videos}."
        )
    folded, paper = folded_macs(sizes), paper_like_macs(sizes)
    rows = []
    for method, macs in head_macs(sizes).items():
        rows.append(
            Cost(
                method,
                macs.video,
                macs.query,
                macs.per_query(videos) / videos,
                folded.get(method, macs).per_query(videos) / videos,
                paper[method].pair / 1e3 if method in paper else None,
                captions * macs.per_query(videos) / 1e9,
                macs.items(captions, videos) / 1e9,
                macs.total(captions, videos) / 1e9,
            )
        )
    return rows


def cost_text(rows: Sequence[Cost]) -> str:
    """The table as plain text, one method a line."""
    names = ("per pair", "folded", "per caption", "per video", "pairs G", "items G")
    lines = [f"{'MACs':27s}" + "".join(f"{name:>13s}" for name in (*names, "total G"))]
    for row in rows:
        counts = (row.pair_macs, row.folded_pair_macs, row.query_macs, row.video_macs)
        giga = (row.pairs_giga, row.items_giga, row.total_giga)
        lines.append(
            f"{row.method:27s}"
            + "".join(f"{count:13,.0f}" for count in counts)
            + "".join(f"{value:13,.2f}" for value in giga)
        )
    return "\n".join(lines)


def two_stage(head: HeadMacs, sizes: Sizes, shortlist: int) -> HeadMacs:
    """``head`` used to rerank the ``shortlist`` best of a scan with the mean frame."""
    return HeadMacs(
        head.video, head.query, sizes.D, reranked=head.pair, shortlist=shortlist
    )


def break_even_videos(head: HeadMacs, other: HeadMacs) -> int:
    """Gallery size from which ``head`` costs fewer MACs per query than ``other``.

    Its higher cost per caption is paid back by a lower cost per pair. Raises
    ``ValueError`` when it never is, or when ``head`` is cheaper throughout.
    """
    paid, saved = head.query - other.query, other.pair - head.pair
    if paid <= 0 or saved <= 0:
        raise ValueError(
            "No break-even point: expected a head that costs more per caption and less "
            f"per pair, got {paid} more and {saved} less."
        )
    return math.ceil(paid / saved)


def phase_macs(
    head: Head, texts: Texts, videos: Videos, tool: Callable[..., int] | None = None
) -> dict[str, int]:
    """MACs that ``tool`` counts in each phase of ``head`` on a real call.

    The keys are ``"video"``, ``"query"`` and ``"pair"``; the values are for all items
    and pairs of the call together. ``tool``: ``torch_macs`` (default), ``fvcore_macs``.
    """
    tool = tool or torch_macs
    inputs = tuple(x for x in videos if x is not None)
    with torch.no_grad():
        query, video = head.per_query(texts), head.per_video(videos)
    return {
        "video": tool(_Phase(head, lambda x: head.per_video(Videos(*x))), inputs),
        "query": tool(_Phase(head, lambda x: head.per_query(Texts(*x))), tuple(texts)),
        "pair": tool(_Phase(head, head.per_pair), query, video),
    }


class _Phase(nn.Module):
    """One phase as a module, which is what the tools call."""

    def __init__(self, head: Head, run: Callable[..., Any]):
        super().__init__()
        self.head, self.run = head, run

    def forward(self, *inputs: Any) -> Any:
        return self.run(*inputs)


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

    Handles replace fvcore's where they miscount. Raises ``ValueError`` when the call
    uses an operator that is neither counted nor known to multiply nothing, so a head
    can never look cheaper than it is.
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


def fvcore_default_macs(function: nn.Module, *inputs: Any) -> int:
    """What fvcore says as it comes, in evaluation mode: to show where it errs."""
    from fvcore.nn import FlopCountAnalysis

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(function.eval(), inputs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(analysis.tracer_warnings("none").total())


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
# What the heads and encoders use besides: elementwise, reductions, choices, copies.
NOT_MULTIPLYING = frozenset(
    "aten::" + name
    for name in [
        "add",
        "amax",
        "argmax",
        "clamp_min",
        "diagonal",
        "div",
        "embedding",
        "exp",
        "expand_as",
        "le",
        "linalg_vector_norm",
        "mean",
        "mT",
        "mul",
        "new_ones",
        "numpy_T",
        "ones_like",
        "rsqrt",
        "scatter",
        "sigmoid",
        "softmax",
        "sqrt",
        "square",
        "sub",
        "sum",
        "topk",
        "unflatten",
        "where",
    ]
)


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
    # The module tracker of FlopCounterMode fails under no_grad on a view of a
    # parameter that wants a gradient; here none does.
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


def softmax_exponentials(function: Callable[..., Tensor], *inputs: Any) -> int:
    """How many exponentials the softmaxes of one call take."""
    from torch.utils._python_dispatch import TorchDispatchMode

    count = 0

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal count
            result = func(*args, **(kwargs or {}))
            if func in (torch.ops.aten._softmax.default, torch.ops.aten.exp.default):
                count += result.numel()
            return result

    with torch.no_grad(), Counter():
        function(*inputs)
    return count
