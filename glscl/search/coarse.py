"""The coarse stage: which windows are near a sentence, by one vector each.

A window's vector is the unit mean of its frames. In collections of up to a few hundred
thousand windows faiss compares a query with all of them; in larger ones only with those
of the nearest clusters (an inverted file). Both store 16 bits a number.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glscl.search.store import Mask, Rows, Snapshot
from glscl.util.files import atomic_path

#: Windows; with fewer, comparing with all takes a few milliseconds.
APPROXIMATE_FROM = 200_000
PROBED = 0.0625  # share of the clusters that are searched: far fewer lose many results
TRAIN_PER_CLUSTER = 50
#: Share of windows missing or no longer valid from which the index is made again.
REBUILD_FRACTION = 0.1
BRUTE_FORCE_MAX = 20_000  # as many allowed windows are compared one by one
ADD_BATCH = 50_000  # vectors converted at a time

Vectors = NDArray[np.float32]


def load_faiss() -> Any:
    """The library. Raises ``RuntimeError`` that says how to install it."""
    try:
        import faiss
    except ImportError as error:
        raise RuntimeError(
            "Searching needs faiss: pip install 'glscl[search]'."
        ) from error
    return faiss


def clusters(N: int) -> int:
    """How many clusters N windows are divided into: 4 √N, to the nearest power of two."""
    return max(1, min(2 ** round(np.log2(4 * np.sqrt(max(N, 1)))), N // 4))


def needs_approximate(snapshot: Snapshot, threshold: int) -> bool:
    """Whether the approximate index is missing, or too far from what is valid now."""
    about = snapshot.manifest.approximate
    if len(snapshot) < threshold or about is None:
        return len(snapshot) >= threshold
    covered = int((snapshot.live & (snapshot.ids < about["ids_below"])).sum())
    added, dropped = len(snapshot) - covered, about["windows"] - covered
    return added + dropped > REBUILD_FRACTION * len(snapshot)


def write_approximate(path: Path, snapshot: Snapshot) -> dict[str, Any]:
    """Train and fill an inverted file of all live windows; its part of the manifest."""
    faiss, rows = load_faiss(), snapshot.live.nonzero()[0]
    D, count = snapshot.manifest.D, clusters(len(rows))
    index = faiss.index_factory(D, f"IVF{count},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.by_residual = False
    index.cp.min_points_per_centroid = 1
    step = max(1, len(rows) // (TRAIN_PER_CLUSTER * count))
    index.train(snapshot.coarse(rows[::step]).astype(np.float32))
    for part, vectors in _batches(snapshot, rows):
        index.add_with_ids(vectors, snapshot.ids[part])
    file = path / f"coarse-{secrets.token_hex(4)}.faiss"
    with atomic_path(file) as partial:
        faiss.write_index(index, str(partial))
    return {
        "file": file.name,
        "windows": len(rows),
        "ids_below": snapshot.manifest.next_id,
        "clusters": count,
    }


def _batches(snapshot: Snapshot, rows: Rows) -> Iterator[tuple[Rows, Vectors]]:
    """``rows`` in parts (n,), with their vectors (n, D)."""
    for start in range(0, len(rows), ADD_BATCH):
        part = rows[start : start + ADD_BATCH]
        yield part, snapshot.coarse(part).astype(np.float32)


class Coarse:
    """The coarse vectors of a snapshot, ready for queries.

    ``probe``: the share of the clusters of an approximate index that a query searches.
    Windows that are newer than that index are compared with every query.
    """

    def __init__(self, snapshot: Snapshot, probe: float = PROBED):
        self.faiss, self.snapshot = load_faiss(), snapshot
        about, self.near, self.below = snapshot.manifest.approximate, None, 0
        if about and snapshot.approximate:
            snapshot.approximate.seek(0)
            reader = self.faiss.PyCallbackIOReader(snapshot.approximate.read, 2**20)
            self.near, self.below = self.faiss.read_index(reader), about["ids_below"]
            self.near.parallel_mode = 1  # threads share the clusters of one query
            self.probed = max(1, round(probe * self.near.nlist))
        self.rest = int(
            np.searchsorted(snapshot.ids, self.below)
        )  # newer from this row
        kind, metric = (
            self.faiss.ScalarQuantizer.QT_fp16,
            self.faiss.METRIC_INNER_PRODUCT,
        )
        self.flat = self.faiss.IndexScalarQuantizer(snapshot.manifest.D, kind, metric)
        for _, vectors in _batches(snapshot, np.arange(self.rest, len(snapshot.ids))):
            self.flat.add(vectors)

    def search(self, queries: Vectors, k: int, allowed: Mask | None = None) -> Rows:
        """The rows of the k nearest windows of unit ``queries`` (A, D): (A, k).

        Best first; -1 where there are fewer. ``allowed``: (N,), the rows to search.
        """
        allowed = self.snapshot.live if allowed is None else allowed
        count = int(allowed.sum())
        if count <= BRUTE_FORCE_MAX and count < len(allowed):
            return self._search_rows(queries, k, allowed.nonzero()[0])
        rows, scores = self._search_flat(queries, k, allowed[self.rest :])
        if self.near is None:
            return rows
        near_rows, near_scores = self._search_near(queries, k, allowed)
        rows = np.concatenate([near_rows, rows], axis=1)
        scores = np.concatenate([near_scores, scores], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, order, axis=1)

    def _search_rows(self, queries: Vectors, k: int, rows: Rows) -> Rows:
        """As ``search``, by comparing with each of ``rows``."""
        vectors = self.snapshot.coarse(rows).astype(np.float32)
        best = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]
        found = np.full((len(queries), k), -1, np.int64)
        found[:, : best.shape[1]] = rows[best]
        return found

    def _search_flat(
        self, queries: Vectors, k: int, allowed: Mask
    ) -> tuple[Rows, Vectors]:
        """Rows (A, k) and scores of the windows that are newer than the inverted file."""
        chosen = None
        if not allowed.all():
            chosen = self.faiss.SearchParameters(sel=self._selector(allowed))
        scores, rows = self.flat.search(queries, k, params=chosen)
        return np.where(rows < 0, -1, rows + self.rest), scores

    def _search_near(
        self, queries: Vectors, k: int, allowed: Mask
    ) -> tuple[Rows, Vectors]:
        """As ``_search_flat``, in the inverted file, which knows windows by their ids."""
        assert self.near is not None
        options = {"nprobe": self.probed}
        within = allowed[: self.rest]
        if not within.all() or self.near.ntotal > self.rest:
            by_id = np.zeros(self.below, bool)
            by_id[self.snapshot.ids[: self.rest][within]] = True
            options["sel"] = self._selector(by_id)
        chosen = self.faiss.SearchParametersIVF(**options)
        scores, ids = self.near.search(queries, k, params=chosen)
        rows = np.searchsorted(self.snapshot.ids, ids)
        return np.where(ids < 0, -1, rows), scores

    def _selector(self, allowed: Mask) -> Any:
        bits = np.packbits(allowed, bitorder="little")
        selector = self.faiss.IDSelectorBitmap(bits)
        selector.bits = bits  # faiss only points to them: keep them alive
        return selector
