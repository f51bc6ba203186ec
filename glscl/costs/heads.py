"""Similarity heads of the literature, small enough to read, count and time.

What a retrieval method computes between the encoders and the score of a pair, in three
phases: once per video (``per_video``), once per caption (``per_query``), and for every
pair (``per_pair``). Random or identity weights, no masks: every frame and token is
real. These are for counting and timing; what is trained lives elsewhere.

A multiply-add is counted where it is written as a product of matrices or an ``einsum``
with a sum. Scaling by a weight, the weighted mean of a few scores, norms and softmax
are elementwise and are not.

Sources: the papers named at each class; for GLSCL, GLCCL and EERCF the released code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from glscl.lim import LocalInteraction, local_similarity
from glscl.util.means import mixed_mean, own_mean


class Texts(NamedTuple):
    """``captions``: (A, D) sentence features, ``tokens``: (A, L, D)."""

    captions: Tensor
    tokens: Tensor


class Videos(NamedTuple):
    """``frames``: (B, F, D), ``patches``: (B, F, P, D), needed by EERCF alone."""

    frames: Tensor
    patches: Tensor | None = None


State = tuple[Tensor, ...]


class Head(nn.Module):
    """A similarity head in three phases; calling it runs all of them: scores (A, B)."""

    def per_video(self, videos: Videos) -> State:
        """What is computed once for each of B videos."""
        return (videos.frames,)

    def per_query(self, texts: Texts) -> State:
        """What is computed once for each of A captions."""
        return (texts.captions,)

    def per_pair(self, query: State, video: State) -> Tensor:
        """Scores (A, B) from what the other phases kept."""
        raise TypeError(f"{type(self).__name__} has no pair phase of its own.")

    def forward(self, texts: Texts, videos: Videos) -> Tensor:
        """Scores (A, B)."""
        return self.per_pair(self.per_query(texts), self.per_video(videos))


def attend(captions: Tensor, frames: Tensor, temperature: float) -> Tensor:
    """w_abf = softmax_f(captions_a · frames_bf / τ), (A, B, F)."""
    return (torch.einsum("ad,bfd->abf", captions, frames) / temperature).softmax(-1)


def gram(rows: Tensor) -> Tensor:
    """Inner products of the rows (..., N, D) of every item with each other."""
    return rows @ rows.transpose(-1, -2)


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Σ_n x_bna y_bna for every pair: (B, A).

    Summed by a product with ones, which tools count and which writes less memory than
    the many tiny products that einsum makes of it.
    """
    B, N, _ = x.shape
    return (x.new_ones(1, 1, N).expand(B, 1, N) @ (x * y)).squeeze(1)


def quadratic(w: Tensor, G: Tensor) -> Tensor:
    """wᵀ G_b w for weights w (B, N, A) and symmetric G (B, N, N): (B, A)."""
    return inner(w, G @ w)


def frame_scores(queries: Tensor, frames: Tensor) -> Tensor:
    """queries_a · frames_bf in the layout (B, F, A): one plain matrix product."""
    B, F, D = frames.shape
    return (frames.reshape(B * F, D) @ queries.T).view(B, F, -1)


class MeanPooling(Head):
    """Cosine with the mean frame: CLIP4Clip, CLIP-ViP, and Prompt Switch's default.

    CenterCLIP's clustering happens inside CLIP, so its head is this one too.
    """

    def per_video(self, videos: Videos) -> State:
        return (normalize(videos.frames.mean(1), dim=-1),)

    def per_query(self, texts: Texts) -> State:
        return (normalize(texts.captions, dim=-1),)

    def per_pair(self, query: State, video: State) -> Tensor:
        return query[0] @ video[0].T


class TS2Net(Head):
    """Every frame scored, the scores averaged with their own softmax (TS2-Net)."""

    def per_video(self, videos: Videos) -> State:
        return (normalize(videos.frames, dim=-1),)

    def per_query(self, texts: Texts) -> State:
        return (normalize(texts.captions, dim=-1),)

    def per_pair(self, query: State, video: State) -> Tensor:
        return own_mean(torch.einsum("ad,bfd->abf", query[0], video[0]))


class WTI(Head):
    """Weighted token-wise interaction (DRL): best frame of a word, best word of a frame.

    Both weights come from a small network of the item alone.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.text_weight = self._weight(dim)
        self.video_weight = self._weight(dim)

    @staticmethod
    def _weight(dim: int) -> nn.Module:
        return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def per_video(self, videos: Videos) -> State:
        weights = self.video_weight(videos.frames).squeeze(-1).softmax(-1)
        return normalize(videos.frames, dim=-1), weights

    def per_query(self, texts: Texts) -> State:
        weights = self.text_weight(texts.tokens).squeeze(-1).softmax(-1)
        return normalize(texts.tokens, dim=-1), weights

    def per_pair(self, query: State, video: State) -> Tensor:
        (tokens, token_weights), (frames, frame_weights) = query, video
        scores = torch.einsum("ald,bfd->ablf", tokens, frames)
        words = (scores.amax(3) * token_weights[:, None]).sum(-1)
        images = (scores.amax(2) * frame_weights).sum(-1)
        return (words + images) / 2


class XCLIP(Head):
    """Video-sentence, video-word, frame-sentence and frame-word scores (X-CLIP)."""

    def __init__(self, dim: int, frames: int, tokens: int):
        super().__init__()
        self.sentence = nn.Parameter(torch.eye(dim))
        self.word = nn.Parameter(torch.eye(dim))
        self.mix_words = nn.ParameterList(torch.eye(tokens) for _ in range(3))
        self.mix_frames = nn.ParameterList(torch.eye(frames) for _ in range(3))

    def per_video(self, videos: Videos) -> State:
        frames = normalize(videos.frames, dim=-1)
        return normalize(frames.mean(1), dim=-1), frames

    def per_query(self, texts: Texts) -> State:
        s, w = normalize(texts.captions, dim=-1), normalize(texts.tokens, dim=-1)
        return s, s @ self.sentence, w, w @ self.word

    def per_pair(self, query: State, video: State) -> Tensor:
        (s, s_mapped, w, w_mapped), (v, f) = query, video
        words, frames = self.mix_words, self.mix_frames
        video_sentence = s_mapped @ v.T
        video_word = mixed_mean(torch.einsum("ald,bd->abl", w, v), words[0])
        sentence_frame = mixed_mean(torch.einsum("ad,bfd->abf", s, f), frames[0])
        z = torch.einsum("ald,bfd->ablf", w_mapped, f)
        per_frame = mixed_mean(z.transpose(2, 3), words[1])  # (A, B, F)
        per_word = mixed_mean(z, frames[1])  # (A, B, L)
        both = mixed_mean(per_frame, frames[2]) + mixed_mean(per_word, words[2])
        return (video_sentence + video_word + sentence_frame + both / 2) / 4


class XPool(Head):
    """A caption attends to the frames through projections and LayerNorms (X-Pool).

    The output projection, the residual linear layer and two LayerNorms act on the
    pooled video, so they are repeated for every pair. One attention head.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.out, self.linear = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_in, self.norm_attention, self.norm_out = (
            nn.LayerNorm(dim) for _ in range(3)
        )

    def per_video(self, videos: Videos) -> State:
        frames = self.norm_in(videos.frames)
        return self.k(frames), self.v(frames)

    def per_query(self, texts: Texts) -> State:
        return self.q(self.norm_in(texts.captions)), normalize(texts.captions, dim=-1)

    def per_pair(self, query: State, video: State) -> Tensor:
        (q, captions), (k, v) = query, video
        w = attend(q, k, math.sqrt(q.shape[-1]))
        x = self.norm_attention(self.out(torch.einsum("abf,bfd->abd", w, v)))
        pooled = normalize(self.norm_out(x + self.linear(x)), dim=-1)
        return torch.einsum("ad,abd->ab", captions, pooled)


class DiCoSA(Head):
    """Cosines of C slices of the features, weighted by a network of both (DiCoSA)."""

    def __init__(self, dim: int, concepts: int = 8, temperature: float = 3.0):
        super().__init__()
        if dim % concepts:
            raise ValueError(
                f"concepts must divide the {dim} channels, got {concepts}."
            )
        d = dim // concepts
        self.concepts, self.temperature = concepts, temperature
        self.hidden, self.weight = nn.Linear(2 * d, 4 * d), nn.Linear(4 * d, 1)

    def per_pair(self, query: State, video: State) -> Tensor:
        (captions,), (frames,) = query, video
        w = attend(captions, frames, self.temperature)
        pooled = torch.einsum("abf,bfd->abd", w, frames)
        p = pooled.unflatten(-1, (self.concepts, -1))  # (A, B, C, d)
        t = captions.unflatten(-1, (self.concepts, -1))  # (A, C, d)
        both = torch.cat([t[:, None].expand(p.shape), p], dim=-1)
        weight = self.weight(self.hidden(both).relu()).squeeze(-1)  # (A, B, C)
        t, p = normalize(t, dim=-1), normalize(p, dim=-1)
        return (weight * torch.einsum("acd,abcd->abc", t, p)).sum(-1)


class GlobalDirect(Head):
    """GIM as the equation stands: pool the frames for every pair, then compare."""

    def __init__(self, temperature: float = 3.0):
        super().__init__()
        self.temperature = temperature

    def per_pair(self, query: State, video: State) -> Tensor:
        (captions,), (frames,) = query, video
        w = attend(captions, frames, self.temperature)
        pooled = normalize(torch.einsum("abf,bfd->abd", w, frames), dim=-1)
        return torch.einsum("ad,abd->ab", normalize(captions, dim=-1), pooled)


class GlobalGram(GlobalDirect):
    """GIM folded: (w · s) / (‖captions‖ √(wᵀ G w)) with G = frames framesᵀ."""

    def per_video(self, videos: Videos) -> State:
        return videos.frames, gram(videos.frames)

    def per_pair(self, query: State, video: State) -> Tensor:
        (captions,), (frames, G) = query, video
        s = frame_scores(captions, frames)
        w = (s / self.temperature).softmax(1)
        return (inner(w, s) * quadratic(w, G).rsqrt()).T / captions.norm(dim=-1)[
            :, None
        ]


class GLSCLHead(Head):
    """GIM + ½ LIM; the LIM decodes each item once (GLSCL)."""

    def __init__(self, lim: LocalInteraction):
        super().__init__()
        self.lim = lim
        self.gim = GlobalDirect()

    def per_video(self, videos: Videos) -> State:
        return (*self.gim.per_video(videos), self._decode(videos.frames))

    def per_query(self, texts: Texts) -> State:
        return (*self.gim.per_query(texts), self._decode(texts.tokens))

    def _decode(self, x: Tensor) -> Tensor:
        """Concepts (N, Q, D) of x (N, M, D) by the decoder as it is defined."""
        queries = self.lim.queries.expand(len(x), -1, -1)
        return normalize(self.lim.decoder(queries, x), dim=-1)

    def per_pair(self, query: State, video: State) -> Tensor:
        local = local_similarity(query[-1], video[-1])
        return self.gim.per_pair(query[:-1], video[:-1]) + 0.5 * local


class GLSCLFolded(GLSCLHead):
    """GLSCL with the GIM in Gram form and the decoder folded, see ``glscl.lim``."""

    def __init__(self, lim: LocalInteraction):
        super().__init__(lim)
        self.gim = GlobalGram()

    def _decode(self, x: Tensor) -> Tensor:
        return normalize(self.lim.decode_folded(x), dim=-1)


class GLCCL(Head):
    """Frames pooled for the sentence and for every word, four mean scores (GLCCL)."""

    temperature = 5.0

    def __init__(self, dim: int, tokens: int):
        super().__init__()
        self.sentence = nn.Parameter(torch.eye(dim))
        self.word = nn.Parameter(torch.eye(dim))
        self.mix = nn.ParameterList(torch.eye(tokens) for _ in range(6))

    def per_query(self, texts: Texts) -> State:
        s, w = normalize(texts.captions, dim=-1), normalize(texts.tokens, dim=-1)
        return *texts, s, w, s @ self.sentence, w @ self.word

    def per_pair(self, query: State, video: State) -> Tensor:
        captions, tokens, s, w, s_mapped, w_mapped = query
        (frames,) = video
        video_a = self._pool("ad,bfd->abf", "abf,bfd->abd", captions, frames)
        frame_al = self._pool("ald,bfd->ablf", "ablf,bfd->abld", tokens, frames)
        return self._combine(
            torch.einsum("ad,abd->ab", s_mapped, video_a),
            torch.einsum("ald,abd->abl", w, video_a),
            torch.einsum("ad,abld->abl", s, frame_al),
            torch.einsum("ald,abud->ablu", w_mapped, frame_al),
        )

    def _pool(self, scores: str, pool: str, x: Tensor, frames: Tensor) -> Tensor:
        """unit(G(x, v)): frames pooled for every caption or word, by two einsums."""
        w = (torch.einsum(scores, x, frames) / self.temperature).softmax(-1)
        return normalize(torch.einsum(pool, w, frames), dim=-1)

    def _combine(self, first: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Mean of the four scores; x, y: (A, B, L), z: (A, B, L, L) word × frame."""
        words = mixed_mean(mixed_mean(z.transpose(2, 3), self.mix[2]), self.mix[3])
        frames = mixed_mean(mixed_mean(z, self.mix[4]), self.mix[5])
        second, third = mixed_mean(x, self.mix[0]), mixed_mean(y, self.mix[1])
        return (first + second + third + (words + frames) / 2) / 4


class GLCCLFolded(GLCCL):
    """GLCCL from inner products only: nothing pooled is ever built.

    Every score is an inner product with a pooled video Σ_f w_f v_f of length √(wᵀ G w),
    so it is the w-weighted sum of inner products with the frames, over that length.
    """

    def per_video(self, videos: Videos) -> State:
        return videos.frames, gram(videos.frames)

    def per_pair(self, query: State, video: State) -> Tensor:
        captions, tokens, _, _, s_mapped, w_mapped = query
        frames, G = video
        s_f = torch.einsum("ad,bfd->abf", captions, frames)
        w_f = torch.einsum("ald,bfd->ablf", tokens, frames)
        s_weights, s_length = self._weights(s_f[:, :, None], G)
        w_weights, w_length = self._weights(w_f, G)
        s_weights, s_length = s_weights[:, :, 0], s_length[:, :, 0]
        # The unit features differ from the raw ones by their length alone.
        s_f = s_f / captions.norm(dim=-1)[:, None, None]
        w_f = w_f / tokens.norm(dim=-1)[:, None, :, None]
        sm_f = torch.einsum("ad,bfd->abf", s_mapped, frames)
        wm_f = torch.einsum("ald,bfd->ablf", w_mapped, frames)
        return self._combine(
            torch.einsum("abf,abf->ab", s_weights, sm_f) / s_length,
            torch.einsum("abf,ablf->abl", s_weights, w_f) / s_length[..., None],
            torch.einsum("ablf,abf->abl", w_weights, s_f) / w_length,
            torch.einsum("ablf,abuf->ablu", wm_f, w_weights) / w_length[:, :, None],
        )

    def _weights(self, scores: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (A, B, L, F) and the length of what they pool, (A, B, L)."""
        w = (scores / self.temperature).softmax(-1)
        square = torch.einsum("ablf,ablf->abl", w, torch.einsum("bfg,ablg->ablf", G, w))
        return w, square.sqrt()


class EERCF(Head):
    """Coarse video score plus frame and patch scores, of every pair (EERCF, dense).

    ``patches``: whether patch scores take part. Weights: .5 video, .8 frame weak,
    .2 frame strong, .2 patch weak. The frame transformer is left out, here as
    elsewhere.
    """

    def __init__(self, dim: int, frames: int, patches: bool = True):
        super().__init__()
        self.coarse = nn.Parameter(torch.eye(dim))
        self.mix = nn.Parameter(torch.eye(frames))
        self.patches = patches

    def per_video(self, videos: Videos) -> State:
        frames = normalize(videos.frames, dim=-1)
        state = (normalize(frames.mean(1), dim=-1), frames)
        if not self.patches:
            return state
        if videos.patches is None:
            raise ValueError("videos.patches is missing: expected (B, F, P, D).")
        return *state, normalize(videos.patches, dim=-1).flatten(1, 2)

    def per_query(self, texts: Texts) -> State:
        s = normalize(texts.captions, dim=-1)
        return s, s @ self.coarse

    def per_pair(self, query: State, video: State) -> Tensor:
        return 0.5 * self._coarse(query, video) + self._fine("b", query[0], *video[1:])

    def _coarse(self, query: State, video: State) -> Tensor:
        return query[1] @ video[0].T

    def _fine(
        self, axes: str, s: Tensor, f: Tensor, patches: Tensor | None = None
    ) -> Tensor:
        """Frame and patch scores of the captions s (A, D): (A, B).

        ``axes``: ``"b"`` for the same B videos f (B, F, D) for all captions, ``"ab"``
        for B of its own for each, f (A, B, F, D).
        """
        x = torch.einsum(f"ad,{axes}fd->abf", s, f)
        weights = (x / 0.1).softmax(-1)
        strong = normalize(torch.einsum(f"abf,{axes}fd->abd", weights, f), dim=-1)
        score = 0.8 * mixed_mean(x, self.mix)
        score = score + 0.2 * torch.einsum("ad,abd->ab", s, strong)
        if patches is None:
            return score
        return score + 0.2 * own_mean(torch.einsum(f"ad,{axes}pd->abp", s, patches))


class EERCFTwoStage(EERCF):
    """Recall ``shortlist`` videos by the coarse score, rerank those alone.

    Reranked videos stand above all others, which keep their coarse order.
    """

    def __init__(
        self, dim: int, frames: int, patches: bool = True, shortlist: int = 50
    ):
        super().__init__(dim, frames, patches)
        self.shortlist = shortlist

    def per_pair(self, query: State, video: State) -> Tensor:
        coarse = self._coarse(query, video)
        recalled = coarse.topk(min(self.shortlist, coarse.shape[1]))
        fine = self._fine("ab", query[0], *(x[recalled.indices] for x in video[1:]))
        # 0.5 · coarse stays in [−½, ½] and fine in [−1.2, 1.2]: 100 is above both.
        return coarse.scatter(1, recalled.indices, 100 + 0.5 * recalled.values + fine)


class XPoolFolded(XPool):
    """X-Pool with everything after the attention weights folded into the frames.

    The weights sum to 1, so projecting the pooled video is pooling projected frames.
    LayerNorm subtracts a mean (linear: done to the frames) and divides by a length, a
    quadratic form of the weights. So the pooled video, times the last LayerNorm's σ₂, is
    c · U with a table U (F + 2, D) per video: the F folded frames, the folded bias of
    the linear layer, the last bias; and coefficients c = (w / σ₁, 1, σ₂).
    """

    def per_video(self, videos: Videos) -> State:
        frames = self.norm_in(videos.frames)
        first, last = self.norm_attention, self.norm_out
        z = _centred(self.out(self.v(frames)))  # (B, F, D)
        x = z * first.weight
        x = _centred(x + x @ self.linear.weight.T)
        x = torch.cat([x, self._bias().expand(len(x), 1, -1)], dim=1)  # (B, F + 1, D)
        U = torch.cat([x * last.weight, last.bias.expand(len(x), 1, -1)], dim=1)
        return self.k(frames), U, gram(z), gram(x), gram(U)

    def per_query(self, texts: Texts) -> State:
        q, captions = super().per_query(texts)
        rows = torch.stack([self._bias() * self.norm_out.weight, self.norm_out.bias])
        return q, captions, captions @ rows.T  # (A, 2)

    def per_pair(self, query: State, video: State) -> Tensor:
        (q, captions, fixed), (k, U, G_z, G_x, G_U) = query, video
        F, D = k.shape[1:]
        w = (frame_scores(q, k) / math.sqrt(D)).softmax(1)  # (B, F, A)
        one = torch.ones_like(w[:, :1])
        sigma = (quadratic(w, G_z) / D + self.norm_attention.eps).sqrt()[:, None]
        c = torch.cat([w / sigma, one], dim=1)  # (B, F + 1, A)
        sigma = (quadratic(c, G_x) / D + self.norm_out.eps).sqrt()[:, None]
        c = torch.cat([c, sigma], dim=1)  # (B, F + 2, A)
        t = frame_scores(captions, U[:, :F])
        t = torch.cat([t, fixed.T.expand(len(t), 2, -1)], dim=1)
        return (inner(c, t) * quadratic(c, G_U).rsqrt()).T

    def _bias(self) -> Tensor:
        """The folded bias (D,), a constant of the model.

        Written elementwise, so that it is counted in none of the phases.
        """
        bias = self.norm_attention.bias
        mapped = (self.linear.weight * bias).sum(-1) + self.linear.bias
        return _centred(bias + mapped)


class DiCoSAFolded(DiCoSA):
    """DiCoSA with the hidden layer folded into the frames, the cosines into Gram form."""

    def per_video(self, videos: Videos) -> State:
        frames = videos.frames.unflatten(-1, (self.concepts, -1)).transpose(1, 2)
        d = frames.shape[-1]
        hidden = frames @ self.hidden.weight[:, d:].T  # (B, C, F, 4d)
        return frames, hidden, gram(frames)

    def per_query(self, texts: Texts) -> State:
        t = texts.captions.unflatten(-1, (self.concepts, -1))  # (A, C, d)
        d = t.shape[-1]
        hidden = t @ self.hidden.weight[:, :d].T + self.hidden.bias  # (A, C, 4d)
        return t, hidden

    def per_pair(self, query: State, video: State) -> Tensor:
        (t, t_hidden), (frames, hidden, G) = query, video
        s = torch.einsum("acd,bcfd->bcfa", t, frames)
        w = (s.sum(1) / self.temperature).softmax(1)  # (B, F, A)
        every = w[:, None].expand_as(s)
        top = torch.einsum("bcfa,bfa->bca", s, w)
        square = torch.einsum("bcfa,bfa->bca", G @ every, w)
        cosine = top * square.rsqrt() / t.norm(dim=-1).T
        h = torch.einsum("bfa,bcfh->bcah", w, hidden) + t_hidden.transpose(0, 1)
        weight = self.weight(h.relu()).squeeze(-1)  # (B, C, A)
        return (weight * cosine).sum(1).T


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)
