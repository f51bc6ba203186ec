"""Memory and time of the GIM loss, forward and backward: Gram form against direct.

    python benchmarks/gim_loss_memory.py --batch 512

runs both forms in fresh processes, in turns, and prints one JSON object: the peak
resident memory above the inputs in MiB, the fastest run in seconds, and the ratios
direct / Gram. Linux only (reads the process's own peak from /proc).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from glscl.gim import global_similarity
from glscl.losses import info_nce

KAPPA = 100.0
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def resident_mib(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak since it was last cleared) in MiB."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"{STATUS} has no field {field}.")


def loss_step(batch: int, frames: int, dim: int, method: str):
    """A function that runs one forward and backward pass on fixed random features."""
    generator = torch.Generator().manual_seed(0)
    captions = torch.randn(batch, dim, generator=generator, requires_grad=True)
    videos = torch.randn(batch, frames, dim, generator=generator, requires_grad=True)
    mask = torch.ones(batch, frames, dtype=torch.bool)

    def step() -> None:
        captions.grad = videos.grad = None
        info_nce(
            KAPPA * global_similarity(captions, videos, mask, method=method)
        ).backward()

    return step


def measure(batch: int, frames: int, dim: int, method: str) -> dict[str, float]:
    """Peak memory above the inputs (MiB) and seconds of one step of one form."""
    # A tiny step first: the threads and the autograd engine are not the loss's memory.
    loss_step(4, frames, dim, method)()
    step = loss_step(batch, frames, dim, method)
    CLEAR.write_text("5")  # the kernel's way to reset VmHWM
    before = resident_mib("VmRSS")
    begin = time.perf_counter()
    step()
    seconds = time.perf_counter() - begin
    return {"extra_mib": resident_mib("VmHWM") - before, "seconds": seconds}


def compare(batch: int, frames: int, dim: int, runs: int) -> dict[str, object]:
    """Both forms ``runs`` times each in fresh processes, alternating."""
    results: dict[str, list[dict[str, float]]] = {"gram": [], "direct": []}
    sizes = ["--batch", str(batch), "--frames", str(frames), "--dim", str(dim)]
    for _ in range(runs):
        for method, found in results.items():
            command = [sys.executable, __file__, *sizes, "--only", method]
            output = subprocess.run(
                command, check=True, capture_output=True, text=True
            ).stdout
            found.append(json.loads(output))
    best = {
        method: {
            "extra_mib": max(run["extra_mib"] for run in found),
            "seconds": min(run["seconds"] for run in found),
        }
        for method, found in results.items()
    }
    return {
        "batch": batch,
        "frames": frames,
        "dim": dim,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **best,
        "memory_ratio": best["direct"]["extra_mib"] / best["gram"]["extra_mib"],
        "time_ratio": best["direct"]["seconds"] / best["gram"]["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=("gram", "direct"), help="one run, one form")
    arguments = parser.parse_args()
    sizes = (arguments.batch, arguments.frames, arguments.dim)
    if arguments.only:
        print(json.dumps(measure(*sizes, arguments.only)))
    else:
        print(json.dumps(compare(*sizes, arguments.runs), indent=2))


if __name__ == "__main__":
    main()
