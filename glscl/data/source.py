"""Which data a command or a page works on: the built-in benchmark, or a real one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glscl.data import benchmarks, synthetic
from glscl.data.split import Split, VideoItem
from glscl.data.verify import read_unreadable

MINI = "mini"


@dataclass(frozen=True)
class DataSource:
    """A data set by name and place, and what to do about its holes.

    ``name``: ``"mini"`` or one of ``benchmarks.BENCHMARKS``. ``variant``, ``videos``,
    ``missing``: see ``benchmarks.load``. ``report``: a report of ``glscl data verify``,
    whose unreadable videos count as missing. ``cache``: where frames and features are
    kept, by default ``root``/cache.
    """

    name: str = MINI
    root: Path = Path("data/mini")
    variant: str | None = None
    videos: Path | None = None
    missing: Literal["refuse", "drop"] = "refuse"
    report: Path | None = None
    cache: Path | None = None

    @property
    def cache_folder(self) -> Path:
        """Where frames and features are kept."""
        return self.root / "cache" if self.cache is None else self.cache

    def open(self, hold_out: bool = True) -> synthetic.Benchmark | benchmarks.Dataset:
        """The data, by split; ``hold_out`` as in ``benchmarks.load``.

        Raises what ``synthetic.load_benchmark`` and ``benchmarks.load`` raise.
        """
        if self.name == MINI:
            return synthetic.load_benchmark(self.root)
        return benchmarks.load(
            self.name,
            self.root,
            self.variant,
            self.videos,
            self.missing,
            read_unreadable(self.report) if self.report else (),
            hold_out,
        )

    def some(self, train: int, val: int, test: int, seed: int = 0) -> dict[str, Split]:
        """Train, val and test with as many videos, the first ones of each.

        The built-in benchmark is made, with ``seed``, where it is not there yet.
        """
        sizes = {"train": train, "val": val, "test": test}
        if self.name == MINI:
            made = synthetic.make_benchmark(
                self.root, train, val, test, seed=seed, progress=False
            )
            return {name: made.split(name) for name in sizes}
        data = self.open()
        return {name: data.split(name).first(size) for name, size in sizes.items()}

    def every_video(self) -> list[VideoItem]:
        """The videos of all splits, missing ones where they should be."""
        data = self.open(hold_out=False)
        if isinstance(data, benchmarks.Dataset):
            return data.every_video()
        return [video for name in data.sizes for video in data.split(name).videos]

    def notes(self, hold_out: bool = True) -> list[str]:
        """Each way in which this is not the published benchmark, as a sentence."""
        data = self.open(hold_out)
        return data.differences() if isinstance(data, benchmarks.Dataset) else []
