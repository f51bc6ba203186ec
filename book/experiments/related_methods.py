"""What EERCF and GLCCL claim, measured: their levels, their losses, two stages.

Measures of a trained model on the videos of a split, all of them about pairs of a
caption and its own video against all other pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glscl.data.pairs import Videos
from glscl.eercf import EERCF, EERCFText, gated, gates
from glscl.evaluate import caption_batches, encode_gallery
from glscl.glccl import GLCCL, LEVELS
from glscl.losses import channel_correlation
from glscl.metrics import retrieval_metrics
from glscl.retriever import Retriever

BATCH_SIZE = 100  # videos or captions that are encoded at a time
SHORTLISTS = (1, 5, 10, 20, 50, 100, 200)


@torch.no_grad()
def related_measures(
    model: Retriever, validation: Videos, test: Videos
) -> dict[str, Any]:
    """Measures for the record of a run of EERCF or GLCCL.

    ``levels``: text→video R@1 of every score alone, on ``validation``. EERCF:
    ``correlation`` there, and ``two_stage`` on ``test``. GLCCL: ``variance`` there.
    Raises ``ValueError`` for a model of another method.
    """
    model.eval()
    levels = level_scores(model, validation)
    owner = validation.split.caption_to_video
    measures: dict[str, Any] = {
        "levels": {
            name: retrieval_metrics(scores, caption_to_video=owner)["t2v"]["R1"]
            for name, scores in levels.items()
        }
    }
    if isinstance(model, EERCF):
        measures["correlation"] = correlations(model, validation)
        measures["two_stage"] = two_stage_sweep(model, test, SHORTLISTS)
    else:
        stacked = torch.stack([levels[name] for name in LEVELS])
        measures["variance"] = score_variance(stacked, owner)
    return measures


@torch.no_grad()
def level_scores(
    model: Retriever, videos: Videos, batch_size: int = BATCH_SIZE
) -> dict[str, Tensor]:
    """Every score of EERCF or GLCCL by name, each (A, B), of a whole split.

    Raises ``ValueError`` for a model of another method.
    """
    gallery = encode_gallery(model, videos, batch_size)
    parts = caption_batches(model, videos.split.texts, batch_size)
    if isinstance(model, EERCF):
        found = [model.levels(text, gallery)._asdict() for text in parts]
    elif isinstance(model, GLCCL):
        found = [
            dict(zip(LEVELS, model.level_scores(text, gallery), strict=True))
            for text in parts
        ]
    else:
        raise ValueError(f"{model.method!r} has no levels: expected eercf or glccl.")
    return {
        name.replace("_", " "): torch.cat([part[name] for part in found])
        for name, scores in found[0].items()
        if scores is not None
    }


def score_variance(levels: Tensor, owner: Tensor) -> dict[str, float]:
    """How much the levels (S, A, B) of a pair differ: what CSC makes small, and large.

    ``owner``: (A,), the video of each caption. The unbiased variance over S, its mean over
    the captions' ``own`` videos, over all ``other`` pairs, and the ``ratio`` of both.
    """
    variance = levels.var(dim=0)
    pairs = torch.zeros_like(variance, dtype=torch.bool)
    pairs[torch.arange(len(owner)), owner] = True
    mean_own = variance[pairs].mean().item()
    mean_other = variance[~pairs].mean().item()
    return {"own": mean_own, "other": mean_other, "ratio": mean_own / mean_other}


@torch.no_grad()
def correlations(model: EERCF, videos: Videos) -> dict[str, float]:
    """What the Pearson constraint brings to 1: the mean over channels of c_dd.

    Between captions and their own ``video``, and the ``frame`` vector that each caption
    gates of its own video.
    """
    owner = videos.split.caption_to_video
    gallery = encode_gallery(model, videos, BATCH_SIZE)
    texts = caption_batches(model, videos.split.texts, BATCH_SIZE)
    t = torch.cat([text.captions for text in texts])
    x = torch.einsum("ad,afd->af", t, gallery.clip_frames[owner])
    mask = gallery.mask[owner] if model.config.mask_padding else None
    strong = gated(gates(x, mask, model.config.gate_temperature), gallery.frames[owner])
    return {
        "video": channel_correlation(t, gallery.videos[owner]).mean().item(),
        "frame": channel_correlation(t, strong).mean().item(),
    }


@torch.no_grad()
def two_stage_sweep(
    model: EERCF, videos: Videos, shortlists: Sequence[int]
) -> list[dict[str, Any]]:
    """Two-stage retrieval compared with dense scoring, a row for every shortlist k.

    ``top10``: share of the dense ten best that are among the two-stage ten best.
    ``R1``, ``R10``: text→video. Video→text two ways: ``v2t_columns`` reads the scores
    of the captions' shortlists by columns, as the release does; ``v2t_own`` gives every
    video a shortlist of k captions. The last row, k = the whole gallery, is dense.
    """
    owner = videos.split.caption_to_video
    video = encode_gallery(model, videos, BATCH_SIZE)
    parts = list(caption_batches(model, videos.split.texts, BATCH_SIZE))
    dense = torch.cat([model.similarity(part, video) for part in parts])
    text = EERCFText._make(map(torch.cat, zip(*parts, strict=True)))
    A, B = dense.shape
    rows = []
    for k in (*(k for k in shortlists if k < B), B):
        by_caption = dense if k == B else model.two_stage(text, video, k)
        by_video = dense
        if k < B:
            by_video = model.two_stage(text, video, k, "captions of videos")
        metrics = retrieval_metrics(by_caption, caption_to_video=owner)
        metrics_by_video = retrieval_metrics(by_video, caption_to_video=owner)
        rows.append(
            {
                "k": k,
                "top10": top_agreement(dense, by_caption, 10),
                "R1": metrics["t2v"]["R1"],
                "R10": metrics["t2v"]["R10"],
                "v2t_columns": metrics["v2t"]["R1"],
                "v2t_own": metrics_by_video["v2t"]["R1"],
                "scored": k * A,
            }
        )
    return rows


def top_agreement(one: Tensor, two: Tensor, k: int = 10) -> float:
    """Mean share of the ``k`` best of each row of ``one`` that ``two`` has there too."""
    k = min(k, one.shape[1])
    a, b = one.topk(k, dim=1).indices, two.topk(k, dim=1).indices
    return (a[:, :, None] == b[:, None, :]).any(dim=2).double().mean().item()
