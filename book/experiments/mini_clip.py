"""Training the mini CLIP: image-text contrastive learning on single frames.

    python -m book.experiments.mini_clip --steps 1600 --seed 0 --out mini_clip.safetensors

Every frame is drawn once and never repeated. Positions, sizes and backgrounds are in
the captions; motion is not, because one frame does not show it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from book.experiments.oracle import shot_of_frame
from book.experiments.still_captions import (
    empty_caption,
    still_caption,
    vocabulary,
)
from book.kit.provenance import versions
from glscl.backbone import Backbone, load_backbone, open_clip
from glscl.data.encode import encode_mp4
from glscl.data.frames import normalise
from glscl.metrics import retrieval_metrics
from glscl.mini.render import (
    render_clip,
    render_shot,
    trajectory,
)
from glscl.mini.scenes import ATTRIBUTES, CLIP_FRAMES, FPS, Shot, draw_clip, draw_shot
from glscl.util.files import atomic_path

BATCH = 128
STEPS = 1600
PEAK = 1e-3  # learning rate
CLUSTERS = 4  # in a clustered batch
#: What a caption of a still can name; ``row`` and ``column`` form the position.
FACTS = ("colour", "shape", "size", "row", "column", "pattern", "tone")
#: Where the three rows, and the three columns, of positions meet, in pixels. Centres
#: lie between 16 and 48, so each is about as frequent.
GRID = (26.0, 38.0)
#: How often a training caption names the position once the model knows what positions
#: are. Until then every caption does: with fewer, position swaps stayed near chance.
POSITION_CHANCE = 0.6
DETAIL_CHANCE = 0.8  # of naming the size, and of naming the background
_MAX_WORDS = 32
#: A radius in pixels below this is called small; the resizing motions cross it.
SIZE_THRESHOLD = 12.0


@dataclass(frozen=True)
class Still:
    """Frame ``time`` of a shot and what can be said about it.

    ``size`` is the apparent one, ``cell`` the (row, column) of a 3 × 3 grid that the
    object is in; both are None when a blinking object is hidden.
    """

    shot: Shot
    time: int
    size: str | None
    cell: tuple[int, int] | None

    def facts(self) -> dict[str, Any]:
        """The value of every fact; object facts of an empty frame are "none"."""
        shot = self.shot
        if self.cell is None or self.size is None:
            values: tuple[Any, ...] = ("none",) * 5
        else:
            values = (shot.colour, shot.shape, self.size, *self.cell)
        return dict(zip(FACTS, (*values, shot.pattern, shot.tone), strict=True))


def still_of(shot: Shot, time: int) -> Still:
    """The still of ``shot`` at ``time`` frames after it began."""
    x, y, radius, _, visible = (part[0] for part in trajectory(shot, np.array([time])))
    if not visible:
        return Still(shot, time, None, None)
    row, column = (sum(z >= edge for edge in GRID) for z in (y, x))
    return Still(
        shot, time, "small" if radius < SIZE_THRESHOLD else "large", (row, column)
    )


def draw_still(rng: random.Random, **fixed: str) -> Still:
    """A random frame of a random shot, any motion; ``fixed`` pins attributes."""
    shot = draw_shot(rng, 0, rng.randint(8, 20), **fixed)
    return still_of(shot, rng.randrange(shot.frames))


def describe(
    rng: random.Random, still: Still, position: float = 1.0, detail: float = 1.0
) -> tuple[str, dict[str, Any]]:
    """A caption of ``still`` and the facts it states.

    Colour and shape are always named, the position with probability ``position``, the
    size and the background each with probability ``detail``.
    """
    facts = still.facts()
    if still.cell is None:
        named = ("colour", "shape", "pattern", "tone")
        return empty_caption(rng, still.shot), {name: facts[name] for name in named}
    with_cell, with_size, with_ground = (
        rng.random() < chance for chance in (position, detail, detail)
    )
    text = still_caption(
        rng,
        still.shot,
        still.size if with_size else None,
        still.cell if with_cell else None,
        with_ground,
    )
    left_out = [] if with_cell else ["row", "column"]
    left_out += [] if with_size else ["size"]
    left_out += [] if with_ground else ["pattern", "tone"]
    return text, {name: facts[name] for name in FACTS if name not in left_out}


def agreement(
    stated: Sequence[dict[str, Any]], facts: Sequence[dict[str, Any]]
) -> NDArray[np.bool_]:
    """Which captions are true of which stills: (A, N), from their stated facts."""
    true = np.ones((len(stated), len(facts)), dtype=bool)
    for name in FACTS:
        said = np.array([str(caption.get(name, "*")) for caption in stated])
        seen = np.array([str(still[name]) for still in facts])
        true &= (said[:, None] == "*") | (said[:, None] == seen[None])
    return true


def draw_batch(rng: random.Random, size: int, clusters: int) -> list[Still]:
    """``size`` stills; with ``clusters`` > 0 in that many groups of equal length that
    share colour, pattern and tone, so that shape, size and position must distinguish
    them."""
    if not clusters:
        return [draw_still(rng) for _ in range(size)]
    stills = []
    for cluster in range(clusters):
        shared = {
            name: rng.choice(ATTRIBUTES[name]) for name in ("colour", "pattern", "tone")
        }
        count = size // clusters + (cluster < size % clusters)
        stills += [draw_still(rng, **shared) for _ in range(count)]
    return stills


def pixels_of(stills: Sequence[Still]) -> NDArray[np.uint8]:
    """The stills as RGB (N, 64, 64, 3)."""
    return np.concatenate([render_shot(still.shot, [still.time]) for still in stills])


def encode_stills(backbone: Backbone, pixels: NDArray[np.uint8]) -> Tensor:
    """Features (N, D) of RGB frames (N, H, W, 3)."""
    standardised = normalise(pixels, backbone.image_mean, backbone.image_std)
    return backbone.encode_image(standardised)


def contrastive_loss(
    captions: Tensor, images: Tensor, scale: Tensor, true: Tensor
) -> Tensor:
    """Symmetric InfoNCE over (N, D) features of N pairs.

    ``true`` (N, N): caption i is true of image j. A pair off the diagonal that is true
    is no negative, so it is left out of the sums.
    """
    logits = scale * F.normalize(captions, dim=-1) @ F.normalize(images, dim=-1).T
    own = torch.eye(len(true), dtype=torch.bool)
    logits = logits.masked_fill(true & ~own, float("-inf"))
    target = torch.arange(len(true))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def new_model(seed: int) -> Backbone:
    """The mini CLIP with random weights, ready to learn.

    open_clip draws the visual positional embedding with a standard deviation of 0.09;
    with so little of it the model does not find out where things are and stays on a
    plateau. 0.5 leaves it.
    """
    torch.manual_seed(seed)
    backbone = load_backbone("mini", pretrained=None)
    nn.init.normal_(backbone.clip.visual.positional_embedding, std=0.5)
    return backbone


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * (1 + math.cos(math.pi * progress)) / 2


def pretrain(
    steps: int,
    seed: int = 0,
    batch: int = BATCH,
    random_steps: int = 500,
    log: Callable[[dict[str, float]], None] | None = None,
) -> tuple[Backbone, list[dict[str, float]]]:
    """Train the mini CLIP for ``steps``; returns it and one record per step.

    A curriculum: the first ``random_steps`` batches are random and all their captions
    name the position; of the rest 70 % are clustered. ``log`` gets every record: step,
    loss, whether the batch was clustered, and the scale of the logits.
    """
    backbone = new_model(seed).train()
    rng = random.Random(seed + 7)
    optimiser = torch.optim.AdamW(
        backbone.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.05
    )
    history = []
    for step in range(steps):
        clustered = step >= random_steps and rng.random() < 0.7
        stills = draw_batch(rng, batch, CLUSTERS if clustered else 0)
        position = 1.0 if step < random_steps else POSITION_CHANCE
        pairs = [describe(rng, still, position, DETAIL_CHANCE) for still in stills]
        texts, stated = zip(*pairs, strict=True)
        true = torch.from_numpy(agreement(stated, [s.facts() for s in stills]))
        token_ids, _ = backbone.tokenize(texts, _MAX_WORDS)
        # No token sees a later one, so columns after the last EOS change nothing.
        token_ids = token_ids[:, : int(token_ids.argmax(-1).max()) + 1]
        captions = backbone.encode_text(token_ids).captions
        images = encode_stills(backbone, pixels_of(stills))
        scale = backbone.logit_scale.exp()
        loss = contrastive_loss(captions, images, scale, true)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK, warmup=min(100, steps // 5))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            backbone.logit_scale.clamp_(max=math.log(100.0))
        record = {
            "step": step,
            "loss": loss.item(),
            "clustered": float(clustered),
            "scale": scale.item(),
        }
        history.append(record)
        if log is not None:
            log(record)
    return backbone.eval(), history


def held_out(count: int = 500, seed: int = 0) -> tuple[list[Still], NDArray[np.uint8]]:
    """One frame from each of ``count`` clips of the validation and test splits.

    The frames (count, 64, 64, 3) went through H.264, as a reader of videos sees them.
    Pretraining never draws these clips. Frames with a hidden object are not taken.
    """
    stills, frames = [], []
    for index in range(count):
        clip = draw_clip(("val", "test")[index % 2], index // 2, seed)
        rng = random.Random(f"glscl held-out frame {seed} {clip.id}")
        while True:
            time = rng.randrange(CLIP_FRAMES)
            shot = clip.shots[shot_of_frame(clip, time)]
            still = still_of(shot, time - shot.start)
            if still.cell is not None:
                break
        stills.append(still)
        frames.append(decode_mp4(encode_mp4(render_clip(clip), FPS))[time])
    return stills, np.stack(frames)


def decode_mp4(data: bytes) -> NDArray[np.uint8]:
    """RGB frames (T, H, W, 3) of the MP4 file ``data``: what a reader gets to see."""
    with av.open(io.BytesIO(data), "r") as container:
        frames = container.decode(video=0)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def swapped(rng: random.Random, still: Still, name: str) -> Still:
    """``still`` with one fact, or its "position", replaced by another value."""
    if name == "position":
        cells = [(row, column) for row in range(3) for column in range(3)]
        return replace(still, cell=rng.choice([c for c in cells if c != still.cell]))
    current = still.facts()[name]
    value = rng.choice([other for other in ATTRIBUTES[name] if other != current])
    if name == "size":
        return replace(still, size=value)
    changes: dict[str, Any] = {name: value}
    return replace(still, shot=replace(still.shot, **changes))


@torch.inference_mode()
def evaluate(backbone: Backbone, count: int = 500, seed: int = 0) -> dict[str, float]:
    """How well ``backbone`` reads held-out frames, in per cent.

    ``R1``, ``R5``: text to image among ``count`` frames with captions that name
    everything; ``R1_ceiling``: R1 of a reader without error, who is left with frames
    that look alike. ``swap_shape`` and so on: how often the caption of a frame scores
    higher than the same caption with that one word wrong; chance is 50.
    """
    stills, pixels = held_out(count, seed)
    images = F.normalize(encode_stills(backbone, pixels), dim=-1)

    def encode(stills: Sequence[Still]) -> Tensor:
        texts = [
            describe(random.Random(f"glscl check {seed} {index}"), still)[0]
            for index, still in enumerate(stills)
        ]
        captions = backbone.encode_text(*backbone.tokenize(texts, _MAX_WORDS)).captions
        return F.normalize(captions, dim=-1)

    captions = encode(stills)
    ranks = retrieval_metrics(captions @ images.T)["t2v"]
    facts = [still.facts() for still in stills]
    ceiling = float((1 / agreement(facts, facts).sum(axis=1)).mean())
    results = {"R1": ranks["R1"], "R5": ranks["R5"], "R1_ceiling": 100 * ceiling}
    own = (captions * images).sum(-1)
    for name in ("colour", "shape", "size", "position", "pattern", "tone"):
        rng = random.Random(f"glscl swap {seed} {name}")
        wrong = encode([swapped(rng, still, name) for still in stills])
        right = own > (wrong * images).sum(-1)
        results[f"swap_{name}"] = 100 * right.float().mean().item()
    return results


def build_vocabulary() -> bytes:
    """The gzipped merges file of the mini CLIP, the same bytes every time.

    CLIP's own byte-pair merges, in CLIP's order, reduced to those that the words of the
    benchmark use. Every other word still tokenises, into shorter pieces.
    """
    tokenizer = open_clip().SimpleTokenizer()
    ranks = tokenizer.bpe_ranks
    used: set[tuple[str, str]] = set()
    for word in vocabulary():
        pieces = (*word[:-1], f"{word[-1]}</w>")
        while len(pieces) > 1:
            pair = min(pairwise(pieces), key=_rank_in(ranks))
            if pair not in ranks:
                break
            used.add(pair)
            pieces = _merge(pieces, pair)
    merges = sorted(used, key=ranks.__getitem__)
    # open_clip skips the first line and takes a last newline for an empty merge.
    lines = ["#version: 0.2, glscl", *(" ".join(pair) for pair in merges)]
    memory = io.BytesIO()
    with gzip.GzipFile(fileobj=memory, mode="wb", mtime=0) as file:
        file.write("\n".join(lines).encode())
    return memory.getvalue()


def _rank_in(ranks: dict[tuple[str, str], int]) -> Callable[[tuple[str, str]], float]:
    return lambda pair: ranks.get(pair, math.inf)


def _merge(pieces: Sequence[str], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)


def save_checkpoint(backbone: Backbone, path: Path, provenance: dict[str, Any]) -> str:
    """Write the weights as fp16 safetensors and, beside them, where they come from.

    ``path`` ends in .safetensors; the other file has the same name with .json and holds
    ``provenance`` and the SHA-256 of the weights, which is returned.
    """
    state = backbone.clip.state_dict()
    data = save({name: value.half().contiguous() for name, value in state.items()})
    digest = hashlib.sha256(data).hexdigest()
    record = {"sha256": digest, **provenance}
    text = json.dumps(record, indent=2) + "\n"
    for target, content in ((path, data), (path.with_suffix(".json"), text.encode())):
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
    return digest


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate the saved weights on held-out frames, print and keep the result."""
    parser = argparse.ArgumentParser(
        prog="python -m book.experiments.mini_clip", description="Train the mini CLIP."
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".safetensors" or not options.out.parent.is_dir():
        parser.error(f"--out {options.out}: expected a .safetensors file in a folder.")
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}.")
    # One thread: sums are then taken in one order, so a run can be repeated.
    torch.set_num_threads(1)
    with tqdm(total=options.steps, unit="step") as bar:

        def log(record: dict[str, float]) -> None:
            bar.set_postfix(loss=f"{record['loss']:.2f}", refresh=False)
            bar.update()

        backbone, _ = pretrain(options.steps, seed=options.seed, log=log)
    # What is evaluated is what will be loaded: weights rounded to fp16.
    backbone.load_state_dict(
        {
            name: value.half().to(value.dtype)
            for name, value in backbone.state_dict().items()
        }
    )
    results = evaluate(backbone)
    for name, value in results.items():
        print(f"{name:>14} {value:6.1f} %")
    command = (
        f"python -m book.experiments.mini_clip --steps {options.steps} "
        f"--seed {options.seed} --out {options.out.name}"
    )
    provenance = {
        "command": command,
        "steps": options.steps,
        "seed": options.seed,
        "batch": BATCH,
        "evaluation": results,
        "versions": versions(("torch", "open_clip_torch", "numpy", "av")),
    }
    print(save_checkpoint(backbone, options.out, provenance), options.out)


if __name__ == "__main__":
    main()
