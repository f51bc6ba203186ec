"""Pairs of a still and a caption, for the small contrastive trainings of chapter 2."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from book.experiments.mini_clip import (
    DETAIL_CHANCE,
    POSITION_CHANCE,
    Still,
    agreement,
    describe,
    draw_still,
    encode_stills,
    pixels_of,
)
from glscl.backbone import Backbone

_AT_ONCE = 200  # stills that the image tower gets at a time


class StillPairs(NamedTuple):
    """N pairs, row i of everything belongs together.

    ``true`` (N, N): caption i is true of still j. ``token_ids``: (N, L), ``images``:
    (N, D), features of the stills.
    """

    stills: list[Still]
    texts: list[str]
    token_ids: Tensor
    images: Tensor
    true: Tensor


@torch.no_grad()
def still_pairs(
    backbone: Backbone,
    count: int,
    seed: int,
    position: float = POSITION_CHANCE,
    detail: float = DETAIL_CHANCE,
) -> StillPairs:
    """``count`` random stills with captions; ``backbone`` encodes the stills.

    ``position`` and ``detail`` are the chances that a caption names the place, and the
    size and the background, see ``mini_clip.describe``.
    """
    rng = random.Random(f"glscl still pairs {seed}")
    stills = [draw_still(rng) for _ in range(count)]
    said = [describe(rng, still, position, detail) for still in stills]
    texts = [text for text, _ in said]
    true = agreement([facts for _, facts in said], [still.facts() for still in stills])
    token_ids, _ = backbone.tokenize(texts, backbone.context_length)
    parts = np.array_split(pixels_of(stills), max(1, count // _AT_ONCE))
    images = torch.cat([encode_stills(backbone, part) for part in parts])
    return StillPairs(stills, texts, token_ids, images, torch.from_numpy(true))
