"""Searching large generated collections: ``python -m benchmarks.search``.

For each size an index is written, then a process of its own opens it and is timed: one
query after the other, Linux asked to drop the files of the index from memory before each,
and again without. In the same run, on a sample of the queries: what exact stages would
find, and what they would cost. Needs about 25 KB of disk a video.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data import scoring_model
from benchmarks.results import provenance, table
from benchmarks.search_data import generate
from benchmarks.search_encoding import encoding
from benchmarks.search_indexes import compare_indexes
from book.experiments.formulas import Sizes
from glscl.cli.search import IDLE
from glscl.gim import global_similarity
from glscl.lim import local_similarity
from glscl.retriever import TextFeatures
from glscl.search import table as tables
from glscl.search.index import SHORTLIST, VideoIndex
from glscl.search.table import APPROXIMATE_FROM, PROBED, Rows

Data = dict[str, Any]
SIZES = (1_000, 10_000, 100_000, 1_000_000)
SHORTLISTS = (50, 100, SHORTLIST, 500, 1000)
SHARPNESS = (3.0, 1.0, 0.3, 0.1, 0.03)  # τ in units of the spread of s within a video
BEST = 10  # the moments that a user sees
COARSE_ROWS = 50_000  # coarse vectors compared at a time
WARM_UP = 20  # queries before the first that is timed
PROBES = (1 / 8, 1 / 4, 1 / 2, 1.0)  # shares of the clusters to try


def make(path: Path, N: int, queries: int, sizes: Sizes, approximate_from: int) -> Data:
    """Write an index of N videos and its queries below ``path``; seconds and bytes."""
    begin = time.perf_counter()
    model = scoring_model(sizes)
    collection = generate(path, N, queries, model, sizes)
    written = time.perf_counter() - begin
    tables.APPROXIMATE_FROM = approximate_from
    tables.maintain(str(path))
    np.savez(path / "queries.npz", *collection.queries)
    files = [file for file in path.rglob("*") if file.is_file()]
    return {
        "N": N,
        "clusters": tables.clusters(N) if tables.Snapshot(str(path)).indexed else None,
        "write_seconds": written,
        "approximate_index_seconds": time.perf_counter() - begin - written,
        "disk_gb": sum(file.stat().st_size for file in files) / 1e9,
    }


def load_queries(path: Path) -> TextFeatures:
    with np.load(path / "queries.npz") as queries:
        parts = [torch.from_numpy(queries[f"arr_{i}"]) for i in range(len(queries))]
    return TextFeatures(*parts)


def one(text: TextFeatures, a: int) -> TextFeatures:
    return TextFeatures._make(None if x is None else x[a : a + 1] for x in text)


def resident_mb() -> dict[str, float]:
    """What the process holds in memory, and how much of it is pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    kb = {name: int(values[name].split()[0]) for name in ("VmRSS", "RssFile")}
    return {"all": kb["VmRSS"] / 1e3, "of it files": kb["RssFile"] / 1e3}


def drop_cached_files(path: str) -> None:
    """Ask Linux to drop what it holds of the index in memory."""
    for file in Path(path).rglob("*.lance"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def percentiles(seconds: Sequence[float]) -> Data:
    p50, p95 = np.percentile(np.array(seconds) * 1e3, [50, 95])
    return {"p50_ms": p50, "p95_ms": p95, "queries": len(seconds)}


def timed(run: Callable[[int], Any], count: int, before: Callable[[], None]) -> Data:
    """Latency of ``run(0)`` … ``run(count - 1)``, ``before`` not counted."""
    seconds = []
    for a in range(count):
        before()
        begin = time.perf_counter()
        run(a)
        seconds.append(time.perf_counter() - begin)
    return percentiles(seconds)


def coarse_stage(index: VideoIndex, queries: NDArray, k: int) -> list[Rows]:
    """The shortlists of ``queries`` (A, C), one by one."""
    return [index.snapshot.nearest(query, k) for query in queries]


def latencies(index: VideoIndex, text: TextFeatures, count: int) -> Data:
    """Milliseconds a query: both stages, cold and warm, and each part alone."""
    queries = index.model.coarse_text(text).numpy()
    found = [np.sort(rows) for rows in coarse_stage(index, queries[:count], SHORTLIST)]

    def search(a: int) -> None:
        index.ranked(one(text, a), SHORTLIST, BEST)

    def cold() -> None:
        drop_cached_files(index.path)

    def nothing() -> None:
        pass

    features = [index.snapshot.features(rows) for rows in found]
    read = index.snapshot.features
    parts: dict[str, tuple[Callable[[int], Any], Callable[[], None]]] = {
        "cold": (search, cold),
        "warm": (search, nothing),
        "coarse": (lambda a: index.snapshot.nearest(queries[a], SHORTLIST), nothing),
        "reading, cold": (lambda a: read(found[a]), cold),
        "reading, warm": (lambda a: read(found[a]), nothing),
        "scoring": (lambda a: scores(index, one(text, a), features[a]), nothing),
    }
    return {name: timed(run, count, before) for name, (run, before) in parts.items()}


def scores(index: VideoIndex, text: TextFeatures, columns: tables.Columns) -> NDArray:
    """The model's scores of windows: (A, n)."""
    return index.model.similarity(text, index.video(columns)).numpy()


def kept(found: Sequence[NDArray], wanted: Sequence[NDArray]) -> float:
    """Mean share of ``wanted`` that is in ``found``, query by query."""
    shares = [np.isin(w, f).mean() for f, w in zip(found, wanted, strict=True)]
    return float(np.mean(shares))


def exact_coarse(index: VideoIndex, queries: NDArray, k: int) -> list[Rows]:
    """The k nearest of all by the coarse vector, from plain arithmetic."""
    best = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
    for start in range(0, len(index), COARSE_ROWS):
        rows = np.arange(start, min(start + COARSE_ROWS, len(index)))
        vectors = index.snapshot.features(rows, "coarse")["coarse"].astype(np.float32)
        products = queries @ vectors.T
        for a, (old_rows, old) in enumerate(best):
            every, values = np.append(old_rows, rows), np.append(old, products[a])
            order = np.argsort(-values, kind="stable")[:k]
            best[a] = every[order], values[order]
    return [rows for rows, _ in best]


def spread_of(text: TextFeatures, index: VideoIndex) -> float:
    """Standard deviation of s = caption · frame over the frames of a video, on average."""
    rows = np.arange(min(len(index), 500))
    frames = index.video(index.snapshot.features(rows)).frames
    return float(torch.einsum("ad,bfd->abf", text.captions[:50], frames).std(-1).mean())


def exhaustive(
    index: VideoIndex, text: TextFeatures, taus: Sequence[float]
) -> list[NDArray]:
    """The BEST rows of all by GLSCL's score, for every τ: (A, BEST) each."""
    weight = index.model.config.local_weight
    best = [(torch.empty(len(text.captions), 0),) * 2 for _ in taus]
    for rows, features in index.snapshot.spans():
        video = index.video(features)
        local = 0.0
        if text.concepts is not None and video.concepts is not None:
            local = weight * local_similarity(text.concepts, video.concepts)
        numbers = torch.from_numpy(rows).expand(len(text.captions), -1)
        for i, tau in enumerate(taus):
            values = local + global_similarity(
                text.captions, video.frames, video.mask, tau
            )
            values = torch.cat([best[i][0], values], dim=1)
            every = torch.cat([best[i][1].long(), numbers], dim=1)
            values, order = values.topk(min(BEST, values.shape[1]), dim=1)
            best[i] = values, every.gather(1, order)
    return [rows.numpy() for _, rows in best]


def probed(
    index: VideoIndex, text: TextFeatures, wanted: Sequence[NDArray]
) -> list[Data]:
    """What searching fewer clusters saves and loses; leaves the index as it was."""
    if not index.snapshot.indexed:
        return []
    queries = index.model.coarse_text(text).numpy()
    usual, rows = tables.PROBED, []
    for share in PROBES:
        tables.PROBED = share
        found = [rows for rows, _ in index.ranked(text, SHORTLIST, BEST)]
        cost = timed(
            lambda a: index.snapshot.nearest(queries[a], SHORTLIST),
            len(queries),
            lambda: None,
        )
        rows.append({"share": share, **cost, "kept": kept(found, wanted)})
    tables.PROBED = usual
    return rows


def recalls(index: VideoIndex, text: TextFeatures, sample: int) -> Data:
    """What two stages keep of what exact stages find."""
    queries = index.model.coarse_text(text).numpy()
    most = min(max(SHORTLISTS), len(index))
    nearest = exact_coarse(index, queries, most)
    near = coarse_stage(index, queries, most)
    hundred = coarse_stage(index, queries, 100)
    final = [rows for rows, _ in index.ranked(text, SHORTLIST, BEST)]
    wanted = []
    for a, rows in enumerate(nearest):
        rows = np.sort(rows[:SHORTLIST])
        values = scores(index, one(text, a), index.snapshot.features(rows))[0]
        wanted.append(rows[np.argsort(-values, kind="stable")[:BEST]])
    sampled = TextFeatures._make(None if x is None else x[:sample] for x in text)
    spread = spread_of(text, index)
    taus = [spread * sharpness for sharpness in SHARPNESS]
    usual = index.model.config.temperature
    begin = time.perf_counter()
    *best, released = exhaustive(index, sampled, [*taus, usual])
    seconds = time.perf_counter() - begin
    return {
        "queries": len(queries),
        "top10_of_exact_coarse_and_rerank_kept": kept(final, wanted),
        "exhaustive_top10_kept": kept(final[:sample], list(released)),
        "coarse_recall_at_100": kept(hundred, [rows[:100] for rows in nearest]),
        "coarse_top10_among_100": kept(hundred, [rows[:BEST] for rows in nearest]),
        "by_clusters_probed": probed(index, text, wanted),
        "exhaustive": {
            "queries": sample,
            "spread_of_s": spread,
            "tau_over_spread": usual / spread,
            "seconds_a_query_and_tau": seconds / sample / (len(taus) + 1),
            "released": passed_on(nearest, near, released, most),
            "rows": [
                {"tau_over_spread": sharpness, **row}
                for sharpness, wanted in zip(SHARPNESS, best, strict=True)
                for row in passed_on(nearest, near, wanted, most)
            ],
        },
    }


def passed_on(
    nearest: Sequence[Rows], near: Sequence[Rows], best: NDArray, most: int
) -> list[Data]:
    """Mean share of ``best`` (A, BEST) in the shortlists of A queries, by their length.

    ``nearest``: the exact first stage, ``near``: that of the index.
    """
    return [
        {
            "k": k,
            "in_exact_coarse": kept(
                [rows[:k] for rows in nearest[: len(best)]], [*best]
            ),
            "in_coarse": kept([rows[:k] for rows in near[: len(best)]], [*best]),
        }
        for k in SHORTLISTS
        if k <= most
    ]


def measure_index(
    path: Path, threads: int, timed_queries: int, sample: int, probe: float
) -> Data:
    """Everything that is measured of one index, in this process."""
    torch.set_num_threads(threads)
    schema = tables.Snapshot(str(path)).table.schema
    (F, D), (Q, _) = (schema.field(n).type.shape for n in ("frames", "concepts"))
    sizes = Sizes(D=D, F=F, Q=Q)
    before = resident_mb()
    begin = time.perf_counter()
    tables.PROBED = probe
    index = VideoIndex(path, scoring_model(sizes))
    opened = time.perf_counter() - begin
    text = load_queries(path)
    for a in range(WARM_UP):  # threads and libraries start, clusters are read once
        index.ranked(one(text, a), SHORTLIST, BEST)
    spent = latencies(index, text, timed_queries)
    return {
        "open_seconds": opened,
        "resident_mb_before": before,
        "resident_mb": resident_mb(),
        "milliseconds": spent,
        "recalls": recalls(index, text, sample),
    }


def measure(N: int, arguments: argparse.Namespace, sizes: Sizes) -> Data:
    """Make an index of N videos, measure it in a process of its own, delete it."""
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        path = Path(folder)
        made = make(path, N, arguments.queries, sizes, arguments.approximate_from)
        command = [sys.executable, "-m", "benchmarks.search", "--measure", str(path)]
        command += ["--threads", str(arguments.threads)]
        command += ["--queries", str(arguments.queries)]
        command += ["--sample", str(arguments.sample)]
        command += ["--probe", str(arguments.probe)]
        result = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            env=dict([*os.environ.items(), IDLE]),  # as ``glscl search`` runs
        )
        return {**made, **json.loads(result.stdout)}


SIZE_COLUMNS = [
    "N",
    "cold p50",
    "p95",
    "warm p50",
    "p95",
    "resident MB",
    "disk GB",
    "kept of exhaustive",
]


def markdown(results: Data) -> str:
    """The main numbers as tables."""
    rows = [
        (
            r["N"],
            *(
                r["milliseconds"][how][p]
                for how in ("cold", "warm")
                for p in ("p50_ms", "p95_ms")
            ),
            r["resident_mb"]["all"],
            r["disk_gb"],
            r["recalls"]["exhaustive_top10_kept"],
        )
        for r in results["sizes"]
    ]
    last, encoded = results["sizes"][-1], results["encoding"]
    parts = [
        "# Search",
        ", ".join(f"{key} {value}" for key, value in results["provenance"].items()),
        "## Milliseconds a query, two stages",
        table(SIZE_COLUMNS, rows),
        f"## N = {last['N']:,}: each part",
        table(
            ["part", "p50 ms", "p95 ms"],
            [(n, m["p50_ms"], m["p95_ms"]) for n, m in last["milliseconds"].items()],
        ),
        "## Clusters probed",
        table(
            ["share", "p50 ms", "p95 ms", "kept"],
            [
                (row["share"], row["p50_ms"], row["p95_ms"], row["kept"])
                for row in last["recalls"]["by_clusters_probed"]
            ],
        ),
        "## Of the exhaustive top 10, found among k",
        table(
            ["τ / spread", "k", "exact coarse", "this index"],
            [tuple(row.values()) for row in last["recalls"]["exhaustive"]["rows"]],
        ),
        f"## Encoding, {encoded['backbone']}, {encoded['video']}",
        f"{encoded['windows_per_second']:.2f} windows a second",
        table(
            ["stage", "share", "seconds"],
            [
                (stage, share, encoded["seconds"][stage])
                for stage, share in encoded["share"].items()
            ],
        ),
        f"## Indexes of {results['indexes']['N']:,} coarse vectors",
        table(
            ["index", "setting", "p50 ms", "recall@100", "top 10", "MB", "build s"],
            [tuple(row.values()) for row in results["indexes"]["rows"]],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("_build/benchmark"))
    parser.add_argument("--record", type=Path, help="a second place for the JSON")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--concepts", type=int, default=8, help="Q, from 1")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--sample", type=int, default=50, help="exhaustive queries")
    parser.add_argument("--probe", type=float, default=PROBED, help="clusters, share")
    parser.add_argument("--compared", type=int, default=100_000)
    parser.add_argument("--backbone", default="ViT-B-32-quickgelu")
    parser.add_argument("--videos", type=int, default=12, help="to encode")
    parser.add_argument("--approximate-from", type=int, default=APPROXIMATE_FROM)
    parser.add_argument("--measure", type=Path, help="measure this index and print")
    arguments = parser.parse_args()
    if arguments.measure:
        measured = measure_index(
            arguments.measure,
            arguments.threads,
            arguments.queries,
            arguments.sample,
            arguments.probe,
        )
        print(json.dumps(measured))
        return
    torch.set_num_threads(arguments.threads)
    started = provenance(arguments.threads, small=False)
    started["command"] = "python -m benchmarks.search"
    started["clock"] = "wall time"  # reading from disk is waiting
    if len(sys.argv) > 1:
        started["command"] += " " + " ".join(sys.argv[1:])
    sizes = Sizes(Q=arguments.concepts)
    begin = time.perf_counter()
    free = shutil.disk_usage(arguments.work).free / 1e9
    results = {
        "provenance": started,
        "probed": arguments.probe,
        "shortlist": SHORTLIST,
        "coarse": "the mean frame and the mean concept",
        "free_disk_gb": free,
        "sizes": [measure(N, arguments, sizes) for N in sorted(arguments.sizes)],
        "encoding": encoding(arguments.backbone, arguments.videos),
        "indexes": compare_indexes(arguments.compared, arguments.queries, sizes),
    }
    started["load_after"] = os.getloadavg()[0]
    started["seconds"] = time.perf_counter() - begin
    data = json.dumps(results, indent=1) + "\n"
    for place in filter(None, (arguments.out / "search.json", arguments.record)):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(data, encoding="utf-8")
    print(markdown(results))


if __name__ == "__main__":
    with torch.no_grad():
        main()
