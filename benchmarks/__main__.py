"""All measurements in one run: ``python -m benchmarks``.

Writes ``benchmark.json`` and ``benchmark.md`` to a build folder that git ignores, and
the JSON to ``--record`` as well when that is given. About seven minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from benchmarks.measures import (
    against_bare_product,
    evaluation,
    every_head,
    growth,
    memory,
    released_against_package,
    throughput,
)
from benchmarks.results import provenance, write_results
from book.experiments.formulas import Sizes

GROWTH = {"N": (250, 500, 1000, 2000), "F": (6, 12, 24, 48), "Q": (4, 8, 16, 32)}
SMALL_GROWTH = {"N": (8, 16), "F": (2, 4), "Q": (2, 4)}


def run(small: bool) -> dict[str, object]:
    """Every part; ``small`` runs all of it in seconds, as a test without meaning."""
    sizes = Sizes(D=64, F=3, L=4, Q=2, P=2) if small else Sizes()
    N, n, repeats = (24, 20, 1) if small else (1000, 256, 25)
    steps = SMALL_GROWTH if small else GROWTH
    backbone = "mini" if small else "ViT-B-32-quickgelu"
    items, batch = (8, 2) if small else (128, 8)
    torch.manual_seed(0)
    return {
        "sizes": vars(sizes),
        "released": released_against_package(n, N, sizes, 1 if small else 2),
        "bare_product": against_bare_product(N, sizes, repeats),
        "heads": every_head(n, 16 if small else 64, sizes, 1 if small else 3),
        "memory": memory(N, 20 if small else 64, sizes),
        "evaluation": evaluation((60, 120) if small else (3_000, 30_000), sizes),
        "growth": growth(n if small else 500, sizes, steps, 1 if small else 3),
        "throughput": throughput(sizes, items, batch, backbone, 1 if small else 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("_build/benchmark"))
    parser.add_argument("--record", type=Path, help="a second place for the JSON")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = provenance(arguments.threads, arguments.small)
    results = {"provenance": started, **run(arguments.small)}
    started["load_after"] = os.getloadavg()[0]
    print(write_results(results, arguments.out, arguments.record))


if __name__ == "__main__":
    main()
