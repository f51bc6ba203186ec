"""What ``python -m benchmarks`` measures, each part a function that returns plain data.

Times are of the fastest run. Compare ratios, not times: a ratio is of times taken in
turns within one run, while absolute times depend on the machine and on its other load.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.data import random_features, scoring_model
from benchmarks.fused import compile_for, fused_similarity
from benchmarks.memory import CASES, GALLERY, extra_mib
from benchmarks.released import released_macs, released_scores, unused_mlp
from benchmarks.timing import fastest, rounds, typical_ratio
from book.experiments import formulas
from book.experiments.formulas import Sizes
from book.experiments.shipped_heads import (
    Head,
    State,
    Texts,
    Videos,
    part_of,
    reference_heads,
)
from glscl.backbone import load_backbone
from glscl.gim import global_similarity
from glscl.lim import LocalInteraction, local_similarity
from glscl.metrics import retrieval_metrics

Data = dict[str, Any]
FUSED = "GIM, one compiled kernel"
CHUNKS = (1, 4, 16, 64)  # videos at a time, of which the fastest is taken for a head


@torch.no_grad()
def released_against_package(N: int, target: int, sizes: Sizes, repeats: int) -> Data:
    """(a) The released schedule at N × N, the package at N and ``target``, the ratios.

    The schedule's time at ``target`` is its time at N times the quotient of its MACs.
    """
    model, mlp = scoring_model(sizes), unused_mlp(sizes.D)
    features = random_features(N, N, sizes)
    text, video = features.text(), features.video()
    large = random_features(target, target, sizes)
    large_text, large_video = large.text(), large.video()
    with_text = large_text._replace(concepts=model.lim_text(large.tokens))
    with_video = large_video._replace(concepts=model.lim_video(large.frames))
    lim = model.lim_video
    seconds = fastest(
        {
            "released": lambda: released_scores(*features, lim, mlp),
            "released, no MLP": lambda: released_scores(*features, lim, None),
            "this package": lambda: model.similarity(text, video),
            "this package at target": lambda: model.similarity(large_text, large_video),
            "this package at target, decoded before": lambda: model.similarity(
                with_text, with_video
            ),
        },
        repeats,
        warm=False,
    )
    released = released_scores(*features, lim, mlp)
    scores = model.similarity(text, video)
    grown = {
        unused: released_macs(target, sizes, unused) / released_macs(N, sizes, unused)
        for unused in (True, False)
    }
    at_target = seconds["released"] * grown[True]
    at_target_no_mlp = seconds["released, no MLP"] * grown[False]
    return {
        "N": N,
        "target": target,
        "seconds": seconds,
        "released_seconds_at_target": at_target,
        "released_no_mlp_seconds_at_target": at_target_no_mlp,
        "ratio_at_N": seconds["released"] / seconds["this package"],
        "ratio_at_target": at_target / seconds["this package at target"],
        "ratio_at_target_no_mlp": at_target_no_mlp / seconds["this package at target"],
        "ratio_at_target_decoded_before": at_target
        / seconds["this package at target, decoded before"],
        "macs_ratio_at_target": released_macs(target, sizes, True)
        / formulas.folded_macs(sizes)["GLSCL"].total(target, target),
        "largest_difference": float((released - scores).abs().max()),
        "same_metrics": retrieval_metrics(released) == retrieval_metrics(scores),
        "share_of_captions_with_same_order": float(
            (released.argsort(1) == scores.argsort(1)).all(1).float().mean()
        ),
        "largest_gap_ordered_otherwise": largest_gap_ordered_otherwise(
            released, scores
        ),
    }


def largest_gap_ordered_otherwise(a: Tensor, b: Tensor) -> float:
    """How far apart in ``a`` (A, B) two videos of a caption lie that ``b`` swaps.

    0 where both order all videos of every caption alike. A value no larger than twice
    the error of the scores is a tie that rounding decided.
    """
    gaps = [0.0]
    for x, y in zip(a, b, strict=True):
        swapped = (x[:, None] > x) & (y[:, None] < y)
        gaps.extend((x[:, None] - x)[swapped].tolist())
    return max(gaps)


@torch.no_grad()
def against_bare_product(N: int, sizes: Sizes, repeats: int) -> Data:
    """(b) Scoring against the one matrix product that it needs in any case.

    The product is timed twice: into memory that was used before, and into new memory,
    as a large result gets it in a fresh process, where it waits for the system's pages.
    Where there is a compiler, also GIM with its arithmetic in one compiled kernel.
    """
    x = random_features(N, N, sizes)
    mask = torch.ones(N, sizes.F, dtype=torch.bool)
    rows = x.frames.reshape(N * sizes.F, sizes.D)
    text, video = (torch.randn(N, sizes.Q, sizes.D) for _ in range(2))
    result = torch.empty(N * sizes.F, N)
    product = {"bare product": lambda: torch.mm(rows, x.captions.T, out=result)}
    paged = {
        "bare product, into new memory": lambda: torch.mm(
            rows, x.captions.T, out=_new_memory(N * sizes.F, N)
        )
    }
    package = {"GIM, Gram form": lambda: global_similarity(x.captions, x.frames, mask)}
    compiled = compile_for(x.captions, x.frames)
    if compiled is not None:
        package[FUSED] = lambda: fused_similarity(x.captions, x.frames, compiled[0])
    package["LIM, one product"] = lambda: local_similarity(text, video)
    direct = {
        "GIM, direct, 8 videos at a time": lambda: global_similarity(
            x.captions, x.frames, mask, method="direct", chunk=8
        ),
    }
    # Separately: memory that the direct form returns to the allocator slows down what
    # runs after it and speeds up the product, neither of which happens in an evaluation.
    seconds = rounds(product | paged | package, repeats)
    ratios = {k: typical_ratio(s, seconds["bare product"]) for k, s in seconds.items()}
    slow = rounds(product | direct, max(1, repeats // 5))
    for name in direct:
        seconds[name] = slow[name]
        ratios[name] = typical_ratio(slow[name], slow["bare product"])
    gram = global_similarity(x.captions, x.frames, mask)
    direct = global_similarity(
        x.captions.double(), x.frames.double(), mask, method="direct", chunk=8
    )
    found = {
        "N": N,
        "seconds": {name: min(s) for name, s in seconds.items()},
        "times_the_product": ratios,
        "largest_error": float((gram - direct).abs().max()),
    }
    if compiled is not None:
        kernel, compile_seconds = compiled
        fused = fused_similarity(x.captions, x.frames, kernel)
        gain = found["seconds"]["GIM, Gram form"] - found["seconds"][FUSED]
        found |= {
            "compile_seconds": compile_seconds,
            "compiled_largest_error": float((fused - direct).abs().max()),
            # Where it is no faster, compiling it never saves time.
            "pairs_that_pay": N * N * compile_seconds / gain if gain > 0 else None,
        }
    return found


def _new_memory(*shape: int) -> Tensor:
    """A float32 tensor whose pages the system has not allocated yet."""
    pages = mmap.mmap(-1, 4 * math.prod(shape))
    return torch.frombuffer(pages, dtype=torch.float32).view(shape)


def in_chunks(head: Head, query: State, video: State, size: int) -> Tensor:
    """The pair phase, ``size`` videos at a time."""
    parts = (part_of(video, slice(i, i + size)) for i in range(0, len(video[0]), size))
    return torch.cat([head.per_pair(query, part) for part in parts], dim=1)


@torch.no_grad()
def every_head(
    A: int, B: int, sizes: Sizes, repeats: int, device: torch.device | str = "cpu"
) -> list[Data]:
    """(c) Seconds of each head's pair phase for 10⁶ pairs, plain and folded.

    Measured on A × B pairs, in chunks of the size that is fastest for the head, beside
    its counted MACs, and on CUDA its peak memory.
    """
    torch.manual_seed(0)
    x = random_features(A, B, sizes).to(device)
    texts = Texts(x.captions, x.tokens)
    patches = torch.randn(B, sizes.F, sizes.P, sizes.D).to(device)
    videos = Videos(x.frames, patches)
    plain_macs, folded_macs = formulas.head_macs(sizes), formulas.folded_macs(sizes)
    rows = []
    for name, (plain, folded) in reference_heads(sizes, global_similarity).items():
        million = 1e6 / (A * B)
        forms = {"plain": plain} | ({} if folded is None else {"folded": folded})
        runs, states = {}, {}
        for form, head in forms.items():
            head.to(device)
            states[form] = head.per_query(texts), head.per_video(videos)
            runs[form] = _best_chunk(head, *states[form])
        seconds = fastest(runs, repeats)
        row: Data = {
            "head": name,
            "macs_per_pair": plain_macs[name].pair,
            "seconds": seconds["plain"] * million,
            **_peaks(runs, device),
        }
        if folded is not None:
            exact = _in_double(plain, texts, videos)
            error = (runs["folded"]().double() - exact).abs().max()
            row |= {
                "folded_macs_per_pair": folded_macs[name].pair,
                "folded_seconds": seconds["folded"] * million,
                "speedup": seconds["plain"] / seconds["folded"],
                "folded_relative_error": float(error / exact.abs().max()),
            }
        rows.append(row)
    return rows


def _best_chunk(head: Head, query: State, video: State) -> Callable[[], Tensor]:
    runs = {
        str(size): (lambda size=size: in_chunks(head, query, video, size))
        for size in CHUNKS
    }
    seconds = {}
    for size, run in runs.items():
        try:
            seconds |= fastest({size: run}, repeats=1)
        except torch.OutOfMemoryError:
            break  # larger chunks need more
    return runs[min(seconds, key=lambda size: seconds[size])]


def _peaks(
    runs: dict[str, Callable[[], Tensor]], device: torch.device | str
) -> dict[str, float]:
    """Peak MiB of the pair phase above what was there before, of each form; on CUDA."""
    found = {}
    if torch.device(device).type == "cuda":
        for form, run in runs.items():
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            peak = (torch.cuda.max_memory_allocated() - before) / 2**20
            found["peak_mib" if form == "plain" else "folded_peak_mib"] = peak
    return found


def _in_double(head: Head, texts: Texts, videos: Videos) -> Tensor:
    """The head's scores in float64; its weights return to float32."""
    head.double()
    try:
        query = head.per_query(Texts(*(x.double() for x in texts)))
        video = head.per_video(Videos(videos.frames.double()))
        return in_chunks(head, query, video, 4)
    finally:
        head.float()


def memory(N: int, released_N: int, sizes: Sizes) -> Data:
    """(d) Peak MiB above the inputs, each in a fresh process."""
    sizes_of = {name: released_N if "released" in name else N for name in CASES}
    return {
        name: {"N": n, "extra_mib": extra_mib(name, n, sizes)}
        for name, n in sizes_of.items()
    }


def evaluation(captions: tuple[int, ...], sizes: Sizes) -> list[Data]:
    """(d) Peak MiB of a whole evaluation, and of the scores that it returns."""
    return [
        {
            "captions": n,
            "videos": GALLERY,
            "scores_mib": n * GALLERY * 4 / 2**20,
            "extra_mib": extra_mib("evaluation", n, sizes),
        }
        for n in captions
    ]


@torch.no_grad()
def growth(
    N: int, sizes: Sizes, steps: dict[str, tuple[int, ...]], repeats: int
) -> list[Data]:
    """(e) Time of GIM, LIM product and decoding while one of N, F, Q grows."""
    rows = []
    for axis, values in steps.items():
        for value in values:
            items = value if axis == "N" else N
            s = sizes if axis == "N" else replace(sizes, **{axis: value})
            x = random_features(items, items, s)
            mask = torch.ones(items, s.F, dtype=torch.bool)
            concepts = torch.randn(items, s.Q, s.D)
            lim = LocalInteraction(s.D, s.Q, s.decoder_layers, s.H).eval()
            first = x.frames[:64]
            seconds = fastest(
                {
                    "GIM": lambda x=x, m=mask: global_similarity(
                        x.captions, x.frames, m
                    ),
                    "LIM product": lambda c=concepts: local_similarity(c, c),
                    "decoding 64 videos": lambda lim=lim, v=first: lim(v),
                },
                repeats,
            )
            rows.append({"axis": axis, "value": value, "N": items, "seconds": seconds})
    return rows


@torch.no_grad()
def throughput(
    sizes: Sizes, items: int, batch: int, backbone: str, repeats: int
) -> Data:
    """(f) Items a second: decoding concepts, and encoding with ``backbone``."""
    lim = LocalInteraction(sizes.D, sizes.Q, sizes.decoder_layers, sizes.H).eval()
    x = random_features(items, items, sizes)
    clip = load_backbone(backbone, None)
    pixels = torch.randn(batch, 3, clip.image_size, clip.image_size)
    ids = torch.ones(batch, min(sizes.L, clip.context_length), dtype=torch.long)

    def as_defined(tokens: Tensor) -> Tensor:
        queries = lim.queries.expand(len(tokens), -1, -1)
        return nn.functional.normalize(lim.decoder(queries, tokens), dim=-1)

    seconds = fastest(
        {
            "captions decoded": lambda: lim(x.tokens),
            "captions decoded, as defined": lambda: as_defined(x.tokens),
            "videos decoded": lambda: lim(x.frames),
            "videos decoded, as defined": lambda: as_defined(x.frames),
            "frames encoded": lambda: clip.encode_image(pixels),
            "captions encoded": lambda: clip.encode_text(ids),
        },
        repeats,
    )
    per_second = {
        name: (batch if "encoded" in name else items) / s for name, s in seconds.items()
    }
    return {
        "backbone": backbone,
        "items": items,
        "batch": batch,
        "per_second": per_second,
    }
