"""A collection of any size, generated: its features are as hard to search as real ones.

Tight clusters make every index look perfect. Here the spectrum decays slowly, clusters
are wide, frames differ within a video, and queries come from elsewhere than videos: each
is about one video, moved by an offset that all queries share, with noise of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import lance
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import normalize

from book.experiments.formulas import Sizes
from glscl.model import GLSCL, TextFeatures, VideoFeatures
from glscl.search import table
from glscl.search.build import model_fingerprint, packed
from glscl.search.windows import Windows

NORM = 10.0  # length of a feature, about CLIP's
CENTRES = 2000  # wide clusters
DECAY = 0.4  # the i-th axis has a standard deviation of i^-DECAY
WITHIN = 1.0  # spread within a cluster, in units of that of the centres
FRAME_NOISE = 0.7  # of a frame, in units of a video's spread
QUERY_NOISE = 1.0  # of a query, in the same units
GAP = 0.5  # length of the queries' common offset, in units of a feature's length
BANK = 32_768  # noise vectors that frames and concepts draw from
CHUNK = 1_000  # videos generated at a time: more would not stay in cache


class Distribution:
    """What videos and queries are drawn from, determined by ``seed``."""

    def __init__(self, sizes: Sizes, seed: int = 0):
        self.sizes, self.generator = sizes, torch.Generator().manual_seed(seed)
        D = sizes.D
        spectrum = torch.arange(1, D + 1).float() ** -DECAY
        self.spectrum = spectrum / spectrum.norm()  # noise has length 1
        self.centres = self.noise(CENTRES)
        self.bank = self.noise(BANK)
        self.gap = normalize(self.noise(1), dim=-1)
        self.concept_bases = self.noise(sizes.Q)

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, self.sizes.D, generator=self.generator) * (
            self.spectrum
        )

    def noise_from_bank(self, *shape: int) -> Tensor:
        """Noise from the bank: quicker than fresh, by a factor."""
        rows = torch.randint(BANK, shape, generator=self.generator)
        return self.bank.index_select(0, rows.flatten()).view(*shape, -1)

    def topics(self, count: int) -> Tensor:
        """What videos are about: (count, D)."""
        cluster = torch.randint(CENTRES, (count,), generator=self.generator)
        return (self.centres[cluster] + WITHIN * self.noise(count)) / (
            1 + WITHIN**2
        ) ** 0.5

    def videos(self, topics: Tensor) -> VideoFeatures:
        """Frames and concepts of videos about ``topics`` (B, D)."""
        B, F, Q = len(topics), self.sizes.F, self.sizes.Q
        scale = NORM / (1 + FRAME_NOISE**2) ** 0.5
        frames = scale * (topics[:, None] + FRAME_NOISE * self.noise_from_bank(B, F))
        concepts = topics[:, None] + self.concept_bases + self.noise_from_bank(B, Q)
        mask = torch.ones(B, F, dtype=torch.bool)
        return VideoFeatures(frames, mask, normalize(concepts, dim=-1) if Q else None)

    def queries(self, topics: Tensor) -> TextFeatures:
        """Captions about ``topics`` (A, D), with their concepts."""
        A, Q = len(topics), self.sizes.Q
        captions = normalize(topics + QUERY_NOISE * self.noise(A), dim=-1)
        captions = NORM * normalize(captions + GAP * self.gap, dim=-1)
        concepts = topics[:, None] + self.concept_bases + self.noise(A, Q)
        mask = torch.ones(A, 1, dtype=torch.bool)
        return TextFeatures(
            captions,
            captions[:, None],
            mask,
            normalize(concepts, dim=-1) if Q else None,
        )


class Collection(NamedTuple):
    """An index at ``path``, and queries to search it with."""

    path: Path
    queries: TextFeatures


def generate(
    path: Path, N: int, queries: int, model: GLSCL, sizes: Sizes, seed: int = 0
) -> Collection:
    """Write an index of N generated videos, one window each."""
    source = Distribution(sizes, seed)
    about = table.About(
        folder=str(path / "videos"),
        model={**model_fingerprint(model), "source": None},
        windows=asdict(Windows()),
    )
    example = _columns(0, 1, source.videos(source.topics(1)), model)
    table.create(str(path), about, {n: x for n, x in example.items() if np.ndim(x) > 1})
    wanted = torch.randint(N, (queries,), generator=source.generator)
    topics_of = torch.empty(queries, sizes.D)
    schema = table.Snapshot(str(path)).table.schema

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, N, CHUNK):
            count = min(CHUNK, N - start)
            topics = source.topics(count)
            here = (wanted >= start) & (wanted < start + count)
            topics_of[here] = topics[wanted[here] - start]
            columns = _columns(start, count, source.videos(topics), model)
            yield from table.as_table(columns, schema).to_batches()

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    lance.write_dataset(reader, path / table.WINDOWS, mode="append")
    return Collection(path, source.queries(topics_of))


def _columns(
    start: int, count: int, video: VideoFeatures, model: GLSCL
) -> table.Columns:
    """The columns of ``count`` windows, each of a file of its own."""
    names = [f"{i // 1000:04d}/{i:07d}.mp4" for i in range(start, start + count)]
    times = np.linspace(0, 9, video.frames.shape[1], dtype=np.float32)
    return {
        "id": [f"{name}#0" for name in names],
        "path": names,
        "size": np.zeros(count, np.int64),
        "mtime_ns": np.arange(start, start + count),
        "start": np.zeros(count, np.float32),
        "end": np.full(count, 10, np.float32),
        "times": np.tile(times, (count, 1)),
        **packed(model, video),
    }
