"""What faiss's indexes find of the nearest coarse vectors, how fast, in how much."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from benchmarks.search_data import CHUNK, Distribution
from glscl.costs.formulas import Sizes
from glscl.search.coarse import clusters, load_faiss

#: Index as faiss names it, ``{n}`` the number of clusters; its setting, and its values.
#: ``np``: without polysemous training, which takes minutes and serves no search here.
INDEXES = {
    "Flat": ("Flat", "", ()),
    "SQfp16": ("SQfp16", "", ()),
    "IVF, SQfp16": ("IVF{n},SQfp16", "nprobe", (8, 4, 2)),
    "IVF, SQ8": ("IVF{n},SQ8", "nprobe", (8, 4, 2)),
    "IVF, PQ64": ("IVF{n},PQ64np", "nprobe", (8, 4, 2)),
    "HNSW32": ("HNSW32", "efSearch", (64, 256, 1024)),
}


TRAINED = 40_000  # vectors that an index learns its clusters from


def vectors(N: int, queries: int, sizes: Sizes) -> tuple[NDArray, NDArray]:
    """Coarse vectors (N, D) and queries (A, D) of a generated collection."""
    source = Distribution(sizes)
    topics = source.topics(N)
    parts = [
        normalize(source.videos(part).frames.mean(dim=1), dim=-1)
        for part in topics.split(CHUNK)
    ]
    wanted = torch.randint(N, (queries,), generator=source.generator)
    captions = source.queries(topics[wanted]).captions
    return torch.cat(parts).numpy(), normalize(captions, dim=-1).numpy()


def settings(name: str, count: int) -> Iterator[tuple[str, dict[str, int]]]:
    """The settings to try: shares of the clusters, or widths of the beam."""
    _, option, values = INDEXES[name]
    if not option:
        yield "", {}
    for value in values:
        number = max(1, count // value) if option == "nprobe" else value
        yield f"{option} {number}", {option: number}


def compare_indexes(N: int, queries: int, sizes: Sizes) -> dict[str, Any]:
    """Build each index of N vectors and search it, one query at a time."""
    faiss = load_faiss()
    x, q = vectors(N, queries, sizes)
    count, k = clusters(N), min(100, N)
    truth = np.argsort(-(q @ x.T), axis=1, kind="stable")[:, :k]
    rows = []
    for name, (recipe, _, _) in INDEXES.items():
        begin = time.perf_counter()
        index = faiss.index_factory(
            x.shape[1], recipe.format(n=count), faiss.METRIC_INNER_PRODUCT
        )
        index.train(x[:TRAINED])
        index.add(x)
        seconds = time.perf_counter() - begin
        size = faiss.serialize_index(index).nbytes / 1e6
        for label, options in settings(name, count):
            for option, value in options.items():
                owner = index.hnsw if option == "efSearch" else index
                setattr(owner, option, value)
            if hasattr(index, "parallel_mode"):
                index.parallel_mode = 1
            found, milliseconds = timed_answers(lambda a, i=index: i.search(a, k)[1], q)
            rows.append(
                {
                    "index": name,
                    "setting": label,
                    "p50_ms": milliseconds,
                    "recall_at_100": share(found, truth),
                    "top10_among_100": share(found, truth[:, :10]),
                    "mb": size,
                    "build_seconds": seconds,
                }
            )
    return {"N": N, "clusters": count, "queries": queries, "rows": rows}


def timed_answers(
    search: Callable[[NDArray], NDArray], queries: NDArray
) -> tuple[NDArray, float]:
    """The answers to the queries one by one, and their median time in milliseconds."""
    search(queries[:1])
    answers, seconds = [], []
    for a in range(len(queries)):
        begin = time.perf_counter()
        answers.append(search(queries[a : a + 1])[0])
        seconds.append(time.perf_counter() - begin)
    return np.stack(answers), float(np.median(seconds) * 1e3)


def share(found: NDArray, wanted: NDArray) -> float:
    """Mean share of ``wanted`` that is in ``found``, row by row."""
    pairs = zip(found, wanted, strict=True)
    return float(np.mean([np.isin(w, f).mean() for f, w in pairs]))
