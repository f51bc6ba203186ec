"""Small replicas of the six public benchmarks: real formats, made-up sentences."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

TRAIN, VAL, TEST = 6, 2, 3
NAMES = ("msrvtt", "msvd", "didemo", "lsmdc", "activitynet", "vatex")
COLOURS = ("red", "green", "blue", "grey", "pink", "black", "white", "brown")


def sentence(number: int, part: int = 0) -> str:
    """A caption that no other video has."""
    return f"a {COLOURS[number % 8]} square number {number} moves {part}"


def write_lists(root: Path, ids: dict[str, list[str]]) -> None:
    for split, names in ids.items():
        (root / f"{split}_list.txt").write_text("".join(f"{n}\n" for n in names))


def numbers(with_val: bool = True) -> dict[str, range]:
    """The numbers of the videos of each split."""
    splits = {"train": range(TRAIN), "test": range(TRAIN + VAL, TRAIN + VAL + TEST)}
    return splits | ({"val": range(TRAIN, TRAIN + VAL)} if with_val else {})


def msrvtt(root: Path) -> dict[str, str]:
    names = {i: f"video{i}" for i in range(TRAIN + VAL + TEST)}
    kind = {0: "train", TRAIN: "validate", TRAIN + VAL: "test"}
    split = ""
    videos, sentences = [], []
    for i, name in names.items():
        split = kind.get(i, split)
        videos.append({"video_id": name, "split": split, "category": 1})
        sentences += [{"video_id": name, "caption": sentence(i, p)} for p in range(4)]
    content = {"videos": videos, "sentences": sentences}
    (root / "MSRVTT_data.json").write_text(json.dumps(content))
    train = [f"{names[i]}\n" for i in range(TRAIN + VAL)]
    (root / "MSRVTT_train.9k.csv").write_text("video_id\n" + "".join(train))
    (root / "MSRVTT_train.7k.csv").write_text("video_id\n" + "".join(train[:-1]))
    with (root / "MSRVTT_JSFUSION_test.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "vid_key", "video_id", "sentence"])
        for i in numbers()["test"]:
            table.writerow([f"ret{i}", f"msr{i}", names[i], f"{sentence(i)}, slowly"])
    return {name: f"{name}.mp4" for name in names.values()}


def msvd(root: Path) -> dict[str, str]:
    ids = {s: [f"-vid{i}_1_9" for i in part] for s, part in numbers().items()}
    write_lists(root, ids)
    every = [name for names in ids.values() for name in names]
    captions = {
        n: [sentence(i, p) for p in range(1 + i % 3)] for i, n in enumerate(every)
    }
    (root / "captions_msvd.json").write_text(json.dumps(captions))
    return {name: f"{name}.avi" for name in every}


def didemo(root: Path) -> dict[str, str]:
    files = {}
    for split, part in numbers().items():
        names = [f"{i}@N00_{i}_cafe.{('avi', 'mov', 'mp4')[i % 3]}" for i in part]
        (root / f"{split}_list.txt").write_text("".join(f"{n}\n" for n in names))
        entries = [
            {"description": sentence(i, p), "times": [[p, p]], "video": name}
            for p in range(2)  # not grouped by video
            for i, name in zip(part, names, strict=True)
        ]
        (root / f"{split}_data.json").write_text(json.dumps(entries))
        # What lies on disk may have another suffix than what is listed.
        files |= {n.rpartition(".")[0]: n.rpartition(".")[0] + ".m4v" for n in names}
    return files


def lsmdc(root: Path) -> dict[str, str]:
    table = {
        "train": "LSMDC16_annos_training.csv",
        "val": "LSMDC16_annos_val.csv",
        "test": "LSMDC16_challenge_1000_publictect.csv",
    }
    files = {}
    for split, part in numbers().items():
        rows = []
        for i in part:
            name = f"{i:04d}_Some_Film_00.0{i % 10}.51.926-00.0{i % 10}.54.129"
            times = ["00:00:51.926", "00:00:54.129"] * 2
            # A quotation mark that opens and never closes is a plain character here.
            rows.append("\t".join([name, *times, f'SOMEONE says "no {sentence(i)}']))
            if split == "train" and i == 0:
                rows.append("\t".join([name, *times, f"He waits. {sentence(i, 1)}"]))
            files[name] = f"{i:04d}_Some_Film/{name}.avi"
        (root / table[split]).write_text("\n".join(rows) + "\n")
    return files


def activitynet(root: Path) -> dict[str, str]:
    files = {}
    for split, stem in (("train", "train"), ("test", "val_1")):
        content = {}
        for i in numbers()[split]:
            name = f"v_{i:02d}abcdefghi"
            content[name] = {
                "duration": 4.5,
                "timestamps": [[0, 2], [2, 4.5]],
                "sentences": [sentence(i), f" Then {sentence(i, 1)}"],
            }
            files[name] = f"{name if i % 2 else name[2:]}.mp4"
        (root / f"{stem}.json").write_text(json.dumps(content))
        ids = [n if i % 2 else n[2:] for i, n in enumerate(content)]
        name = {"train": "train", "test": "val"}[split]
        (root / f"{name}_ids.json").write_text(json.dumps(ids))
    return files


def vatex(root: Path) -> dict[str, str]:
    ids = {
        s: [f"Ptf_2VRj-V{i}_000122_000132" for i in part]
        for s, part in numbers(with_val=False).items()
    }
    write_lists(root, ids)
    every = [name for names in ids.values() for name in names]
    captions = {n: [sentence(i, p) for p in range(10)] for i, n in enumerate(every)}
    (root / "ref_captions.json").write_text(json.dumps(captions))
    return {name: f"{name}.mp4" for name in every}


def annotations(name: str, root: Path) -> dict[str, str]:
    """Write the annotation files; the file each video id has below root/videos."""
    root.mkdir(parents=True, exist_ok=True)
    return globals()[name](root)


def replica(name: str, root: Path, write_video: Callable[..., Path]) -> dict[str, str]:
    """The annotation files and a clip of 1.5 s for every video."""
    files = annotations(name, root)
    generator = np.random.default_rng(0)
    for file in files.values():
        path = root / "videos" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = generator.integers(0, 255, (12, 1, 1, 3))
        frames = np.broadcast_to(colour, (12, 48, 64, 3)).astype(np.uint8)
        write_video(path, frames)
    return files
