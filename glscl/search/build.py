"""Building an index and keeping it up to date: only what changed is encoded.

Finished videos are written a few hundred windows at a time. Each time one rename makes
the new windows valid and those of the file's older version invalid, so a build may be
killed at any moment, and the next one goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

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
    seconds: dict[str, float] = field(default_factory=dict)

    def spent(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def search_model(source: str | Path) -> GLSCL:
    """The model that ``source`` names.

    A folder that ``GLSCL.save`` wrote, or a CLIP, as ``NAME`` or ``NAME:WEIGHTS`` in
    open_clip's words: then no part is trained further, GIM has no parameters, and the
    frame transformer and the LIM are left out. ``mini`` is the built-in CLIP.

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
    """What the model of the index at ``path`` was made from, if there is an index."""
    if not (path / store.MANIFEST).exists():
        return None
    return store.read_manifest(path).model["source"]


def model_fingerprint(model: GLSCL) -> dict[str, Any]:
    """Which model it is: a digest of its weights, its settings, its backbone's name."""
    return {
        "method": model.method,
        "backbone": model.backbone.name,
        "digest": weights_digest(model),  # type: ignore[arg-type]
        "settings": asdict(model.config),
    }


def check_model(manifest: Manifest, model: GLSCL, path: Path) -> None:
    """Raise ``ValueError`` where the features at ``path`` are of another model."""
    ours, theirs = model_fingerprint(model), {**manifest.model, "source": None}
    for key, value in ours.items():
        if theirs[key] != value:
            there = theirs["settings"].items() if key == "settings" else ()
            differ = [name for name, one in there if value.get(name) != one]
            what = f"settings ({', '.join(differ)})" if differ else key
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
    checkpoint_rows: int = 256,
    approximate_from: int = APPROXIMATE_FROM,
    progress: bool = True,
) -> Report:
    """Bring the index at ``path`` up to date with ``folder``.

    ``windows``: how videos are cut, for a new index. ``source``: what ``search_model``
    makes ``model`` from, kept for those who search later. ``workers``: processes that
    decode. ``checkpoint_rows``: windows that a kill may cost. ``approximate_from``:
    windows from which the coarse stage is approximate.

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
        writer = _Update(path, _opened(path, folder, model, windows, source), model)
        wanted = writer.compare(_listing(folder, path))
        paths = [folder / name for name in wanted]
        spec = frame_spec(model.backbone, model.config)
        cuts = Windows(**writer.manifest.windows)
        stream = decoded_chunks(paths, spec, cuts, workers)
        names, pending = list(wanted), 0
        bar = tqdm(
            total=len(names), desc="indexing", unit="video", disable=not progress
        )
        with bar:
            for group in _grouped(stream, BATCH_FRAMES):
                encoded = _encode(group, model, device, writer.report)
                for chunk, features in zip(group, encoded, strict=True):
                    name = names[chunk.file]
                    pending += writer.take(name, wanted[name], chunk, features)
                    bar.update(chunk.last)
                if pending >= checkpoint_rows:
                    writer.checkpoint()
                    pending = 0
        writer.checkpoint()
        writer.compact(approximate_from)
    writer.report.seconds["total"] = time.perf_counter() - begin
    return writer.report


def _opened(
    path: Path, folder: Path, model: GLSCL, windows: Windows | None, source: str | None
) -> Manifest:
    """The manifest to go on from, its index cleaned of what a kill has left."""
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
    """Every video below ``folder`` with its present state; no file of the index itself."""
    found = {}
    for file in list_videos(folder):
        if index.resolve() not in file.parents:
            stat = file.stat()
            name = file.relative_to(folder).as_posix()
            found[name] = FileState(stat.st_size, stat.st_mtime_ns)
    if not found:
        raise ValueError(f"There is no video below {folder}.")
    return found


def _grouped(
    stream: Iterable[DecodedChunk], frames: int
) -> Iterator[list[DecodedChunk]]:
    """Pieces together until they hold ``frames`` frames."""
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
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What is stored of each chunk: (W, F + Q, D) and (W, D), float16.

    CLIP encodes the frames of all chunks together, each frame once; windows are assembled
    from their features.
    """
    clip, counts = model.backbone, [len(chunk.frames) for chunk in group]
    report.spent("decode", sum(chunk.seconds for chunk in group))
    begin = time.perf_counter()
    frames = np.concatenate([chunk.frames for chunk in group])
    parts = [
        clip.encode_image(normalise(part, clip.image_mean, clip.image_std).to(device))
        for part in np.split(frames, range(BATCH_FRAMES, len(frames), BATCH_FRAMES))
        if len(part)
    ]
    seen = torch.cat(parts).float() if parts else torch.zeros(0, clip.embed_dim)
    report.spent("CLIP", time.perf_counter() - begin)
    begin = time.perf_counter()
    encoded = []
    for chunk, features in zip(group, seen.split(counts), strict=True):
        encoded.append(_windows_of(chunk, features, model))
    report.spent("windows", time.perf_counter() - begin)
    return encoded


def _windows_of(
    chunk: DecodedChunk, features: Tensor, model: GLSCL
) -> tuple[np.ndarray, np.ndarray]:
    frame_slots = torch.from_numpy(chunk.frame_slots).to(features.device)
    if not len(frame_slots):
        config, D = model.config, features.shape[1]
        Q = config.num_queries if config.local else 0
        return np.empty((0, frame_slots.shape[1] + Q, D)), np.empty((0, D))
    mask = frame_slots >= 0
    frames = features[frame_slots.clamp_min(0)] * mask[..., None]
    video = model.encode_video_features(frames, mask)
    return pack_features(video), mean_pool(video)


def pack_features(video: VideoFeatures) -> np.ndarray:
    """Frames and concepts as they are written, padded frames 0: (B, F + Q, D)."""
    frames = video.frames * video.mask[..., None]
    parts = [frames] if video.concepts is None else [frames, video.concepts]
    return torch.cat(parts, dim=1).half().cpu().numpy()


def mean_pool(video: VideoFeatures) -> np.ndarray:
    """The coarse vector of videos, the unit mean of their real frames: (B, D)."""
    total = (video.frames * video.mask[..., None]).sum(dim=1)
    return torch.nn.functional.normalize(total, dim=-1).half().cpu().numpy()


class _Update:
    """An update in progress: finished files wait here for the next checkpoint."""

    def __init__(self, path: Path, manifest: Manifest, model: GLSCL):
        self.path, self.manifest = path, manifest
        self.report = Report()
        self.old = Snapshot(path).live_files()
        self.open: dict[
            str, list[tuple[DecodedChunk, tuple[np.ndarray, np.ndarray]]]
        ] = {}
        self.finished: dict[str, FileState] = {}

    def compare(self, found: dict[str, FileState]) -> dict[str, FileState]:
        """Drop what is gone; the files that must be encoded."""
        report, broken = self.report, self.manifest.broken
        report.removed = sorted(self.old.keys() - found.keys())
        gone = [self.old[name][1] for name in report.removed]
        still = {n: w for n, w in broken.items() if found.get(n) == tuple(w[:2])}
        report.broken = {name: why[2] for name, why in still.items()}
        self._write(dropped=_ranges(self.manifest.dropped, gone), broken=still)
        same = {n for n, (state, _) in self.old.items() if found.get(n) == state}
        report.unchanged = len(same)
        return {n: s for n, s in found.items() if n not in same and n not in still}

    def take(
        self,
        name: str,
        state: FileState,
        chunk: DecodedChunk,
        features: tuple[np.ndarray, np.ndarray],
    ) -> int:
        """Keep what was encoded of a file; how many windows it has if it is complete."""
        if chunk.problem:
            self.open.pop(name, None)
            self.report.broken[name] = chunk.problem
            dropped = [self.old[name][1]] if name in self.old else []
            self._write(
                dropped=_ranges(self.manifest.dropped, dropped),
                broken={**self.manifest.broken, name: (*state, chunk.problem)},
            )
            return 0
        kept = self.open.setdefault(name, [])
        kept.append((chunk._replace(frames=chunk.frames[:0]), features))
        if not chunk.last:
            return 0
        self.finished[name] = state
        return sum(len(one.frame_slots) for one, _ in kept)

    def checkpoint(self) -> None:
        """Write the finished files as a segment, and make it valid."""
        if not self.finished:
            return
        begin = time.perf_counter()
        manifest, names = self.manifest, list(self.finished)
        parts = [(i, one) for i, n in enumerate(names) for one in self.open.pop(n)]
        N = sum(len(chunk.frame_slots) for _, (chunk, _) in parts)
        name, next_id = store.segment_name(manifest), manifest.next_id
        with SegmentWriter(self.path, name, N, manifest) as writer:
            writer.add_files(names, list(self.finished.values()))
            for file, (chunk, features) in parts:
                writer.add(_rows(chunk, file, next_id), chunk.times, *features)
                next_id += len(chunk.frame_slots)
        replaced = [self.old[one][1] for one in names if one in self.old]
        self._write(
            segments=(*manifest.segments, name),
            next_segment=manifest.next_segment + 1,
            next_id=next_id,
            dropped=_ranges(manifest.dropped, replaced),
        )
        for one in names:
            (self.report.changed if one in self.old else self.report.added).append(one)
        self.report.windows += N
        self.finished = {}
        self.report.spent("write", time.perf_counter() - begin)
        self._merge()

    def _merge(self) -> None:
        snapshot = Snapshot(self.path)
        count = store.count_to_merge([len(one.rows) for one in snapshot.segments])
        if count:
            self._rewrite(snapshot, count)

    def _rewrite(self, snapshot: Snapshot, count: int) -> None:
        self.manifest = store.merge_segments(self.path, snapshot, count)
        store.write_manifest(self.path, self.manifest)
        store.clean(self.path, self.manifest)

    def compact(self, approximate_from: int) -> None:
        """Rewrite what is mostly invalid; refresh the approximate index if it is due."""
        begin = time.perf_counter()
        snapshot = Snapshot(self.path)
        if (~snapshot.live).sum() > COMPACT_FROM * len(snapshot.live):
            self._rewrite(snapshot, len(snapshot.segments))
            snapshot = Snapshot(self.path)
        if needs_approximate(snapshot, approximate_from):
            self._write(approximate=write_approximate(self.path, snapshot))
        elif len(snapshot) < approximate_from and self.manifest.approximate:
            self._write(approximate=None)
        store.clean(self.path, self.manifest)
        self.report.spent("write", time.perf_counter() - begin)

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
    """Ranges of ids in order, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted({*old, *new}):
        if joined and low <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    return tuple(joined)
