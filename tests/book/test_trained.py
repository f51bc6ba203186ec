"""A training is done once, and whoever asks for the same gets the same weights."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from toy import toy_model, toy_recipe, toy_videos, weights

from book.kit import trained
from book.kit.trained import fit_once, key
from glscl.data.loader import FrameFeatures
from glscl.data.pairs import CachedVideos
from glscl.train import RunOptions, fit

RECIPE = toy_recipe(epochs=1)


@pytest.fixture(scope="module")
def videos():
    return toy_videos()


@pytest.fixture(scope="module")
def choosing():
    return toy_videos(name="val")


@pytest.fixture(scope="module")
def store(tmp_path_factory, videos, choosing):
    """A folder with one entry, and what ``fit`` gives without it."""
    plain = toy_model()
    history = fit(plain, videos, RECIPE, choosing, RunOptions(progress=False))
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(trained.PAGE, "04_gim")
        done = fit_once(toy_model(), videos, RECIPE, choosing, folder=folder)
    assert done.here
    assert done.told().startswith("trained on this page, ")
    return folder, plain, history


def no_training(*_):
    raise AssertionError("trained again")


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_equal_call_trains_nothing_and_gets_the_weights_bit_for_bit(
    store, videos, choosing, monkeypatch
):
    folder, plain, history = store
    monkeypatch.setattr(trained, "fit", no_training)
    model = toy_model()
    model.requires_grad_(False)
    done = fit_once(model, videos, RECIPE, choosing, folder=folder)
    assert same(weights(plain), weights(model))
    assert not model.training
    flags = [[p.requires_grad for p in m.parameters()] for m in (plain, model)]
    assert flags[0] == flags[1]
    assert done.history.best_epoch == history.best_epoch
    losses = [[step["total"] for step in h.steps] for h in (history, done.history)]
    assert losses[0] == losses[1]
    assert (done.here, done.page) == (False, "04_gim")
    assert done.told().startswith("trained in Chapter 4, ")


def test_whatever_decides_the_weights_is_in_the_key(videos, choosing, monkeypatch):
    model = toy_model()
    found = {key(model, videos, RECIPE, choosing)}
    assert key(toy_model(), videos, RECIPE, choosing) in found
    split, (frames, mask) = videos.split, videos.features
    other_captions = [replace(split.captions[0], text="a"), *split.captions[1:]]
    cases = (
        (toy_model(seed=1), videos, RECIPE, choosing),
        (toy_model(temperature=3.0), videos, RECIPE, choosing),
        (model, videos, replace(RECIPE, seed=1), choosing),
        (model, videos, replace(RECIPE, epochs=2), choosing),
        (model, videos, RECIPE, None),
        (model, CachedVideos(split, FrameFeatures(frames + 1, mask)), RECIPE, choosing),
        (
            model,
            CachedVideos(
                replace(split, captions=tuple(other_captions)), videos.features
            ),
            RECIPE,
            choosing,
        ),
    )
    for case in cases:
        assert key(*case) not in found
        found.add(key(*case))
    monkeypatch.setattr(trained, "_code_digest", lambda module: "other code")
    assert key(model, videos, RECIPE, choosing) not in found


def test_the_code_of_a_model_counts_and_that_of_another_does_not(tmp_path, monkeypatch):
    for path in (trained.PROJECT / "glscl").rglob("*.py"):
        copy = tmp_path / path.relative_to(trained.PROJECT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(trained, "PROJECT", tmp_path)
    found = []
    for change in ("", "glccl.py", "lim.py"):
        if change:
            (tmp_path / "glscl" / change).open("a").write("\nTHRESHOLD = 1\n")
        trained._code_digest.cache_clear()
        found.append(trained._code_digest("glscl.model"))
    trained._code_digest.cache_clear()
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("damage", ["cut", "one bit"])
def test_a_damaged_entry_is_trained_again(store, videos, choosing, tmp_path, damage):
    folder, plain, _ = store
    (entry,) = folder.glob("*.safetensors")
    data = bytearray(entry.read_bytes())
    data[-1000] ^= 1
    copy = tmp_path / entry.name
    copy.write_bytes(data if damage == "one bit" else data[: len(data) // 2])
    model = toy_model()
    assert fit_once(model, videos, RECIPE, choosing, folder=tmp_path).here
    assert same(weights(plain), weights(model))
    again = fit_once(toy_model(), videos, RECIPE, choosing, folder=tmp_path)
    assert not again.here


def test_of_two_that_ask_at_once_one_trains(videos, tmp_path, monkeypatch):
    both_asked, fits = threading.Barrier(2, timeout=60), []

    def slow_fit(*arguments):
        fits.append(arguments)
        time.sleep(0.2)  # the other one is at the lock by now
        return fit(*arguments)

    def ask(model):
        both_asked.wait()
        return fit_once(model, videos, RECIPE, folder=tmp_path).here

    monkeypatch.setattr(trained, "fit", slow_fit)
    models = [toy_model(), toy_model()]
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(ask, models)) == [False, True]
    assert len(fits) == 1
    assert same(*map(weights, models))


def test_what_cannot_be_kept_is_refused(videos):
    kind = type("Own", (type(toy_model()),), {"__module__": "__main__"})
    model = toy_model()
    model.__class__ = kind
    with pytest.raises(ValueError, match="got Own of __main__"):
        fit_once(model, videos, RECIPE)
    released = replace(RECIPE, optimiser="bertadam", clip_arithmetic="released")
    with pytest.raises(ValueError, match="clip_arithmetic='released'"):
        fit_once(toy_model(), videos, released)
