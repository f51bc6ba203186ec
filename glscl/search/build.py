"""Building an index and keeping it up to date: only what changed is encoded.

Encoded videos are written a few hundred windows at a time. Each time one rename makes
the new windows valid and those of the files' older versions invalid, so a build may be
killed at any moment, and the next one goes on from there.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from glscl.data.frames import normalise
from glscl.data.loader import weights_digest
from glscl.data.videofiles import list_videos
from glscl.evaluate import frame_spec
from glscl.model import GLSCL
from glscl.retriever import VideoFeatures
from glscl.search import store
from glscl.search.coarse import APPROXIMATE_FROM, needs_approximate, write_approximate
from glscl.search.store import FileState, Manifest, SegmentWriter, Snapshot
from glscl.search.windows import DecodedChunk, Windows, decoded_chunks

BATCH_FRAMES = 192  # frames that CLIP encodes at a time
CHECKPOINT_ROWS = 256  # windows that are written together; a kill loses about so many
COMPACT_FROM = 0.25  # share of invalid windows from which segments are rewritten


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


class EncodedChunk(NamedTuple):
    """What is stored of a chunk: ``features`` (W, F + Q, D), ``coarse`` (W, D), float16.

    The frames of ``chunk`` are left out.
    """

    chunk: DecodedChunk
    features: np.ndarray
    coarse: np.ndarray


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


def known_source(path: Path) -> str | None:
    """The ``source`` of the model of the index at ``path``, if there is an index."""
    if not (path / store.MANIFEST).exists():
        return None
    return store.read_manifest(path).model["source"]


def model_fingerprint(model: GLSCL) -> dict[str, Any]:
    """What identifies a model: its method, backbone, weights (a digest) and settings."""
    return {
        "method": model.method,
        "backbone": model.backbone.name,
        "digest": weights_digest(model),  # type: ignore[arg-type]
        "settings": asdict(model.config),
    }


def check_model(manifest: Manifest, model: GLSCL, path: Path) -> None:
    """Raise ``ValueError`` where the features at ``path`` are of another model."""
    theirs = manifest.model
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
    path: Path,
    folder: Path,
    model: GLSCL,
    windows: Windows | None = None,
    source: str | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: bool = True,
) -> Report:
    """Bring the index at ``path`` up to date with ``folder``.

    ``windows``: how the videos of a new index are cut. ``source``: the argument of
    ``search_model`` that gives ``model``, for later searches. ``workers``: processes
    that decode.

    Raises ``ValueError`` where the index is of another model, folder or cut, or no video
    is there; ``RuntimeError`` where another process is writing it.
    """
    begin = time.perf_counter()
    if not isinstance(model, GLSCL):
        raise ValueError(f"An index needs a GLSCL model, got {type(model).__name__}.")
    folder = folder.resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    model.to(device).eval()
    with store.only_writer(path):
        writer = _Update(path, _opened(path, folder, model, windows, source))
        wanted = writer.compare(_listing(folder, path))
        paths = [folder / name for name in wanted]
        spec = frame_spec(model.backbone, model.config)
        cuts = Windows(**writer.manifest.windows)
        stream = decoded_chunks(paths, spec, cuts, workers)
        names, report = list(wanted), writer.report
        quiet = {} if progress else {"disable": True}  # else TQDM_DISABLE decides
        with tqdm(names, "indexing", unit="video", **quiet) as bar:
            for group in _grouped(stream, BATCH_FRAMES):
                for encoded in _encode(group, model, device, report):
                    name = names[encoded.chunk.file]
                    writer.take(name, wanted[name], encoded)
                    if encoded.chunk.last:
                        bar.update()
                if writer.pending >= CHECKPOINT_ROWS:
                    writer.checkpoint()
        writer.checkpoint()
        writer.compact()
    report.seconds["total"] = time.perf_counter() - begin
    return report


def _opened(
    path: Path, folder: Path, model: GLSCL, windows: Windows | None, source: str | None
) -> Manifest:
    """The manifest to go on from; what a killed build has left is deleted."""
    if not (path / store.MANIFEST).exists():
        config = model.config
        manifest = Manifest(
            folder=str(folder),
            model={**model_fingerprint(model), "source": source},
            windows=asdict(windows or Windows()),
            F=config.max_frames,
            Q=config.num_queries if config.local else 0,
            D=model.backbone.embed_dim,
        )
        store.write_manifest(path, manifest)
    manifest = store.read_manifest(path)
    check_model(manifest, model, path)
    if manifest.folder != str(folder):
        raise ValueError(
            f"The index {path} is of the folder {manifest.folder}, not of {folder}."
        )
    if windows is not None and asdict(windows) != manifest.windows:
        raise ValueError(
            f"The index {path} has windows of {manifest.windows}, not of "
            f"{asdict(windows)}: make another index."
        )
    store.clean(path, manifest)
    return manifest


def _listing(folder: Path, index: Path) -> dict[str, FileState]:
    """Every video below ``folder``, not those in the index itself, with its state."""
    found = {}
    for file in list_videos(folder):
        if index.resolve() not in file.parents:
            found[file.relative_to(folder).as_posix()] = FileState.of(file)
    if not found:
        raise ValueError(f"There is no video below {folder}.")
    return found


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


def _encode(
    group: list[DecodedChunk], model: GLSCL, device: torch.device | str, report: Report
) -> list[EncodedChunk]:
    """CLIP encodes the frames of all chunks together, each frame once.

    Windows are assembled from the features of their frames.
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
        features = zip(group, encoded.split(counts), strict=True)
        return [_windows_of(chunk, part, model) for chunk, part in features]


def _windows_of(chunk: DecodedChunk, features: Tensor, model: GLSCL) -> EncodedChunk:
    kept = chunk._replace(frames=chunk.frames[:0].copy())
    if chunk.problem:
        return EncodedChunk(kept, np.empty(0), np.empty(0))
    frame_slots = torch.from_numpy(chunk.frame_slots).to(features.device)
    mask = frame_slots >= 0
    frames = features[frame_slots.clamp_min(0)] * mask[..., None]
    video = model.encode_video_features(frames, mask)
    return EncodedChunk(kept, pack_features(video), mean_pool(video))


def pack_features(video: VideoFeatures) -> np.ndarray:
    """Frames and concepts as they are stored, padding 0: (B, F + Q, D) float16."""
    frames = video.frames * video.mask[..., None]
    parts = [frames] if video.concepts is None else [frames, video.concepts]
    return torch.cat(parts, dim=1).half().cpu().numpy()


def mean_pool(video: VideoFeatures) -> np.ndarray:
    """The coarse vectors of videos, unit means of their real frames: (B, D) float16."""
    total = (video.frames * video.mask[..., None]).sum(dim=1)
    return torch.nn.functional.normalize(total, dim=-1).half().cpu().numpy()


class _Update:
    """An update in progress; it holds encoded files until the next checkpoint."""

    def __init__(self, path: Path, manifest: Manifest):
        self.path, self.manifest, self.report = path, manifest, Report()
        self.old = Snapshot(path).live_files()
        self.chunks: dict[str, list[EncodedChunk]] = {}
        self.finished: dict[str, FileState] = {}  # all of whose chunks are there
        self.pending = 0  # windows of finished files

    def compare(self, found: dict[str, FileState]) -> dict[str, FileState]:
        """Drop the windows of files that are gone; return the files to be encoded."""
        report, broken = self.report, self.manifest.broken
        report.removed = sorted(self.old.keys() - found.keys())
        gone = [self.old[name][1] for name in report.removed]
        still = {n: why for n, why in broken.items() if found.get(n) == why[:2]}
        report.broken = {name: problem for name, (_, _, problem) in still.items()}
        self._write(dropped=_ranges(self.manifest.dropped, gone), broken=still)
        same = {n for n, (state, _) in self.old.items() if found.get(n) == state}
        report.unchanged = len(same)
        return {n: s for n, s in found.items() if n not in same and n not in still}

    def take(self, name: str, state: FileState, encoded: EncodedChunk) -> None:
        """Keep a chunk of the file ``name``, or record that it is broken."""
        chunk = encoded.chunk
        if chunk.problem:
            self.chunks.pop(name, None)
            self.report.broken[name] = chunk.problem
            self._write(
                dropped=_ranges(self.manifest.dropped, self._older([name])),
                broken={**self.manifest.broken, name: (*state, chunk.problem)},
            )
            return
        self.chunks.setdefault(name, []).append(encoded)
        if chunk.last:
            self.finished[name] = state
            self.pending += sum(len(one.coarse) for one in self.chunks[name])

    def _older(self, names: Iterable[str]) -> list[tuple[int, int]]:
        """The ids of the windows that the index has of older versions of files."""
        return [self.old[name][1] for name in names if name in self.old]

    def checkpoint(self) -> None:
        """Write the finished files as a segment, and make it valid."""
        if not self.finished:
            return
        manifest, names, report = self.manifest, list(self.finished), self.report
        segment, next_id = store.segment_name(manifest), manifest.next_id
        with report.timed("write"):
            with SegmentWriter(self.path, segment, self.pending, manifest) as writer:
                writer.add_files(names, list(self.finished.values()))
                for file, name in enumerate(names):
                    for chunk, features, coarse in self.chunks.pop(name):
                        rows = _rows(chunk, file, next_id)
                        writer.add(rows, chunk.times, features, coarse)
                        next_id += len(rows)
            self._write(
                segments=(*manifest.segments, segment),
                next_segment=manifest.next_segment + 1,
                next_id=next_id,
                dropped=_ranges(manifest.dropped, self._older(names)),
            )
        for name in names:
            (report.changed if name in self.old else report.added).append(name)
        report.windows += self.pending
        self.finished, self.pending = {}, 0
        snapshot = Snapshot(self.path)
        count = store.count_to_merge([len(one.rows) for one in snapshot.segments])
        if count:
            self._merge(snapshot, count)

    def _merge(self, snapshot: Snapshot, count: int) -> None:
        self.manifest = store.merge_segments(self.path, snapshot, count)
        store.write_manifest(self.path, self.manifest)
        store.clean(self.path, self.manifest)

    def compact(self) -> None:
        """Rewrite what is mostly invalid; renew the approximate index if it is due."""
        with self.report.timed("write"):
            snapshot = Snapshot(self.path)
            if (~snapshot.live).sum() > COMPACT_FROM * len(snapshot.live):
                self._merge(snapshot, len(snapshot.segments))
                snapshot = Snapshot(self.path)
            if needs_approximate(snapshot, APPROXIMATE_FROM):
                self._write(approximate=write_approximate(self.path, snapshot))
            elif len(snapshot) < APPROXIMATE_FROM:
                self._write(approximate=None)
            store.clean(self.path, self.manifest)

    def _write(self, **changes: Any) -> None:
        changed = replace(self.manifest, **changes)
        if changed != self.manifest:
            store.write_manifest(self.path, changed)
        self.manifest = changed


def _rows(chunk: DecodedChunk, file: int, first_id: int) -> np.ndarray:
    rows = np.empty(len(chunk.frame_slots), store.ROW)
    rows["id"] = first_id + np.arange(len(rows))
    rows["file"], rows["frames"] = file, (chunk.frame_slots >= 0).sum(axis=1)
    rows["start"], rows["end"] = chunk.spans.T
    return rows


def _ranges(
    old: tuple[tuple[int, int], ...], new: Iterable[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """Ranges of ids in ascending order, those that touch joined."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted({*old, *new}):
        if joined and low <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    return tuple(joined)
