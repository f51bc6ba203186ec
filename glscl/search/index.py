"""Searching an index: a coarse stage finds windows, the exact score orders them.

    sentence → shortlist of windows, by their mean frame → GLSCL's similarity with these

``exact=True`` leaves out the first stage and scores every window, with the same function.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from glscl.evaluate import caption_batches
from glscl.gim import frame_weights
from glscl.model import GLSCL
from glscl.retriever import TextFeatures, VideoFeatures, map_features
from glscl.search.build import Report, check_model, search_model, update
from glscl.search.moment import Moment
from glscl.search.table import (
    Features,
    Rows,
    Snapshot,
    named_path,
    quoted,
    sentences,
    stored_path,
)
from glscl.search.windows import Windows

Scores = NDArray[np.float32]
Ranking = tuple[Rows, Scores]  # best first


@dataclass(frozen=True)
class Where:
    """Which videos to search: below ``folder``, changed ``after`` or ``before`` a time.

    ``folder`` is relative to the indexed one. Times are those of the file's last change,
    ``after`` is included, ``before`` is not; a time without a time zone is local.
    """

    folder: str = ""
    after: datetime.datetime | None = None
    before: datetime.datetime | None = None

    @property
    def condition(self) -> str:
        """The same as a condition of SQL on the table of windows, empty for all."""
        folder, parts = self.folder.strip("/"), []
        if folder:
            parts.append(f"starts_with(path, {quoted(stored_path(folder + '/'))})")
        for sign, time in ((">=", self.after), ("<", self.before)):
            if time is not None:
                parts.append(f"mtime_ns {sign} {round(time.timestamp() * 1e6) * 1000}")
        return " AND ".join(parts)


EVERYWHERE = Where()


class VideoIndex:
    """The windows of a folder of videos and the model that finds them.

    It reads the version that the index had when it was opened; ``refreshed`` opens the
    present one. A version is kept for an hour after the next. ``report``: what ``build``
    did.
    """

    def __init__(self, path: str | Path, model: GLSCL, report: Report | None = None):
        self.path, self.model, self.report = str(path), model, report
        self.snapshot = Snapshot(self.path)
        self.about = self.snapshot.about
        check_model(self.about, model, self.path)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        path: str | Path,
        model: GLSCL,
        windows: Windows | None = None,
        source: str | None = None,
        device: torch.device | str = "cpu",
        workers: int = 0,
        progress: bool = True,
        retry_broken: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> VideoIndex:
        """Index the videos below ``folder`` at ``path``, or bring that up to date.

        Arguments and errors are those of ``glscl.search.build.update``.
        """
        how = (source, device, workers, progress, retry_broken, shard)
        report = update(path, Path(folder), model, windows, *how)
        return cls(path, model, report)

    @classmethod
    def open(cls, path: str | Path, model: GLSCL | None = None) -> VideoIndex:
        """The index at ``path``, with ``model``, by default the one it was made with.

        Raises ``FileNotFoundError`` where there is none, ``ValueError`` for one of
        another model or version.
        """
        if model is None:
            source = Snapshot(str(path)).about.model["source"]
            if source is None:
                raise ValueError(f"The index {path} does not say where its model is.")
            model = search_model(source)
        return cls(path, model)

    def refreshed(self) -> VideoIndex:
        """This index, or a newer version of it if there is one."""
        table = self.snapshot.table
        if table.version == table.latest_version:
            return self
        return VideoIndex(self.path, self.model)

    def __len__(self) -> int:
        """How many windows can be found."""
        return len(self.snapshot)

    def search(
        self,
        text: str,
        k: int = 10,
        shortlist: int = 100,
        exact: bool = False,
        where: Where = EVERYWHERE,
    ) -> list[Moment]:
        """``search_all`` for one sentence."""
        return self.search_all([text], k, shortlist, exact, where)[0]

    @torch.no_grad()
    def search_all(
        self,
        texts: Sequence[str],
        k: int = 10,
        shortlist: int = 100,
        exact: bool = False,
        where: Where = EVERYWHERE,
    ) -> list[list[Moment]]:
        """For each sentence the k moments that fit best, best first; none overlaps another.

        ``shortlist``: windows that the coarse stage passes on. ``exact``: score all.
        ``where``: search only these videos.

        Raises ``ValueError`` for an empty sentence and sizes below 1.
        """
        if not all(text.strip() for text in texts):
            raise ValueError("A sentence to search for must not be empty.")
        if k < 1 or shortlist < 1:
            raise ValueError(f"k and shortlist must be at least 1: {k}, {shortlist}.")
        found = []
        # So many that k remain when those that overlap a better one are left out.
        enough = min(len(self), k * Windows(**self.about.windows).max_overlapping)
        with sentences(self.path):
            for batch in caption_batches(self.model, texts, device=self._device):
                most = max(shortlist, enough)
                ranked = self.ranked(batch, most, enough, exact, where)
                for caption, ranking in zip(batch.captions, ranked, strict=True):
                    found.append(self._moments(caption, *ranking, k))
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
        where: Where = EVERYWHERE,
    ) -> list[Ranking]:
        """For each caption of ``text``, the rows of the k best windows and their scores.

        Windows that overlap are all listed.
        """
        if exact:
            return self._rank_all(text, k, where)
        queries = normalize(text.captions.float(), dim=-1).cpu().numpy()
        ranked = []
        for a, query in enumerate(queries):
            rows = np.sort(self.snapshot.nearest(query, shortlist, where.condition))
            one = map_features(itemgetter(slice(a, a + 1)), text)
            scores = self.scores(one, self.snapshot.features(rows))[0]
            ranked.append(_best(rows, scores, k))
        return ranked

    def _rank_all(self, text: TextFeatures, k: int, where: Where) -> list[Ranking]:
        """As ``ranked``, of all windows; only the k best so far stay in memory."""
        ranked = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(text.captions)
        for rows, features in self.snapshot.spans(where.condition):
            scores = self.scores(text, features)
            ranked = [
                _best(np.append(best, rows), np.append(best_scores, row_scores), k)
                for (best, best_scores), row_scores in zip(ranked, scores, strict=True)
            ]
        return ranked

    def scores(self, text: TextFeatures, features: Features) -> Scores:
        """GLSCL's similarity of captions and windows: (A, n)."""
        if not len(features.times):
            return np.empty((len(text.captions), 0), np.float32)
        few = len(text.captions) < self.about.F
        video = self._video(features)
        scores = self.model.similarity(text, video, "direct" if few else "gram")
        return scores.cpu().numpy()

    def _video(self, features: Features) -> VideoFeatures:
        def tensor(x: NDArray[Any]) -> Tensor:
            return torch.tensor(x, device=self._device, dtype=torch.float32)

        concepts = None if features.concepts is None else tensor(features.concepts)
        mask = ~tensor(features.times).isnan()
        return VideoFeatures(tensor(features.frames), mask, concepts)

    # --- from rows to moments -------------------------------------------------------

    def _moments(
        self, caption: Tensor, rows: Rows, scores: Scores, k: int
    ) -> list[Moment]:
        """The k best of ranked windows that do not overlap a better one of their video."""
        wanted = ["path", "size", "mtime_ns", "start", "end"]
        records = self.snapshot.table.take(rows, columns=wanted).to_pylist()
        kept = list[int]()
        for i, one in enumerate(records):
            if len(kept) < k and not any(_overlap(one, records[j]) for j in kept):
                kept.append(i)
        if not kept:
            return []
        features = self.snapshot.features(rows[kept])
        video, tau = self._video(features), self.model.config.temperature
        weights = video.mask / video.mask.sum(dim=1, keepdim=True)
        if self.model.config.pooling == "gim":
            weights = frame_weights(caption[None], video.frames, video.mask, tau)[0]
        columns = zip(kept, features.times, weights.cpu().numpy(), strict=True)
        return [
            Moment(
                Path(self.about.folder, named_path(records[i]["path"])),
                start=records[i]["start"],
                end=records[i]["end"],
                score=float(scores[i]),
                frame_times=times[~np.isnan(times)],
                frame_weights=weight[~np.isnan(times)],
                row=int(rows[i]),
                state=(records[i]["size"], records[i]["mtime_ns"]),
            )
            for i, times, weight in columns
        ]


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two windows share seconds of one video."""
    together = one["start"] < other["end"] and other["start"] < one["end"]
    return together and one["path"] == other["path"]


def _best(rows: Rows, scores: Scores, k: int) -> Ranking:
    """The k rows of the highest scores, best first; of equal ones the first."""
    order = np.argsort(-scores, kind="stable")[:k]
    return rows[order], scores[order]
