"""The data of the playground, a page that computes a trained model's scores.

A page on disk may load scripts, but it may not fetch files, so everything is put into two
scripts, as base64 of gzip: the text side of the model with the encoded test videos of the
built-in benchmark, and the clips themselves.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from book.builder.manifest import code_digests
from book.builder.packing import blob, pack
from book.builder.project import Project
from glscl.util.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from glscl.mini.synthetic import Benchmark
    from glscl.model import GLSCL
    from glscl.retriever import VideoFeatures

PAGE = "playground.md"
FOLDER = "_static/playground"
SHARED = ("card.js", "card.css")  # what the page of ``glscl serve`` has, too
#: A clip in the page is smaller than its file: only people see it.
ENCODER = {"preset": "veryslow", "crf": "32", "threads": "1"}
EXAMPLES = 40  # captions that are offered


def add(project: Project, book: Path) -> None:
    """Put the playground's files below ``book``, the staged folder of the pages.

    They are computed again only where the code or the model changed. The clips are those
    of the benchmark in its full size, whatever the chapters are run with.
    """
    if not (project.book / PAGE).is_file():
        return
    made = project.build / "playground"
    record = made / "inputs.json"
    now = code_digests(project.root, "import book.builder.playground")
    if not record.is_file() or json.loads(record.read_text()) != now:
        from glscl.mini.synthetic import make_benchmark
        from glscl.model import GLSCL

        print("    data  the playground", flush=True)
        model = GLSCL.from_pretrained("mini")
        benchmark = make_benchmark(made / "benchmark", 1, 1, progress=False)
        write(model, encode_videos(model, benchmark), benchmark, made / "scripts")
        write_json(record, now)
    shutil.copytree(made / "scripts", book / FOLDER, dirs_exist_ok=True)
    for name in SHARED:
        shutil.copyfile(
            project.root / "glscl/search/assets" / name, book / FOLDER / name
        )


def write(
    model: GLSCL, videos: VideoFeatures, benchmark: Benchmark, folder: Path
) -> None:
    """Write both scripts into ``folder``.

    ``videos``: the test videos of ``benchmark``, encoded by ``model``. Raises
    ``ValueError`` for a model whose settings the page does not compute.
    """
    config = model.config
    if not (config.local and config.mask_padding and config.backbone == "mini"):
        raise ValueError(
            "The playground computes a mini GLSCL with the LIM and masked padding, got "
            f"local={config.local}, mask_padding={config.mask_padding}, "
            f"backbone={config.backbone!r}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_script(
        folder / "model-data.js",
        "PLAYGROUND_MODEL",
        {
            **pack(tensors(model, videos), model.backbone.embed_dim),
            "sizes": sizes(model, videos),
            "merges": merges(),
            "temperature": config.temperature,
        },
    )
    _write_script(folder / "clips-data.js", "PLAYGROUND_CLIPS", clips(model, benchmark))


def encode_videos(model: GLSCL, benchmark: Benchmark) -> VideoFeatures:
    """The test videos, encoded by ``model``; what its image tower gives is kept on disk."""
    from glscl.evaluate import cached_videos, encode_gallery

    split, cache = benchmark.split("test"), benchmark.root / "cache"
    videos = cached_videos(split, model.backbone, model.config, cache)
    found = encode_gallery(model, videos)
    if not found.mask.all():
        raise ValueError("The playground has no padded frames: expected equal clips.")
    return found


def tensors(model: GLSCL, videos: VideoFeatures) -> dict[str, Tensor]:
    """What the page computes with, by name: text tower, decoder, encoded videos."""
    state = model.backbone.clip.state_dict()
    names = ("token_embedding", "positional_embedding", "transformer", "ln_final")
    found = {name: x for name, x in state.items() if name.startswith(names)}
    found["text_projection"] = state["text_projection"].T
    found |= model.lim_text.state_dict()
    return {
        **found,
        "frames": videos.frames.flatten(0, 1),
        "concepts": videos.concepts.flatten(0, 1),
    }


def sizes(model: GLSCL, videos: VideoFeatures) -> dict[str, float]:
    """The numbers of layers, heads, videos and frames, and the weight of the LIM."""
    B, F, _ = videos.frames.shape
    blocks = model.backbone.clip.transformer.resblocks
    return {
        "textLayers": len(blocks),
        "textHeads": blocks[0].attn.num_heads,
        "contextLength": model.config.max_words,
        "decoderLayers": model.config.num_decoder_layers,
        "decoderHeads": model.config.num_heads,
        "localWeight": model.config.local_weight,
        "videos": B,
        "frames": F,
    }


def merges() -> list[str]:
    """The merges of the mini vocabulary, in order."""
    from glscl.backbone import ASSETS

    text = gzip.decompress((ASSETS / "mini_bpe.txt.gz").read_bytes()).decode()
    return [" ".join(line.split()) for line in text.split("\n")[1:]]


def clips(model: GLSCL, benchmark: Benchmark) -> dict[str, Any]:
    """The test clips: their videos, what they show, and the grammar that says so."""
    from glscl.data.frames import sample_indices
    from glscl.mini import grammar, scenes
    from glscl.mini.synthetic import clip_path

    found, config = benchmark.clips("test"), model.config
    videos = [smaller(clip_path(benchmark.root, clip)) for clip in found]
    chosen = sample_indices(
        scenes.CLIP_FRAMES, scenes.FPS, config.max_frames, config.sample_fps
    )
    captions = benchmark.captions("test")
    ordered = grammar.TEMPLATES["double"] + grammar.TEMPLATES["all"]
    order = " ".join(grammar.without_placeholders(t) for t in ordered).split()
    spread = np.linspace(0, len(captions) - 1, min(EXAMPLES, len(captions)))
    return {
        "videos": blob(b"".join(videos)),
        "lengths": [len(video) for video in videos],
        "shots": [[shot.named() for shot in clip.shots] for clip in found],
        "times": [round(i / scenes.FPS, 3) for i in chosen.tolist()],
        "examples": [captions[int(i)].text for i in spread],
        "order": [word for word in dict.fromkeys(order) if word != ","],
        "known": sorted({word for text in grammar.phrases() for word in text.split()}),
        "grammar": {
            "words": grammar.WORDS | grammar.MOTION_WORDS,
            "kinds": scenes.ATTRIBUTES,
            "templates": [t for kind in grammar.TEMPLATES.values() for t in kind],
            "on": grammar.ON,
            "ground": grammar.GROUND,
            "resizing": scenes.RESIZING,
        },
    }


def smaller(path: Path) -> bytes:
    """A clip for people to look at: as H.264 with ``ENCODER``."""
    import io

    from book.experiments.mini_clip import decode_mp4
    from glscl.data.encode import write_mp4
    from glscl.mini.scenes import FPS

    memory = io.BytesIO()
    write_mp4(memory, decode_mp4(path.read_bytes()), Fraction(FPS), ENCODER)
    return memory.getvalue()


def _write_script(path: Path, name: str, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    path.write_text(f'"use strict";\nconst {name} = {text};\n', encoding="utf-8")
