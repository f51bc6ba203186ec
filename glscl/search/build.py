"""Building an index and keeping it up to date: only what changed is encoded.

Encoded videos are written a few hundred windows at a time, whole files in one
transaction. So a build may be killed at any moment, and the next one goes on from there;
and several may work on one index, each with a share of the files.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
from glscl.data.video import VideoError, decoder_version
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
    if is_folder(source):
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
    if source == "mini":
        return METHODS[method].from_preset("mini", **changes)
    changes |= {"backbone": name, "pretrained": weights or "openai"}
    return METHODS[method].from_preset("msrvtt", **changes)


def is_folder(source: str | Path) -> bool:
    """Whether a source is the folder of a model: ``mini`` is not, ``./mini`` may be."""
    return source != "mini" and Path(source).is_dir()


def known_index(path: str) -> About | None:
    """What all windows of the index at ``path`` have in common, None without an index."""
    try:
        return Snapshot(path).about
    except FileNotFoundError:
        return None


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
    present = model_fingerprint(model)
    # An index that was made before there was a setting has its default.
    stored = asdict(type(model.config)()) | about.model
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
        found = _listing(folder, report)  # before anything is made
        cut = _opened(path, folder, model, windows, source)
        old = _share(table.read_files(path), shard)
        wanted = _compared(path, old, _share(found, shard), retry_broken, report)
        files = _encoded_files(folder, wanted, cut, model, workers, report)
        records, rows = dict[str, FileRecord](), dict[str, Columns]()
        quiet = {} if progress else {"disable": True}  # else TQDM_DISABLE decides
        with tqdm(files, "indexing", len(wanted), unit="video", **quiet) as bar:
            for name, columns, error in bar:
                if error:
                    report.broken[name] = str(error)
                    if error.kind == "machine":  # which says nothing of the file
                        continue
                else:
                    known = name in old and not old[name].problem
                    (report.changed if known else report.added).append(name)
                    rows[name] = columns
                    report.windows += len(columns["times"])
                problem = report.broken.get(name, "")
                records[name] = FileRecord(*wanted[name], problem, decoder_version())
                if sum(len(one["times"]) for one in rows.values()) >= CHECKPOINT_ROWS:
                    _write(path, records, rows, report)
        _write(path, records, rows, report)
        if shard[1] == 1 and (report.added or report.changed or report.removed):
            with report.timed("write"):
                table.maintain(path)
    return report


def _share(files: dict[str, Any], shard: tuple[int, int]) -> dict[str, Any]:
    return {f: x for f, x in files.items() if stable_seed(f) % shard[1] == shard[0]}


def _write(
    path: str, records: dict[str, FileRecord], rows: dict[str, Columns], report: Report
) -> None:
    """Write these files, and forget them here."""
    with report.timed("write"):
        if records:
            table.write_files(path, records, rows)
    records.clear()
    rows.clear()


@contextmanager
def _only_writer(path: str, shard: tuple[int, int]) -> Iterator[None]:
    """Keep another writer of this share away. In an object store both are let work."""
    if "://" in path:
        yield
        return
    Path(path).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Path(path, f".lock-{shard[0]}-of-{shard[1]}"), timeout=0):
            yield
    except Timeout as error:
        raise RuntimeError(f"Another process is writing the index {path}.") from error


def _opened(
    path: str,
    folder: Path,
    model: Retriever,
    windows: Windows | None,
    source: str | None,
) -> Windows:
    """How videos are cut for the index, which is made where there is none."""
    about = known_index(path)
    if about is None:
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
    return Windows(**about.windows)


def _listing(folder: Path, report: Report) -> dict[str, State]:
    """Every video below ``folder``; folders that cannot be listed are broken."""

    def name(path: Path) -> str:
        return table.stored_path(path.relative_to(folder).as_posix())

    unreadable = dict[Path, str]()
    found = {name(x): file_state(x) for x in list_videos(folder, unreadable)}
    if not found and not unreadable:
        raise ValueError(f"There is no video below {folder}.")
    report.broken = {name(x): reason for x, reason in unreadable.items()}
    return found


def _compared(
    path: str,
    old: dict[str, FileRecord],
    found: dict[str, State],
    retry_broken: bool,
    report: Report,
) -> dict[str, State]:
    """Forget the files that are gone; return those to be encoded.

    What is in a folder that cannot be listed is not gone. What was broken for another
    decoder is read again.
    """
    hidden = tuple("" if folder == "." else f"{folder}/" for folder in report.broken)
    gone = [n for n in old if n not in found and not n.startswith(hidden)]
    table.forget_files(path, gone)
    report.removed = sorted(n for n in gone if not old[n].problem)
    wanted, decoder = dict(found), decoder_version()
    for name, record in old.items():
        if found.get(name) != record.state:
            continue
        if not record.problem:
            report.unchanged += 1
        elif retry_broken or record.decoder != decoder:
            continue
        else:
            report.broken[name] = record.problem
        del wanted[name]
    return wanted


def _encoded_files(
    folder: Path,
    wanted: dict[str, State],
    windows: Windows,
    model: Retriever,
    workers: int,
    report: Report,
) -> Iterator[tuple[str, Columns, VideoError | None]]:
    """Each wanted file as soon as it is encoded: the columns of its windows, or why not."""
    names, spec = list(wanted), frame_spec(model.backbone, model.config)
    paths = [folder / table.named_path(name) for name in names]
    groups = _grouped(decoded_chunks(paths, spec, windows, workers))
    parts: dict[int, list[Columns]] = defaultdict(list)
    while True:
        with report.timed("decode"):
            group = next(groups, None)
        if group is None:
            return
        with report.timed("encode"):
            encoded = _encode(group, model)
        for chunk, columns in zip(group, encoded, strict=True):
            parts[chunk.file].append(columns)
            if chunk.last:
                of_file = parts.pop(chunk.file)
                joined = {n: np.concatenate([x[n] for x in of_file]) for n in columns}
                yield names[chunk.file], joined, chunk.error


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


def _encode(group: list[DecodedChunk], model: Retriever) -> list[Columns]:
    """The columns of each chunk's windows; CLIP encodes all frames together, once."""
    clip, device = model.backbone, model.kappa.device
    frames = np.concatenate([one.frames for one in group])
    parts = [torch.empty(0, device=device)]
    for first in range(0, len(frames), BATCH_FRAMES):
        part = frames[first : first + BATCH_FRAMES]
        pixels = normalise(part, clip.image_mean, clip.image_std).to(device)
        parts.append(model.encode_frames(pixels[None])[0].float())
    encoded = torch.cat(parts).split([len(one.frames) for one in group])
    columns: list[Columns] = []
    for chunk, features in zip(group, encoded, strict=True):
        if chunk.error:
            columns.append({})
            continue
        slots = torch.from_numpy(chunk.frame_slots).to(device)
        padded = features[slots.clamp_min(0)]
        padded[slots < 0] = 0
        video = model.encode_video_features(padded, slots >= 0)
        seconds = {"start": chunk.spans[:, 0], "end": chunk.spans[:, 1]}
        columns.append(seconds | {"times": chunk.times} | packed(model, video))
    return columns
