"""Scores of a model on a split, in bounded memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from glscl.data.pairs import Videos, trim, video_batches
from glscl.data.split import Split
from glscl.metrics import Metrics, retrieval_metrics
from glscl.model import GLSCL, VideoFeatures


class Retrieval(NamedTuple):
    """``similarity`` (A, B) of the captions and videos of ``split``, and its metrics."""

    split: Split
    similarity: Tensor
    metrics: Metrics


@torch.no_grad()
def evaluate(
    model: GLSCL,
    videos: Videos,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Retrieval:
    """Every caption of a split against every video, and the metrics of both directions."""
    similarity = similarity_matrix(model, videos, batch_size, device, workers)
    metrics = retrieval_metrics(
        similarity, caption_to_video=videos.split.caption_to_video
    )
    return Retrieval(videos.split, similarity, metrics)


@torch.no_grad()
def similarity_matrix(
    model: GLSCL,
    videos: Videos,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Tensor:
    """Similarity (A, B) on the CPU, in evaluation mode, which is left as it was.

    Videos are encoded once; captions are encoded, scored and dropped ``batch_size`` at
    a time, so memory grows with the frames of the gallery (B, F, D) and the result, not
    with the tokens of the captions (A, L, D).
    """
    training = model.training
    model.to(device).eval()
    gallery = encode_gallery(model, videos, batch_size, device, workers)
    token_ids, token_mask = model.backbone.tokenize(
        videos.split.texts, model.config.max_words
    )
    rows = []
    for ids, mask in zip(
        token_ids.split(batch_size), token_mask.split(batch_size), strict=True
    ):
        if model.config.mask_padding:
            ids, mask = trim(ids, mask)
        text = model.encode_text(ids.to(device), mask.to(device))
        rows.append(model.similarity(text, gallery).float().cpu())
    model.train(training)
    return torch.cat(rows)


@torch.no_grad()
def encode_gallery(
    model: GLSCL,
    videos: Videos,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> VideoFeatures:
    """All videos of a split, encoded once, ``batch_size`` at a time."""
    parts = []
    for content, mask in video_batches(videos, batch_size, workers):
        encode = (
            model.encode_video if content.ndim == 5 else model.encode_video_features
        )
        parts.append(encode(content.to(device), mask.to(device)))
    concepts = [part.concepts for part in parts if part.concepts is not None]
    return VideoFeatures(
        torch.cat([part.frames for part in parts]),
        torch.cat([part.mask for part in parts]),
        torch.cat(concepts) if concepts else None,
    )
