"""The coarse stage: which windows are near a sentence, by one vector each.

A window's vector is the unit mean of its frames. Up to a few hundred thousand windows
faiss compares a query with all of them; beyond, with those of the nearest clusters
only (an inverted file). Both keep 16 bits a number.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glscl.search.store import Snapshot
from glscl.util.files import atomic_path

APPROXIMATE_FROM = (
    200_000  # windows; below, comparing with all takes a few milliseconds
)
PROBED = 0.0625  # share of the clusters that are searched: far fewer lose many results
TRAIN_PER_CLUSTER = 50
REBUILD_FRACTION = (
    0.1  # share of windows it lacks or has in vain, from which it is made again
)
BRUTE_FORCE_MAX = (
    20_000  # allowed windows that are compared one by one whatever the index
)
ADD_BATCH = 50_000  # vectors converted at a time


def load_faiss() -> Any:
    """The library; ``RuntimeError`` says how to get it."""
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
    if len(snapshot) < threshold:
        return False
    if snapshot.manifest.approximate is None:
        return True
    within = snapshot.ids < snapshot.manifest.approximate["ids_below"]
    fresh = int((snapshot.live & ~within).sum())
    spent = snapshot.manifest.approximate["windows"] - int(
        (snapshot.live & within).sum()
    )
    return fresh + spent > REBUILD_FRACTION * len(snapshot)


def write_approximate(path: Path, snapshot: Snapshot) -> dict[str, Any]:
    """Train and fill an inverted file of all live windows; what the manifest says of it."""
    faiss = load_faiss()
    rows = snapshot.live.nonzero()[0]
    index = approximate_index(snapshot, rows)
    for start in range(0, len(rows), ADD_BATCH):
        part = rows[start : start + ADD_BATCH]
        index.add_with_ids(snapshot.coarse(part).astype(np.float32), snapshot.ids[part])
    file = path / f"coarse-{secrets.token_hex(4)}.faiss"
    with atomic_path(file) as partial:
        faiss.write_index(index, str(partial))
    return {
        "file": file.name,
        "windows": len(rows),
        "ids_below": snapshot.manifest.next_id,
        "clusters": index.nlist,
    }


def approximate_index(snapshot: Snapshot, rows: NDArray[np.int64]) -> Any:
    """A trained inverted file for ``rows``, without them."""
    faiss = load_faiss()
    D, count = snapshot.manifest.D, clusters(len(rows))
    index = faiss.index_factory(D, f"IVF{count},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.by_residual = False
    index.cp.min_points_per_centroid = 1
    step = max(1, len(rows) // (TRAIN_PER_CLUSTER * count))
    index.train(snapshot.coarse(rows[::step]).astype(np.float32))
    return index


class Coarse:
    """The coarse vectors of a snapshot, ready for queries.

    ``probe``: the share of clusters that a query looks at in an approximate index.
    """

    def __init__(self, snapshot: Snapshot, probe: float = PROBED):
        faiss = load_faiss()
        self.faiss, self.snapshot = faiss, snapshot
        about = snapshot.manifest.approximate
        self.below = about["ids_below"] if about else 0
        self.near = None
        if about and snapshot.approximate:
            snapshot.approximate.seek(0)
            reader = faiss.PyCallbackIOReader(snapshot.approximate.read, 2**20)
            self.near = faiss.read_index(reader)
            self.near.parallel_mode = 1  # threads share the clusters of one query
            self.probed = max(1, round(probe * self.near.nlist))
        self.rest = int(np.searchsorted(snapshot.ids, self.below))  # rows from here on
        self.flat = self._flat(np.arange(self.rest, len(snapshot.ids)))

    def _flat(self, rows: NDArray[np.int64]) -> Any:
        faiss = self.faiss
        index = faiss.IndexScalarQuantizer(
            self.snapshot.manifest.D,
            faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT,
        )
        for start in range(0, len(rows), ADD_BATCH):
            part = self.snapshot.coarse(rows[start : start + ADD_BATCH])
            index.add(part.astype(np.float32))
        return index

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """The rows of the k nearest windows of unit ``queries`` (A, D): (A, k).

        Best first; -1 where there are fewer. ``allowed``: (N,), which rows count.
        """
        allowed = self.snapshot.live if allowed is None else allowed
        count = int(allowed.sum())
        if count <= BRUTE_FORCE_MAX and count < len(allowed):
            return self._among(queries, k, allowed.nonzero()[0])
        rows, scores = self._search_flat(queries, k, allowed[self.rest :])
        if self.near is None:
            return rows
        near_rows, near_scores = self._search_near(queries, k, allowed)
        rows = np.concatenate([near_rows, rows], axis=1)
        scores = np.concatenate([near_scores, scores], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, order, axis=1)

    def _among(
        self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        vectors = self.snapshot.coarse(rows).astype(np.float32)
        best = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]
        found = np.full((len(queries), k), -1, np.int64)
        found[:, : best.shape[1]] = rows[best]
        return found

    def _search_flat(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        options = {}
        if not allowed.all():
            chosen = self._selector(allowed)
            options["params"] = self.faiss.SearchParameters(sel=chosen)
        scores, rows = self.flat.search(queries, k, **options)
        return np.where(rows < 0, -1, rows + self.rest), scores

    def _search_near(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
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

    def _selector(self, allowed: NDArray[np.bool_]) -> Any:
        bits = np.packbits(allowed, bitorder="little")
        chosen = self.faiss.IDSelectorBitmap(bits)
        chosen.bits = bits  # it points to them
        return chosen
