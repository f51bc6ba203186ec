"""``glscl demo``: the trained mini model ranks generated clips for a sentence."""

from __future__ import annotations

import re
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument

from glscl.cli.search import Open

if TYPE_CHECKING:
    from glscl.mini.scenes import Clip
    from glscl.search.page import Moment

SENTENCE = (
    "a red triangle turns around, then a pink star falls, then a green triangle shrinks"
)
DRAWN, CLIPS = 500, 24  # clips of the test split that are looked at, and that are made
SHOWN = 5
BARS = "▁▂▃▄▅▆▇█"


def demo(
    sentence: Annotated[str, Argument(help="What to look for.")] = SENTENCE,
    show: Open = False,
) -> None:
    """Rank a few generated clips for a sentence with the trained mini model.

    They are the clips of the test split of the built-in benchmark that have most in
    common with the sentence.
    """
    from glscl.search.page import write_page

    if strange := unknown_words(sentence):
        typer.echo(f"Words that the mini model has never seen: {', '.join(strange)}.")
    clips = chosen_clips(sentence)
    folder = Path(tempfile.mkdtemp(prefix="glscl-demo-"))
    found = ranked(sentence, clips, folder)
    typer.echo(f"{sentence}: the first {len(found)} of {len(clips)} clips")
    typer.echo("    score  frame weights  what the clip shows, shot by shot")
    for rank, moment in enumerate(found, 1):
        assert moment.frame_weights is not None  # GLSCL has them
        shares = moment.frame_weights / moment.frame_weights.max()
        bars = "".join(BARS[round(share * (len(BARS) - 1))] for share in shares)
        shots = clips[moment.row].shots
        said = "; ".join(f"{one.colour} {one.shape} {one.motion}" for one in shots)
        typer.echo(f"{rank:2d}. {moment.score:6.3f}  {bars:13}  {said}")
    page = folder / "found.html"
    write_page(page, {sentence: found})
    typer.echo(f"written to {page}")
    if show:
        webbrowser.open(page.as_uri())


def unknown_words(sentence: str) -> list[str]:
    """The words of a sentence that no caption of the built-in benchmark has."""
    from glscl.mini.grammar import phrases

    known = {word for phrase in phrases() for word in phrase.split()}
    words = re.findall(r"[^\W\d_]+", sentence.lower())
    return [word for word in dict.fromkeys(words) if word not in known]


def chosen_clips(sentence: str) -> list[Clip]:
    """The ``CLIPS`` of ``DRAWN`` clips of the test split that are likest to the sentence.

    Likeness is the number of named values of a shot, squared, so that one shot with two
    of them counts more than two with one.
    """
    from glscl.mini.grammar import MOTION_WORDS, WORDS
    from glscl.mini.scenes import draw_clip

    def is_named(phrases: Sequence[str]) -> bool:
        choice = "|".join(phrases)
        return re.search(rf"\b({choice})\b", sentence, re.IGNORECASE) is not None

    table = {**WORDS, **MOTION_WORDS}
    named = {value for value, phrases in table.items() if is_named(phrases)}

    def likeness(clip: Clip) -> int:
        return sum(len(named & {*shot.named().values()}) ** 2 for shot in clip.shots)

    drawn = [draw_clip("test", number) for number in range(DRAWN)]
    likest = sorted(drawn, key=likeness, reverse=True)[:CLIPS]
    return sorted(likest, key=lambda clip: clip.id)


def ranked(sentence: str, clips: Sequence[Clip], folder: Path) -> list[Moment]:
    """The ``SHOWN`` best clips, whose files are written below ``folder``, best first.

    ``row`` of a moment is the number of its clip.
    """
    import torch

    from glscl.data.frames import sample_video
    from glscl.data.loader import VideoDataset
    from glscl.data.video import VideoReader
    from glscl.data.videofiles import file_state
    from glscl.evaluate import caption_batches, encode_gallery, frame_spec
    from glscl.mini.grammar import captions_of
    from glscl.mini.synthetic import Benchmark, write_clips
    from glscl.model import GLSCL
    from glscl.search.page import Moment

    write_clips(folder, clips)
    items = tuple((clip, tuple(captions_of(clip))) for clip in clips)
    split = Benchmark(folder, 0, {"test": items}).split("test")
    model = GLSCL.from_pretrained("mini")
    spec = frame_spec(model.backbone, model.config)
    with torch.inference_mode():
        gallery = encode_gallery(model, VideoDataset(split, spec))
        (text,) = caption_batches(model, [sentence])
        scores = model.similarity(text, gallery)[0]
        weights = model.frame_weights(text, gallery)
    assert weights is not None  # this model has them
    moments = []
    for row in scores.argsort(descending=True)[:SHOWN].tolist():
        reader = VideoReader(split.videos[row].path)
        taken = sample_video(reader, spec.max_frames, spec.sample_fps)
        moments.append(
            Moment(
                reader.path,
                start=0.0,
                end=reader.timeline.end,
                score=scores[row].item(),
                frame_times=reader.timeline.times[taken].astype("float32"),
                frame_weights=weights[0, row, : len(taken)].numpy(),
                row=row,
                state=file_state(reader.path),
            )
        )
    return moments
