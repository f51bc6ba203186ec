"""Scores of a model on a split, in bounded memory."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glscl.backbone import Backbone
from glscl.config import EncoderConfig
from glscl.data.loader import FrameCache, FrameSpec, VideoDataset, stored_features
from glscl.data.pairs import CachedVideos, Videos, trim, video_batches
from glscl.data.split import Caption, Split
from glscl.metrics import (
    Metrics,
    Ranks,
    bootstrap_interval,
    retrieval_metrics,
    text_to_video_ranks,
    video_to_text_ranks,
)
from glscl.retriever import Retriever, map_features
from glscl.util import parallel
from glscl.util.files import atomic_path, write_json, write_text
from glscl.util.tables import markdown

GALLERY_BYTES = 2 << 30  # of encoded videos that are in memory together


class Retrieval(NamedTuple):
    """``similarity`` (A, B) of the captions and videos of ``split``, and its metrics."""

    split: Split
    similarity: Tensor
    metrics: Metrics


@torch.no_grad()
def evaluate(
    model: Retriever,
    videos: Videos,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Retrieval:
    """Every caption of a split against every video, and the metrics of both directions.

    In evaluation mode; the mode is left as it was. Processes of ``torchrun`` share the
    work and all get the result, so all must call. Videos are encoded once, in blocks of
    at most ``GALLERY_BYTES``; for each block all captions are encoded, scored and dropped
    ``batch_size`` at a time. So memory grows with the result, which is on the CPU, not
    with the features of videos or captions.
    """
    training, split = model.training, videos.split
    model.to(device).eval()
    similarity = scores_by_block(
        model, videos, split.texts, batch_size, device, workers
    )
    model.train(training)
    found = retrieval_metrics(similarity, caption_to_video=split.caption_to_video)
    return Retrieval(split, similarity, found)


@torch.no_grad()
def scores_by_block(
    model: Retriever,
    videos: Videos,
    texts: Sequence[Caption],
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Tensor:
    """Similarity (A, B) of any captions with all videos, which are encoded in blocks."""
    one = encode_gallery(model, videos, 1, device, numbers=range(1))
    size = sum(field.nbytes for field in one if field is not None)
    numbers = range(len(videos.split.videos))
    block = max(1, GALLERY_BYTES // size)
    share, columns = [texts[i] for i in parallel.rows_of_rank(len(texts))], []
    for first in numbers[::block]:
        part = numbers[first : first + block]
        gallery = encode_gallery(model, videos, batch_size, device, workers, part)
        scores = caption_scores(model, share, gallery, batch_size)
        if parallel.world_size() > 1:
            scores = parallel.gather(scores.to(gallery.frames.device)).cpu()
        columns.append(scores[: len(texts)])
        del gallery  # before the next block takes its room
    return torch.cat(columns, dim=1)


@torch.no_grad()
def caption_scores(
    model: Retriever, texts: Sequence[Caption], gallery: Any, batch_size: int = 64
) -> Tensor:
    """Similarity (A, B) of any captions with an encoded gallery, on the CPU."""
    device = gallery.frames.device
    scores = torch.empty(len(texts), len(gallery.frames))
    batches = caption_batches(model, texts, batch_size, device)
    for rows, text in zip(scores.split(batch_size), batches, strict=True):
        rows.copy_(model.similarity(text, gallery))
    return scores


@torch.no_grad()
def caption_batches(
    model: Retriever,
    texts: Sequence[Caption],
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Iterator[Any]:
    """Captions, encoded ``batch_size`` at a time; the caller drops what it has used."""
    tokens = model.backbone.tokenize(texts, model.config.max_words)
    for ids, mask in zip(*(x.split(batch_size) for x in tokens), strict=True):
        if model.config.mask_padding:
            ids, mask = trim(ids, mask)
        yield model.encode_text(ids.to(device), mask.to(device))


@torch.no_grad()
def encode_gallery(
    model: Retriever,
    videos: Videos,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    workers: int = 0,
    numbers: range | None = None,
) -> Any:
    """The videos of a split, or those of ``numbers``, encoded ``batch_size`` at a time.

    Processes of ``torchrun`` share the work; each ends with the whole gallery.
    """
    numbers = range(len(videos.split.videos)) if numbers is None else numbers
    count, rows, done = len(numbers), None, 0
    chosen = [numbers[i] for i in parallel.rows_of_rank(count)]
    for content, mask in video_batches(videos, chosen, batch_size, workers):
        encode = (
            model.encode_video if content.ndim == 5 else model.encode_video_features
        )
        part = encode(content.to(device), mask.to(device))
        # Written where they stay, since a list of parts and its sum take twice the room.
        rows = rows or map_features(
            lambda field: field.new_empty(len(chosen), *field.shape[1:]), part
        )
        for whole, field in zip(rows, part, strict=True):
            if field is not None:
                whole[done : done + len(field)] = field
        done += len(mask)
    assert rows is not None
    return map_features(lambda field: parallel.gather(field)[:count], rows)


def frame_spec(backbone: Backbone, config: EncoderConfig) -> FrameSpec:
    """How a model's videos become pixels."""
    look = backbone.image_size, backbone.image_mean, backbone.image_std
    return FrameSpec(config.max_frames, config.sample_fps, *look, config.sampling)


def cached_videos(
    split: Split,
    backbone: Backbone,
    config: EncoderConfig,
    cache: Path,
    patches: bool = False,
    device: torch.device | str = "cpu",
    workers: int = 0,
    frames: FrameCache | None = None,
) -> CachedVideos:
    """A split as features of the visual tower, kept in the folder ``cache``.

    ``patches``: whether patches come with the frames, see ``Retriever.uses_patches``.
    ``frames``: where decoded frames are kept, if not all of them there, too.
    """
    frames = frames or FrameCache(cache / "frames")
    dataset = VideoDataset(split, frame_spec(backbone, config), frames)
    features = stored_features(
        backbone.to(device), dataset, cache, workers, device, patches
    )
    return CachedVideos(split, *features)


def result_table(
    scores: Sequence[tuple[str, Tensor]], split: Split
) -> list[dict[str, Any]]:
    """One row per way of scoring, direction and kind of caption, for printing.

    ``scores``: names and similarities (A, B). Recalls in %; ``low`` and ``high`` bound
    R@1 (95 %, videos drawn again with all their captions).
    """
    owner = split.caption_to_video
    kinds = dict.fromkeys(caption.kind for caption in split.captions)
    rows = []
    for name, similarity in scores:
        ranks = text_to_video_ranks(similarity, owner)
        rows.append(_row(name, "text to video", "all captions", ranks, owner))
        for kind in kinds if len(kinds) > 1 else ():
            chosen = split.captions_of_kind(kind)
            part = Ranks(ranks.better[chosen], ranks.ties[chosen], ranks.gallery)
            rows.append(_row(name, "text to video", kind, part, owner[chosen]))
        back = video_to_text_ranks(similarity, owner)
        videos = torch.arange(len(back.better))
        rows.append(_row(name, "video to text", "caption groups", back, videos))
    return rows


def _row(
    scores: str, direction: str, captions: str, ranks: Ranks, groups: Tensor
) -> dict[str, Any]:
    low, high = bootstrap_interval(100 * ranks.hits(1), groups)
    about = {"scores": scores, "direction": direction, "captions": captions}
    summary = ranks.summary()  # has R1, too, which comes before its bounds
    return {**about, "R1": summary["R1"], "low": low, "high": high, **summary}


def worst_queries(result: Retrieval, count: int = 10) -> list[dict[str, Any]]:
    """The ``count`` captions whose own video ranks last, with what ranked first."""
    split, similarity = result.split, result.similarity
    rank = text_to_video_ranks(similarity, split.caption_to_video).rank()
    table = []
    for a in rank.argsort(descending=True, stable=True)[:count].tolist():
        caption, first = split.captions[a], int(similarity[a].argmax())
        table.append(
            {
                "caption": caption.text,
                "kind": caption.kind,
                "video": split.videos[caption.video].id,
                "rank": rank[a].item(),
                "score": similarity[a, caption.video].item(),
                "first": split.videos[first].id,
                "first score": similarity[a, first].item(),
            }
        )
    return table


def write_tables(
    path: Path,
    rows: Sequence[dict[str, Any]],
    worst: Sequence[dict[str, Any]],
    about: dict[str, Any],
) -> list[Path]:
    """Write ``path`` with the suffixes .json (everything), .csv and .md (the table)."""
    written = [path.with_name(path.name + end) for end in (".json", ".csv", ".md")]
    write_json(written[0], {"about": about, "table": rows, "worst": worst})
    with atomic_path(written[1]) as temporary, temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    write_text(written[2], markdown(rows))
    return written
