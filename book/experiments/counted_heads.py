"""Similarity heads of other methods, small enough to read, count and time.

What a retrieval method computes between the encoders and the score of a pair, in three
phases: once per video (``per_video``), once per caption (``per_query``), and for every
pair (``per_pair``). Random or identity weights, no masks: every frame and token is
real. These are for counting and timing; the methods that this project trains are
counted as the package computes them, see ``shipped_heads``.

A multiply-add is counted where it is written as a product of matrices or an ``einsum``
with a sum. Scaling by a weight, the weighted mean of a few scores, norms and softmax
are elementwise and are not counted.

Sources: the papers named at each class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from glscl.util.means import mixed_weighted_mean, softmax_weighted_mean


class Texts(NamedTuple):
    """``captions``: (A, D) sentence features, ``tokens``: (A, L, D)."""

    captions: Tensor
    tokens: Tensor


class Videos(NamedTuple):
    """``frames``: (B, F, D), ``patches``: (B, F, P, D), needed by EERCF alone."""

    frames: Tensor
    patches: Tensor | None = None


State = tuple[Tensor, ...]


class Head(nn.Module, ABC):
    """A similarity head in three phases; calling it runs all of them."""

    def per_video(self, videos: Videos) -> State:
        """What is computed once for each of B videos."""
        return (videos.frames,)

    def per_query(self, texts: Texts) -> State:
        """What is computed once for each of A captions."""
        return (texts.captions,)

    @abstractmethod
    def per_pair(self, query: State, video: State) -> Tensor:
        """Scores (A, B) from what the other phases returned."""

    def forward(
        self,
        captions: Tensor,
        tokens: Tensor,
        frames: Tensor,
        patches: Tensor | None = None,
    ) -> Tensor:
        """Scores (A, B) of ``Texts`` and ``Videos``, given as their tensors."""
        query = self.per_query(Texts(captions, tokens))
        return self.per_pair(query, self.per_video(Videos(frames, patches)))


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
        return softmax_weighted_mean(torch.einsum("ad,bfd->abf", query[0], video[0]))


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
        video_word = mixed_weighted_mean(torch.einsum("ald,bd->abl", w, v), words[0])
        sentence_frame = mixed_weighted_mean(
            torch.einsum("ad,bfd->abf", s, f), frames[0]
        )
        z = torch.einsum("ald,bfd->ablf", w_mapped, f)
        per_frame = mixed_weighted_mean(z.transpose(2, 3), words[1])  # (A, B, F)
        per_word = mixed_weighted_mean(z, frames[1])  # (A, B, L)
        both = mixed_weighted_mean(per_frame, frames[2]) + mixed_weighted_mean(
            per_word, words[2]
        )
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
