"""Searching an index: a coarse stage finds windows, the exact score orders them.

    sentence → shortlist of windows, by their mean frame → GLSCL's similarity with these

``exact=True`` leaves out the first stage and scores every window, with the same function.
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
from glscl.search.store import Half, Mask, Rows, Snapshot, read_manifest
from glscl.search.windows import Windows

Scores = NDArray[np.float32]
Ranking = tuple[Rows, Scores]  # best first


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

    ``folder`` is relative to the indexed one. Times are those of the file's last change,
    ``after`` is included, ``before`` is not; a time without a time zone is local.
    """

    folder: str = ""
    after: datetime.datetime | None = None
    before: datetime.datetime | None = None

    def rows(self, snapshot: Snapshot) -> Mask:
        """The live windows of these videos, by row: (N,)."""
        wanted = snapshot.live.copy()
        for segment, rows in snapshot.by_segment(wanted):
            files = np.ones(len(segment.files), bool)
            if self.folder.strip("/"):
                prefix = self.folder.strip("/") + "/"
                files &= [path.startswith(prefix) for path in segment.paths]
            changed = segment.files["mtime_ns"]
            if self.after is not None:
                files &= changed >= self.after.timestamp() * 1e9
            if self.before is not None:
                files &= changed < self.before.timestamp() * 1e9
            rows &= files[segment.rows["file"]]
        return wanted


class VideoIndex:
    """The windows of a folder of videos and the model that finds them.

    It reads the state that the index had when it was opened; ``refreshed`` opens the
    present one. ``report``: what ``build`` did.
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
        self._chosen: dict[Where, Mask] = {}

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
        """The index at ``path``, with ``model``, by default the one it was made with.

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

        ``shortlist``: windows that the coarse stage passes on. ``exact``: score all.
        ``where``: search only these videos.

        Raises ``ValueError`` for an empty sentence and sizes below 1.
        """
        for text in texts:
            if not text.strip():
                raise ValueError("A sentence to search for must not be empty.")
        if k < 1 or shortlist < 1:
            raise ValueError(f"k and shortlist must be at least 1: {k}, {shortlist}.")
        found = []
        # So many that k remain when those that overlap a better one are left out.
        enough = k * Windows(**self.snapshot.manifest.windows).max_overlapping
        for batch in caption_batches(self.model, texts, device=self._device):
            ranked = self.ranked(batch, max(shortlist, enough), enough, exact, where)
            for caption, (rows, scores) in zip(batch.captions, ranked, strict=True):
                found.append(self._moments(caption, rows, scores, k))
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
    ) -> list[Ranking]:
        """For each caption of ``text``, the rows of the k best windows and their scores.

        Windows that overlap are all listed.
        """
        allowed = self._allowed(where)
        if exact:
            return self._rank_all(text, k, allowed)
        queries = normalize(text.captions.float(), dim=-1).cpu().numpy()
        ranked = []
        for a, rows in enumerate(self.coarse.search(queries, shortlist, allowed)):
            rows = np.sort(rows[rows >= 0])
            scores = self.scores(_one(text, a), rows, self.snapshot.features(rows))[0]
            ranked.append(_best(rows, scores, k))
        return ranked

    def _rank_all(
        self, text: TextFeatures, k: int, allowed: Mask | None
    ) -> list[Ranking]:
        """As ``ranked``, of all windows; only the k best so far stay in memory."""
        ranked = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(text.captions)
        for rows, features in self.snapshot.spans(allowed):
            scores = self.scores(text, rows, features)
            ranked = [
                _best(np.append(best, rows), np.append(best_scores, row_scores), k)
                for (best, best_scores), row_scores in zip(ranked, scores, strict=True)
            ]
        return ranked

    def _allowed(self, where: Where | None) -> Mask | None:
        if where is None or where == Where():
            return None
        if where not in self._chosen:
            self._chosen = {where: where.rows(self.snapshot)}
        return self._chosen[where]

    def scores(self, text: TextFeatures, rows: Rows, features: Half) -> Scores:
        """GLSCL's similarity of captions and windows: (A, n)."""
        if not len(rows):
            return np.empty((len(text.captions), 0), np.float32)
        few = len(text.captions) < self.snapshot.manifest.F
        video = self._video(rows, features)
        scores = self.model.similarity(text, video, "direct" if few else "gram")
        return scores.cpu().numpy()

    def _video(self, rows: Rows, features: Half) -> VideoFeatures:
        F = self.snapshot.manifest.F
        counts = torch.from_numpy(self.snapshot.records(rows)["frames"])
        mask = torch.arange(F) < counts[:, None]
        both = torch.from_numpy(features).to(self._device)
        concepts = both[:, F:].float() if self.snapshot.manifest.Q else None
        return VideoFeatures(both[:, :F].float(), mask.to(self._device), concepts)

    # --- from rows to moments -------------------------------------------------------

    def _moments(
        self, caption: Tensor, rows: Rows, scores: Scores, k: int
    ) -> list[Moment]:
        """The k best of ranked windows that do not overlap a better one of their video."""
        snapshot, folder = self.snapshot, Path(self.snapshot.manifest.folder)
        records = snapshot.records(rows)
        starts, ends = records["start"], records["end"]
        paths = [snapshot.path_of(row) for row in rows]
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
        if not kept:
            return []
        video = self._video(rows[kept], snapshot.features(rows[kept]))
        weights = video.mask / video.mask.sum(dim=1, keepdim=True)
        if self.model.config.pooling == "gim":
            tau = self.model.config.temperature
            weights = frame_weights(caption[None], video.frames, video.mask, tau)[0]
        times, masks = snapshot.times(rows[kept]), video.mask.cpu().numpy()
        frames = zip(times, weights.cpu().numpy(), masks, strict=True)
        return [
            Moment(
                folder / paths[i],
                start=float(starts[i]),
                end=float(ends[i]),
                score=float(scores[i]),
                frame_times=times[real],
                frame_weights=weight[real],
                row=int(rows[i]),
            )
            for i, (times, weight, real) in zip(kept, frames, strict=True)
        ]


def _best(rows: Rows, scores: Scores, k: int) -> Ranking:
    """The k rows of the highest scores, best first; of equal ones the first."""
    order = np.argsort(-scores, kind="stable")[:k]
    return rows[order], scores[order]


def _one(text: TextFeatures, a: int) -> TextFeatures:
    """Caption ``a`` alone."""
    return TextFeatures._make(None if x is None else x[a : a + 1] for x in text)
