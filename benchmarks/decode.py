"""Reading sampled frames as the package does, against decord alone in this process.

    python -m benchmarks.decode

On clips of the built-in benchmark, and on an H.264 file of ten minutes. decord alone
knows no edit lists and no variable rates, and a file on which it hangs or crashes takes
the process with it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from statistics import median

import decord
import numpy as np
from numpy.typing import NDArray

from benchmarks.results import table
from benchmarks.timing import rounds
from glscl.data.encode import write_mp4
from glscl.data.frames import read_frames, sample_indices
from glscl.data.video import VideoReader
from glscl.mini.synthetic import make_benchmark

SAMPLED = {"built-in clips": (12, 8.0), "a long file": (12, 1.0)}  # frames, a second
SIDES, FPS = (240, 320), 25


def by_decord(path: Path, max_frames: int, sample_fps: float) -> NDArray[np.uint8]:
    """The same frames by the released rule, with decord in this process."""
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    fps = reader.get_avg_fps()
    chosen = sample_indices(len(reader), fps, max_frames, sample_fps)
    return reader.get_batch(chosen).asnumpy()


def moving(seconds: int) -> Iterator[NDArray[np.uint8]]:
    """Frames of waves that move, each (H, W, 3)."""
    y, x = np.mgrid[: SIDES[0], : SIDES[1]]
    for t in range(seconds * FPS):
        waves = np.sin((x + 3 * t) / 17), np.cos((y - 2 * t) / 23), np.sin((x + y) / 31)
        yield (127 * np.stack(waves, axis=-1) + 128).astype(np.uint8)


def ratios(folder: Path, clips: int, seconds: int, repeats: int) -> list[list[object]]:
    """A row for each kind of file: which decoder reads it, milliseconds, ratio."""
    split = make_benchmark(folder, 1, 1, clips).split("test")
    long = folder / "long.mp4"
    write_mp4(long, moving(seconds), Fraction(FPS), {"preset": "veryfast"})
    files = {
        "built-in clips": [one.path for one in split.videos],
        "a long file": [long],
    }
    rows: list[list[object]] = []
    for kind, paths in files.items():
        spent, plain = [], []
        for path in paths:
            how = path, *SAMPLED[kind]
            np.testing.assert_array_equal(read_frames(*how), by_decord(*how))
            ways = {
                "package": lambda how=how: read_frames(*how),
                "decord": lambda how=how: by_decord(*how),
            }
            # The package decodes in another process: wall time, the least of all runs.
            found = rounds(ways, repeats, wall=True)
            spent.append(1e3 * min(found["package"]))
            plain.append(1e3 * min(found["decord"]))
        ratio = sum(spent) / sum(plain)
        decoder = VideoReader(paths[0]).decoder
        rows.append([kind, len(paths), decoder, median(spent), median(plain), ratio])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="little, to try it")
    small = parser.parse_args().small
    with tempfile.TemporaryDirectory() as folder:
        rows = ratios(Path(folder), *((2, 2, 1) if small else (40, 600, 10)))
    columns = ["file", "files", "decoder", "ms, package", "ms, decord alone", "ratio"]
    print(table(columns, rows))


if __name__ == "__main__":
    main()
