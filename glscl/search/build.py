"""Building an index and keeping it up to date: only what changed is encoded.

Encoded videos are written a few hundred windows at a time, whole files in one
transaction. So a build may be killed at any moment, and the next one goes on from there;
and several may work on one index, each with a share of the files.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from glscl.data.frames import normalise
from glscl.data.loader import weights_digest
from glscl.data.pairs import stable_seed
from glscl.data.video import decoder_version
from glscl.data.videofiles import State, file_state, list_videos
from glscl.evaluate import frame_spec
from glscl.model import GLSCL
from glscl.retriever import VideoFeatures
from glscl.search import table
from glscl.search.table import About, FileRecord, Snapshot
from glscl.search.windows import DecodedChunk, Windows, decoded_chunks

BATCH_FRAMES = 192  # frames that CLIP encodes at a time
CHECKPOINT_ROWS = 256  # windows that are written together; a kill loses about so many

Columns = dict[str, Any]  # of windows, see ``table``


@dataclass
class Report:
    """What an update did: paths relative to the folder, windows, seconds by stage."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    windows: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes to those of ``stage``."""
        begin = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - begin


def search_model(source: str | Path) -> GLSCL:
    """The model that ``source`` names.

    A folder that ``GLSCL.save`` wrote, or a CLIP model, as open_clip's ``NAME`` or
    ``NAME:WEIGHTS``; ``mini`` is the built-in one. A CLIP model is used without further
    training: GIM has no parameters, the frame transformer and the LIM are left out.

    Raises ``ValueError`` for an unknown name and what loading raises.
    """
    if Path(source).is_dir():
        return GLSCL.load(source)
    untrained: dict[str, Any] = {"temporal_layers": 0, "local": False}
    if str(source) == "mini":
        return GLSCL.from_preset("mini", **untrained)
    name, _, weights = str(source).partition(":")
    return GLSCL.from_preset(
        "msrvtt", backbone=name, pretrained=weights or "openai", **untrained
    )


def known_source(path: str) -> str | None:
    """The ``source`` of the model of the index at ``path``, if there is an index."""
    try:
        return Snapshot(path).about.model["source"]
    except FileNotFoundError:
        return None


def model_fingerprint(model: GLSCL) -> dict[str, Any]:
    """What identifies a model: its settings, method, backbone and weights (a digest)."""
    return {
        **asdict(model.config),
        "method": model.method,
        "backbone": model.backbone.name,
        "digest": weights_digest(model),
    }


def check_model(about: About, model: GLSCL, path: str) -> None:
    """Raise ``ValueError`` where the features at ``path`` are of another model."""
    present, stored = model_fingerprint(model), about.model
    differ = [name for name, value in present.items() if stored[name] != value]
    if differ:
        raise ValueError(
            f"The index {path} was made with a model of another {', '.join(differ)}: "
            "search with that model, or make another index."
        )


@torch.no_grad()
def update(
    path: str | Path,
    folder: Path,
    model: GLSCL,
    windows: Windows | None = None,
    source: str | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: bool = True,
    retry_broken: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> Report:
    """Bring the index at ``path`` up to date with ``folder``.

    ``path``: a folder, or an address in an object store (s3://…, gs://…). ``windows``:
    how the videos of a new index are cut. ``source``: the argument of ``search_model``
    that gives ``model``, for later searches. ``workers``: processes that decode.
    ``retry_broken``: read again what could not be read. ``shard``: i and n, this process
    takes the i-th of n shares of the files, from 0; others take the rest, at any time. A
    call for all files afterwards leaves the index tidy: joined parts, the clusters of a
    large collection.

    Raises ``ValueError`` where the index is of another model, folder or cut, or no video
    is there; ``RuntimeError`` where another process is writing it; ``OSError`` where this
    machine fails, as by a full disk.
    """
    path, report = str(path), Report()
    if not isinstance(model, GLSCL):
        raise ValueError(f"An index needs a GLSCL model, got {type(model).__name__}.")
    folder = folder.resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    model.to(device).eval()
    with report.timed("total"), _only_writer(path, shard), table.sentences(path):
        about = _opened(path, folder, model, windows, source)
        writer = _Writer(path, shard, report)
        wanted = writer.compare(*_listing(folder), retry_broken)
        names = list(wanted)
        paths = [folder / table.named_path(name) for name in names]
        spec = frame_spec(model.backbone, model.config)
        stream = decoded_chunks(paths, spec, Windows(**about.windows), workers)
        groups = _grouped(stream)
        quiet = {} if progress else {"disable": True}  # else TQDM_DISABLE decides
        with tqdm(names, "indexing", unit="video", **quiet) as bar:
            while True:
                with report.timed("decode"):
                    group = next(groups, None)
                if group is None:
                    break
                with report.timed("encode"):
                    encoded = _encode(group, model, device)
                for chunk, features in zip(group, encoded, strict=True):
                    name = names[chunk.file]
                    writer.take(name, wanted[name], chunk, features)
                    bar.update(chunk.last)
                if writer.pending >= CHECKPOINT_ROWS:
                    writer.checkpoint()
        writer.checkpoint()
        if shard[1] == 1 and (report.added or report.changed or report.removed):
            with report.timed("write"):
                table.maintain(path)
    return report


@contextmanager
def _only_writer(path: str, shard: tuple[int, int]) -> Iterator[None]:
    """Keep another writer of this share away. In an object store both are let work.

    Raises ``RuntimeError`` where another process is writing.
    """
    lock: Any = nullcontext()
    if "://" not in path:
        Path(path).mkdir(parents=True, exist_ok=True)
        lock = FileLock(Path(path, f".lock-{shard[0]}-of-{shard[1]}"), timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise RuntimeError(f"Another process is writing the index {path}.") from error


def _opened(
    path: str, folder: Path, model: GLSCL, windows: Windows | None, source: str | None
) -> About:
    """What the index is about; it is made where there is none."""
    try:
        about = Snapshot(path).about
    except FileNotFoundError:
        new = About(
            folder=str(folder),
            model={**model_fingerprint(model), "source": source},
            windows=asdict(windows or Windows()),
            F=model.config.max_frames,
            Q=model.config.num_queries if model.config.local else 0,
            D=model.backbone.embed_dim,
        )
        table.create(path, new)
        about = Snapshot(path).about
    check_model(about, model, path)
    cut = about.windows if windows is None else asdict(windows)
    for name, wanted in (("folder", str(folder)), ("windows", cut)):
        if wanted != getattr(about, name):
            raise ValueError(
                f"The index {path} is of the {name} {getattr(about, name)}, not of "
                f"{wanted}: make another index."
            )
    return about


def _listing(folder: Path) -> tuple[dict[str, State], dict[str, str]]:
    """Every video below ``folder`` with its state, and why folders cannot be listed."""
    unreadable = dict[Path, str]()
    found = {path: file_state(path) for path in list_videos(folder, unreadable)}
    if not found and not unreadable:
        raise ValueError(f"There is no video below {folder}.")

    def name(path: Path) -> str:
        return table.stored_path(path.relative_to(folder).as_posix())

    hidden = {name(path): problem for path, problem in unreadable.items()}
    return {name(path): state for path, state in found.items()}, hidden


def _grouped(stream: Iterable[DecodedChunk]) -> Iterator[list[DecodedChunk]]:
    """Successive chunks as groups of at least ``BATCH_FRAMES`` frames."""
    group: list[DecodedChunk] = []
    for chunk in stream:
        group.append(chunk)
        if sum(len(one.frames) for one in group) >= BATCH_FRAMES:
            yield group
            group = []
    if group:
        yield group


def _encode(
    group: list[DecodedChunk], model: GLSCL, device: torch.device | str
) -> list[Columns]:
    """The features of each chunk's windows; CLIP encodes all frames together, once."""
    clip, frames = model.backbone, np.concatenate([one.frames for one in group])
    starts = range(0, len(frames), BATCH_FRAMES)
    batches = (frames[first : first + BATCH_FRAMES] for first in starts)
    pixels = (normalise(one, clip.image_mean, clip.image_std) for one in batches)
    parts = [clip.encode_image(one.to(device)).float() for one in pixels]
    encoded = torch.cat([torch.empty(0, clip.embed_dim, device=device), *parts])
    columns: list[Columns] = [{} for _ in group]
    of_chunk = encoded.split([len(chunk.frames) for chunk in group])
    for i, (chunk, features) in enumerate(zip(group, of_chunk, strict=True)):
        if not chunk.error:
            slots = torch.from_numpy(chunk.frame_slots).to(device)
            mask = slots >= 0
            padded = features[slots.clamp_min(0)] * mask[..., None]
            columns[i] = packed(model.encode_video_features(padded, mask))
    return columns


def packed(video: VideoFeatures) -> Columns:
    """Features of videos as they are stored; the coarse vector is the mean frame."""
    frames = video.frames * video.mask[..., None]
    coarse = torch.nn.functional.normalize(frames.sum(dim=1), dim=-1)
    columns = {"frames": frames, "concepts": video.concepts, "coarse": coarse}
    return {n: x.half().cpu().numpy() for n, x in columns.items() if x is not None}


class _Writer:
    """An update in progress; it holds encoded files until the next checkpoint."""

    def __init__(self, path: str, shard: tuple[int, int], report: Report):
        self.path, self.shard, self.report = path, shard, report
        self.decoder = decoder_version()
        self.old = self._share(table.read_files(path))
        self.columns: dict[str, list[Columns]] = defaultdict(list)  # of files, by chunk
        self.finished: dict[str, FileRecord] = {}  # all of whose chunks are there

    def _share(self, files: dict[str, Any]) -> dict[str, Any]:
        i, n = self.shard
        return {f: x for f, x in files.items() if stable_seed(f) % n == i}

    def compare(
        self, found: dict[str, State], hidden: dict[str, str], retry_broken: bool
    ) -> dict[str, State]:
        """Forget the files that are gone; return those to be encoded.

        What is in a ``hidden`` folder is not gone. What was broken for another decoder
        is read again.
        """
        report, found = self.report, self._share(found)
        below = tuple("" if folder == "." else f"{folder}/" for folder in hidden)
        gone = [n for n in self.old if n not in found and not n.startswith(below)]
        table.forget_files(self.path, gone)
        report.removed = sorted(n for n in gone if not self.old[n].problem)
        same = {n: r for n, r in self.old.items() if found.get(n) == r.state}
        retried = {
            name
            for name, record in same.items()
            if record.problem and (retry_broken or record.decoder != self.decoder)
        }
        known = {n: r.problem for n, r in same.items() if n not in retried}
        report.broken = {n: problem for n, problem in known.items() if problem} | hidden
        report.unchanged = sum(not problem for problem in known.values())
        return {n: state for n, state in found.items() if n not in known}

    def take(
        self, name: str, state: State, chunk: DecodedChunk, features: Columns
    ) -> None:
        """Keep a chunk of the file ``name``, or why it is broken.

        A failure of this machine says nothing of the file and is not kept.
        """
        parts, problem = self.columns[name], ""
        if chunk.error:
            parts.clear()
            problem = self.report.broken[name] = str(chunk.error)
            if chunk.error.kind == "machine":
                return
        else:
            n, first = len(chunk.spans), sum(len(part["path"]) for part in parts)
            columns = {
                "id": [f"{name}#{first + i}" for i in range(n)],
                "path": [name] * n,
                "size": [state[0]] * n,
                "mtime_ns": [state[1]] * n,
                "start": chunk.spans[:, 0],
                "end": chunk.spans[:, 1],
                "times": chunk.times,
            }
            parts.append(columns | features)
        if chunk.last:
            self.finished[name] = FileRecord(*state, problem, self.decoder)

    @property
    def pending(self) -> int:
        """Windows of finished files."""
        parts = (part for name in self.finished for part in self.columns[name])
        return sum(len(part["path"]) for part in parts)

    def checkpoint(self) -> None:
        """Write the finished files."""
        if not self.finished:
            return
        self.report.windows += self.pending
        parts = [part for name in self.finished for part in self.columns.pop(name)]
        with self.report.timed("write"):
            table.write_files(self.path, self.finished, parts)
        for name, record in self.finished.items():
            if not record.problem:
                known = name in self.old and not self.old[name].problem
                (self.report.changed if known else self.report.added).append(name)
        self.finished = {}
