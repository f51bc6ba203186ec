"""EERCF in two stages against dense scoring; the three methods per query.

    python -m benchmarks.related_methods --record book/results/related_methods.json

Writes JSON with its provenance. About three minutes and 5 GiB at the published sizes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.data import random_features, scoring_model
from benchmarks.results import provenance
from benchmarks.timing import fastest
from book.experiments.counters import torch_macs
from book.experiments.formulas import Sizes, eercf_macs
from book.experiments.related_methods import top_agreement
from book.experiments.shipped_heads import eercf_model, glccl_model
from glscl.eercf import EERCF, EERCFText, EERCFVideo
from glscl.util.files import write_json

Data = dict[str, Any]
SHORTLISTS = (10, 20, 50, 100, 200)


def eercf_items(
    N: int, sizes: Sizes, seed: int = 0
) -> tuple[EERCF, EERCFText, EERCFVideo]:
    """EERCF without its encoders, and features of N captions and videos.

    A frame is its video's topic and noise, a patch its frame and noise, and a caption
    is about one frame of its video.
    """
    generator = torch.Generator().manual_seed(seed)

    def near(centre: Tensor, amount: float) -> Tensor:
        noise = torch.randn(centre.shape, generator=generator)
        return normalize(centre + amount * normalize(noise, dim=-1), dim=-1)

    F, P, D = sizes.F, sizes.P, sizes.D
    topics = near(torch.zeros(N, D), 1.0)
    frames = near(topics[:, None].expand(N, F, D), 2.0)
    patches = near(frames[:, :, None].expand(N, F, P, D), 2.0).flatten(1, 2)
    t = near(frames[torch.arange(N), torch.arange(N) % F], 3.0)
    mask = torch.ones(N, F, dtype=torch.bool)
    videos = normalize(frames.mean(dim=1), dim=-1)
    text = EERCFText(t, t)
    return eercf_model(sizes), text, EERCFVideo(videos, frames, frames, mask, patches)


@torch.no_grad()
def two_stage(N: int, sizes: Sizes, shortlists: tuple[int, ...], repeats: int) -> Data:
    """Seconds, counted MACs and agreement for each shortlist, and of dense scoring.

    N captions, all at once, against N videos; frames and patches.
    """
    model, text, video = eercf_items(N, sizes)
    runs: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: model.similarity(text, video),
        "coarse": lambda: model.coarse(text, video),
    }
    for k in shortlists:
        runs[str(k)] = lambda k=k: model.two_stage(text, video, k)
    seconds = fastest(runs, repeats)
    dense = runs["dense"]()
    macs = {name: torch_macs(run) for name, run in runs.items()}
    rows = [
        {
            "k": k,
            "seconds": seconds[str(k)],
            "times_faster": seconds["dense"] / seconds[str(k)],
            "macs": macs[str(k)],
            "times_fewer_macs": macs["dense"] / macs[str(k)],
            "formula_macs": N * eercf_macs(sizes, True, k).per_query(N),
            "top10": top_agreement(dense, runs[str(k)](), 10),
        }
        for k in shortlists
    ]
    return {
        "N": N,
        "dense_seconds": seconds["dense"],
        "coarse_seconds": seconds["coarse"],
        "dense_macs": macs["dense"],
        "formula_dense_macs": N * eercf_macs(sizes, True).per_query(N),
        "shortlists": rows,
    }


@torch.no_grad()
def per_query(N: int, sizes: Sizes, repeats: int) -> list[Data]:
    """What a caption, encoded before, costs against a gallery of N, method by method.

    ``seconds``: of one caption alone; ``batch_seconds``: of one in a batch of 64.
    ``video_bytes``, ``caption_bytes``: what an item keeps in float32.
    """
    x = random_features(64, N, sizes)
    glscl = scoring_model(sizes)
    glccl = glccl_model(sizes)
    eercf, sentences, videos = eercf_items(N, sizes)
    plain = x.text(), x.video()
    decoded = (
        plain[0]._replace(concepts=glscl.text_concepts(plain[0])),
        plain[1]._replace(concepts=glscl.video_concepts(plain[1])),
    )
    fine = EERCFText(*(f[:64] for f in sentences)), videos
    cases = {
        "GLSCL": (glscl.similarity, *decoded),
        "EERCF, dense": (eercf.similarity, *fine),
        "EERCF, two-stage": (eercf.two_stage, *fine),
        "GLCCL, folded": (glccl.similarity, *plain),
    }
    rows = []
    for name, (score, text, video) in cases.items():
        one = type(text)(*(None if f is None else f[:1] for f in text))
        seconds = fastest(
            {
                "one": lambda s=score, t=one, v=video: s(t, v),
                "batch": lambda s=score, t=text, v=video: s(t, v),
            },
            repeats,
        )
        rows.append(
            {
                "method": name,
                "seconds": seconds["one"],
                "batch_seconds": seconds["batch"] / len(text.captions),
                "video_bytes": _bytes(video),
                "caption_bytes": _bytes(text),
            }
        )
    return rows


def _bytes(features: tuple[Tensor | None, ...]) -> int:
    """Bytes of one item."""
    return sum(x[0].numel() * x.element_size() for x in features if x is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, required=True, help="where to write")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    small = arguments.small
    sizes = Sizes(D=64, F=3, L=4, Q=2, P=2) if small else Sizes()
    N, shortlists, repeats = (24, (2, 5), 1) if small else (1000, SHORTLISTS, 3)
    started = provenance(arguments.threads, small)
    started["command"] = "python -m benchmarks.related_methods" + " --small" * small
    results = {
        "provenance": started,
        "sizes": vars(sizes),
        "two_stage": two_stage(N, sizes, shortlists, repeats),
        "per_query": per_query(N, sizes, repeats),
    }
    started["load_after"] = os.getloadavg()[0]
    write_json(arguments.record, results)


if __name__ == "__main__":
    main()
