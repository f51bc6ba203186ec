"""Six public benchmarks behind one interface, counted, with an honest validation split.

``load("msrvtt", root)`` reads the annotation files under ``root`` in the form in which
they are passed around, finds the videos by name, and says where it found anything other
than the published counts. ``book/datasets.md`` has the trees and the sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from glscl.data.annotations import (
    AnnotationError,
    Captions,
    caption,
    expect,
    field,
    read_captions,
    read_ids,
    read_json,
    read_pickled_captions,
    read_rows,
)
from glscl.data.split import CaptionItem, Split, VideoItem
from glscl.data.videofiles import find_videos, without_suffix

# Held out of training, where a benchmark has no validation split of its own.
HELD_OUT = 500
SEED = "glscl validation"
LSMDC_COLUMNS = (
    "clip_id",
    "start_aligned",
    "end_aligned",
    "start_extracted",
    "end_extracted",
    "sentence",
)


class Size(NamedTuple):
    """How many videos and captions a split has; None: not checked."""

    videos: int | None
    captions: int | None


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark is read and what it should hold.

    ``read``: from the root and the variant to the captions of each split, by video id.
    ``sizes``: what was published, by variant; the first variant is the default.
    ``names``: which file names, without suffix, a video id may go by. ``seconds``: the
    annotated part of a video, from its start, where that is not all of it.
    """

    title: str
    read: Callable[[Path, str], dict[str, Captions]]
    sizes: Mapping[str, Mapping[str, Size]]
    names: Callable[[str], Iterable[str]] = lambda video: (video,)
    seconds: float | None = None


def _same_ids(ids: Iterable[str], captions: Captions, where: Path) -> Captions:
    """The captions of ``ids``, in this order; every id must have some."""
    chosen = {}
    for name in ids:
        if not captions.get(name):
            raise AnnotationError(f"{where}: id {name!r} has no caption there.")
        chosen[name] = captions[name]
    return chosen


def _msrvtt(root: Path, variant: str) -> dict[str, Captions]:
    path = root / "MSRVTT_data.json"
    content = read_json(path, dict)
    everything: Captions = {}
    for number, entry in enumerate(
        field(content, "sentences", list, str(path)), start=1
    ):
        where = f"{path}, sentence {number}"
        name = field(entry, "video_id", str, where)
        text = caption(field(entry, "caption", str, where), where)
        everything.setdefault(name, []).append(text)
    if variant == "full":
        return _msrvtt_official(path, content, everything)
    table = root / f"MSRVTT_train.{variant}.csv"
    train: dict[str, str] = {}
    for where, row in read_rows(table, ["video_id"]):
        _refuse_second(row["video_id"], train, where)
        train[row["video_id"]] = where
    test: Captions = {}
    for where, row in read_rows(
        root / "MSRVTT_JSFUSION_test.csv", ["video_id", "sentence"]
    ):
        _refuse_second(row["video_id"], test, where)
        test[row["video_id"]] = [caption(row["sentence"], where)]
    return {"train": _same_ids(train, everything, path), "test": test}


def _msrvtt_official(
    path: Path, content: dict, everything: Captions
) -> dict[str, Captions]:
    """The splits that the annotation file itself names."""
    ours = {"train": "train", "validate": "val", "test": "test"}
    splits: dict[str, Captions] = {name: {} for name in ours.values()}
    for number, entry in enumerate(field(content, "videos", list, str(path)), start=1):
        where = f"{path}, video {number}"
        split = field(entry, "split", str, where)
        if split not in ours:
            raise AnnotationError(
                f"{where}: split {split!r}, expected one of {list(ours)}."
            )
        name = field(entry, "video_id", str, where)
        _refuse_second(name, splits[ours[split]], where)
        splits[ours[split]] |= _same_ids([name], everything, path)
    return splits


def _refuse_second(name: str, seen: Collection[str], where: str) -> None:
    if name in seen:
        raise AnnotationError(f"{where}: id {name!r} is there twice.")


def _lists(root: Path, captions: Captions, source: Path) -> dict[str, Captions]:
    """Splits by ``train_list.txt``, ``test_list.txt`` and, where it is, the third."""
    return {
        split: _same_ids(read_ids(path), captions, source)
        for split in ("train", "val", "test")
        if (path := root / f"{split}_list.txt").is_file() or split != "val"
    }


def _msvd(root: Path, variant: str) -> dict[str, Captions]:
    source, pickled = root / "captions_msvd.json", root / "raw-captions.pkl"
    if source.is_file() or not pickled.is_file():
        return _lists(root, read_captions(source), source)
    return _lists(root, read_pickled_captions(pickled), pickled)


def _vatex(root: Path, variant: str) -> dict[str, Captions]:
    source = root / "ref_captions.json"
    return _lists(root, read_captions(source), source)


def _didemo(root: Path, variant: str) -> dict[str, Captions]:
    """Paragraphs: the descriptions of a video, one after the other."""
    splits = {}
    for split in ("train", "val", "test"):
        path = root / f"{split}_data.json"
        parts: Captions = {}
        for number, entry in enumerate(read_json(path, list), start=1):
            where = f"{path}, entry {number}"
            name = without_suffix(field(entry, "video", str, where))
            text = field(entry, "description", str, where)
            parts.setdefault(name, []).append(caption(text, where))
        ids = [without_suffix(line) for line in read_ids(root / f"{split}_list.txt")]
        splits[split] = _paragraphs(_same_ids(ids, parts, path))
    return splits


def _paragraphs(captions: Captions) -> Captions:
    return {name: [" ".join(texts)] for name, texts in captions.items()}


def _lsmdc(root: Path, variant: str) -> dict[str, Captions]:
    """A clip that occurs in several rows has several captions."""
    files = {
        "train": "LSMDC16_annos_training.csv",
        "val": "LSMDC16_annos_val.csv",
        "test": "LSMDC16_challenge_1000_publictect.csv",
    }
    splits: dict[str, Captions] = {}
    for split, file in files.items():
        clips = splits[split] = {}
        rows = read_rows(root / file, LSMDC_COLUMNS, header=False, delimiter="\t")
        for where, row in rows:
            text = caption(row["sentence"], where)
            clips.setdefault(row["clip_id"], []).append(text)
    return splits


def _activitynet(root: Path, variant: str) -> dict[str, Captions]:
    """Paragraphs: the sentences of a video, in order."""
    splits = {}
    for split, stem, ids in (("train", "train", "train"), ("test", "val_1", "val")):
        path = root / f"{stem}.json"
        captions: Captions = {}
        for name, entry in read_json(path, dict).items():
            where = f"{path}, {name}"
            texts = field(entry, "sentences", list, where)
            captions[name] = [
                caption(text, f"{where}, sentence {number}")
                for number, text in enumerate(texts, start=1)
            ]
        listed = root / f"{ids}_ids.json"
        chosen = [
            name if name in captions else f"v_{name}"
            for name in (expect(n, str, str(listed)) for n in read_json(listed, list))
        ]
        splits[split] = _paragraphs(_same_ids(chosen, captions, path))
    return splits


def _with_and_without_v(video: str) -> tuple[str, str]:
    """Videos of ActivityNet are stored as ``v_ID`` by some and as ``ID`` by others."""
    return video, video.removeprefix("v_")


_JSFUSION = Size(1000, 1000)
BENCHMARKS = {
    "msrvtt": Benchmark(
        "MSR-VTT",
        _msrvtt,
        {
            "9k": {"train": Size(9000, 180000), "test": _JSFUSION},
            "7k": {"train": Size(7010, 140200), "test": _JSFUSION},
            "full": {
                "train": Size(6513, 130260),
                "val": Size(497, 9940),
                "test": Size(2990, 59800),
            },
        },
    ),
    "msvd": Benchmark(
        "MSVD",
        _msvd,
        {
            "": {
                "train": Size(1200, 48774),
                "val": Size(100, 4290),
                "test": Size(670, 27763),
            }
        },
    ),
    "didemo": Benchmark(
        "DiDeMo",
        _didemo,
        {
            "": {
                "train": Size(8392, 8392),
                "val": Size(1065, 1065),
                "test": Size(1004, 1004),
            }
        },
        seconds=30.0,
    ),
    "lsmdc": Benchmark(
        "LSMDC",
        _lsmdc,
        {
            "": {
                "train": Size(None, 101079),
                "val": Size(None, 7408),
                "test": Size(1000, 1000),
            }
        },
    ),
    "activitynet": Benchmark(
        "ActivityNet Captions",
        _activitynet,
        {"": {"train": Size(10009, 10009), "test": Size(4917, 4917)}},
        names=_with_and_without_v,
    ),
    "vatex": Benchmark(
        "VATEX",
        _vatex,
        {"": {"train": Size(None, None), "test": Size(1500, 15000)}},
    ),
}


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
    variant: str
    videos: Path
    splits: Mapping[str, Split]
    counts: tuple[Count, ...]
    left_out: Mapping[str, tuple[str, ...]]
    missing: Literal["refuse", "drop"]
    held_out: int

    def split(self, name: str) -> Split:
        """Videos and captions of one split.

        Raises ``ValueError`` for a split that the benchmark has not, and
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
                f"under {self.videos} or unreadable ({_some(absent)}); get them, or "
                "say missing='drop' to go on without them."
            )
        return self.splits[name]

    def every_video(self) -> list[VideoItem]:
        """The videos of all splits; those that are missing, where they should be."""
        items = [video for split in self.splits.values() for video in split.videos]
        absent = [name for names in self.left_out.values() for name in names]
        return items + [VideoItem(name, self.videos / name) for name in absent]

    def table(self) -> list[dict[str, object]]:
        """A row a split: published, annotated and usable videos and captions."""
        return [
            {
                "split": count.split,
                "videos published": _number(count.expected.videos),
                "annotated": _number(count.annotated.videos),
                "usable": _number(count.used.videos),
                "captions published": _number(count.expected.captions),
                "annotated captions": _number(count.annotated.captions),
                "usable captions": _number(count.used.captions),
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
                    f"remain: {_some(names)}."
                )
        if self.held_out:
            sentences.append(
                f"train: {self.held_out} videos are held out as val, which this "
                "benchmark lacks."
            )
        return sentences


def _number(value: int | None) -> object:
    return "" if value is None else value


def _some(names: Collection[str], count: int = 5) -> str:
    shown = ", ".join(list(names)[:count])
    return shown + (", ..." if len(names) > count else "")


def read_benchmark(
    name: str, root: str | Path, variant: str | None = None
) -> dict[str, Captions]:
    """The captions of each split by video id, as annotated; no video is looked for.

    Raises ``AnnotationError`` for files that are missing or bad, ids in two splits
    included, and ``ValueError`` for an unknown benchmark or variant.
    """
    benchmark, variant = _known(name, variant)
    splits = benchmark.read(Path(root), variant)
    seen: dict[str, str] = {}
    for split, captions in splits.items():
        for video in captions:
            if video in seen:
                raise AnnotationError(
                    f"{benchmark.title} under {root}: id {video!r} is in {split} and "
                    f"in {seen[video]}; splits must not overlap."
                )
            seen[video] = split
    return splits


def _known(name: str, variant: str | None) -> tuple[Benchmark, str]:
    if name not in BENCHMARKS:
        raise ValueError(
            f"Unknown benchmark {name!r}: expected one of {list(BENCHMARKS)}."
        )
    benchmark = BENCHMARKS[name]
    chosen = next(iter(benchmark.sizes)) if variant is None else variant
    if chosen not in benchmark.sizes:
        raise ValueError(
            f"Unknown variant {chosen!r} of {name}: expected one of "
            f"{list(benchmark.sizes)}."
        )
    return benchmark, chosen


def load(
    name: str,
    root: str | Path,
    variant: str | None = None,
    videos: str | Path | None = None,
    missing: Literal["refuse", "drop"] = "refuse",
    unreadable: Collection[str] = (),
    hold_out: bool = True,
) -> Dataset:
    """A benchmark under ``root``, its videos in ``videos`` (``root``/videos).

    ``missing``: what ``Dataset.split`` does about videos without a file: refuse, or go
    on without them and say so. ``unreadable``: ids that are known to be broken, treated
    alike. ``hold_out``: make a validation split out of train where there is none.

    Raises what ``read_benchmark`` raises.
    """
    if missing not in ("refuse", "drop"):
        raise ValueError(f"missing must be 'refuse' or 'drop', got {missing!r}.")
    benchmark, variant = _known(name, variant)
    annotated = read_benchmark(name, root, variant)
    folder = Path(root) / "videos" if videos is None else Path(videos)
    files = find_videos(folder)
    items: dict[str, VideoItem] = {}
    for captions in annotated.values():
        for video in captions:
            path = files.get(benchmark.names(video))
            if path is not None and video not in unreadable:
                items[video] = _item(video, path, benchmark.seconds)
    splits, held_out = dict(annotated), 0
    if hold_out and "val" not in splits:
        train, splits["val"] = _hold_out(splits["train"])
        splits["train"] = train
        held_out = len(splits["val"])
    return Dataset(
        name,
        variant,
        folder,
        {k: _split(k, c, items) for k, c in splits.items() if items.keys() & c.keys()},
        tuple(
            Count(k, benchmark.sizes[variant][k], _size(c, c), _size(c, items))
            for k, c in annotated.items()
        ),
        {k: tuple(v for v in c if v not in items) for k, c in splits.items()},
        missing,
        held_out,
    )


def _item(video: str, path: Path, seconds: float | None) -> VideoItem:
    return VideoItem(video, path, *((0.0, seconds) if seconds else ()))


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
