"""Counted costs beside published ones, those of the encoders, and those of a search."""

from __future__ import annotations

import math
from dataclasses import dataclass

from book.experiments.formulas import HeadMacs, Sizes

VISION_WIDTH, VISION_PATCH, VISION_IMAGE = 768, 32, 224  # ViT-B/32
TEXT_WIDTH = 512
CLIP_LAYERS = 12  # of both encoders
TEMPORAL_LAYERS = 4


@dataclass(frozen=True)
class PaperLike:
    """A count per pair that comes to a published number, and what it counts."""

    pair: int
    counts: str


def paper_like_macs(sizes: Sizes) -> dict[str, PaperLike]:
    """The counts per pair that come nearest to the FLOPs column of GLSCL, Table I.

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


def two_stage(head: HeadMacs, sizes: Sizes, shortlist: int) -> HeadMacs:
    """``head`` used to rerank the ``shortlist`` best of a scan with the mean frame."""
    return HeadMacs(
        head.video, head.query, sizes.D, reranked=head.pair, shortlist=shortlist
    )


def break_even_videos(head: HeadMacs, other: HeadMacs) -> int:
    """Gallery size from which ``head`` costs fewer MACs per query than ``other``.

    Its higher cost per caption is made up by a lower cost per pair. Raises
    ``ValueError`` when it never is, or when ``head`` is cheaper throughout.
    """
    paid, saved = head.query - other.query, other.pair - head.pair
    if paid <= 0 or saved <= 0:
        raise ValueError(
            "No break-even point: expected a head that costs more per caption and less "
            f"per pair, got {paid} more and {saved} less."
        )
    return math.ceil(paid / saved)


def transformer_macs(tokens: int, width: int, layers: int) -> int:
    """MACs of a transformer over one sequence: 12 N W² + 2 N² W a layer."""
    return layers * (12 * tokens * width**2 + 2 * tokens**2 * width)


def frame_macs(dim: int = 512) -> int:
    """MACs of CLIP's ViT-B/32 for one frame, projected to ``dim`` channels."""
    patches = (VISION_IMAGE // VISION_PATCH) ** 2
    embedding = patches * VISION_WIDTH * 3 * VISION_PATCH**2
    tower = transformer_macs(patches + 1, VISION_WIDTH, CLIP_LAYERS)
    return embedding + tower + VISION_WIDTH * dim


def caption_macs(tokens: int, dim: int = 512, projected: int = 1) -> int:
    """MACs of CLIP's text transformer for one caption of ``tokens``, padding included.

    ``projected``: how many tokens go through the text projection: 1 for the sentence
    feature alone, ``tokens`` where every token is kept.
    """
    tower = transformer_macs(tokens, TEXT_WIDTH, CLIP_LAYERS)
    return tower + projected * TEXT_WIDTH * dim


def temporal_macs(sizes: Sizes) -> int:
    """MACs of the frame transformer for one video."""
    return transformer_macs(sizes.F, sizes.D, TEMPORAL_LAYERS)
