"""Captions with their videos, in the order that training sees them.

Everything random here is a function of the seed, the epoch and the item, so a resumed
run sees the same data without any state to restore.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

from glscl.config import TrainConfig
from glscl.data.loader import FrameFeatures
from glscl.data.split import Split
from glscl.util.shapes import check_shape


def stable_seed(*parts: object) -> int:
    """A seed from 0 to 2⁶³ − 1 that depends on ``parts`` alone, not on the process."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Videos(Protocol):
    """The videos of a split as input of a model: ``CachedVideos`` or ``VideoDataset``."""

    split: Split

    def load(self, video: int, seed: int) -> tuple[Tensor, Tensor]:
        """Video number ``video`` and its ``frame_mask`` (F,); ``seed``: augmentation."""
        ...


class CachedVideos:
    """Videos as stored features of the frozen visual tower: items (F, D).

    With patches items are (F, 1 + P, D). ``features``: of all videos, or parts in order.

    Raises ``ValueError`` when the features are not those of the split.
    """

    def __init__(self, split: Split, *features: FrameFeatures):
        axes = "B F D" if features[0].frames.ndim == 3 else "B F N D"
        before = sum(len(part.frames) for part in features[:-1])
        last, rest = features[-1].frames, len(split.videos) - before
        check_shape(last, axes, "frames", B=rest)
        self.split, self.parts = split, features
        self.rows: ConcatDataset = ConcatDataset([TensorDataset(*x) for x in features])

    @property
    def features(self) -> FrameFeatures:
        """Those of all videos, in memory."""
        if len(self.parts) == 1:
            return self.parts[0]
        return FrameFeatures(*map(torch.cat, zip(*self.parts, strict=True)))

    def load(self, video: int, seed: int) -> tuple[Tensor, Tensor]:
        """Features of the frames, never augmented, and ``frame_mask`` (F,)."""
        return self.rows[video]


def rand_augment(policy: str) -> Callable[[np.ndarray, int], np.ndarray]:
    """timm's RandAugment for videos: frames (n, H, W, 3) and a seed to the same shape.

    All frames of a video get the same operations, and the generators that timm draws
    from are left as they were. ``policy`` as in the released recipe, for example
    ``rand-m7-n4-mstd0.5-inc1``. Pixels moved in are grey and interpolation is bicubic,
    as released.
    """
    from PIL import Image
    from timm.data.auto_augment import rand_augment_transform

    fixed = {"img_mean": (128, 128, 128), "interpolation": Image.Resampling.BICUBIC}
    transform = rand_augment_transform(policy, fixed)

    def augment(frames: np.ndarray, seed: int) -> np.ndarray:
        before, before_numpy = random.getstate(), np.random.get_state()
        changed = []
        try:
            for frame in frames:
                random.seed(seed)
                np.random.seed(seed % 2**32)
                changed.append(np.asarray(transform(Image.fromarray(frame))))
        finally:
            random.setstate(before)
            np.random.set_state(before_numpy)
        return np.stack(changed)

    return augment


class Pairs(NamedTuple):
    """N captions, each beside its video.

    ``captions``, ``videos`` (N,): their numbers in the split; ``token_ids``,
    ``token_mask`` (N, L); ``content``: pixels (N, F, 3, S, S) or features (N, F, D);
    ``frame_mask`` (N, F).
    """

    captions: Tensor
    videos: Tensor
    token_ids: Tensor
    token_mask: Tensor
    content: Tensor
    frame_mask: Tensor

    def to(self, device: torch.device) -> Pairs:
        """The same on ``device``."""
        return Pairs(*(x.to(device, non_blocking=True) for x in self))

    def split(self, size: int) -> list[Pairs]:
        """Parts of at most ``size`` pairs."""
        parts = zip(*(x.split(size) for x in self), strict=True)
        return [Pairs(*part) for part in parts]

    def trimmed(self) -> Pairs:
        """With ``trim`` applied to the tokens."""
        token_ids, token_mask = trim(self.token_ids, self.token_mask)
        return self._replace(token_ids=token_ids, token_mask=token_mask)


def trim(token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out the columns of (N, L) that hold no token of any caption.

    No token sees a later one, so where a model masks padding this saves time and
    changes nothing.
    """
    longest = int(token_mask.sum(dim=1).max())
    return token_ids[:, :longest], token_mask[:, :longest]


def epoch_order(split: Split, config: TrainConfig, epoch: int) -> list[int]:
    """The captions of one epoch, shuffled by the seed of the recipe and the epoch.

    With ``epoch_over="captions"`` every caption; with ``"videos"`` every video once,
    with one of its captions drawn at random. Then ``group_size`` videos that follow one
    another in the split stay together, such as a clip and its hard negatives.

    Raises ``ValueError`` for groups of captions, or a group that is no whole part of a
    batch.
    """
    rng = random.Random(stable_seed("order", config.seed, epoch))
    size = config.group_size
    if config.epoch_over == "captions":
        if size != 1:
            raise ValueError(
                f"group_size = {size} needs epoch_over = 'videos': captions of one "
                "video are no negatives of each other."
            )
        order = list(range(len(split.captions)))
        rng.shuffle(order)
        return order
    if size < 1 or config.batch_size % size:
        raise ValueError(
            f"group_size must divide the batch of {config.batch_size}, got {size}."
        )
    captions_of: list[list[int]] = [[] for _ in split.videos]
    for position, caption in enumerate(split.captions):
        captions_of[caption.video].append(position)
    order = [rng.choice(captions) for captions in captions_of]
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(groups)
    return [caption for group in groups for caption in group]


def _load(videos: Videos, chosen: Iterable[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Content and ``frame_mask`` of videos from their numbers and seeds."""
    items = (videos.load(video, seed) for video, seed in chosen)
    content, frame_mask = map(torch.stack, zip(*items, strict=True))
    return content, frame_mask


def video_batches(
    videos: Videos, numbers: Sequence[int], batch_size: int, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The videos of ``numbers``: content (N, F, ...) and ``frame_mask`` (N, F)."""
    yield from DataLoader(
        [(number, 0) for number in numbers],  # type: ignore[arg-type]
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=partial(_load, videos),
    )


def _load_pairs(
    videos: Videos, tokens: tuple[Tensor, Tensor], seed: int, captions: Sequence[int]
) -> Pairs:
    rows = torch.tensor(captions)
    numbers = videos.split.caption_to_video[rows]
    seeds = (stable_seed(seed, caption) for caption in captions)
    content, mask = _load(videos, zip(numbers.tolist(), seeds, strict=True))
    token_ids, token_mask = (x[rows] for x in tokens)
    return Pairs(rows, numbers, token_ids, token_mask, content, mask)


def pair_batches(
    videos: Videos,
    tokens: tuple[Tensor, Tensor],
    seed: int,
    batches: Sequence[Sequence[int]],
    workers: int = 0,
) -> Iterator[Pairs]:
    """The given ``batches`` of captions with their videos, loaded by ``workers``.

    ``tokens``: ids and mask of all captions, each (A, L). ``seed`` (with the number of
    the caption) seeds the augmentation.
    """
    yield from DataLoader(
        range(len(videos.split.captions)),  # type: ignore[arg-type]
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=partial(_load_pairs, videos, tokens, seed),
    )
