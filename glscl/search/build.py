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
from glscl.retriever import Retriever
from glscl.runs import METHODS, load_model
from glscl.search import table
from glscl.search.table import About, Columns, FileRecord, Snapshot
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


# ---- models ------------------------------------------------------------------------


def search_model(source: str | Path, method: str = "glscl") -> Retriever:
    """The model that ``source`` names.

    A folder of a saved model, which says its method; or a CLIP model, as open_clip's
    ``NAME`` or ``NAME:WEIGHTS``, ``mini`` is the built-in one. A CLIP model becomes one
    of ``method`` without training, without frame transformer and without GLSCL's LIM.

    Raises ``ValueError`` for unknown names and methods that mean nothing untrained.
    """
    if Path(source).is_dir():
        return load_model(source)
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}: expected one of {list(METHODS)}.")
    if METHODS[method].starts_at_random:
        raise ValueError(
            f"{method} has weights that start at random, so {source} alone finds "
            "nothing: name the folder of a trained model."
        )
    changes: dict[str, Any] = {"temporal_layers": 0}
    if method == "glscl":
        changes["local"] = False
    name, _, weights = str(source).partition(":")
    if name == "mini":
        return METHODS[method].from_preset("mini", **changes)
    changes |= {"backbone": name, "pretrained": weights or "openai"}
    return METHODS[method].from_preset("msrvtt", **changes)


def known_model(path: str) -> dict[str, Any]:
    """What identifies the model of the index at ``path``, empty without an index."""
    try:
        return Snapshot(path).about.model
    except FileNotFoundError:
        return {}


def model_fingerprint(model: Retriever) -> dict[str, Any]:
    """What identifies a model: its settings, method, backbone and weights (a digest)."""
    return {
        **asdict(model.config),
        "method": model.method,
        "backbone": model.backbone.name,
        "digest": weights_digest(model),
    }


def check_model(about: About, model: Retriever, path: str) -> None:
    """Raise ``ValueError`` where the features at ``path`` are of another model."""
    present, stored = model_fingerprint(model), about.model
    differ = [name for name, value in present.items() if stored.get(name) != value]
    if differ:
        raise ValueError(
            f"The index {path} was made with a model of another {', '.join(differ)}: "
            "search with that model, or make another index."
        )


def packed(model: Retriever, video: Any) -> Columns:
    """Features of videos as they are stored, and the coarse vectors.

    The mask of the frames is not: it is that of ``times``.
    """
    features = {"coarse": model.coarse_video(video), **video._asdict()}
    return {
        name: x.half().cpu().numpy()
        for name, x in features.items()
        if x is not None and name != "mask"
    }


# ---- updating ----------------------------------------------------------------------


@torch.no_grad()
def update(
    path: str | Path,
    folder: Path,
    model: Retriever,
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
    how the videos of a new index are cut. ``source``: what ``search_model`` makes
    ``model`` of, for later searches. ``workers``: processes that decode.
    ``retry_broken``: read again what could not be read. ``shard``: i and n, this process
    takes the i-th of n shares of the files, from 0; others take the rest, at any time. A
    call for all files afterwards leaves the index tidy: joined parts, the clusters of a
    large collection.

    Raises ``ValueError`` where the index is of another model, folder or cut, or no video
    is there; ``RuntimeError`` where another process is writing it; ``OSError`` where this
    machine fails, as by a full disk.
    """
    path, report, folder = str(path), Report(), folder.resolve()
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
        chunks = decoded_chunks(paths, spec, Windows(**about.windows), workers)
        groups = _grouped(chunks)
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
                writer.write(CHECKPOINT_ROWS)
        writer.write()
        if shard[1] == 1 and (report.added or report.changed or report.removed):
            with report.timed("write"):
                table.maintain(path)
    return report


@contextmanager
def _only_writer(path: str, shard: tuple[int, int]) -> Iterator[None]:
    """Keep another writer of this share away. In an object store both are let work."""
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
    path: str,
    folder: Path,
    model: Retriever,
    windows: Windows | None,
    source: str | None,
) -> About:
    """What the index is about; it is made where there is none."""
    try:
        about = Snapshot(path).about
    except FileNotFoundError:
        fingerprint = {**model_fingerprint(model), "source": source}
        new = About(str(folder), fingerprint, asdict(windows or Windows()))
        F, side = model.config.max_frames, model.backbone.image_size
        mask = torch.ones(1, F, dtype=torch.bool, device=model.kappa.device)
        blank = model.encode_video(mask.new_zeros(1, F, 3, side, side).float(), mask)
        times = np.zeros((1, F), np.float32)
        table.create(path, new, {"times": times, **packed(model, blank)})
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

    def named(values: dict[Path, Any]) -> dict[str, Any]:
        names = (
            table.stored_path(path.relative_to(folder).as_posix()) for path in values
        )
        return dict(zip(names, values.values(), strict=True))

    return named(found), named(unreadable)


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
    group: list[DecodedChunk], model: Retriever, device: torch.device | str
) -> list[Columns]:
    """The features of each chunk's windows; CLIP encodes all frames together, once."""
    clip, frames = model.backbone, np.concatenate([one.frames for one in group])
    if not len(frames):  # no file of these can be read
        return [{} for _ in group]
    parts = []
    for first in range(0, len(frames), BATCH_FRAMES):
        part = frames[first : first + BATCH_FRAMES]
        pixels = normalise(part, clip.image_mean, clip.image_std).to(device)
        parts.append(model.encode_frames(pixels[None])[0].float())
    encoded = iter(torch.cat(parts).split([len(one.frames) for one in group]))
    columns: list[Columns] = []
    for chunk in group:
        features, slots = next(encoded), torch.from_numpy(chunk.frame_slots).to(device)
        if chunk.error:
            columns.append({})
            continue
        padded = features[slots.clamp_min(0)]
        padded[slots < 0] = 0
        columns.append(packed(model, model.encode_video_features(padded, slots >= 0)))
    return columns


class _Writer:
    """Decides which files of one share to encode, and writes them when they are whole."""

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
        report.broken = dict(hidden)
        wanted = dict(found)
        for name, record in self.old.items():
            if found.get(name) != record.state:
                continue
            if not record.problem:
                report.unchanged += 1
            elif retry_broken or record.decoder != self.decoder:
                continue
            else:
                report.broken[name] = record.problem
            del wanted[name]
        return wanted

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

    def write(self, least: int = 0) -> None:
        """Write the finished files if they have at least so many windows."""
        parts = [part for name in self.finished for part in self.columns[name]]
        count = sum(len(part["path"]) for part in parts)
        if not self.finished or count < least:
            return
        with self.report.timed("write"):
            table.write_files(self.path, self.finished, parts)
        self.report.windows += count
        for name, record in self.finished.items():
            del self.columns[name]
            if not record.problem:
                known = name in self.old and not self.old[name].problem
                (self.report.changed if known else self.report.added).append(name)
        self.finished = {}
