"""The sentences of the built-in benchmark: words, synonyms, templates.

Five captions a clip: two about one shot ("single"), two about two shots in order
("double"), one about all three ("all"). Each names the object and its motion, and often
its size and background.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

from glscl.mini.scenes import RESIZING, SHOTS, Clip, Shot
from glscl.util.settings import load_yaml

KINDS = ("single", "double", "all")

_WORDS = load_yaml(Path(__file__).with_name("words.yaml").read_text("utf-8"))
WORDS: dict[str, list[str]] = _WORDS["words"]  #: of attributes other than the motion
MOTION_WORDS: dict[str, list[str]] = _WORDS["motions"]
ON: list[str] = _WORDS["on"]
GROUND: list[str] = _WORDS["ground"]
#: The sentences of each kind of caption.
TEMPLATES: dict[str, list[str]] = _WORDS["templates"]

# How often a caption of a kind names the size, and the background, of an object. The
# longest sentence must fit the 32 tokens of the mini CLIP.
_NAMES_SIZE = {"single": 0.9, "double": 0.4, "all": 0.3}
_NAMES_BACKGROUND = {"single": 0.95, "double": 0.4, "all": 0.0}


@dataclass(frozen=True)
class Mention:
    """The part of a caption about one shot: which shot, and the attributes it names."""

    shot: int
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class Caption:
    """A sentence, its kind, and its content: one mention per shot, in their order."""

    text: str
    kind: str
    mentions: tuple[Mention, ...]

    @property
    def shots(self) -> tuple[int, ...]:
        """The shots that the sentence describes."""
        return tuple(mention.shot for mention in self.mentions)


def pick(rng: random.Random, options: Sequence[str]) -> str:
    """One option; uses exactly one random number however many options there are."""
    return options[int(rng.random() * len(options))]


def object_phrase(rng: random.Random, shot: Shot, size: str | None) -> str:
    """ "a small red star", or "a red star" when ``size`` is None."""
    named = (size or "small", shot.colour, shot.shape)
    words = [pick(rng, WORDS[name]) for name in named]
    if not size:
        del words[0]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])


def ground_phrase(rng: random.Random, shot: Shot) -> str:
    """ "on a dark striped background"."""
    template = pick(rng, ON)
    words = (WORDS[shot.tone], WORDS[shot.pattern], GROUND)
    return template.format(" ".join(pick(rng, options) for options in words))


def _clause(
    rng: random.Random, clip: Clip, number: int, kind: str
) -> tuple[str, Mention]:
    """A clause about shot ``number``, and what it names.

    Draws the same count of random numbers whatever the shot shows, so a hard negative
    gets the same sentence with only the changed words replaced.
    """
    shot = clip.shots[number]
    with_size = rng.random() < _NAMES_SIZE[kind] and shot.motion not in RESIZING
    with_ground = rng.random() < _NAMES_BACKGROUND[kind]
    ground_first = rng.random() < 0.25
    phrase = object_phrase(rng, shot, shot.size if with_size else None)
    motion = pick(rng, MOTION_WORDS[shot.motion])
    ground = ground_phrase(rng, shot)
    attributes = ["colour", "shape", "motion"]
    attributes += ["size"] if with_size else []
    attributes += ["pattern", "tone"] if with_ground else []
    text = f"{phrase} {motion}"
    if with_ground and ground_first and kind == "single":
        text = f"{ground} {text}"
    elif with_ground:
        text = f"{text} {ground}"
    return text, Mention(number, tuple(attributes))


def captions_of(clip: Clip, seed: int = 0, style: str | None = None) -> list[Caption]:
    """The five captions of ``clip``: two single, two double, one all.

    ``style`` is the id that seeds templates and synonyms, by default the clip's own; a
    hard negative takes that of its original.
    """
    rng = random.Random(f"glscl captions {seed} {style or clip.id}")
    plans: list[tuple[str, tuple[int, ...]]] = []
    for kind, length, count in (("single", 1, 2), ("double", 2, 2), ("all", SHOTS, 1)):
        choices = list(combinations(range(SHOTS), length))
        plans += [(kind, shots) for shots in rng.sample(choices, count)]
    captions = []
    for kind, shots in plans:
        clauses = (_clause(rng, clip, number, kind) for number in shots)
        texts, mentions = zip(*clauses, strict=True)
        text = pick(rng, TEMPLATES[kind]).format(*texts)
        captions.append(Caption(text, kind, mentions))
    return captions


def phrases() -> Iterator[str]:
    """Every phrase and template of the captions of clips, without placeholders."""
    tables = (WORDS, MOTION_WORDS, TEMPLATES)
    options = chain(*(chain(*table.values()) for table in tables))
    return map(without_placeholders, (*options, *ON, *GROUND, "a", "an"))


def without_placeholders(template: str) -> str:
    """The words of a template, commas apart, with nothing in its placeholders."""
    return template.replace(",", " , ").format(*([""] * SHOTS))
