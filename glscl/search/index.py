"""Searching an index: a coarse stage finds windows, the exact score orders them.

    sentence → k windows nearest by their mean frame → GLSCL's own similarity of these

``exact=True`` skips the first stage and scores every window, with the same function.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from glscl.evaluate import caption_batches
from glscl.gim import frame_weights
from glscl.model import GLSCL
from glscl.retriever import TextFeatures, VideoFeatures
from glscl.search.build import Report, check_model, search_model, update
from glscl.search.coarse import PROBED, Coarse
from glscl.search.store import Snapshot, read_manifest
from glscl.search.windows import Windows


class Moment(NamedTuple):
    """A window that was found: seconds ``start`` to ``end`` of the video at ``path``.

    ``frame_times`` (n,) are the seconds of its frames and ``frame_weights`` (n,) the
    attention weights of the sentence on them; ``row`` is its number in the index.
    """

    path: Path
    start: float
    end: float
    score: float
    frame_times: NDArray[np.float32]
    frame_weights: NDArray[np.float32]
    row: int


@dataclass(frozen=True)
class Where:
    """Which videos to search: below ``folder``, changed ``after`` or ``before`` a time.

    ``folder`` is relative to the indexed one; times are of the file's last change,
    local where they carry no time zone; ``after`` is included, ``before`` is not.
    """

    folder: str = ""
    after: datetime.datetime | None = None
    before: datetime.datetime | None = None

    def rows(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """Which rows of a snapshot are meant: (N,)."""
        wanted = snapshot.live.copy()
        for segment, first in zip(snapshot.segments, snapshot.first, strict=False):
            files = np.ones(len(segment.files), bool)
            if self.folder.strip("/"):
                prefix = self.folder.strip("/") + "/"
                files &= [path.startswith(prefix) for path in segment.paths]
            changed = segment.files["mtime_ns"]
            if self.after is not None:
                files &= changed >= self.after.timestamp() * 1e9
            if self.before is not None:
                files &= changed < self.before.timestamp() * 1e9
            wanted[first : first + len(segment.rows)] &= files[segment.rows["file"]]
        return wanted


class VideoIndex:
    """The windows of a folder of videos and the model that finds them.

    It reads the index as it was when this was opened; ``refreshed`` opens the present
    state. ``report``: what ``build`` did.
    """

    def __init__(
        self,
        path: Path,
        model: GLSCL,
        report: Report | None = None,
        probe: float = PROBED,
    ):
        self.path, self.model, self.report, self.probe = path, model, report, probe
        self.snapshot = Snapshot(path)
        check_model(self.snapshot.manifest, model, path)
        self.coarse = Coarse(self.snapshot, probe)
        self._chosen: dict[Where, NDArray[np.bool_]] = {}

    @classmethod
    def build(
        cls,
        folder: str | Path,
        path: str | Path,
        model: GLSCL,
        windows: Windows | None = None,
        **options: Any,
    ) -> VideoIndex:
        """Index the videos below ``folder`` at ``path``, or bring that up to date.

        ``options`` are those of ``glscl.search.build.update``, whose errors this raises.
        """
        report = update(Path(path), Path(folder), model, windows, **options)
        return cls(Path(path), model, report)

    @classmethod
    def open(cls, path: str | Path, model: GLSCL | None = None) -> VideoIndex:
        """The index at ``path``, with ``model`` or the one it was made with.

        Raises ``FileNotFoundError`` where there is none, ``ValueError`` for one of
        another model or version.
        """
        manifest = read_manifest(Path(path))
        if model is None:
            source = manifest.model["source"]
            if source is None:
                raise ValueError(f"The index {path} does not say where its model is.")
            model = search_model(source)
        return cls(Path(path), model)

    def refreshed(self) -> VideoIndex:
        """This index, or a newer state of it if there is one."""
        if read_manifest(self.path) == self.snapshot.manifest:
            return self
        return VideoIndex(self.path, self.model, probe=self.probe)

    def __len__(self) -> int:
        """How many windows can be found."""
        return len(self.snapshot)

    def search(
        self,
        text: str,
        k: int = 10,
        shortlist: int = 100,
        exact: bool = False,
        where: Where | None = None,
    ) -> list[Moment]:
        """The k moments that fit ``text`` best, best first; none overlaps another."""
        return self.search_all([text], k, shortlist, exact, where)[0]

    @torch.no_grad()
    def search_all(
        self,
        texts: Sequence[str],
        k: int = 10,
        shortlist: int = 100,
        exact: bool = False,
        where: Where | None = None,
    ) -> list[list[Moment]]:
        """``search`` for several sentences.

        ``shortlist``: windows that the coarse stage hands over. ``exact``: score all.
        Raises ``ValueError`` for an empty sentence and sizes below 1.
        """
        for text in texts:
            if not text.strip():
                raise ValueError("A sentence to search for must not be empty.")
        if k < 1 or shortlist < 1:
            raise ValueError(f"k and shortlist must be at least 1: {k}, {shortlist}.")
        found = []
        enough = k * Windows(**self.snapshot.manifest.windows).max_overlapping
        for batch in caption_batches(self.model, texts, device=self._device):
            ranked = self.ranked(batch, max(shortlist, enough), enough, exact, where)
            for caption, (rows, scores) in zip(batch.captions, ranked, strict=True):
                found.append(self._moments(caption, *self._apart(rows, scores, k)))
        return found

    @property
    def _device(self) -> torch.device:
        return self.model.backbone.logit_scale.device

    # --- the two ways to a ranking --------------------------------------------------

    @torch.no_grad()
    def ranked(
        self,
        text: TextFeatures,
        shortlist: int = 100,
        k: int = 10,
        exact: bool = False,
        where: Where | None = None,
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """For each caption of ``text``, the rows of the k best windows and their scores.

        Overlapping windows stand beside each other.
        """
        allowed = self._allowed(where)
        if exact:
            return self._all_scored(text, k, allowed)
        queries = normalize(text.captions.float(), dim=-1).cpu().numpy()
        candidates = self.coarse.search(queries, shortlist, allowed)
        ranked = []
        for a, rows in enumerate(candidates):
            rows = np.sort(rows[rows >= 0])
            scores = self.scores(_one(text, a), rows, self.snapshot.features(rows))[0]
            order = np.argsort(-scores, kind="stable")[:k]
            ranked.append((rows[order], scores[order]))
        return ranked

    def _all_scored(
        self, text: TextFeatures, k: int, allowed: NDArray[np.bool_] | None
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        A = len(text.captions)
        best_rows, best = np.empty((A, 0), np.int64), np.empty((A, 0), np.float32)
        for rows, features in self.snapshot.spans():
            if allowed is not None:
                kept = allowed[rows]
                rows, features = rows[kept], features[kept]
            scores = self.scores(text, rows, features)
            best = np.concatenate([best, scores], axis=1)
            best_rows = np.concatenate([best_rows, np.tile(rows, (A, 1))], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            best = np.take_along_axis(best, order, axis=1)
            best_rows = np.take_along_axis(best_rows, order, axis=1)
        return [*zip(best_rows, best, strict=True)]

    def _allowed(self, where: Where | None) -> NDArray[np.bool_] | None:
        if where is None or where == Where():
            return None
        if where not in self._chosen:
            self._chosen = {where: where.rows(self.snapshot)}
        return self._chosen[where]

    def scores(
        self, text: TextFeatures, rows: NDArray[np.int64], features: NDArray[np.float16]
    ) -> NDArray[np.float32]:
        """GLSCL's similarity of captions and windows: (A, n)."""
        if not len(rows):
            return np.empty((len(text.captions), 0), np.float32)
        few = len(text.captions) < self.snapshot.manifest.F
        video = self._video(rows, features)
        scores = self.model.similarity(text, video, "direct" if few else "gram")
        return scores.cpu().numpy()

    def _video(
        self, rows: NDArray[np.int64], features: NDArray[np.float16]
    ) -> VideoFeatures:
        F = self.snapshot.manifest.F
        counts = torch.from_numpy(self.snapshot.columns("frames", rows))
        mask = torch.arange(F) < counts[:, None]
        both = torch.from_numpy(features).to(self._device)
        concepts = both[:, F:].float() if self.snapshot.manifest.Q else None
        return VideoFeatures(both[:, :F].float(), mask.to(self._device), concepts)

    # --- from rows to moments -------------------------------------------------------

    def _apart(
        self, rows: NDArray[np.int64], scores: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best of ranked rows that do not overlap a better one in its video."""
        starts, ends = (self.snapshot.columns(name, rows) for name in ("start", "end"))
        paths = [self.snapshot.path_of(row) for row in rows]
        kept: list[int] = []
        for i in range(len(rows)):
            overlaps = any(
                paths[i] == paths[j] and starts[i] < ends[j] and starts[j] < ends[i]
                for j in kept
            )
            if not overlaps:
                kept.append(i)
            if len(kept) == k:
                break
        return rows[kept], scores[kept]

    def _moments(
        self, caption: Tensor, rows: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> list[Moment]:
        if not len(rows):
            return []
        snapshot, config = self.snapshot, self.model.config
        video = self._video(rows, snapshot.features(rows))
        if config.pooling == "gim":
            tau = config.temperature
            weights = frame_weights(caption[None], video.frames, video.mask, tau)[0]
        else:
            weights = video.mask / video.mask.sum(dim=1, keepdim=True)
        starts, ends = (snapshot.columns(name, rows) for name in ("start", "end"))
        times, folder = snapshot.times(rows), Path(snapshot.manifest.folder)
        found = []
        for i, row in enumerate(rows.tolist()):
            real = video.mask[i].cpu().numpy()
            found.append(
                Moment(
                    folder / snapshot.path_of(row),
                    float(starts[i]),
                    float(ends[i]),
                    float(scores[i]),
                    times[i][real],
                    weights[i].cpu().numpy()[real],
                    row,
                )
            )
        return found


def _one(text: TextFeatures, a: int) -> TextFeatures:
    """Caption ``a`` alone."""
    return TextFeatures._make(None if x is None else x[a : a + 1] for x in text)
