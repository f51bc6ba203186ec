"""Results as a JSON record with its provenance, and as Markdown tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import clock_name
from book.kit.provenance import commit
from glscl.util.files import write_json, write_text


def provenance(threads: int, small: bool, module: str = "benchmarks") -> dict[str, Any]:
    """Where the numbers come from: command, versions, processor, commit, load."""
    return {
        "command": f"python -m {module}" + (" --small" if small else ""),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "clock": clock_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "commit": commit(),
        "load_before": os.getloadavg()[0],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write_results(results: dict[str, Any], out: Path, record: Path | None) -> str:
    """Write the JSON and the Markdown; returns the Markdown."""
    text = markdown(results)
    write_json(out / "benchmark.json", results)
    write_text(out / "benchmark.md", text)
    if record is not None:
        write_json(record, results)
    return text


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers with three significant digits."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(x) for x in line) + " |" for line in lines)


def _cell(x: Any) -> str:
    if x is None:
        return "–"
    if isinstance(x, float):
        return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"
    return f"{x:,}" if isinstance(x, int) else str(x)


def markdown(results: dict[str, Any]) -> str:
    """All parts as tables under headings."""
    a, b, f = results["released"], results["bare_product"], results["throughput"]
    where = results["provenance"]
    parts = [
        "# Benchmark",
        ", ".join(f"{key} {value}" for key, value in where.items()),
        "## (a) The released schedule and this package",
        f"Same scores to {a['largest_difference']:.1e}; same metrics: "
        f"{a['same_metrics']}; captions whose whole order is the same: "
        f"{a['share_of_captions_with_same_order']:.1%}; largest gap between two videos "
        f"that are ordered otherwise: {a['largest_gap_ordered_otherwise']:.1e}.",
        table(
            ["what", "value"],
            [(f"{name}, seconds", s) for name, s in a["seconds"].items()]
            + [(k, v) for k, v in a.items() if "ratio" in k or "seconds_at" in k],
        ),
        "## (b) Against the bare matrix product",
        table(
            ["what", "fastest, s", "× the product, median"],
            [(k, s, b["times_the_product"][k]) for k, s in b["seconds"].items()],
        ),
        "## (c) Every head, 10⁶ pairs",
        table(
            ["head", "MACs per pair", "s", "folded MACs", "s", "×", "error"],
            [
                (
                    row["head"],
                    row["macs_per_pair"],
                    row["seconds"],
                    row.get("folded_macs_per_pair"),
                    row.get("folded_seconds"),
                    row.get("speedup"),
                    row.get("folded_relative_error"),
                )
                for row in results["heads"]
            ],
        ),
        "## (d) Peak memory above the inputs",
        table(
            ["what", "N", "MiB"],
            [(k, m["N"], m["extra_mib"]) for k, m in results["memory"].items()],
        ),
        table(
            ["captions evaluated", "videos", "their scores, MiB", "MiB"],
            [tuple(row.values()) for row in results["evaluation"]],
        ),
        "## (e) Growth",
        table(
            ["axis", "value", "N", *results["growth"][0]["seconds"]],
            [
                (row["axis"], row["value"], row["N"], *row["seconds"].values())
                for row in results["growth"]
            ],
        ),
        f"## (f) Throughput, items a second ({f['backbone']})",
        table(["what", "per second"], list(f["per_second"].items())),
    ]
    return "\n\n".join(parts) + "\n"
