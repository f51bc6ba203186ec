"""From a split to tensors: decoding once, batching, and two caches on disk.

Both caches write to a temporary name and rename, so a reader in another process never
sees half a file, and a killed writer leaves nothing that a later run would use.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from glscl.data.frames import normalise, pad_frames, read_frames, resize_crop
from glscl.data.split import Split, VideoItem
from glscl.data.videofiles import file_state
from glscl.util import parallel
from glscl.util.files import atomic_path

#: How seconds become frames. Both caches depend on it, so that frames and features of
#: another rule are never reused.
CLOCK = "presentation time"
SHARD = {"frames": 128, "patches": 64}  # videos whose features are in one file


@dataclass(frozen=True)
class FrameSpec:
    """How a video becomes pixels: F, candidate rate, image side, mean, std and rule."""

    max_frames: int
    sample_fps: float
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sampling: str = "stride"


class PaddedVideo(NamedTuple):
    """``pixels`` (F, 3, S, S) and ``frame_mask`` (F,); in a batch (B, F, ...)."""

    pixels: Tensor
    frame_mask: Tensor


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _file_state(item: VideoItem) -> list[object]:
    """What decides the frames of a video: its path, size, time of change and ``CLOCK``."""
    state = file_state(item.path) if item.path.exists() else (None, None)
    return [str(item.path), *state, item.start, item.end, CLOCK]


class FrameCache:
    """Decoded, resized frames on disk, one uint8 file per video and sampling rule.

    Safe for any number of processes: the worst case is that two decode the same video.
    A file that cannot be read back is decoded again. ``share``: of the videos that are
    kept, chosen by their keys.
    """

    def __init__(self, folder: str | Path, share: float = 1.0):
        self.folder, self.share = Path(folder), share

    @classmethod
    def limited(
        cls, folder: Path, split: Split, spec: FrameSpec, gigabytes: float
    ) -> FrameCache:
        """At most about ``gigabytes`` for the videos of a split, 0: none; the size is
        announced where it is more than a gigabyte.
        """
        needed = len(split.videos) * spec.max_frames * 3 * spec.image_size**2 / 1e9
        share = min(1.0, gigabytes / needed)
        if needed > 1 and parallel.rank() == 0:
            tqdm.write(
                f"The frames of {split.name} take {needed:.1f} GB; {share * needed:.1f} "
                f"GB of them are kept in {folder}.",
                file=sys.stderr,
            )
        return cls(folder, share)

    def get(self, item: VideoItem, spec: FrameSpec) -> np.ndarray:
        """Frames (n, S, S, 3), n <= F, from the cache or else from the video."""
        rule = spec.max_frames, spec.sample_fps, spec.sampling, spec.image_size
        key = _digest([_file_state(item), *rule])
        if int(key[:8], 16) >= self.share * 2**32:
            return decode(item, spec)
        path = self.folder / key[:2] / f"{key}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError):
            frames = decode(item, spec)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, frames)
        return frames


def decode(item: VideoItem, spec: FrameSpec) -> np.ndarray:
    """Sampled frames of a video at the size of the backbone: uint8 (n, S, S, 3)."""
    return resize_crop(_sampled(item, spec), spec.image_size)


def _sampled(item: VideoItem, spec: FrameSpec) -> np.ndarray:
    sampling = spec.max_frames, spec.sample_fps, item.start, item.end, spec.sampling
    return read_frames(item.path, *sampling)


@dataclass(eq=False, repr=False)
class VideoDataset(Dataset):
    """The videos of a split as padded pixels, decoded when needed.

    ``augment`` (frames uint8 (n, H, W, 3) and a seed to frames of the same shape), such
    as ``pairs.rand_augment``, is for training only. ``augment_on``: the frames as they
    are ``"decoded"``, which no cache keeps, or ``"resized"``.
    """

    split: Split
    spec: FrameSpec
    cache: FrameCache | None = None
    augment: Callable[[np.ndarray, int], np.ndarray] | None = None
    augment_on: Literal["decoded", "resized"] = "resized"

    def __len__(self) -> int:
        return len(self.split.videos)

    def __getitem__(self, video: int) -> PaddedVideo:
        return self.load(video, 0)

    def load(self, video: int, seed: int) -> PaddedVideo:
        """Video number ``video``; ``seed``: of the augmentation."""
        item, spec = self.split.videos[video], self.spec
        if self.augment and self.augment_on == "decoded":
            frames = self.augment(_sampled(item, spec), seed)
            frames = resize_crop(frames, spec.image_size)
        else:
            frames = self.cache.get(item, spec) if self.cache else decode(item, spec)
            frames = self.augment(frames, seed) if self.augment else frames
        pixels = normalise(frames, spec.mean, spec.std)
        return PaddedVideo(*pad_frames(pixels, spec.max_frames))


def video_loader(dataset: Dataset, batch_size: int, workers: int = 0) -> DataLoader:
    """Batches of ``PaddedVideo``; broken files raise ``VideoError`` by name."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        # A loader draws a number even without shuffling. From a generator of its own,
        # so that what follows is the same whether features were cached or not.
        generator=torch.Generator(),
    )


class FrameFeatures(NamedTuple):
    """``frames`` (B, F, D) of the frozen visual tower and ``frame_mask`` (B, F).

    With patches ``frames`` is (B, F, 1 + P, D), the frame before its patches.
    """

    frames: Tensor
    frame_mask: Tensor


@torch.no_grad()
def encode_frames(
    encode: Callable[[Tensor], Tensor],
    dataset: Dataset,
    batch_size: int = 32,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> FrameFeatures:
    """Features of every frame of every video; padded frames are zero.

    ``encode``: pixels (N, 3, S, S) to features (N, D), such as
    ``Backbone.encode_image``, or of more axes. Only real frames are encoded.
    """
    loader = video_loader(dataset, batch_size, workers)
    parts = []
    for pixels, mask in tqdm(loader, "encoding videos", unit="batch", leave=False):
        real = encode(pixels[mask].to(device)).float().cpu()
        padded = real.new_zeros((*mask.shape, *real.shape[1:]))
        padded[mask] = real
        parts.append(FrameFeatures(padded, mask))
    return FrameFeatures(*map(torch.cat, zip(*parts, strict=True)))


def weights_digest(module: nn.Module) -> str:
    """A hash of every weight, so that features of other weights are never reused."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def stored_features(
    encoder: Any,
    dataset: VideoDataset,
    folder: str | Path,
    workers: int = 0,
    device: torch.device | str = "cpu",
    patches: bool = False,
) -> list[FrameFeatures]:
    """``encode_frames`` of a ``Backbone``, with or without ``patches``, kept on disk.

    Parts of so many videos as ``SHARD`` says, each a file, which the system reads from
    disk where they are used and drops where memory is short. So a run that was killed
    resumes at the last file, and processes of ``torchrun``, which must all call, share
    the files among them. The key of a file covers the weights of ``encoder``, its videos
    and the sampling; one that cannot be read back is made again. Augmented datasets are
    refused (``ValueError``).
    """
    if dataset.augment is not None:
        raise ValueError("Features of augmented frames must not be cached.")
    about = [weights_digest(encoder), asdict(dataset.spec)]
    encode = encoder.encode_image_with_patches if patches else encoder.encode_image
    shard = SHARD["patches" if patches else "frames"]
    numbers = range(len(dataset))
    paths = {}
    for first in numbers[::shard]:
        part = numbers[first : first + shard]
        files = [_file_state(dataset.split.videos[i]) for i in part]
        key = _digest([*about, files, *(["patches"] if patches else [])])
        paths[Path(folder) / f"features-{key}.safetensors"] = part
    for path in list(paths)[parallel.rank() :: parallel.world_size()]:
        if not _is_whole(path):
            videos = Subset(dataset, paths[path])
            features = encode_frames(encode, videos, workers=workers, device=device)
            with atomic_path(path) as temporary:
                save_file(features._asdict(), temporary)
    parallel.barrier()
    return [FrameFeatures(**load_file(path)) for path in paths]


def _is_whole(path: Path) -> bool:
    """Whether a file of features can be read back; safetensors know their length."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()) == set(FrameFeatures._fields)
    except (SafetensorError, OSError):
        return False
