"""The built-in benchmark: clips on disk, their captions and splits.

``make_benchmark`` draws real H.264 files that are then read like any other video, so
the notebooks run without any download.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter

from glscl.config import AtLeast1
from glscl.data.encode import ENCODER, encode_mp4
from glscl.data.split import CaptionItem, Split, VideoItem
from glscl.mini.grammar import Caption, captions_of
from glscl.mini.render import render_clip
from glscl.mini.scenes import FPS, SPLITS, Clip, draw_clip
from glscl.util.files import atomic_path
from glscl.util.settings import check

#: To be raised whenever a clip or a caption changes: old folders are then refused.
VERSION = 1
LEFTOVER_SECONDS = 600
INDEX = "benchmark.json"
Items = tuple[tuple[Clip, tuple[Caption, ...]], ...]
_CONTENTS = TypeAdapter(dict[str, Items])


class BenchmarkError(RuntimeError):
    """The built-in benchmark cannot be made or read; the message names the cause."""


@dataclass(frozen=True)
class Benchmark:
    """Clips and captions under ``root``, by split.

    ``split`` returns what every data set returns; ``clips`` and ``captions`` hold the
    contents: shots with their frames, and which shots a caption is about.
    """

    root: Path
    seed: int
    contents: Mapping[str, Items]

    @property
    def sizes(self) -> dict[str, int]:
        """Clips in every split."""
        return {name: len(items) for name, items in self.contents.items()}

    def clips(self, split: str) -> tuple[Clip, ...]:
        """The B clips of ``split``, in the order of ``Split.videos``."""
        return tuple(clip for clip, _ in self.items(split))

    def captions(self, split: str) -> tuple[Caption, ...]:
        """The A captions of ``split``, in the order of ``Split.captions``."""
        return tuple(text for _, captions in self.items(split) for text in captions)

    def split(self, name: str) -> Split:
        """Videos and captions of ``"train"``, ``"val"`` or ``"test"``."""
        clips, items = self.clips(name), self.items(name)
        videos = tuple(VideoItem(clip.id, clip_path(self.root, clip)) for clip in clips)
        captions = tuple(
            CaptionItem(caption.text, video, caption.kind)
            for video, (_, texts) in enumerate(items)
            for caption in texts
        )
        return Split(name, videos, captions)

    def items(self, split: str) -> Items:
        """The clips of ``split``, each with its captions. ``ValueError`` if unknown."""
        if split not in self.contents:
            raise ValueError(
                f"Unknown split {split!r} of the built-in benchmark: expected one of "
                f"{list(self.contents)}."
            )
        return self.contents[split]


def clip_path(root: Path, clip: Clip) -> Path:
    """Where the video of ``clip`` lies under ``root``."""
    return Path(root) / "clips" / f"{clip.id}.mp4"


def make_benchmark(
    root: str | Path,
    train: int = 3000,
    val: int = 300,
    test: int = 300,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
) -> Benchmark:
    """Make, complete or just check the benchmark under ``root``.

    Clips that are there and whole are kept, so a killed run resumes, a second run is
    quick, and a larger benchmark extends a smaller one. The index is written last.

    Raises ``ValueError`` for sizes below 1, ``BenchmarkError`` when ``root`` holds
    another seed or version, or cannot be written.
    """
    root = Path(root)
    sizes = {"train": train, "val": val, "test": test}
    for name, size in (*sizes.items(), ("workers", workers)):
        check(AtLeast1, size, name)
    found = _read_index(root) if (root / INDEX).exists() else None
    if found is not None and found.seed != seed:
        raise BenchmarkError(
            f"{root} holds the built-in benchmark with seed {found.seed}, not {seed}: "
            "choose another folder."
        )
    known = found.contents if found else {}
    everything = {
        name: _extended(known.get(name, ()), name, size, seed)
        for name, size in sizes.items()
    }
    contents = {name: items[: sizes[name]] for name, items in everything.items()}
    benchmark = Benchmark(root, seed, contents)
    write_clips(root, [*chain(*map(benchmark.clips, SPLITS))], workers, progress)
    if everything != known:
        _write_index(Benchmark(root, seed, everything))
    return benchmark


def _extended(known: Items, split: str, size: int, seed: int) -> Items:
    drawn = (draw_clip(split, index, seed) for index in range(len(known), size))
    return (*known, *((clip, tuple(captions_of(clip, seed))) for clip in drawn))


def write_clips(
    root: Path, clips: Sequence[Clip], workers: int = 2, progress: bool = False
) -> None:
    """Write the MP4 of every clip that is not there whole.

    ``workers`` threads share the work: drawing and encoding release Python's lock.
    Raises ``BenchmarkError`` when a file cannot be written.
    """
    from tqdm import tqdm

    _sweep(root / "clips")
    missing = [clip for clip in clips if not _is_whole(root, clip)]
    # Not set otherwise, so that the environment variable TQDM_DISABLE has effect.
    quiet = {} if progress and missing else {"disable": True}
    with ThreadPoolExecutor(workers) as pool:
        written = pool.map(partial(_write_clip, root), missing)
        # An error, or Ctrl-C, ends this loop, and with it what has not begun.
        for _ in tqdm(written, "clips", len(missing), unit="clip", **quiet):
            pass


def _write_clip(root: Path, clip: Clip) -> None:
    data = encode_mp4(render_clip(clip), FPS, comment=_signature(clip))
    _write(clip_path(root, clip), data)


def _signature(clip: Clip) -> str:
    """What the file of ``clip`` carries as a comment: a digest of all that made it."""
    text = json.dumps([asdict(clip), ENCODER], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    return f"glscl {VERSION} {clip.id} {digest}"


def _is_whole(root: Path, clip: Clip) -> bool:
    """Whether the file of ``clip`` is there, complete, and shows this very clip."""
    try:
        # FFmpeg writes the comment last, so a file that ends with it is complete.
        return clip_path(root, clip).read_bytes().endswith(_signature(clip).encode())
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    """Write whole or not at all; a failure becomes one clear sentence."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        reason = str(error.strerror)
        where = "" if str(path) in reason else f"Could not write {path}: "
        raise BenchmarkError(f"{where}{reason}.") from error


def _sweep(folder: Path) -> None:
    """Remove what killed runs left: temporary files without a change for minutes."""
    for leftover in folder.glob(".*.mp4.*"):
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                leftover.unlink()


def _write_index(benchmark: Benchmark) -> None:
    contents = {
        name: [
            {**asdict(clip), "captions": [asdict(caption) for caption in captions]}
            for clip, captions in items
        ]
        for name, items in benchmark.contents.items()
    }
    index = {"version": VERSION, "seed": benchmark.seed, "splits": contents}
    text = json.dumps(index, separators=(",", ":"))
    _write(benchmark.root / INDEX, text.encode())


def load_benchmark(root: str | Path) -> Benchmark:
    """The benchmark that ``make_benchmark`` left under ``root``.

    Raises ``BenchmarkError`` when the index is missing, damaged or of another version, or
    when a clip is gone.
    """
    benchmark = _read_index(Path(root))
    for clip in chain(*map(benchmark.clips, SPLITS)):
        path = clip_path(benchmark.root, clip)
        if not path.is_file():
            raise BenchmarkError(
                f"{path} is missing: make the benchmark again, whole clips are kept."
            )
    return benchmark


def _read_index(root: Path) -> Benchmark:
    path = root / INDEX
    try:
        index = json.loads(path.read_text())
        if index["version"] != VERSION:
            raise BenchmarkError(
                f"{path} is of version {index['version']}, expected {VERSION}: make the "
                "benchmark in another folder."
            )
        contents = {
            name: [(item, item["captions"]) for item in index["splits"][name]]
            for name in SPLITS
        }
        return Benchmark(root, int(index["seed"]), _CONTENTS.validate_python(contents))
    except FileNotFoundError:
        raise BenchmarkError(
            f"No built-in benchmark in {root}: {INDEX} is missing; make it "
            f"with `glscl data make --root {root}`."
        ) from None
    except OSError as error:
        raise BenchmarkError(f"Could not read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError):
        raise BenchmarkError(
            f"{path} is damaged: delete it and make the benchmark again, whole clips are "
            "kept."
        ) from None
