"""What chapters share: their clips, CLIP and its cached features, loaded by one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from book.experiments.ablations import Setup
    from glscl.backbone import Backbone
    from glscl.data.loader import FrameSpec
    from glscl.data.pairs import CachedVideos

SIZES = ("train_clips", "val_clips", "test_clips")


class Chapter(NamedTuple):
    """The data of a chapter: clips with their contents, CLIP, and features by split.

    ``benchmark`` has ``clips`` and ``captions`` with what they show where it is the
    built-in one.
    """

    benchmark: Any
    clip_model: Backbone
    spec: FrameSpec
    videos: dict[str, CachedVideos]

    def pictures(self, split: str, b: int) -> NDArray[np.uint8]:
        """The sampled frames (F, H, W, 3) of video ``b``."""
        from glscl.data.frames import read_frames

        path = self.videos[split].split.videos[b].path
        return read_frames(path, self.spec.max_frames, self.spec.sample_fps)


def load(parameters: Mapping[str, Any], *splits: str) -> Chapter:
    """The data, the frozen CLIP and the features of ``splits`` of a chapter.

    ``parameters``: the chapter's ``globals()``, with the parameters that all chapters
    name alike; ``device`` must be decided. Clips that are not there are made, features
    are kept on disk. Raises what ``DataSource.open`` and ``load_backbone`` raise.
    """
    from glscl.backbone import MINI, load_backbone
    from glscl.config import EncoderConfig
    from glscl.data.loader import FrameCache
    from glscl.evaluate import cached_videos, frame_spec
    from glscl.mini.synthetic import make_benchmark
    from glscl.runs import DataSource

    p = parameters
    train, val, test = (p[name] for name in SIZES)
    source = DataSource(p.get("dataset", MINI), Path(p["data_root"]))
    if source.name == MINI:
        benchmark: Any = make_benchmark(source.root, train, val, test, p["seed"])
    else:
        benchmark = source.open()
    sizes = {"train": train, "val": val, "test": test}
    clip_model = load_backbone(p["backbone"], p["pretrained"]).to(p["device"])
    clip_model.requires_grad_(False)
    max_frames = p.get("max_frames", EncoderConfig.max_frames)
    config = EncoderConfig(max_frames=max_frames, sample_fps=p["sample_fps"])
    videos = {
        name: cached_videos(
            benchmark.split(name).first(sizes[name]),
            clip_model,
            config,
            source.cache_folder,
            device=p["device"],
            frames=FrameCache(source.cache_folder, share=0.0),  # keep features alone
        )
        for name in splits
    }
    spec = frame_spec(clip_model, config)
    return Chapter(benchmark, clip_model, spec, videos)


def setup(parameters: Mapping[str, Any]) -> Setup:
    """What the trainings of a chapter share, from its ``globals()``."""
    from book.experiments.ablations import Setup

    sizes = {name: parameters[name] for name in SIZES}
    other = {name: parameters[name] for name in ("epochs", "pretrained")}
    return Setup(data=parameters["data_root"], **sizes, **other)
