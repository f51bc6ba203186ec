"""The search benchmark: its collections are real indexes, its shares are right."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import search, search_indexes
from benchmarks.data import scoring_model
from benchmarks.search_data import Distribution, generate
from book.experiments.formulas import Sizes
from glscl.search import VideoIndex

SMALL = Sizes(D=32, F=3, Q=2, H=4)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("generated")
    model = scoring_model(SMALL)
    queries = generate(path, 300, 12, model, SMALL).queries
    return VideoIndex(path, model), queries


def test_a_query_is_about_one_video_and_finds_it_more_often_than_chance():
    source = Distribution(SMALL)
    topics = source.topics(200)
    video, text = source.videos(topics), source.queries(topics)
    scores = scoring_model(SMALL).similarity(text, video)
    rank = (scores > scores.diagonal()[:, None]).sum(dim=1)
    assert rank.float().median() < 20
    assert (scores.argmax(dim=1) != torch.arange(200)).any()  # and it is not easy


def test_the_same_seed_gives_the_same_collection(index, tmp_path):
    other = generate(tmp_path, 300, 12, scoring_model(SMALL), SMALL).queries
    assert torch.equal(other.captions, index[1].captions)
    rows = np.arange(300)
    again = VideoIndex(tmp_path, scoring_model(SMALL)).snapshot.features(rows)
    for name, values in index[0].snapshot.features(rows).items():
        np.testing.assert_array_equal(again[name], values)


def test_the_exhaustive_reference_is_what_the_index_calls_exact(index):
    opened, queries = index
    taus = [opened.model.config.temperature, 100.0]
    first, second = search.exhaustive(opened, queries, taus)
    exact = opened.ranked(queries, k=10, exact=True)
    for found, (rows, _) in zip(first, exact, strict=True):
        assert len(set(found) ^ set(rows)) <= 2  # rounding may swap the last
    assert not np.array_equal(first, second)


def test_shares_are_of_what_is_wanted():
    found = [np.array([1, 2, 3]), np.array([4])]
    wanted = [np.array([3, 9]), np.array([4])]
    assert search.kept(found, wanted) == 0.75


def test_the_whole_benchmark_runs(tmp_path, monkeypatch, capsys):
    arguments = "--sizes 400 --queries 6 --sample 3 --compared 400 --threads 1"
    arguments += " --approximate-from 200 --concepts 2 --backbone mini --videos 1"
    arguments += f" --work {tmp_path}"
    monkeypatch.setattr(search_indexes, "INDEXES", {"IVF_RQ": ({}, (1.0,), (1, 2))})
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["search", *arguments.split(), "--out", str(out)])
    with torch.no_grad():
        search.main()
    written = json.loads((out / "search.json").read_text())
    (one,) = written["sizes"]
    assert one["clusters"] == 10
    assert len(one["recalls"]["by_clusters_probed"]) == len(search.PROBES)
    rows = one["recalls"]["exhaustive"]["rows"]
    assert all(0 <= row["in_coarse"] <= row["in_exact_coarse"] + 0.2 for row in rows)
    assert one["milliseconds"]["cold"]["p50_ms"] > 0
    stages = {"decode", "encode", "write"}
    assert written["encoding"]["share"].keys() == stages
    assert written["encoding"]["windows"] == 3
    assert "# Search" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
