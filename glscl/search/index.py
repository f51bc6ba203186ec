"""Searching an index: a coarse stage finds windows, the exact score orders them.

    sentence → shortlist of windows, by their coarse vectors → the model's scores of these

``exact=True`` leaves out the first stage and scores every window, with the same function.
The coarse vectors are the model's, see ``Retriever.coarse_video``.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glscl.evaluate import caption_batches
from glscl.retriever import Retriever, map_features
from glscl.search import table
from glscl.search.build import Report, check_model, search_model, update
from glscl.search.page import Moment
from glscl.search.table import Columns, Rows, Snapshot
from glscl.search.windows import Windows

SHORTLIST = 200  # windows that the first stage passes on
Ranking = tuple[Rows, NDArray[np.float32]]  # rows and their scores, best first


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
        folder, parts = PurePosixPath(self.folder.strip("/")).as_posix(), []
        if folder != ".":
            stored = table.quoted(table.stored_path(f"{folder}/"))
            parts.append(f"starts_with(path, {stored})")
        for sign, time in ((">=", self.after), ("<", self.before)):
            if time is not None:
                # In these leap years every date exists, and nanoseconds fit 64 bits.
                time = time.replace(min(max(time.year, 1680), 2260))
                parts.append(f"mtime_ns {sign} {round(time.timestamp() * 1e6) * 1000}")
        return " AND ".join(parts)


EVERYWHERE = Where()


class VideoIndex:
    """The windows of a folder of videos and the model that finds them.

    It reads the version that the index had when it was opened; ``refreshed`` opens the
    present one. A version is kept for an hour after the next. ``report``: what ``build``
    did.
    """

    def __init__(
        self, path: str | Path, model: Retriever, report: Report | None = None
    ):
        self.path, self.model, self.report = str(path), model, report
        self.snapshot = Snapshot(self.path)
        self.about = self.snapshot.about
        check_model(self.about, model, self.path)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        path: str | Path,
        model: Retriever,
        *args: Any,
        **options: Any,
    ) -> VideoIndex:
        """Index the videos below ``folder`` at ``path``, or bring that up to date.

        Further arguments, and errors, are those of ``glscl.search.build.update``.
        """
        return cls(path, model, update(path, Path(folder), model, *args, **options))

    @classmethod
    def open(cls, path: str | Path, model: Retriever | None = None) -> VideoIndex:
        """The index at ``path``, with ``model``, by default the one it was made with.

        Raises ``FileNotFoundError`` where there is none, ``ValueError`` for one of
        another model or version.
        """
        if model is None:
            known = Snapshot(str(path)).about.model
            if known["source"] is None:
                raise ValueError(f"The index {path} does not say where its model is.")
            model = search_model(known["source"], known["method"])
        return cls(path, model)

    def refreshed(self) -> VideoIndex:
        """This index, or a newer version of it if there is one."""
        windows = self.snapshot.table
        newer = windows.version != windows.latest_version
        return VideoIndex(self.path, self.model) if newer else self

    def __len__(self) -> int:
        """How many windows can be found."""
        return len(self.snapshot)

    def search(
        self, text: str, k: int = 10, *args: Any, **options: Any
    ) -> list[Moment]:
        """``search_all`` for one sentence."""
        return self.search_all([text], k, *args, **options)[0]

    @torch.no_grad()
    def search_all(
        self,
        texts: Sequence[str],
        k: int = 10,
        shortlist: int = SHORTLIST,
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
        most, device = max(shortlist, enough), self.model.kappa.device
        with table.sentences(self.path):
            for batch in caption_batches(self.model, texts, device=device):
                ranked = self.ranked(batch, most, enough, exact, where)
                for a, ranking in enumerate(ranked):
                    found.append(self._moments(_caption(batch, a), *ranking, k))
        return found

    # --- the two ways to a ranking --------------------------------------------------

    @torch.no_grad()
    def ranked(
        self,
        text: Any,
        shortlist: int = SHORTLIST,
        k: int = 10,
        exact: bool = False,
        where: Where = EVERYWHERE,
    ) -> list[Ranking]:
        """For each caption of ``text``, the rows of the k best windows and their scores.

        ``text``: what the model's ``encode_text`` gives. Windows that overlap are all
        listed.
        """
        if exact:
            return self._best(text, self.snapshot.spans(where.condition), k)
        ranked = []
        for a, query in enumerate(self.model.coarse_text(text).float().cpu().numpy()):
            rows = np.sort(self.snapshot.nearest(query, shortlist, where.condition))
            ranked += self._best(_caption(text, a), self.snapshot.parts(rows), k)
        return ranked

    def _best(
        self, text: Any, parts: Iterable[tuple[Rows, Columns]], k: int
    ) -> list[Ranking]:
        """The k best rows of all ``parts`` for each caption; of equal scores the first.

        Only the best so far and one part stay in memory.
        """
        nothing = np.empty(0, np.int64), np.empty(0, np.float32)
        best = [nothing] * len(text[0])
        for rows, columns in parts:
            if not len(rows):
                continue
            scores = self.model.similarity(text, self.video(columns)).cpu().numpy()
            for a, (old_rows, old_scores) in enumerate(best):
                every = np.append(old_rows, rows)
                values = np.append(old_scores, scores[a])
                order = np.argsort(-values, kind="stable")[:k]
                best[a] = every[order], values[order]
        return best

    def video(self, columns: Columns) -> Any:
        """Stored columns of n windows as the model's features of n videos."""
        device = self.model.kappa.device
        tensors = {
            name: torch.tensor(x, device=device, dtype=torch.float32)
            for name, x in columns.items()
        }
        tensors["mask"] = ~tensors["times"].isnan()
        return self._kind._make(map(tensors.get, self._kind._fields))

    @cached_property
    def _kind(self) -> Any:
        """The class of the model's features of videos."""
        rows = (2,) if self.model.uses_patches else ()  # a frame and its patches
        F, D = self.model.config.max_frames, self.model.backbone.embed_dim
        frames = torch.zeros(1, F, *rows, D, device=self.model.kappa.device)
        mask = frames.new_ones(1, F, dtype=torch.bool)
        with torch.no_grad():
            return type(self.model.encode_video_features(frames, mask))

    # --- from rows to moments -------------------------------------------------------

    def _moments(
        self, text: Any, rows: Rows, scores: NDArray[np.float32], k: int
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
        columns = self.snapshot.features(rows[kept])
        weights = self.model.frame_weights(text, self.video(columns))
        found = []
        for n, i in enumerate(kept):
            one, times, score, row = records[i], columns["times"][n], scores[i], rows[i]
            path = Path(self.about.folder, table.named_path(one["path"]))
            span, state = (one["start"], one["end"]), (one["size"], one["mtime_ns"])
            real = ~np.isnan(times)
            shares = None if weights is None else weights[0, n].cpu().numpy()[real]
            found.append(
                Moment(path, *span, float(score), times[real], shares, int(row), state)
            )
        return found


def _caption(text: Any, a: int) -> Any:
    """The a-th caption of ``text``, alone."""
    return map_features(lambda x: x[a : a + 1], text)


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two windows share seconds of one video."""
    together = one["start"] < other["end"] and other["start"] < one["end"]
    return together and one["path"] == other["path"]
