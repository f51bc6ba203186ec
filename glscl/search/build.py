"""Building an index and keeping it up to date: only what changed is encoded.

Encoded videos are written a few hundred windows at a time, whole files in one
transaction. So a build may be killed at any moment, and the next one goes on from there;
and several may work on one index, each with a share of the files.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from glscl.data.frames import normalise
from glscl.data.loader import weights_digest
from glscl.data.video import decoder_version
from glscl.data.videofiles import list_videos
from glscl.evaluate import frame_spec
from glscl.model import GLSCL
from glscl.retriever import VideoFeatures
from glscl.search import table
from glscl.search.table import About, FileRecord, FileState, Snapshot
from glscl.search.windows import DecodedChunk, Windows, decoded_chunks

BATCH_FRAMES = 192  # frames that CLIP encodes at a time
CHECKPOINT_ROWS = 256  # windows that are written together; a kill loses about so many


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
    return Snapshot(path).about.model["source"] if table.exists(path) else None


def model_fingerprint(model: GLSCL) -> dict[str, Any]:
    """What identifies a model: its method, backbone, weights (a digest) and settings."""
    return {
        "method": model.method,
        "backbone": model.backbone.name,
        "digest": weights_digest(model),  # type: ignore[arg-type]
        "settings": asdict(model.config),
    }


def check_model(about: About, model: GLSCL, path: str) -> None:
    """Raise ``ValueError`` where the features at ``path`` are of another model."""
    theirs = about.model
    for key, value in model_fingerprint(model).items():
        if theirs[key] != value:
            what = key
            if key == "settings":
                differ = [n for n, one in theirs[key].items() if value.get(n) != one]
                what = f"settings ({', '.join(differ)})"
            raise ValueError(
                f"The index {path} was made with a model of another {what}: search "
                "with that model, or make another index."
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
    begin, path = time.perf_counter(), str(path)
    if not isinstance(model, GLSCL):
        raise ValueError(f"An index needs a GLSCL model, got {type(model).__name__}.")
    folder = folder.resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    model.to(device).eval()
    with _only_writer(path, shard):
        about = _opened(path, folder, model, windows, source)
        writer = _Update(path, shard)
        found, hidden = _listing(folder, path)
        wanted = writer.compare(found, hidden, retry_broken)
        paths = [folder / table.named_path(name) for name in wanted]
        spec = frame_spec(model.backbone, model.config)
        stream = decoded_chunks(paths, spec, Windows(**about.windows), workers)
        names, report = list(wanted), writer.report
        quiet = {} if progress else {"disable": True}  # else TQDM_DISABLE decides
        with tqdm(names, "indexing", unit="video", **quiet) as bar:
            for group in _grouped(stream, BATCH_FRAMES):
                for chunk, encoded in _encode(group, model, device, report):
                    name = names[chunk.file]
                    writer.take(name, wanted[name], chunk, encoded)
                    bar.update(chunk.last)
                if writer.pending >= CHECKPOINT_ROWS:
                    writer.checkpoint()
        writer.checkpoint()
        if shard[1] == 1 and (report.added or report.changed or report.removed):
            with report.timed("write"):
                table.maintain(path)
    report.seconds["total"] = time.perf_counter() - begin
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
    if not table.exists(path):
        about = About(
            folder=str(folder),
            model={**model_fingerprint(model), "source": source},
            windows=asdict(windows or Windows()),
            F=model.config.max_frames,
            Q=model.config.num_queries if model.config.local else 0,
            D=model.backbone.embed_dim,
        )
        table.create(path, about)
    about = Snapshot(path).about
    check_model(about, model, path)
    if about.folder != str(folder):
        raise ValueError(
            f"The index {path} is of the folder {about.folder}, not of {folder}."
        )
    if windows is not None and asdict(windows) != about.windows:
        raise ValueError(
            f"The index {path} has windows of {about.windows}, not of "
            f"{asdict(windows)}: make another index."
        )
    return about


def _listing(folder: Path, index: str) -> tuple[dict[str, FileState], dict[str, str]]:
    """Every video below ``folder``, not those in the index itself, with its state.

    And the folders that cannot be listed, with the reason.
    """
    found, unreadable = {}, dict[Path, str]()

    def name(path: Path) -> str:
        return table.stored_path(path.relative_to(folder).as_posix())

    for file in list_videos(folder, unreadable):
        if Path(index).resolve() not in file.parents:
            found[name(file)] = FileState.of(file)
    if not found and not unreadable:
        raise ValueError(f"There is no video below {folder}.")
    return found, {name(path): problem for path, problem in unreadable.items()}


def _grouped(
    stream: Iterable[DecodedChunk], frames: int
) -> Iterator[list[DecodedChunk]]:
    """Successive chunks as groups of at least ``frames`` frames."""
    group: list[DecodedChunk] = []
    for chunk in stream:
        group.append(chunk)
        if sum(len(one.frames) for one in group) >= frames:
            yield group
            group = []
    if group:
        yield group


class EncodedChunk(NamedTuple):
    """What is stored of W windows, in 16 bits; Q = 0 without a LIM.

    ``frames``: (W, F, D), padding 0. ``concepts``: (W, Q, D). ``coarse``: (W, D).
    """

    frames: np.ndarray
    concepts: np.ndarray
    coarse: np.ndarray


def _encode(
    group: list[DecodedChunk], model: GLSCL, device: torch.device | str, report: Report
) -> list[tuple[DecodedChunk, EncodedChunk | None]]:
    """CLIP encodes the frames of all chunks together, each frame once.

    Windows are assembled from the features of their frames; a broken file has None.
    """
    clip = model.backbone
    report.seconds["decode"] += sum(chunk.seconds for chunk in group)
    with report.timed("CLIP"):
        frames = np.concatenate([chunk.frames for chunk in group])
        batches = (
            normalise(frames[i : i + BATCH_FRAMES], clip.image_mean, clip.image_std)
            for i in range(0, len(frames), BATCH_FRAMES)
        )
        parts = [clip.encode_image(batch.to(device)).float() for batch in batches]
        encoded = torch.cat([torch.empty(0, clip.embed_dim, device=device), *parts])
    with report.timed("windows"):
        counts = [len(chunk.frames) for chunk in group]
        return [
            (
                chunk._replace(frames=chunk.frames[:0].copy()),
                None if chunk.problem else _windows_of(chunk, part, model),
            )
            for chunk, part in zip(group, encoded.split(counts), strict=True)
        ]


def _windows_of(chunk: DecodedChunk, features: Tensor, model: GLSCL) -> EncodedChunk:
    frame_slots = torch.from_numpy(chunk.frame_slots).to(features.device)
    mask = frame_slots >= 0
    frames = features[frame_slots.clamp_min(0)] * mask[..., None]
    return packed(model.encode_video_features(frames, mask))


def packed(video: VideoFeatures) -> EncodedChunk:
    """Features of videos as they are stored; the coarse vector is the mean frame."""
    frames = video.frames * video.mask[..., None]
    concepts = frames[:, :0] if video.concepts is None else video.concepts
    coarse = torch.nn.functional.normalize(frames.sum(dim=1), dim=-1)
    return EncodedChunk(*(x.half().cpu().numpy() for x in (frames, concepts, coarse)))


class _Update:
    """An update in progress; it holds encoded files until the next checkpoint."""

    def __init__(self, path: str, shard: tuple[int, int]):
        self.path, self.shard, self.report = path, shard, Report()
        self.decoder = decoder_version()
        self.old = {n: r for n, r in table.read_files(path).items() if self._mine(n)}
        self.columns: dict[str, list[dict[str, Any]]] = {}  # of files, chunk by chunk
        self.finished: dict[str, FileRecord] = {}  # all of whose chunks are there
        self.pending = 0  # windows of finished files

    def _mine(self, name: str) -> bool:
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        return number % self.shard[1] == self.shard[0]

    def compare(
        self, found: dict[str, FileState], hidden: dict[str, str], retry_broken: bool
    ) -> dict[str, FileState]:
        """Forget the files that are gone; return those to be encoded.

        What is in a ``hidden`` folder is not gone.
        """
        report, mine = self.report, {n: s for n, s in found.items() if self._mine(n)}
        gone = {
            name
            for name in self.old.keys() - mine.keys()
            if "." not in hidden and not name.startswith(tuple(f"{f}/" for f in hidden))
        }
        table.forget_files(self.path, sorted(gone))
        report.removed = sorted(n for n in gone if not self.old[n].problem)
        same = {n: r for n, r in self.old.items() if mine.get(n) == r.state}
        broken = {n: r for n, r in same.items() if r.problem}
        if not retry_broken:  # what was broken for another decoder is read again
            same_decoder = (i for i in broken.items() if i[1].decoder == self.decoder)
            report.broken = {name: record.problem for name, record in same_decoder}
        report.broken |= hidden
        report.unchanged = len(same) - len(broken)
        again = broken.keys() - report.broken.keys()
        return {n: s for n, s in mine.items() if n not in same or n in again}

    def take(
        self, name: str, state: FileState, chunk: DecodedChunk, new: EncodedChunk | None
    ) -> None:
        """Keep a chunk of the file ``name``, or why it is broken.

        A failure of this machine says nothing of the file and is not kept.
        """
        parts = self.columns.setdefault(name, [])
        if new is None:
            parts.clear()
            self.report.broken[name] = chunk.problem
        else:
            first = sum(len(part["path"]) for part in parts)
            parts.append(_columns(name, state, first, chunk, new))
        if chunk.passing:
            self.columns.pop(name)
        elif chunk.last:
            self.finished[name] = FileRecord(state, chunk.problem, self.decoder)
            self.pending += sum(len(part["path"]) for part in parts)

    def checkpoint(self) -> None:
        """Write the finished files."""
        report = self.report
        if not self.finished:
            return
        with report.timed("write"):
            parts = [one for name in self.finished for one in self.columns.pop(name)]
            table.write_files(self.path, self.finished, parts)
        for name, record in self.finished.items():
            if not record.problem:
                known = name in self.old and not self.old[name].problem
                (report.changed if known else report.added).append(name)
        report.windows += self.pending
        self.finished, self.pending = {}, 0


def _columns(
    name: str, state: FileState, first: int, chunk: DecodedChunk, new: EncodedChunk
) -> dict[str, Any]:
    """The columns of a chunk's windows; ``first``: the number of its first window."""
    count = len(chunk.frame_slots)
    start, end = chunk.spans.T
    return {
        "id": [f"{name}#{first + i}" for i in range(count)],
        "path": [name] * count,
        "size": [state.size] * count,
        "mtime_ns": [state.mtime_ns] * count,
        "start": start,
        "end": end,
        "times": chunk.times,
        **new._asdict(),
    }
