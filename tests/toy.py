"""A training problem of seconds: random features, real captions, an untrained CLIP."""

from pathlib import Path

import torch

from glscl.config import TrainConfig
from glscl.data.loader import FrameFeatures
from glscl.data.pairs import CachedVideos
from glscl.data.split import CaptionItem, Split, VideoItem
from glscl.model import GLSCL
from glscl.optim import freeze
from glscl.retriever import Retriever
from glscl.runs import METHODS

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "star", "ring")


def toy_split(videos: int = 16, captions: int = 2, name: str = "train") -> Split:
    """``captions`` different sentences about each video."""
    items = tuple(
        VideoItem(f"{name}{i}", Path(f"{name}{i}.mp4")) for i in range(videos)
    )
    texts = tuple(
        CaptionItem(f"a {COLOURS[i % 4]} {SHAPES[i // 4 % 4]} number {i} {j}", i)
        for i in range(videos)
        for j in range(captions)
    )
    return Split(name, items, texts)


def toy_videos(
    videos: int = 16, captions: int = 2, name: str = "train", patches: int = 0
) -> CachedVideos:
    """Random features of 5 frames, of which the last ones are padding in some videos.

    With ``patches`` every frame has as many after it.
    """
    generator = torch.Generator().manual_seed(3)
    rows = (1 + patches,) if patches else ()
    frames = torch.randn(
        videos, 5, *rows, 128, generator=generator, dtype=torch.float64
    )
    mask = torch.arange(5) < torch.randint(2, 6, (videos, 1), generator=generator)
    # In float64 and brought to the default dtype, so that tests can choose it.
    real = mask.view(*mask.shape, *(1 for _ in frames.shape[2:]))
    frames = (frames * real).to(torch.get_default_dtype())
    features = FrameFeatures(frames, mask)
    return CachedVideos(toy_split(videos, captions, name), features)


def toy_model(seed: int = 0, **changes: object) -> GLSCL:
    """The mini GLSCL with random weights and one layer in every new module."""
    small = {
        "temporal_layers": 1,
        "num_decoder_layers": 1,
        "num_queries": 3,
        "max_words": 16,
        "pretrained": None,
    }
    torch.manual_seed(seed)
    model = GLSCL.from_preset("mini", **{**small, **changes})
    freeze(model, "visual")
    return model


def toy_related(method: str, seed: int = 0, **changes: object) -> Retriever:
    """EERCF or GLCCL of the mini preset, random weights, a frame transformer of one."""
    small = {"temporal_layers": 1, "max_words": 16, "max_frames": 5, "pretrained": None}
    torch.manual_seed(seed)
    model = METHODS[method].from_preset("mini", **{**small, **changes})
    freeze(model, "visual")
    return model


def toy_recipe(**changes: object) -> TrainConfig:
    """Two epochs of batches of 8 by the mini recipe."""
    values = {
        "epochs": 2,
        "batch_size": 8,
        "eval_batch_size": 7,
        "optimiser": "adamw",
        "learning_rate": 1e-3,
        "clip_lr_scale": 0.1,
        "schedule": "cosine",
        "epoch_over": "videos",
        "freeze": "visual",
        "augment": None,
    }
    return TrainConfig(**{**values, **changes})


def weights(model: Retriever) -> dict[str, torch.Tensor]:
    """A copy of every weight by name."""
    return {name: x.detach().clone() for name, x in model.state_dict().items()}
