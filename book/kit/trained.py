"""Trainings that pages share: each is done once, and what it left is kept on disk.

``fit_once`` is ``glscl.train.fit`` for pages. An entry of the store is one file, whose
name is a hash of everything that decides the weights: the model's settings and its
weights at the start, the recipe, the videos and their captions, the code, the versions
and the device. So a notebook that is run alone, or after a change of any of these,
trains itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from book.builder.imports import digest, files_behind
from book.kit.provenance import PROJECT, versions
from glscl.config import RunOptions, TrainConfig
from glscl.data.loader import weights_digest
from glscl.data.pairs import CachedVideos
from glscl.optim import freeze
from glscl.retriever import Retriever
from glscl.train import History, fit
from glscl.util.files import atomic_path

FOLDER = PROJECT / "_build/trained"
PAGE = "GLSCL_PAGE"  # environment variable: the page that the builder runs


class Training(NamedTuple):
    """What a training did, and ``page``, the one that did it ("": none of a build)."""

    history: History
    page: str
    here: bool  # whether by this very call

    def told(self) -> str:
        """Where the model was trained and how long that took, in words."""
        where = "on this page" if self.here else f"in {_title(self.page)}"
        return f"trained {where}, {self.history.seconds:.0f} s"


def fit_once(
    model: Retriever,
    train: CachedVideos,
    recipe: TrainConfig,
    validation: CachedVideos | None = None,
    device: str = "cpu",
    folder: Path = FOLDER,
) -> Training:
    """Train ``model`` in place as ``glscl.train.fit`` does, or as it did before.

    Where an equal call has left its weights and history in ``folder``, the model gets
    them; an entry that is damaged is made again. Of processes that ask for the same at
    once, one trains and the others wait.

    Raises what ``fit`` raises, and ``ValueError`` for a model whose class is in no
    module and for a recipe with CLIP in float16, which are not kept.
    """
    if type(model).__module__ == "__main__" or recipe.clip_arithmetic == "released":
        raise ValueError(
            "fit_once keeps float32 models whose class is in a module, got "
            f"{type(model).__name__} of {type(model).__module__} with clip_arithmetic="
            f"{recipe.clip_arithmetic!r}: call glscl.train.fit."
        )
    path = folder / f"{key(model, train, recipe, validation, device)}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if (entry := _read(path)) is not None:
            weights, training = entry
            freeze(model, recipe.freeze)
            model.to(device).load_state_dict(weights)
            model.gradient_divisor = recipe.gradient_divisor
            model.eval()
            return training
        history = fit(model, train, recipe, validation, RunOptions(device=device))
        training = Training(history, os.environ.get(PAGE, ""), here=True)
        _write(path, model, training)
        return training


def key(
    model: Retriever,
    train: CachedVideos,
    recipe: TrainConfig,
    validation: CachedVideos | None = None,
    device: str = "cpu",
) -> str:
    """A hash of everything that decides what ``fit`` leaves."""
    cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name if cuda else torch.backends.cpu.get_cpu_capability
    about = {
        "model": [model.method, asdict(model.config), weights_digest(model)],
        "recipe": asdict(recipe),
        "videos": [_videos_digest(train), validation and _videos_digest(validation)],
        "code": _code_digest(type(model).__module__),
        "versions": versions(("torch", "numpy")),
        "device": [name(), torch.get_num_threads()],
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


def _videos_digest(videos: CachedVideos) -> str:
    """A hash of the captions of a split, their videos, and the features."""
    split = videos.split
    names = [
        split.name,
        [v.id for v in split.videos],
        [asdict(c) for c in split.captions],
    ]
    return _hash(json.dumps(names).encode(), *_bytes(videos.features))


def _hash(*parts: Any) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _bytes(tensors: Iterable[Tensor]) -> Iterator[Any]:
    return (x.cpu().contiguous().numpy().data for x in tensors)


@lru_cache
def _code_digest(module: str) -> str:
    """A hash of every file that training a model of ``module`` may run."""
    return digest(files_behind(f"import glscl.train, {module}", PROJECT), PROJECT)


def _write(path: Path, model: Retriever, training: Training) -> None:
    """One file, so that weights and history are never those of two runs."""
    # Modules that both sides share stand twice in it, which safetensors refuse.
    weights = {name: x.cpu().clone() for name, x in model.state_dict().items()}
    about = {
        "history": json.dumps(asdict(training.history)),
        "page": training.page,
        "digest": _weights_digest(weights),
    }
    with atomic_path(path) as temporary:
        save_file(weights, temporary, about)


def _read(path: Path) -> tuple[dict[str, Tensor], Training] | None:
    """The weights and the training of an entry, None where it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            names = file.keys()
            weights = {name: file.get_tensor(name) for name in names}
        if about["digest"] != _weights_digest(weights):
            return None
        history = History(**json.loads(about["history"]))
        return weights, Training(history, about["page"], here=False)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _weights_digest(weights: Mapping[str, Tensor]) -> str:
    return _hash(*_bytes(weights[name] for name in sorted(weights)))


def _title(page: str) -> str:
    """How prose names the page ``04_gim`` or ``a1_deviations``."""
    number = page.partition("_")[0]
    if not page:
        return "an earlier run"
    return f"Chapter {int(number)}" if number.isdigit() else f"appendix {number}"
