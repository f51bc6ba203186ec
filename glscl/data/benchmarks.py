"""Public benchmarks and your own tables behind one interface, with a validation split.

``load("msrvtt", root)`` reads the annotations under ``root``, finds the videos by name,
and reports where it found anything other than the published counts. ``load_table`` reads
a table of paths and captions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from glscl.data.annotations import AnnotationError, Captions
from glscl.data.formats import (
    ALL,
    BENCHMARKS,
    Size,
    find_benchmark,
    is_table,
    read_benchmark,
    read_table,
    table_name,
)
from glscl.data.split import CaptionItem, Split, VideoItem
from glscl.data.videofiles import by_file_name, first_of
from glscl.util.settings import check

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["BENCHMARKS", "Dataset", "load", "load_table", "read_benchmark"]

Missing = Literal["refuse", "drop"]

# Held out of training, where a benchmark has no validation split of its own.
HELD_OUT = 500
SEED = "glscl validation"


@dataclass(frozen=True)
class Dataset:
    """A benchmark as found on this machine.

    ``videos``: the folder of the files. ``annotated``: the captions of each split by
    video id, and ``sizes``: what was published. ``found``: the videos that can be used,
    by id. ``missing`` and ``hold_out`` are those of ``load``.

    Raises ``ValueError`` for another ``missing``, ``AnnotationError`` for a split
    without a video.
    """

    name: str
    videos: Path
    annotated: Mapping[str, Captions]
    sizes: Mapping[str, Size]
    found: Mapping[str, VideoItem]
    missing: Missing
    hold_out: bool

    def __post_init__(self) -> None:
        check(Missing, self.missing, "missing")
        for split, captions in self._captions.items():
            if not captions:
                raise AnnotationError(
                    f"{self.name}: too few videos, none is left for {split}."
                )

    @property
    def held_out(self) -> int:
        """How many videos of train are val."""
        return 0 if "val" in self.annotated else len(self._captions.get("val", ()))

    @cached_property
    def _captions(self) -> dict[str, Captions]:
        """The captions of train, val and test, those that there are."""
        splits = dict(self.annotated)
        if self.hold_out and "val" not in splits and "train" in splits:
            splits["train"], splits["val"] = _hold_out(splits["train"])
        return splits

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Train, val and test: those that have a usable video."""
        splits = {}
        for name, captions in self._captions.items():
            used = {v: texts for v, texts in captions.items() if v in self.found}
            if used:
                about = enumerate(used.values())
                texts = [CaptionItem(text, i) for i, texts in about for text in texts]
                videos = tuple(self.found[video] for video in used)
                splits[name] = Split(name, videos, tuple(texts))
        return splits

    @cached_property
    def left_out(self) -> dict[str, tuple[str, ...]]:
        """The ids of each split that have no usable video."""
        return {
            split: tuple(video for video in captions if video not in self.found)
            for split, captions in self._captions.items()
        }

    def split(self, name: str) -> Split:
        """Videos and captions of one split.

        Raises ``ValueError`` for a split that the benchmark does not have, and
        ``FileNotFoundError`` where videos of it are missing.
        """
        if name not in self.left_out:
            raise ValueError(
                f"{self.name} has no split {name!r}: expected one of "
                f"{list(self.left_out)}."
            )
        absent = self.left_out[name]
        if name not in self.splits:
            raise FileNotFoundError(
                f"{self.name}, {name}: not one of its {len(absent)} videos is under "
                f"{self.videos}."
            )
        if absent and self.missing == "refuse":
            total = len(absent) + len(self.splits[name].videos)
            raise FileNotFoundError(
                f"{self.name}, {name}: {len(absent)} of {total} videos are missing "
                f"under {self.videos} or unreadable ({_first_five(absent)}); add "
                "them, or pass missing='drop' to continue without them."
            )
        return self.splits[name]

    def every_video(self) -> list[VideoItem]:
        """The videos of all splits; missing ones with the path they should have."""
        absent = [name for names in self.left_out.values() for name in names]
        missing = (VideoItem(name, self.videos / name) for name in absent)
        return [*self.found.values(), *missing]

    def table(self) -> list[dict[str, object]]:
        """A row a split: published, annotated and usable videos and captions."""
        rows: list[dict[str, object]] = []
        for split, captions in self.annotated.items():
            published = self.sizes.get(split, Size())
            used = [texts for v, texts in captions.items() if v in self.found]
            rows.append(
                {
                    "split": split,
                    "videos published": published.videos or "",
                    "annotated": len(captions),
                    "usable": len(used),
                    "captions published": published.captions or "",
                    "annotated captions": sum(map(len, captions.values())),
                    "usable captions": sum(map(len, used)),
                }
            )
        return rows

    def differences(self) -> list[str]:
        """One sentence for each way in which this is not the published benchmark."""
        sentences = []
        columns = ("videos", "annotated"), ("captions", "annotated captions")
        for row in self.table():
            for what, column in columns:
                expected, found = row[f"{what} published"], row[column]
                if expected not in ("", found):
                    sentences.append(
                        f"{row['split']}: {found} {what} are annotated, published: "
                        f"{expected}."
                    )
        for split, names in self.left_out.items():
            if names:
                remain = len(self.splits[split].videos) if split in self.splits else 0
                sentences.append(
                    f"{split}: {len(names)} videos are missing or unreadable, {remain} "
                    f"remain: {_first_five(names)}."
                )
        if self.held_out:
            sentences.append(
                f"train: {self.held_out} videos are held out as val, which these "
                "annotations lack."
            )
        return sentences


def _first_five(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def load(
    name: str,
    root: str | Path,
    variant: str | None = None,
    videos: str | Path | None = None,
    missing: Missing = "refuse",
    unreadable: Collection[str] = (),
    hold_out: bool = True,
) -> Dataset:
    """A benchmark under ``root``, its videos in ``videos`` (``root``/videos).

    With the file of a table as ``name``, ``load_table`` of it and ``videos`` (``root``).

    ``missing``: what ``Dataset.split`` does about videos without a file: refuse, or
    continue without them and report it. ``unreadable``: ids that are known to be
    broken, treated alike. ``hold_out``: take a validation split out of train where
    there is none.

    Raises what ``read_benchmark`` raises.
    """
    if is_table(name):
        if variant is not None:
            raise ValueError(f"A table has no variant, got {variant!r} with {name}.")
        return load_table(name, videos or root, missing, unreadable, hold_out)
    benchmark, variant = find_benchmark(name, variant)
    annotated = read_benchmark(name, root, variant)
    folder = Path(root) / "videos" if videos is None else Path(videos)
    files = by_file_name(folder)
    found = {}
    for video in (video for captions in annotated.values() for video in captions):
        path = first_of(benchmark.names(video), files)
        if path is not None and video not in unreadable:
            found[video] = VideoItem(video, path, *benchmark.segment)
    sizes = benchmark.sizes[variant]
    return Dataset(name, folder, annotated, sizes, found, missing, hold_out)


def load_table(
    table: str | Path | DataFrame,
    root: str | Path,
    missing: Missing = "refuse",
    unreadable: Collection[str] = (),
    hold_out: bool = True,
) -> Dataset:
    """Your own data: a ``table`` of paths below ``root`` and captions.

    Without a column ``split`` a tenth of the videos (at most ``HELD_OUT``) is the test
    split, chosen by their paths, the same ones on every machine. The other arguments are
    those of ``load``. Copies that ``glscl data prepare`` made are found, too.

    Raises ``AnnotationError`` as ``read_table`` does, and for too few videos to split.
    """
    annotated = read_table(table, root)
    if ALL in annotated:
        annotated["train"], annotated["test"] = _hold_out(annotated.pop(ALL))
    found = {}
    for video in (video for captions in annotated.values() for video in captions):
        names = (Path(root, video), Path(root, f"{video}.mp4"))
        path = next((path for path in names if path.is_file()), None)
        if path is not None and video not in unreadable:
            found[video] = VideoItem(video, path)
    name = table_name(table)
    return Dataset(name, Path(root), annotated, {}, found, missing, hold_out)


def _hold_out(train: Captions) -> tuple[Captions, Captions]:
    """What remains and a tenth, at most ``HELD_OUT``, the same on every machine."""
    digests = {v: hashlib.sha256(f"{SEED} {v}".encode()).hexdigest() for v in train}
    count = min(HELD_OUT, max(1, len(train) // 10))
    chosen = set(sorted(digests, key=digests.__getitem__)[:count])
    remain = {v: texts for v, texts in train.items() if v not in chosen}
    return remain, {v: texts for v, texts in train.items() if v in chosen}
