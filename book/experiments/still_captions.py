"""Captions of single frames, which the mini CLIP is trained on.

They name a position and no motion, because one frame does not show it.
"""

from __future__ import annotations

import random

from glscl.mini.grammar import (
    ground_phrase,
    object_phrase,
    phrases,
    pick,
    without_placeholders,
)
from glscl.mini.scenes import Shot

POSITION_WORDS: dict[tuple[int, int], tuple[str, ...]] = {
    (0, 0): ("at the top left", "in the top left corner"),
    (0, 1): ("at the top",),
    (0, 2): ("at the top right", "in the top right corner"),
    (1, 0): ("on the left", "at the left"),
    (1, 1): ("in the middle", "in the center"),
    (1, 2): ("on the right", "at the right"),
    (2, 0): ("at the bottom left", "in the bottom left corner"),
    (2, 1): ("at the bottom",),
    (2, 2): ("at the bottom right", "in the bottom right corner"),
}
_STILL = ("{}", "a picture of {}", "we see {}", "there is {}")


def still_caption(
    rng: random.Random,
    shot: Shot,
    size: str | None,
    cell: tuple[int, int] | None,
    ground: bool,
) -> str:
    """A caption of one frame; ``size``, the grid ``cell`` (row, column) of the object
    and the background are named if given."""
    phrase = object_phrase(rng, shot, size)
    if cell is not None:
        phrase += f" {pick(rng, POSITION_WORDS[cell])}"
    if ground:
        place = ground_phrase(rng, shot)
        phrase = f"{place} {phrase}" if rng.random() < 0.25 else f"{phrase} {place}"
    return pick(rng, _STILL).format(phrase)


def empty_caption(rng: random.Random, shot: Shot) -> str:
    """A caption of a frame whose object is hidden: "nothing on a dark plain ..."."""
    return f"nothing {ground_phrase(rng, shot)}"


def vocabulary() -> list[str]:
    """Every word that any caption of a clip or of a frame can contain, sorted."""
    positions = [phrase for options in POSITION_WORDS.values() for phrase in options]
    every = [*phrases(), *positions, *map(without_placeholders, _STILL), "nothing"]
    return sorted({word for phrase in every for word in phrase.split()})
