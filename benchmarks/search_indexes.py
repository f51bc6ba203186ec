"""What Lance's indexes find of the nearest coarse vectors, how fast, in how much."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from benchmarks.data import scoring_model
from benchmarks.search_data import CHUNK, Distribution
from book.experiments.formulas import Sizes
from glscl.search.table import METRIC, SAMPLED, clusters

#: Index as Lance names it, its options, and the settings of a search to try: shares of
#: the clusters, and how many times k windows are compared again by their whole vectors.
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
INDEXES: dict[str, tuple[dict[str, Any], tuple[float, ...], tuple[int, ...]]] = {
    "none": ({}, (1.0,), (1,)),
    "IVF_FLAT": ({}, SHARES, (1,)),
    "IVF_SQ": ({}, SHARES, (1,)),
    "IVF_PQ": ({"num_sub_vectors": 64}, SHARES, (1, 5)),
    "IVF_RQ": ({}, SHARES, (1, 2)),
    "IVF_HNSW_SQ": ({}, SHARES, (1,)),
}


def vectors(N: int, queries: int, sizes: Sizes) -> tuple[NDArray, NDArray]:
    """Coarse vectors (N, C) and queries (A, C) of a generated collection."""
    source, model = Distribution(sizes), scoring_model(sizes)
    topics = source.topics(N)
    parts = [model.coarse_video(source.videos(part)) for part in topics.split(CHUNK)]
    wanted = torch.randint(N, (queries,), generator=source.generator)
    text = source.queries(topics[wanted])
    return torch.cat(parts).numpy(), model.coarse_text(text).numpy()


def compare_indexes(N: int, queries: int, sizes: Sizes) -> dict[str, Any]:
    """Build each index of N vectors and search it, one query at a time."""
    x, q = vectors(N, queries, sizes)
    k = min(100, N)
    truth = np.argsort(-(q @ x.T), axis=1, kind="stable")[:, :k]
    flat = pa.array(x.astype(np.float16).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, x.shape[1])
    rows: list[dict[str, Any]] = []
    for name, (options, shares, refined) in INDEXES.items():
        with tempfile.TemporaryDirectory() as work:
            table = lance.write_dataset(pa.table({"coarse": column}), work)
            begin = time.perf_counter()
            if name != "none":
                shared = {"num_partitions": clusters(N), "sample_rate": SAMPLED}
                table.create_index("coarse", name, metric=METRIC, **shared, **options)
            seconds = time.perf_counter() - begin
            built = {"mb": _mb(work), "build_seconds": seconds}
            table = lance.dataset(work)
            for label, wanted in settings(name, N, shares, refined):
                found, milliseconds = timed_answers(table, wanted | {"k": k}, q)
                rows.append(
                    {
                        "index": name,
                        "setting": label,
                        "p50_ms": milliseconds,
                        "recall_at_100": share(found, truth),
                        "top10_among_100": share(found, truth[:, :10]),
                        **built,
                    }
                )
    return {
        "N": N,
        "numbers": x.shape[1],
        "clusters": clusters(N),
        "queries": queries,
        "rows": rows,
    }


def _mb(folder: str) -> float:
    """What an index takes on disk."""
    files = Path(folder, "_indices").rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def settings(
    name: str, N: int, shares: tuple[float, ...], refined: tuple[int, ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings to try, each with a label."""
    if name == "none":
        yield "", {}
        return
    for part in shares:
        for factor in refined:
            label = f"{part:.1%} of the clusters"
            wanted = {"nprobes": max(1, round(part * clusters(N)))}
            if factor > 1:
                label += f", {factor} k compared again"
                wanted["refine_factor"] = factor
            yield label, wanted


def timed_answers(
    table: lance.LanceDataset, wanted: dict[str, Any], queries: NDArray
) -> tuple[NDArray, float]:
    """The answers to the queries one by one, and their median time in milliseconds."""

    def search(query: NDArray) -> NDArray:
        nearest = {"column": "coarse", "q": query, "metric": METRIC, **wanted}
        columns = ["_rowoffset", "_distance"]
        found = table.scanner(columns=columns, nearest=nearest).to_table()
        return found["_rowoffset"].to_numpy()

    search(queries[0])
    answers, seconds = [], []
    for query in queries:
        begin = time.perf_counter()
        answers.append(search(query))
        seconds.append(time.perf_counter() - begin)
    most = max(map(len, answers))
    padded = [np.pad(one, (0, most - len(one)), constant_values=-1) for one in answers]
    return np.stack([one.astype(np.int64) for one in padded]), float(
        np.median(seconds) * 1e3
    )


def share(found: NDArray, wanted: NDArray) -> float:
    """Mean share of ``wanted`` that is in ``found``, row by row."""
    pairs = zip(found, wanted, strict=True)
    return float(np.mean([np.isin(w, f).mean() for f, w in pairs]))
