"""A published result, computed again: one run, its record, and what counts as the same.

``reproduce`` trains by a preset, evaluates on the test split and leaves a record;
``published_results`` are the numbers in print; ``compare`` puts both side by side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from book.kit.intervals import prediction_margin
from book.kit.provenance import provenance
from glscl.config import Tag, get_preset
from glscl.data.benchmarks import Dataset
from glscl.data.formats import Size
from glscl.data.split import Caption
from glscl.runs import DataSource, evaluate_on, train_on
from glscl.train import RunOptions
from glscl.util import parallel
from glscl.util.files import write_json

FEWEST_SEEDS = 3
RAW, QB_NORM = "raw", "QB-Norm, bank: training captions"
DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
MEASURES = ("R1", "R5", "R10", "MdR", "MnR")


def reproduce(
    source: DataSource,
    folder: Path,
    options: RunOptions,
    method: str = "glscl",
    changes: Mapping[str, Any] | None = None,
    tag: Tag = "released",
) -> dict[str, Any]:
    """Train on ``source`` by its preset, test, and write a record into ``folder``.

    ``options.folder``: where the run is kept, so that it resumes after a kill.
    ``changes``: settings that differ from the preset, such as ``seed`` or ``backbone``.
    ``tag``: whose settings the preset has.
    Every process of ``torchrun`` returns the record, the first one writes it.
    """
    if options.folder is None:
        raise ValueError("A reproduction needs options.folder, to keep its run in.")
    videos = video_counts(source)
    changes = dict(changes or {})
    preset = get_preset(source.name, tag, method).changed(changes)
    recipe = preset.train
    history = train_on(source, preset, options, method)
    rows, _, about = evaluate_on(
        source,
        options.folder / f"best-{history.best_epoch:03d}",
        with_qb_norm={
            "k": recipe.qb_k,
            "beta": recipe.qb_beta,
            "theta": recipe.qb_theta,
            "bank": query_bank(source, recipe.batch_size),
        },
        worst=0,
        device=options.device,
        workers=options.workers,
    )
    changes.pop("seed", None)
    looks = len(history.looks) + len(history.epochs)
    record = {
        "dataset": source.name,
        "variant": source.variant,
        "method": method,
        "tag": preset.tag,
        "backbone": about["settings"]["backbone"],
        "changes": changes,
        "seed": recipe.seed,
        "settings": preset.settings(),
        "clip_arithmetic": recipe.clip_arithmetic,
        "selection": {"split": recipe.select_on, "looks": looks},
        "precision": options.precision,
        "best_epoch": history.best_epoch,
        "kept_by_rule": any(epoch["kept"] for epoch in history.epochs),
        "seconds": history.seconds,
        "videos": videos,
        "notes": source.notes(hold_out=recipe.select_on == "validation"),
        "rows": rows,
        "provenance": provenance(),
    }
    if parallel.rank() == 0:
        path = folder / f"{_file_name(record)}.json"
        write_json(path, record)
    return record


def query_bank(source: DataSource, batch_size: int) -> list[Caption]:
    """The captions that the release compares with for QB-Norm.

    The first of every training video, without the last batch if it is not full; all of
    MSVD's; of LSMDC those of the validation split.
    """
    data = source.open(hold_out=False)
    split = data.split("val" if source.name == "lsmdc" else "train")
    if source.name in ("lsmdc", "msvd"):
        return split.texts
    first: dict[int, Caption] = {}
    for video, text in zip(split.caption_to_video.tolist(), split.texts, strict=True):
        first.setdefault(video, text)
    texts = [first[video] for video in sorted(first)]
    return texts[: len(texts) // batch_size * batch_size] or texts


def video_counts(source: DataSource) -> dict[str, dict[str, int | None]]:
    """Of every split how many videos are ``published``, were ``used`` and ``left_out``."""
    data = source.open(hold_out=False)
    if not isinstance(data, Dataset):
        raise ValueError(f"{source.name!r} has no published results to reproduce.")
    return {
        split: {
            "published": data.sizes.get(split, Size()).videos,
            "used": len(captions) - len(data.left_out[split]),
            "left_out": len(data.left_out[split]),
        }
        for split, captions in data.annotated.items()
    }


def _file_name(record: Mapping[str, Any]) -> str:
    """Of letters, digits and dashes, one for each setting and seed."""
    names = ("dataset", "variant", "method", "tag", "backbone", "precision")
    parts = [str(record[name]) for name in names if record[name]]
    parts += [f"{key}-{value}" for key, value in sorted(record["changes"].items())]
    return re.sub(r"[^\w]+", "-", "-".join([*parts, f"seed{record['seed']}"])).lower()


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records that ``reproduce`` wrote into ``folder``, none if it is not there."""
    paths = sorted(folder.glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


class Result(NamedTuple):
    """Measures of one method on one benchmark in one direction, as printed.

    ``values``: by name, see ``MEASURES``; those that are not printed are absent.
    ``method``: whose runs it is compared with. ``variant``: of the data set, if not the
    usual one.
    """

    dataset: str
    backbone: str
    name: str
    direction: str
    values: dict[str, float]
    method: str = "glscl"
    variant: str | None = None


def published_results(numbers: Mapping[str, Any]) -> list[Result]:
    """Every line of GLSCL's two tables, from the content of ``paper_numbers.yml``."""
    tables: list[tuple[str, str, tuple[str, ...], Any]] = [
        ("msrvtt", backbone, MEASURES, lines)
        for backbone, lines in numbers["table_1_msrvtt"].items()
    ]
    short = tuple(name for name in MEASURES if name != "MdR")
    tables += [
        (dataset, "vit_b32", short, lines)
        for dataset, lines in numbers["table_2"].items()
    ]
    return [
        Result(
            dataset,
            {"vit_b32": "ViT-B/32", "vit_b16": "ViT-B/16"}[backbone],
            name,
            direction,
            {m: v for m, v in zip(names, line[key], strict=True) if v is not None},
        )
        for dataset, backbone, names, lines in tables
        for name, line in lines.items()
        for key, direction in DIRECTIONS.items()
        if line[key]
    ]


_EERCF_TABLES = {
    "msrvtt": ("msrvtt", None),
    "msrvtt_3k": ("msrvtt", "full"),
    "msvd": ("msvd", None),
    "activitynet": ("activitynet", None),
    "vatex_hgr": ("vatex", None),
}


def published_eercf(numbers: Mapping[str, Any]) -> list[Result]:
    """The results that EERCF reports: R@1 with ViT-B/32 and all stages of scores."""
    results = []
    for table, (dataset, variant) in _EERCF_TABLES.items():
        printed = numbers["eercf"][table]
        for key, direction in DIRECTIONS.items():
            if f"{key}_r1" in printed:
                values = {"R1": printed[f"{key}_r1"]}
                result = Result(dataset, "ViT-B/32", "EERCF", direction, values)
                results.append(result._replace(method="eercf", variant=variant))
    return results


class Comparison(NamedTuple):
    """A published and a measured value: each seed, their mean, the tolerance, a verdict.

    ``tolerance``: percentage points to either side of ``mean``; None with fewer than
    ``FEWEST_SEEDS`` seeds, where ``reproduced`` is None as well.
    """

    published: float
    each: tuple[float, ...]
    mean: float | None = None
    tolerance: float | None = None
    reproduced: bool | None = None

    @property
    def verdict(self) -> str:
        """The fields in words."""
        if self.mean is None:
            return "not run here"
        if self.reproduced is None:
            return f"{len(self.each)} of {FEWEST_SEEDS} seeds"
        if self.reproduced:
            return "reproduced"
        higher = self.mean > self.published
        return "higher than published" if higher else "lower than published"


def compare(published: float, each: Sequence[float]) -> Comparison:
    """Whether a published recall is one that our runs could have given.

    It is reproduced when it lies in the 95 % prediction interval of one more run: within
    t s √(1 + 1/n) of the mean of n seeds with the standard deviation s, t being
    Student's with n − 1 degrees of freedom.
    """
    found = Comparison(published, tuple(each))
    if found.each:
        found = found._replace(mean=mean(each))
    if found.mean is None or len(each) < FEWEST_SEEDS:
        return found
    tolerance = prediction_margin(each)
    reproduced = abs(found.mean - published) <= tolerance
    return found._replace(tolerance=tolerance, reproduced=reproduced)


def as_published(record: Mapping[str, Any]) -> bool:
    """Whether a run had every setting of the released program for its benchmark.

    So also its arithmetic, and the split and the looks that decided which weights were
    tested. Only CLIP's size and file and the seed may differ.
    """
    preset = get_preset(record["dataset"], "released", record["method"])
    expected = {**preset.settings(), **record["changes"], "seed": record["seed"]}
    free = {"backbone", "pretrained"}
    same = record["settings"] == expected and record["changes"].keys() <= free
    return same and record["kept_by_rule"]


def measured_values(
    records: Sequence[Mapping[str, Any]], result: Result, measure: str
) -> list[float]:
    """Our values of ``measure`` for a published ``result``, one a seed.

    Only runs by the published protocol of the benchmark count, with no video left out
    and the published number of test videos.
    """
    scores = QB_NORM if result.name.endswith("QB-Norm") else RAW
    backbone = {"ViT-B/32": "ViT-B-32", "ViT-B/16": "ViT-B-16"}[result.backbone]
    usual = "9k"  # of MSR-VTT; other data sets have no variants
    return [
        row[measure]
        for record in records
        if record["dataset"] == result.dataset
        and (record["variant"] or usual) == (result.variant or usual)
        and record["method"] == result.method
        and record["backbone"].startswith(backbone)
        and as_published(record)
        and _complete(record["videos"])
        for row in record["rows"]
        if (row["scores"], row["direction"]) == (scores, result.direction)
        and row["captions"] in ("all captions", "caption groups")
    ]


def _complete(videos: Mapping[str, Mapping[str, int | None]]) -> bool:
    """Whether no split lacks a video, and the gallery has the published size."""
    test = videos["test"]
    same_gallery = test["published"] in (None, test["used"])
    return same_gallery and not any(split["left_out"] for split in videos.values())
