"""A folder of videos and a table of captions, such as readers bring them to chapter 10.

The pictures are those of the built-in benchmark, of another seed. Names, folders,
suffixes and rates differ; some videos are there twice, some cannot be read.
"""

from __future__ import annotations

import csv
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glscl.data.encode import encode_mp4
from glscl.mini.grammar import captions_of
from glscl.mini.render import render_clip
from glscl.mini.scenes import Clip, draw_clip

FOLDERS = ("2023 summer", "2023 winter", "Grüße", "phone")
RATES = (6, 8, 12)  # frames a second: clips of 6, 4.5 and 3 s
COPIES = 6  # half of them byte by byte, half encoded again
UNREADABLE = ("phone/broken off.mp4", "phone/no video.mp4")
MISSING = "phone/deleted.mp4"


class Row(NamedTuple):
    """A line of the table."""

    path: str
    caption: str


def write_folder(folder: Path, clips: int, seed: int = 0) -> Path:
    """Write ``clips`` videos below ``folder`` and the table, whose path is returned.

    A clip has one to five captions. Besides there are ``COPIES`` of clips under other
    names and with other captions, files that cannot be read, and a row without a file.
    """
    with ThreadPoolExecutor(2) as pool:
        of_clip = pool.map(lambda i: _write(folder, i, seed), range(clips))
        rows = [row for some in of_clip for row in some]
    for number in range(COPIES):
        rows += _copy(folder, number, seed)
    whole = (folder / rows[0].path).read_bytes()
    (folder / UNREADABLE[0]).write_bytes(whole[: len(whole) // 4])
    (folder / UNREADABLE[1]).write_text("This is no video.")
    rows += [Row(name, "nobody knows") for name in (*UNREADABLE, MISSING)]
    table = folder / "captions.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    return table


def _name(number: int) -> str:
    """The path of a clip; its suffix is in capitals in a fourth of the folders."""
    suffix = ".MP4" if number % 4 == 3 else ".mp4"
    return f"{FOLDERS[number % 4]}/IMG {number:04d}{suffix}"


def _captions(number: int, seed: int) -> list[str]:
    """All captions of a clip, in an order of its own."""
    texts = [one.text for one in captions_of(_clip(number, seed), seed)]
    texts = list(dict.fromkeys(texts))
    random.Random(number).shuffle(texts)
    return texts


def _clip(number: int, seed: int) -> Clip:
    # Not a seed of the built-in benchmark, so no clip of it.
    return draw_clip("train", number, seed + 1000)


def _write(folder: Path, number: int, seed: int) -> list[Row]:
    path = folder / _name(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = render_clip(_clip(number, seed))
    path.write_bytes(encode_mp4(frames, RATES[number % len(RATES)]))
    count = 1 + number % 5
    return [Row(_name(number), text) for text in _captions(number, seed)[:count]]


def _copy(folder: Path, number: int, seed: int) -> list[Row]:
    """The rows of a copy of the clip ``number``; every second one is a new encoding."""
    name = f"phone/copy {number}.mp4"
    if number % 2:
        frames = render_clip(_clip(number, seed)).astype(int) + 6  # a little brighter
        data = encode_mp4(np.clip(frames, 0, 255).astype(np.uint8), 8)
    else:
        data = (folder / _name(number)).read_bytes()
    (folder / name).write_bytes(data)
    return [Row(name, text) for text in _captions(number, seed)[-2:]]
