"""How six public benchmarks are annotated; your own tables.

``read_benchmark("msrvtt", root)`` reads the annotation files under ``root`` in the form
in which they are distributed. ``book/datasets.md`` has the folders and the sources.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from glscl.data.annotations import (
    AnnotationError,
    Captions,
    caption,
    expect,
    field,
    numbered,
    parse_json,
    read_captions,
    read_ids,
    read_json,
    read_lines,
    read_rows,
    unique,
)
from glscl.data.videofiles import without_suffix

if TYPE_CHECKING:
    from pandas import DataFrame

LSMDC_COLUMNS = ["clip_id", "start_aligned", "end_aligned", "start_extracted"]
LSMDC_COLUMNS += ["end_extracted", "sentence"]


TABLE_SUFFIXES = (".csv", ".json", ".jsonl")
TABLE_SPLITS = ("train", "val", "test")
ALL = "all"  # of a table that names no splits


class Size(NamedTuple):
    """How many videos and captions a split has; None: not checked."""

    videos: int | None = None
    captions: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark is read and what it should hold.

    ``read``: from the root and the variant to the captions of each split, by video id.
    ``sizes``: what was published, by variant; the first variant is the default.
    ``names``: the file names, without suffix, that a video id may have. ``segment``: the
    seconds of a video that are annotated, where that is not all of it.
    """

    title: str
    read: Callable[[Path, str], dict[str, Captions]]
    sizes: Mapping[str, Mapping[str, Size]]
    names: Callable[[str], Iterable[str]] = lambda video: (video,)
    segment: tuple[float, float] | tuple[()] = ()


def _captions_of(ids: Iterable[str], captions: Captions, where: Path) -> Captions:
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
    sentences = field(content, "sentences", list, str(path))
    for where, entry in numbered(sentences, f"{path}, sentence"):
        name = field(entry, "video_id", str, where).strip()
        text = caption(field(entry, "caption", str, where), where)
        everything.setdefault(name, []).append(text)
    if variant == "full":
        return _msrvtt_official(path, content, everything)
    rows = read_rows(root / f"MSRVTT_train.{variant}.csv", ["video_id"])
    train = unique((f"{where}: id", row["video_id"], where) for where, row in rows)
    rows = read_rows(root / "MSRVTT_JSFUSION_test.csv", ["video_id", "sentence"])
    test = unique(
        (f"{where}: id", row["video_id"], [caption(row["sentence"], where)])
        for where, row in rows
    )
    return {"train": _captions_of(train, everything, path), "test": test}


def _msrvtt_official(
    path: Path, content: dict, everything: Captions
) -> dict[str, Captions]:
    """The splits that the annotation file itself names."""
    names = {"train": "train", "validate": "val", "test": "test"}
    splits: dict[str, Captions] = {name: {} for name in names.values()}
    videos = numbered(field(content, "videos", list, str(path)), f"{path}, video")
    entries = unique(
        (f"{where}: id", field(entry, "video_id", str, where).strip(), entry)
        for where, entry in videos
    )
    for video, entry in entries.items():
        split = field(entry, "split", str, f"{path}, {video}")
        if split not in names:
            raise AnnotationError(
                f"{path}, {video}: split {split!r}, expected one of {list(names)}."
            )
        splits[names[split]] |= _captions_of([video], everything, path)
    return splits


def _lists(files: Sequence[str], root: Path, variant: str) -> dict[str, Captions]:
    """Captions from the first of ``files`` that exists; splits by ``train_list.txt``,
    ``val_list.txt`` if it exists, ``test_list.txt``.
    """
    sources = [root / file for file in files]
    source = next((path for path in sources if path.is_file()), sources[0])
    captions, splits = read_captions(source), {}
    for split in ("train", "val", "test"):
        path = root / f"{split}_list.txt"
        if split != "val" or path.is_file():
            splits[split] = _captions_of(read_ids(path), captions, source)
    return splits


def _didemo(root: Path, variant: str) -> dict[str, Captions]:
    """Paragraphs: the descriptions of a video, one after the other."""
    splits = {}
    for split in ("train", "val", "test"):
        path = root / f"{split}_data.json"
        parts: Captions = {}
        for where, entry in numbered(read_json(path, list), f"{path}, entry"):
            name = without_suffix(field(entry, "video", str, where))
            text = field(entry, "description", str, where)
            parts.setdefault(name, []).append(caption(text, where))
        ids = [without_suffix(line) for line in read_ids(root / f"{split}_list.txt")]
        splits[split] = _paragraphs(_captions_of(ids, parts, path))
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
        rows = read_rows(root / file, LSMDC_COLUMNS, header=False)
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
                caption(text, place)
                for place, text in numbered(texts, f"{where}, sentence")
            ]
        listed = root / f"{ids}_ids.json"
        chosen = [
            name if name in captions else f"v_{name}"
            for name in (expect(n, str, str(listed)) for n in read_json(listed, list))
        ]
        splits[split] = _paragraphs(_captions_of(chosen, captions, path))
    return splits


def _sizes(**splits: tuple[int | None, int | None]) -> dict[str, Size]:
    return {name: Size(*counts) for name, counts in splits.items()}


_JSFUSION = (1000, 1000)
BENCHMARKS = {
    "msrvtt": Benchmark(
        "MSR-VTT",
        _msrvtt,
        {
            "9k": _sizes(train=(9000, 180000), test=_JSFUSION),
            "7k": _sizes(train=(7010, 140200), test=_JSFUSION),
            "full": _sizes(train=(6513, 130260), val=(497, 9940), test=(2990, 59800)),
        },
    ),
    "msvd": Benchmark(
        "MSVD",
        partial(_lists, ("captions_msvd.json", "raw-captions.pkl")),
        {"": _sizes(train=(1200, 48774), val=(100, 4290), test=(670, 27763))},
    ),
    "didemo": Benchmark(
        "DiDeMo",
        _didemo,
        {"": _sizes(train=(8392, 8392), val=(1065, 1065), test=(1004, 1004))},
        segment=(0.0, 31.0),  # as the release has it: the first 30 are annotated
    ),
    "lsmdc": Benchmark(
        "LSMDC",
        _lsmdc,
        {"": _sizes(train=(None, 101079), val=(None, 7408), test=(1000, 1000))},
    ),
    "activitynet": Benchmark(
        "ActivityNet Captions",
        _activitynet,
        {"": _sizes(train=(10009, 10009), test=(4917, 4917))},
        # Videos are stored as ``v_ID`` by some and as ``ID`` by others.
        names=lambda video: (video, video.removeprefix("v_")),
    ),
    "vatex": Benchmark(
        "VATEX",
        partial(_lists, ("ref_captions.json",)),
        {"": _sizes(train=(None, None), test=(1500, 15000))},
    ),
}


def read_benchmark(
    name: str, root: str | Path, variant: str | None = None
) -> dict[str, Captions]:
    """The captions of each split by video id, as annotated; no video is looked for.

    Raises ``AnnotationError`` for files that are missing or bad, ids in two splits
    included, and ``ValueError`` for an unknown benchmark or variant.
    """
    benchmark, variant = find_benchmark(name, variant)
    splits = benchmark.read(Path(root), variant)
    seen: dict[str, str] = {}
    for split, captions in splits.items():
        for video in captions:
            if seen.setdefault(video, split) != split:
                raise AnnotationError(
                    f"{benchmark.title} under {root}: id {video!r} is in {split} and "
                    f"in {seen[video]}; splits must not overlap."
                )
    return splits


def find_benchmark(name: str, variant: str | None) -> tuple[Benchmark, str]:
    """A benchmark and its variant, the first one for None; ``ValueError`` if unknown."""
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


def is_table(name: str) -> bool:
    """Whether ``name`` is the file of a table and not that of a benchmark."""
    return Path(name).suffix.lower() in TABLE_SUFFIXES


def read_table(table: str | Path | DataFrame, root: str | Path) -> dict[str, Captions]:
    """The captions of each split of your own videos, by path relative to ``root``.

    ``table``: a CSV file with a header, a JSON file with a list of objects, a JSONL file
    with an object a line, or a pandas ``DataFrame``: a row a caption, with the columns
    path, caption and split (train, val or test; without it every video is in the split
    ``ALL``). Other columns are ignored.

    Raises ``AnnotationError`` for a missing file or column, an empty path or caption, a
    path outside ``root``, an unknown split, a row that is there twice, a video that is
    in two splits, and a table without a row.
    """
    rows = [(where, expect(row, dict, where)) for where, row in _rows(table)]
    if not rows:
        raise AnnotationError(f"{table_name(table)}: there is no row.")
    with_split = any("split" in row for _, row in rows)
    splits: dict[str, Captions] = {}
    split_of: dict[str, str] = {}
    for where, row in rows:
        video = _below(root, field(row, "path", str, where), where)
        text = caption(field(row, "caption", str, where), where)
        split = field(row, "split", str, where).strip() if with_split else ALL
        if with_split and split not in TABLE_SPLITS:
            raise AnnotationError(
                f"{where}: split {split!r}, expected one of {list(TABLE_SPLITS)}."
            )
        if split_of.setdefault(video, split) != split:
            raise AnnotationError(
                f"{where}: {video} is in {split} here and in {split_of[video]} above; "
                "splits must not overlap."
            )
        texts = splits.setdefault(split, {}).setdefault(video, [])
        if text in texts:
            raise AnnotationError(f"{where}: {video} has the caption {text!r} twice.")
        texts.append(text)
    return splits


def table_name(table: Any) -> str:
    """What errors call a table: its file, or that it is none."""
    return str(table) if isinstance(table, (str, Path)) else "the table"


def _rows(table: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows, each after its place."""
    if not isinstance(table, (str, Path)):
        return numbered(table.to_dict("records"), "the table, row")
    path = Path(table)
    kind = path.suffix.lower()
    if kind == ".csv":
        return read_rows(path, ["path", "caption"])
    if kind == ".json":
        return numbered(read_json(path, list), f"{path}, entry")
    if kind == ".jsonl":
        lines = read_lines(path)
        return ((f"{path}, line {n}", parse_json(line, path, n)) for n, line in lines)
    raise AnnotationError(
        f"{path}: a table is one of {', '.join(TABLE_SUFFIXES)}, or a pandas DataFrame."
    )


def _below(root: str | Path, path: str, where: str) -> str:
    """A path as the table has it, relative to ``root``."""
    if not path.strip():
        raise AnnotationError(f"{where}: the path is empty.")
    name = os.path.relpath(Path(root, path.strip()), root)
    if name.split(os.sep)[0] == os.pardir:
        raise AnnotationError(f"{where}: {path} lies outside the folder {root}.")
    return Path(name).as_posix()
