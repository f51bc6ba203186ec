"""The stored runs as arrays say what their records say."""

import numpy as np
import pytest

from book.experiments import stored


@pytest.mark.parametrize("variant", ["all", "+ GIM", "eercf"])
def test_hits_have_the_recalls_of_the_records(variant):
    records = [run["test"] for run in stored.runs(variant)]
    assert len(records) >= 5
    for k in (1, 10):
        recalls = [record["t2v"][f"R{k}"] for record in records]
        np.testing.assert_allclose(stored.hits(variant, k).mean(axis=1), recalls)
    for kind in ("single", "double", "all"):
        part = stored.hits(variant)[:, stored.of_kind(kind)].mean(axis=1)
        np.testing.assert_allclose(part, [r["kinds"][kind]["R1"] for r in records])


def test_a_pair_has_the_seeds_that_both_variants_have():
    folder = stored.LONGER_RUNS
    one, two = stored.pair("all, longer", "all", folder=folder)
    assert one.shape == two.shape
    seeds = [len(stored.runs(name, folder)) for name in ("all, longer", "all")]
    assert len(one) == min(seeds) < max(seeds)
    videos = stored.videos(folder)
    assert np.bincount(videos).tolist() == [5] * (one.shape[1] // 5)


def test_a_table_by_kind_has_the_recalls_of_the_runs():
    table = stored.by_kind({"+ GIM": "GIM", "all": "whole"})
    assert list(table.columns) == ["R@1", "std over seeds"]
    assert len(table) == 6
    part = stored.hits("all")[:, stored.of_kind("double")].mean(axis=1)
    found = table.loc["whole, double"].tolist()
    np.testing.assert_allclose(found, [part.mean(), part.std(ddof=1)])
    seeds = len(stored.runs("all"))
    assert f"{seeds} seeds, made by {stored.summary()['command']}" in stored.made("all")


def test_a_variant_without_runs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"all-seed0\.json: no stored run"):
        stored.runs("all", tmp_path)
