"""Peak memory of one computation above its inputs, in a process of its own.

    python -m benchmarks.memory CASE N SIZES

prints the MiB; SIZES as JSON. Linux only: reads the process's own peak from /proc.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import torch

from benchmarks.data import random_features, scoring_model
from benchmarks.gim_loss_memory import CLEAR, resident_mib
from benchmarks.released import released_scores, unused_mlp
from book.experiments.formulas import Sizes
from glscl.evaluate import caption_scores
from glscl.gim import global_similarity
from glscl.lim import local_similarity
from glscl.metrics import retrieval_metrics
from glscl.model import GLSCL

CASES = (
    "GIM, Gram form",
    "GIM, direct, 8 videos at a time",
    "LIM, one product",
    "full score, decoding included",
    "full score, concepts at hand",
    "released schedule",
)


GALLERY = 1000  # videos of the evaluation below


def evaluation(captions: int, sizes: Sizes) -> Callable[[], object]:
    """Encoding, scoring and ranking of captions by the mini model, scores included."""
    model = GLSCL.from_preset("mini").eval()
    frames = torch.randn(GALLERY, sizes.F, model.backbone.embed_dim)
    gallery = model.encode_video_features(frames, torch.ones(GALLERY, sizes.F).bool())
    texts = ["a small red circle moves left, then a blue star spins"] * captions
    own = torch.arange(captions) % GALLERY
    return lambda: retrieval_metrics(
        caption_scores(model, texts, gallery), caption_to_video=own
    )


def case(name: str, N: int, sizes: Sizes) -> Callable[[], object]:
    """The computation called ``name`` on N captions and N videos."""
    if name == "evaluation":
        return evaluation(N, sizes)
    features = random_features(N, N, sizes)
    text, video = features.text(), features.video()
    if name.startswith("GIM"):
        direct = {"method": "direct", "chunk": 8} if "direct" in name else {}
        return lambda: global_similarity(
            text.captions, video.frames, video.mask, **direct
        )
    model = scoring_model(sizes)
    if name == "released schedule":
        mlp = unused_mlp(sizes.D)
        return lambda: released_scores(*features, model.lim_video, mlp)
    if name != "full score, decoding included":
        video = video._replace(concepts=model.lim_video(video.frames))
        text = text._replace(concepts=model.lim_text(text.tokens))
    if name == "LIM, one product":
        return lambda: local_similarity(text.concepts, video.concepts)
    return lambda: model.similarity(text, video)


def extra_mib(name: str, N: int, sizes: Sizes) -> float:
    """Peak MiB above the inputs, measured in a fresh process."""
    arguments = [name, str(N), json.dumps(vars(sizes))]
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    # Memory that was freed before could be used again without being counted; with this
    # setting glibc returns blocks of this size or more at once.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    )
    return float(result.stdout)


@torch.no_grad()
def main(name: str, N: int, sizes: Sizes) -> float:
    case(name, 4, sizes)()  # threads and libraries are not the computation's memory
    run = case(name, N, sizes)
    CLEAR.write_text("5")  # the kernel's way to reset the peak
    before = resident_mib("VmRSS")
    run()
    return resident_mib("VmHWM") - before


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), Sizes(**json.loads(sys.argv[3]))))
