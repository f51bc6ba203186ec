"""The geometry of the concepts that a trained LIM gives."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from glscl.data.pairs import Videos
from glscl.evaluate import caption_batches, encode_gallery
from glscl.model import GLSCL
from glscl.retriever import TextFeatures, VideoFeatures


@torch.no_grad()
def concept_measures(
    model: GLSCL, videos: Videos, batch_size: int = 64
) -> dict[str, float]:
    """Distances and cosines of the concepts of a split, for a model with a LIM.

    ``gap``: mean over q of ‖mean_b V_bq − mean_a T_aq‖, the distance of the modalities;
    ``pair``: mean cosine of the concepts of a caption and of its own video;
    ``intra_video``, ``intra_text``: mean cosine of two concepts of one item, for Q > 1.
    Raises ``ValueError`` for a model without a LIM.
    """
    if not model.config.local:
        raise ValueError("The model has no LIM and so no concepts to measure.")
    model.eval()
    video = _concepts([encode_gallery(model, videos, batch_size)])  # (B, Q, D)
    text = _concepts(
        caption_batches(model, videos.split.texts, batch_size)
    )  # (A, Q, D)
    owner = videos.split.caption_to_video
    measures = {
        "gap": (video.mean(dim=0) - text.mean(dim=0)).norm(dim=-1).mean().item(),
        "pair": torch.einsum("aqd,aqd->aq", text, video[owner]).mean().item(),
    }
    Q = video.shape[1]
    if Q > 1:
        other = ~torch.eye(Q, dtype=torch.bool)
        for name, concepts in (("intra_video", video), ("intra_text", text)):
            C = torch.einsum("nqd,nrd->qr", concepts, concepts) / len(concepts)
            measures[name] = C[other].mean().item()
    return measures


def _concepts(parts: Iterable[TextFeatures | VideoFeatures]) -> Tensor:
    return torch.cat([part.concepts for part in parts if part.concepts is not None])
