"""The scores and a training step on an accelerator: ``python -m benchmarks.device``.

    python -m benchmarks.device --record book/results/device.json

Scoring at N = 1,000 and 10,000 captions and videos in several precisions, beside the
two bounds of the device: its largest matrix product and its memory. Every head, and
steps of training of the size of ViT-B/32. Needs a CUDA device; ``--small`` runs all of
it on any device in seconds, as a test whose numbers mean nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.data import Features, random_features, scoring_model
from benchmarks.device_training import agreement, training_steps
from benchmarks.fused import Kernel, compile_for, fused_similarity
from benchmarks.measures import every_head
from benchmarks.optimiser import optimiser_steps
from benchmarks.results import provenance, table
from benchmarks.timing import fastest
from book.experiments import formulas
from book.experiments.formulas import Sizes
from glscl.gim import global_similarity
from glscl.lim import local_similarity
from glscl.util.files import write_json, write_text

Data = dict[str, Any]
#: What is rounded: nothing, the factors of a product, or the stored features.
#: GIM and LIM compute in float32 whatever the features are.
PRECISIONS = ("fp32", "tf32", "bf16")
HEAD_COLUMNS = ("seconds", "folded_seconds", "peak_mib", "folded_peak_mib")
CHECKED = 64  # captions whose scores are compared with float64


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether products of float32 may round their factors to TF32 (on CUDA)."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@torch.no_grad()
def bounds(size: int, device: torch.device, repeats: int) -> Data:
    """Multiply-adds a second of a size × size product by precision, and bytes a second.

    The bounds of a roofline plot. Data that fits a cache may move faster than this copy.
    """
    a, b = torch.randn(2, size, size, device=device)
    macs = {}
    for precision in PRECISIONS:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        x, y = a.to(dtype), b.to(dtype)
        out = torch.empty_like(x)
        with tf32(precision == "tf32"):
            run = {precision: lambda x=x, y=y, out=out: torch.mm(x, y, out=out)}
            macs[precision] = size**3 / fastest(run, repeats)[precision]
    copy = fastest({"copy": lambda: b.copy_(a)}, repeats)["copy"]
    moved = 2 * a.numel() * a.element_size()
    return {"macs_per_second": macs, "bytes_per_second": moved / copy}


@torch.no_grad()
def scoring(N: int, sizes: Sizes, device: torch.device, repeats: int) -> list[Data]:
    """N × N scores: seconds, counted MACs, bytes that must move, error.

    ``bytes``: the inputs read and the result written, once. ``largest_error``: against
    float64, of the first captions. "GIM, compiled": in one kernel, made once.
    """
    exact = random_features(N, N, sizes).to(device)
    compiled = compile_for(exact.captions, exact.frames)
    kernel = None if compiled is None else compiled[0]
    right = global_similarity(
        exact.captions[:CHECKED].double(),
        exact.frames.double(),
        exact.video().mask,
        method="direct",
        chunk=8,
    )
    rows = []
    for precision in PRECISIONS:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        x = Features(*(part.to(dtype) for part in exact))
        with tf32(precision == "tf32"):
            runs = _scores(x, sizes, device, kernel)
            seconds = fastest({name: run for name, (run, *_) in runs.items()}, repeats)
            for name, (run, macs, inputs) in runs.items():
                result = run()
                read = sum(part.numel() * part.element_size() for part in inputs)
                row = {
                    "N": N,
                    "what": name,
                    "precision": precision,
                    "seconds": seconds[name],
                    "times_the_product": seconds[name] / seconds["bare product"],
                    "macs": macs,
                    "bytes": read + result.numel() * result.element_size(),
                }
                if name.startswith("GIM"):
                    error = (result[:CHECKED].double() - right).abs().max()
                    row["largest_error"] = float(error)
                rows.append(row)
    return rows


def _scores(
    x: Features, sizes: Sizes, device: torch.device, kernel: Kernel | None
) -> dict[str, tuple[Callable[[], Tensor], int, tuple[Tensor, ...]]]:
    """What is timed, by name: the call, its MACs, and the tensors that it reads."""
    model = scoring_model(sizes).to(device)
    text, video = x.text(), x.video()
    # Decoded in float32, kept like the features.
    text_concepts = model.lim_text(x.tokens.float()).to(x.tokens.dtype)
    video_concepts = model.lim_video(x.frames.float()).to(x.frames.dtype)
    text, video = (
        text._replace(concepts=text_concepts),
        video._replace(concepts=video_concepts),
    )
    A, B, macs = len(x.captions), len(x.frames), formulas.folded_macs(sizes)
    rows = x.frames.reshape(-1, sizes.D)
    runs: dict[str, tuple[Callable[[], Tensor], int, tuple[Tensor, ...]]] = {
        "bare product": (
            lambda: rows @ x.captions.T,
            A * B * sizes.F * sizes.D,
            (x.captions, x.frames),
        ),
        "GIM": (
            lambda: global_similarity(x.captions, x.frames, video.mask),
            A * B * macs["GIM"].pair,
            (x.captions, x.frames),
        ),
        "LIM": (
            lambda: local_similarity(text_concepts, video_concepts),
            A * B * sizes.Q * sizes.D,
            (text_concepts, video_concepts),
        ),
        "GLSCL": (
            lambda: model.similarity(text, video),
            A * B * macs["GLSCL"].pair,
            (x.captions, x.frames, text_concepts, video_concepts),
        ),
    }
    if kernel is not None:
        # Like GIM, in float32 whatever the features are.
        _, *same = runs["GIM"]
        runs["GIM, compiled"] = (
            lambda: fused_similarity(x.captions.float(), x.frames.float(), kernel),
            *same,
        )
    return runs


def parts(device: torch.device, small: bool) -> Iterator[Data]:
    """One part after the other; ``small`` checks that all of it runs."""
    sizes = Sizes(D=32, F=3, L=4, Q=2, P=2, C=4, H=4) if small else Sizes()
    galleries, repeats = ((6, 9), 1) if small else ((1_000, 10_000), 10)
    backbone, batch = ("mini", 4) if small else ("ViT-B-32-quickgelu", 128)
    torch.manual_seed(0)
    yield {
        "sizes": vars(sizes),
        "bounds": bounds(64 if small else 8192, device, repeats),
    }
    yield {
        "scoring": [
            row for N in galleries for row in scoring(N, sizes, device, repeats)
        ]
    }
    yield {
        "heads": [
            {"N": N, **row}
            for N in galleries
            for row in every_head(N, 4 if small else 64, sizes, min(repeats, 3), device)
        ]
    }
    yield {"optimiser": optimiser_steps(backbone, device, min(repeats, 5))}
    yield {"agreement": agreement(backbone, 4 if small else 8, device)}
    training = training_steps(backbone, batch, device, compiled=False)
    yield {"training": training}
    if not small:
        compiled = training_steps(backbone, batch, device, compiled=True)
        yield {"training": training + compiled}


def markdown(results: Data) -> str:
    """The parts as tables under headings."""
    peak = results["bounds"]
    columns = ["N", "what", "precision", "seconds", "times_the_product"]
    return "\n\n".join(
        [
            "# On an accelerator",
            ", ".join(f"{key} {value}" for key, value in results["provenance"].items()),
            "## Bounds",
            table(
                ["precision", "10¹² MACs a second"],
                [(p, m / 1e12) for p, m in peak["macs_per_second"].items()],
            ),
            f"Memory: {peak['bytes_per_second'] / 1e9:,.0f} GB a second.",
            "## Scores",
            table(
                [*columns, "error"],
                [
                    [row[c] for c in columns] + [row.get("largest_error")]
                    for row in results["scoring"]
                ],
            ),
            "## Every head, 10⁶ pairs",
            table(
                ["N", "head", "s", "folded, s", "MiB", "folded, MiB"],
                [
                    [row["N"], row["head"], *(row.get(c) for c in HEAD_COLUMNS)]
                    for row in results["heads"]
                ],
            ),
            "## A training step",
            table(
                list(results["training"][0]),
                [list(row.values()) for row in results["training"]],
            ),
            "## Steps of BertAdam",
            table(
                list(results["optimiser"][0]),
                [list(row.values()) for row in results["optimiser"]],
            ),
            f"Losses here and on the CPU, largest relative difference: "
            f"{results['agreement']['largest_relative_difference']:.1e}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("_build/benchmark"))
    parser.add_argument("--record", type=Path, help="a second place for the JSON")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try it")
    arguments = parser.parse_args()
    if not (torch.cuda.is_available() or arguments.small):
        parser.error(
            "torch finds no CUDA device; --small tries the command without one"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.zeros(1, device=device)  # so that the clock knows of it
    where = provenance(torch.get_num_threads(), arguments.small, "benchmarks.device")
    results: Data = {"provenance": where}
    for part in parts(device, arguments.small):
        results |= part
        write_json(arguments.out / "device.json", results)  # kept if the next one fails
        print("measured:", ", ".join(part), flush=True)
    text = markdown(results)
    write_text(arguments.out / "device.md", text)
    if arguments.record is not None:
        write_json(arguments.record, results)
    print(text)


if __name__ == "__main__":
    main()
