"""What every benchmark gives: the videos of a split and the captions about them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


#: A caption: a sentence, or its token ids.
Caption = str | tuple[int, ...]


@dataclass(frozen=True)
class VideoItem:
    """A video file, or the segment of it from ``start`` to ``end`` (seconds)."""

    id: str
    path: Path
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class CaptionItem:
    """A sentence about the video with index ``video`` of its split.

    ``kind`` groups captions in reports (the built-in benchmark: single, double, all).
    ``token_ids``: the BPE ids of a caption without text, from BOS to EOS.
    """

    text: str
    video: int
    kind: str = ""
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Split:
    """A named set of videos and captions. Every video has at least one caption.

    Raises ``ValueError`` when a caption points outside the videos, is empty, or when
    a video has no caption, or an id occurs twice.
    """

    name: str
    videos: tuple[VideoItem, ...]
    captions: tuple[CaptionItem, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for video in self.videos:
            if video.id in seen:
                raise ValueError(
                    f"Split {self.name}: video id {video.id!r} is there twice."
                )
            seen.add(video.id)
        described: set[int] = set()
        for position, caption in enumerate(self.captions):
            if not 0 <= caption.video < len(self.videos):
                raise ValueError(
                    f"Split {self.name}: caption {position} names video "
                    f"{caption.video}, but there are {len(self.videos)} videos."
                )
            if not (caption.text.strip() or caption.token_ids):
                raise ValueError(f"Split {self.name}: caption {position} is empty.")
            described.add(caption.video)
        for index, video in enumerate(self.videos):
            if index not in described:
                raise ValueError(
                    f"Split {self.name}: video {video.id!r} has no caption."
                )

    @cached_property
    def texts(self) -> list[Caption]:
        """The A captions, in order: text, or the token ids of those that have them."""
        return [caption.token_ids or caption.text for caption in self.captions]

    @cached_property
    def caption_to_video(self) -> torch.Tensor:
        """``(A,)``: for each caption the index of its video."""
        import torch

        return torch.tensor([caption.video for caption in self.captions])

    def first(self, count: int) -> Split:
        """Its first ``count`` videos, or all if there are fewer, with their captions."""
        captions = tuple(caption for caption in self.captions if caption.video < count)
        return Split(self.name, self.videos[:count], captions)

    def captions_of_kind(self, kind: str) -> torch.Tensor:
        """Indices of the captions of one kind; ``ValueError`` if there are none."""
        import torch

        rows = [i for i, caption in enumerate(self.captions) if caption.kind == kind]
        if not rows:
            kinds = sorted({caption.kind for caption in self.captions})
            raise ValueError(
                f"Split {self.name} has no caption of kind {kind!r}; kinds are {kinds}."
            )
        return torch.tensor(rows)
