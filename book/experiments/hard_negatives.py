"""Hard negatives: clips of the built-in benchmark of which one thing is changed.

A model can only rank a clip above its hard negative if it understands what differs:
one attribute of one shot, or the order of two shots.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from glscl.data.pairs import Videos
from glscl.data.split import Split
from glscl.evaluate import caption_scores, encode_gallery
from glscl.mini.grammar import Caption, captions_of
from glscl.mini.scenes import ATTRIBUTES, RESIZING, Clip, Shot, motions_of, split_of
from glscl.mini.synthetic import Benchmark, write_clips
from glscl.retriever import Retriever

#: What a hard negative can differ in.
HARD_NEGATIVE_KINDS = (*ATTRIBUTES, "order")
_OPPOSITE = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "grow": "shrink",
    "shrink": "grow",
    "spin": "still",
    "still": "blink",
    "blink": "still",
}


def hard_negatives(clip: Clip, seed: int = 0) -> dict[str, Clip]:
    """The hard negatives of ``clip``, by what differs.

    Keys: the attribute of one shot that has another value ("colour", "shape", "size",
    "pattern", "tone", "motion"), or "order" where two shots changed places. Captions of
    a hard negative: ``captions_of(negative, seed, style=clip.id)``, the same sentences
    with the changed words replaced. A changed object never makes a composition of
    another split that is measured on, so training on hard negatives keeps the splits
    apart.
    """
    allowed = {"train", split_of(clip)}
    found: dict[str, Clip] = {}
    for kind in HARD_NEGATIVE_KINDS:
        # An older word; the text seeds the generator, so another one would draw other
        # clips than the stored runs had.
        rng = random.Random(f"glscl sibling {seed} {clip.id} {kind}")
        swap = _swap_two if kind == "order" else _change_attribute
        while kind not in found or split_of(found[kind]) not in allowed:
            found[kind] = Clip(f"{clip.id}-{kind}", swap(rng, clip.shots, kind))
    return found


def with_hard_negatives(
    benchmark: Benchmark, split: str, kinds: Sequence[str] = HARD_NEGATIVE_KINDS
) -> Split:
    """A split in families: each clip followed by its hard negatives of ``kinds``.

    Every family is ``1 + len(kinds)`` videos in a row. A hard negative keeps the
    captions that name what was changed, or all five where none does. Clips that are not
    there yet are drawn. Raises ``ValueError`` for an unknown split or kind.
    """
    for kind in kinds:
        if kind not in HARD_NEGATIVE_KINDS:
            raise ValueError(
                f"Unknown kind of hard negative {kind!r}: expected one of "
                f"{HARD_NEGATIVE_KINDS}."
            )
    families = [
        [(clip, captions), *_negatives_of(clip, captions, kinds, benchmark.seed)]
        for clip, captions in benchmark.items(split)
    ]
    contents = {split: tuple(item for family in families for item in family)}
    grown = replace(benchmark, contents=contents)
    write_clips(benchmark.root, grown.clips(split))
    return grown.split(split)


def _negatives_of(
    clip: Clip, captions: Sequence[Caption], kinds: Sequence[str], seed: int
) -> Iterator[tuple[Clip, tuple[Caption, ...]]]:
    known = {caption.text for caption in captions}
    found = hard_negatives(clip, seed)
    for kind in kinds:
        texts = tuple(captions_of(found[kind], seed, style=clip.id))
        changed = tuple(caption for caption in texts if caption.text not in known)
        yield found[kind], changed or texts


def _change_attribute(
    rng: random.Random, shots: tuple[Shot, ...], name: str
) -> tuple[Shot, ...]:
    choices = list(range(len(shots)))
    if name == "size":
        # No caption names the size of a growing object: take another if there is one.
        choices = [i for i in choices if shots[i].motion not in RESIZING] or choices
    index = rng.choice(choices)
    shot = shots[index]
    taken = {_object(other) for other in shots}
    if name == "motion":
        options = [replace(shot, motion=_OPPOSITE[shot.motion])]
    else:
        options = [
            changed
            for value in ATTRIBUTES[name]
            if value != getattr(shot, name)
            for changed in (_with(shot, name, value),)
            if shot.motion in motions_of(changed.shape)
            # The three objects of a clip stay different.
            and (name not in ("colour", "shape") or _object(changed) not in taken)
        ]
    return (*shots[:index], rng.choice(options), *shots[index + 1 :])


def _with(shot: Shot, name: str, value: str) -> Shot:
    changes: dict[str, Any] = {name: value}
    return replace(shot, **changes)


def _object(shot: Shot) -> tuple[str, str]:
    return shot.colour, shot.shape


def _swap_two(rng: random.Random, shots: tuple[Shot, ...], _: str) -> tuple[Shot, ...]:
    first, second = sorted(rng.sample(range(len(shots)), 2))
    order = list(shots)
    order[first], order[second] = order[second], order[first]
    moved = []
    start = 0
    for shot in order:
        moved.append(replace(shot, start=start, stop=start + shot.frames))
        start += shot.frames
    return tuple(moved)


@torch.no_grad()
def hard_negative_accuracy(
    model: Retriever, families: Videos, kinds: Sequence[str]
) -> dict[str, float]:
    """How often a caption scores its clip above one that differs in one thing, in %.

    ``families``: a split of ``with_hard_negatives`` with ``kinds``. For each kind, the
    captions of the hard negatives that name what differs choose between the hard
    negative and the original; one half is chance.
    """
    model.eval()
    gallery = encode_gallery(model, families)
    split, size = families.split, 1 + len(kinds)
    correct: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for first in range(0, len(split.videos), size):
        here = slice(first, first + size)
        family = type(gallery)._make(None if x is None else x[here] for x in gallery)
        captions = [c for c in split.captions if c.video in range(first, first + size)]
        shared = {c.text for c in captions if c.video == first}
        changed = [c for c in captions if c.text not in shared]
        scores = caption_scores(model, [c.text for c in changed], family)
        for caption, row in zip(changed, scores, strict=True):
            member = caption.video - first
            correct[kinds[member - 1]].append(bool(row[member] > row[0]))
    return {kind: 100 * sum(found) / len(found) for kind, found in correct.items()}
