"""Training steps on a device by precision and arithmetic, beside the losses of a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from glscl.backbone import load_backbone
from glscl.config import get_preset
from glscl.data.split import CaptionItem, Split, VideoItem
from glscl.model import GLSCL
from glscl.train import RunOptions, fit

Data = dict[str, Any]
WARM = 3  # steps of a run that are not counted: kernels are chosen and compiled
STEPS = 8
#: Precisions with the arithmetic of CLIP's weights.
ARITHMETIC = (
    ("fp32", "float32"),
    ("bf16", "float32"),
    ("fp16", "float32"),
    ("fp32", "released"),
    ("bf16", "released"),
)
COMPILED = (("bf16", "float32"),)


class NoiseVideos:
    """Videos of noise held in memory, one caption each."""

    def __init__(self, count: int, frames: int, side: int):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(count, frames, 3, side, side, generator=generator)
        self.mask = torch.ones(frames, dtype=torch.bool)
        videos = tuple(VideoItem(f"noise-{i}", Path("nowhere")) for i in range(count))
        captions = tuple(CaptionItem(f"this is noise {i}", i) for i in range(count))
        self.split = Split("train", videos, captions)

    def load(self, video: int, seed: int) -> tuple[Tensor, Tensor]:
        """Pixels (F, 3, S, S) and their mask, the same for the same video."""
        return self.pixels[video], self.mask


def _fit(
    backbone: str,
    batch: int,
    steps: int,
    options: RunOptions,
    compiled: bool = False,
    dropout: float | None = None,
    arithmetic: str = "float32",
) -> list[dict[str, float]]:
    """The records of ``steps`` steps of the recipe for MSR-VTT, weights at random.

    ``arithmetic``: of CLIP's weights, see ``TrainConfig.clip_arithmetic``.
    """
    preset = get_preset("msrvtt" if backbone != "mini" else "mini")
    config = replace(preset.model, backbone=backbone, pretrained=None)
    if dropout is not None:
        config = replace(config, dropout=dropout)
    torch.manual_seed(0)
    model = GLSCL(load_backbone(backbone, None), config)
    if compiled:
        clip = model.backbone.clip
        clip.visual.compile()
        clip.transformer.compile()
    # A step is an epoch of one batch; every step has the same data and does the same.
    videos = NoiseVideos(batch, config.max_frames, model.backbone.image_size)
    recipe = replace(
        preset.train,
        epochs=steps,
        batch_size=batch,
        augment=None,
        optimiser="bertadam",
        clip_arithmetic=arithmetic,
    )
    return fit(model, videos, recipe, options=options).steps


def training_steps(
    backbone: str, batch: int, device: torch.device, compiled: bool
) -> list[Data]:
    """Seconds, clips a second and peak MiB of a step, by precision and arithmetic.

    ``compiled``: in bf16 alone, with CLIP's towers under ``torch.compile``. Decoding is
    left out.
    """
    cuda = device.type == "cuda"
    rows = []
    for precision, arithmetic in COMPILED if compiled else ARITHMETIC:
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        options = RunOptions(device=device.type, precision=precision, progress=False)
        steps = _fit(
            backbone, batch, WARM + STEPS, options, compiled, arithmetic=arithmetic
        )
        seconds = median(step["seconds"] for step in steps[WARM:])
        peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
        rows.append(
            {
                "precision": precision,
                "clip_arithmetic": arithmetic,
                "compiled": compiled,
                "batch": batch,
                "seconds": seconds,
                "clips_per_second": batch / seconds,
                "peak_mib": peak,
                "first_loss": steps[0]["total"],
            }
        )
    return rows


def agreement(backbone: str, batch: int, device: torch.device) -> Data:
    """The losses of the same first steps in fp32 on the device and on the CPU."""
    losses = {}
    # By default cuDNN rounds the factors of a convolution, CLIP's first layer, to TF32.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for where in ("cpu", device.type):
            options = RunOptions(device=where, progress=False)
            steps = _fit(backbone, batch, 3, options, dropout=0.0)
            losses[where] = [step["total"] for step in steps]
    pairs = zip(losses["cpu"], losses[device.type], strict=True)
    return {
        "batch": batch,
        "losses": losses,
        "largest_relative_difference": max(abs(a - b) / abs(a) for a, b in pairs),
    }
