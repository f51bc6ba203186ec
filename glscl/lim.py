"""Local Interaction Module (LIM): learned queries extract the concepts of an item.

In a transformer decoder, Q queries attend to the tokens of a caption or to the frames of
a video. The normalised outputs are Q unit vectors, the concepts of the item. Each item is
decoded once; two items are compared concept by concept, which is one matrix product:

    local_ab = (1/Q) Σ_q text_concepts_aq · video_concepts_bq.

Where no gradient is wanted, a folded decoder takes fewer multiply-adds to the same concepts
up to rounding, see ``LocalInteraction.forward``.

Source: GLSCL (arXiv 2405.12710), Local Interaction Module, as released.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, relu

from glscl.util.numeric import (
    autocast_disabled,
    check_finite,
    to_common_float,
    validate_mask,
)
from glscl.util.settings import check
from glscl.util.shapes import check_shape

Method = Literal["auto", "decoder", "folded"]
FEEDFORWARD = 2048  # width of the decoder's feed-forward layers, PyTorch's default
# Items that ``decode_folded`` takes at a time: on a CPU they should fit into its cache.
DECODED_AT_ONCE = {"cpu": 64, "other": 4096}


class LocalInteraction(nn.Module):
    """Queries (Q, D), uniform in [0, 1) at the start, and their decoder.

    The decoder is ``num_layers`` standard post-LN layers: self-attention among the
    queries, cross-attention to the M tokens (or frames) of the item, a ReLU
    feed-forward layer; no norm after the last. All layers start with equal weights.

    Raises ``ValueError`` when ``num_heads`` does not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        num_queries: int = 8,
        num_layers: int = 3,
        num_heads: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"num_heads must divide the {dim} channels, got {num_heads}."
            )
        self.queries = nn.Parameter(torch.rand(num_queries, dim))
        layer = nn.TransformerDecoderLayer(
            dim, num_heads, FEEDFORWARD, dropout, batch_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, num_layers)

    def forward(
        self, tokens: Tensor, mask: Tensor | None = None, *, method: Method = "auto"
    ) -> Tensor:
        """Concepts (N, Q, D), unit norm, of ``tokens`` (N, M, D).

        ``mask`` (N, M), True = real, hides padding; left out, padding is attended to
        like any token (as the released code does). ``method``: the ``"decoder"`` as it is
        defined, or ``"folded"`` (``decode_folded``); ``"auto"`` takes the decoder in
        training mode or when gradients are enabled, otherwise the folded one.

        Raises ``ValueError`` for sizes that do not fit, a mask row that is all False, and
        ``"folded"`` while gradients are enabled or dropout acts.
        """
        hidden = self._hidden(tokens, mask)
        check(Method, method, "method")
        gradients = torch.is_grad_enabled()
        dropout = self.training and self.decoder.layers[0].dropout.p > 0
        if method == "folded" and (gradients or dropout):
            raise ValueError(
                "method='folded' has neither dropout nor gradients: call eval() and "
                "use torch.no_grad(), or take method='decoder'."
            )
        if method == "auto":
            method = "decoder" if self.training or gradients else "folded"
        if method == "decoder":
            queries = self.queries.expand(len(tokens), -1, -1)
            concepts = self.decoder(queries, tokens, memory_key_padding_mask=hidden)
        else:
            concepts = self.decode_folded(tokens, hidden)
        return normalize(to_common_float(concepts)[0], dim=-1)

    def decode_folded(self, tokens: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The decoder's output (N, Q, D) with fewer multiply-adds: exact, no dropout.

        All items start from the same queries, so the first self-attention is computed
        once; keys and values are never computed, see ``cross_attention_folded``.
        ``hidden`` (N, M), True = ignored.
        """
        size = DECODED_AT_ONCE["cpu" if tokens.device.type == "cpu" else "other"]
        decoded = []
        for start in range(0, max(1, len(tokens)), size):
            chunk = tokens[start : start + size]
            mask = None if hidden is None else hidden[start : start + size]
            x = self.queries[None]  # (1, Q, D) until the first cross-attention
            for layer in self.decoder.layers:
                x = layer.norm1(x + layer.self_attn(x, x, x, need_weights=False)[0])
                context = cross_attention_folded(layer.multihead_attn, x, chunk, mask)
                x = layer.norm2(x + context)
                x = layer.norm3(x + layer.linear2(relu(layer.linear1(x))))
            decoded.append(x)
        return torch.cat(decoded)

    @torch.no_grad()
    def attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention maps of the queries: (N, layers, H, Q, M), each summing to 1 over M.

        The cross-attention weights of every layer and head, without dropout. Arguments
        and errors as in ``forward``.
        """
        hidden = self._hidden(tokens, mask)
        x = self.queries.expand(len(tokens), -1, -1)  # (N, Q, D)
        maps = []
        training = self.training
        self.eval()
        try:
            for layer in self.decoder.layers:
                x = layer.norm1(x + layer.self_attn(x, x, x)[0])
                context, weights = layer.multihead_attn(
                    x, tokens, tokens, hidden, average_attn_weights=False
                )
                x = layer.norm2(x + context)
                x = layer.norm3(x + layer.linear2(relu(layer.linear1(x))))
                maps.append(weights)
        finally:
            self.train(training)
        return torch.stack(maps, dim=1)

    def _hidden(self, tokens: Tensor, mask: Tensor | None) -> Tensor | None:
        """The positions to ignore (N, M), True = padding, from a mask of real ones."""
        D = self.queries.shape[1]
        N, M, _ = check_shape(tokens, "N M D", "tokens", D=D).values()
        if mask is None:
            return None
        return ~validate_mask(mask, "N M", "mask", "item", N=N, M=M)


def cross_attention_folded(
    attention: nn.MultiheadAttention, x: Tensor, tokens: Tensor, hidden: Tensor | None
) -> Tensor:
    """``attention(x, tokens, tokens)`` without projecting the tokens: (N, Q, D).

    ``x``: (N, Q, D), or (1, Q, D) shared by all items; ``tokens``: (N, M, D). In every
    head q · (W_k t) = (W_kᵀ q) · t and Σ_m w_m W_v t_m = W_v Σ_m w_m t_m, so Q queries
    and Q results are projected instead of M keys and M values. The keys' bias adds the
    same number to all scores of a query, which does not change their softmax.
    """
    H, e = attention.num_heads, attention.head_dim
    (n, Q, D), N = x.shape, len(tokens)
    W_q, W_k, W_v = (W.view(H, e, D) for W in attention.in_proj_weight.chunk(3))
    b_q, _, b_v = attention.in_proj_bias.chunk(3)
    q = linear(x, W_q.flatten(0, 1), b_q).view(n * Q, H, e) / e**0.5
    # The axis of heads is inside that of queries, so no product copies its operands.
    k = per_head(q, W_k).view(n, Q * H, D)
    # Shared keys: one plain product over all tokens of all items. Scores: (N, QH, M).
    scores = linear(tokens, k[0]).mT if n == 1 else k @ tokens.mT
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None], float("-inf"))
    pooled = scores.softmax(-1).to(tokens.dtype) @ tokens
    values = per_head(pooled.view(N * Q, H, D), W_v.mT)
    return attention.out_proj(values.view(N, Q, D) + b_v)


def per_head(x: Tensor, weights: Tensor) -> Tensor:
    """One product for each head: (n, H, i) with (H, i, j) to (n, H, j), contiguous.

    In the dtype of ``x``, which may be that of autocast.
    """
    product = x.new_empty(*x.shape[:2], weights.shape[2])
    torch.bmm(x.transpose(0, 1), weights.to(x.dtype), out=product.transpose(0, 1))
    return product


def local_similarity(text_concepts: Tensor, video_concepts: Tensor) -> Tensor:
    """Mean agreement of the Q concepts of every caption and video: (A, B).

    ``text_concepts``: (A, Q, D), ``video_concepts``: (B, Q, D), unit norm. One matrix
    product over the Q·D numbers of an item, in float32 or better.

    Raises ``ValueError`` for sizes that do not fit and concepts that are not finite.
    """
    _, Q, D = check_shape(text_concepts, "A Q D", "text_concepts").values()
    check_shape(video_concepts, "B Q D", "video_concepts", Q=Q, D=D)
    with autocast_disabled(text_concepts):
        text, video = to_common_float(text_concepts, video_concepts)
        # local_ab = (1/Q) Σ_q Σ_d text_concepts_aqd video_concepts_bqd
        scores = text.flatten(1) @ video.flatten(1).T / Q
    check_finite(scores, text_concepts=text, video_concepts=video)
    return scores
