"""Public benchmarks and your own tables behind one interface, with a validation split.

``load("msrvtt", root)`` reads the annotations under ``root``, finds the videos by name,
and reports where it found anything other than the published counts. ``load_table`` reads
a table of paths and captions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["BENCHMARKS", "Dataset", "load", "load_table", "read_benchmark"]

Missing = Literal["refuse", "drop"]

# Held out of training, where a benchmark has no validation split of its own.
HELD_OUT = 500
SEED = "glscl validation"


@dataclass(frozen=True)
class Count:
    """Videos and captions of a split: published, in the files, and with a video."""

    split: str
    expected: Size
    annotated: Size
    used: Size


@dataclass(frozen=True)
class Dataset:
    """A benchmark as found on this machine.

    ``splits``: train, val, test, those that have a usable video; val is held out of
    train where the benchmark has none (``held_out`` of them). ``left_out``: ids of each
    split that have no usable video, which ``split`` refuses unless ``missing`` is
    ``"drop"``.
    """

    name: str
    videos: Path
    splits: Mapping[str, Split]
    counts: tuple[Count, ...]
    left_out: Mapping[str, tuple[str, ...]]
    missing: Missing
    held_out: int

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
        items = [video for split in self.splits.values() for video in split.videos]
        absent = [name for names in self.left_out.values() for name in names]
        return items + [VideoItem(name, self.videos / name) for name in absent]

    def table(self) -> list[dict[str, object]]:
        """A row a split: published, annotated and usable videos and captions."""
        return [
            {
                "split": count.split,
                "videos published": count.expected.videos or "",
                "annotated": count.annotated.videos,
                "usable": count.used.videos,
                "captions published": count.expected.captions or "",
                "annotated captions": count.annotated.captions,
                "usable captions": count.used.captions,
            }
            for count in self.counts
        ]

    def differences(self) -> list[str]:
        """One sentence for each way in which this is not the published benchmark."""
        sentences = []
        for count in self.counts:
            for what in ("videos", "captions"):
                expected = getattr(count.expected, what)
                found = getattr(count.annotated, what)
                if expected not in (None, found):
                    sentences.append(
                        f"{count.split}: {found} {what} are annotated, published: "
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
    files, end = by_file_name(folder), benchmark.seconds
    start = None if end is None else 0.0
    items: dict[str, VideoItem] = {}
    for captions in annotated.values():
        for video in captions:
            path = first_of(benchmark.names(video), files)
            if path is not None and video not in unreadable:
                items[video] = VideoItem(video, path, start, end)
    sizes = benchmark.sizes[variant]
    return _dataset(name, folder, annotated, sizes, items, missing, hold_out)


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
    items: dict[str, VideoItem] = {}
    for video in (video for captions in annotated.values() for video in captions):
        names = (Path(root, video), Path(root, f"{video}.mp4"))
        path = next((path for path in names if path.is_file()), None)
        if path is not None and video not in unreadable:
            items[video] = VideoItem(video, path)
    sizes = dict.fromkeys(annotated, Size(None, None))
    return _dataset(
        table_name(table), Path(root), annotated, sizes, items, missing, hold_out
    )


def _dataset(
    name: str,
    folder: Path,
    annotated: Mapping[str, Captions],
    sizes: Mapping[str, Size],
    items: Mapping[str, VideoItem],
    missing: Missing,
    hold_out: bool,
) -> Dataset:
    """What ``load`` returns, from the captions of each split and the videos found."""
    if missing not in ("refuse", "drop"):
        raise ValueError(f"missing must be 'refuse' or 'drop', got {missing!r}.")
    splits, held_out = dict(annotated), 0
    if hold_out and "val" not in splits and "train" in splits:
        splits["train"], splits["val"] = _hold_out(splits["train"])
        held_out = len(splits["val"])
    for split, captions in splits.items():
        if not captions:
            raise AnnotationError(f"{name}: too few videos, none is left for {split}.")
    return Dataset(
        name,
        folder,
        {k: _split(k, c, items) for k, c in splits.items() if items.keys() & c.keys()},
        tuple(
            Count(k, sizes[k], _size(c, c), _size(c, items))
            for k, c in annotated.items()
        ),
        {k: tuple(v for v in c if v not in items) for k, c in splits.items()},
        missing,
        held_out,
    )


def _size(captions: Captions, usable: Collection[str]) -> Size:
    chosen = [texts for video, texts in captions.items() if video in usable]
    return Size(len(chosen), sum(map(len, chosen)))


def _hold_out(train: Captions) -> tuple[Captions, Captions]:
    """What remains and a tenth, at most ``HELD_OUT``, the same on every machine."""

    def order(video: str) -> str:
        return hashlib.sha256(f"{SEED} {video}".encode()).hexdigest()

    count = min(HELD_OUT, max(1, len(train) // 10))
    chosen = set(sorted(train, key=order)[:count])
    remain = {k: v for k, v in train.items() if k not in chosen}
    return remain, {k: v for k, v in train.items() if k in chosen}


def _split(name: str, captions: Captions, items: Mapping[str, VideoItem]) -> Split:
    """Those videos of a split that have a file, with their captions."""
    videos = [video for video in captions if video in items]
    return Split(
        name,
        tuple(items[video] for video in videos),
        tuple(
            CaptionItem(text, index)
            for index, video in enumerate(videos)
            for text in captions[video]
        ),
    )
