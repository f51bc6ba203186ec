"""Models on disk: the directories of this package, and the authors' checkpoints.

A released checkpoint is a ``torch.save``d state dict with CLIP in OpenAI's layout and other
names for the rest. ``authors_name`` translates every name, by ``AUTHORS_PREFIXES``;
``authors_config`` reads every size from the tensors.

Source: the checkpoints that the released code of GLSCL and EERCF writes.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from glscl.backbone import backbone_config
from glscl.util.files import atomic_path, write_json
from glscl.util.state_dicts import own_names

# OpenAI's CLIP gives every attention head 64 channels.
HEAD_WIDTH = 64
#: The start of a weight's name here, and in the released code.
AUTHORS_PREFIXES = {
    "backbone.clip.": "clip.",
    "temporal.positions": "frame_position_embeddings.weight",
    "temporal.resblocks.": "transformerClip.resblocks.",
    # GLSCL
    "lim_video.queries": "spatial_queries",
    "lim_text.queries": "noun_queries",
    "lim_video.decoder.": "transformer_decoder_spatial.",
    "lim_text.decoder.": "transformer_decoder_noun.",
    # EERCF
    "video_map": "global_mat_weight",
    "frame_mix": "frame_logit_weight",
}
# Weights of the release that no score uses (2.1, 8.4 and 12.6 M parameters at D = 512),
# and those that it does not use where both modalities share queries and decoder.
UNUSED = ("weight_fc.", "decoder_layer_noun.", "decoder_layer_spatial.")
UNUSED_WHEN_SHARED = ("noun_queries", "transformer_decoder_spatial.")
# A checkpoint has the name, hence the tokenizer, of the model with its sizes.
KNOWN_BACKBONES = ("ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu")
CONFIG_FILE = "config.json"
FORMAT = "glscl model 1"


def own_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of ``model`` as its files have them, each one once."""
    state = model.state_dict()
    return {name: state[name].contiguous() for name in own_names(model)}


def save_directory(
    directory: Path,
    description: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    name: str | None = None,
) -> None:
    """Write a model: ``weights`` as safetensors, ``description`` as ``config.json``.

    An older model there stays readable until the new one is complete: the weights get a
    new file name, unless ``name`` gives it, and ``config.json``, which refers to it, is
    replaced last.
    """
    from safetensors.torch import save_file

    file = directory / (name or f"weights-{secrets.token_hex(4)}.safetensors")
    with atomic_path(file) as partial:
        save_file(dict(weights), partial, metadata={"format": "pt"})
    described = {"format": FORMAT, **description, "weights": file.name}
    write_json(directory / CONFIG_FILE, described, indent=2)
    for old in directory.glob("weights-*"):
        if old != file:
            old.unlink()


class Clip(BaseModel):
    """The CLIP of a saved model: its open_clip name and configuration."""

    name: str
    config: dict[str, Any]


class SavedModel(BaseModel):
    """What ``config.json`` says of a model: its method (older files do not), its CLIP,
    its settings, its file of weights, whether what these leave out is that of the
    built-in CLIP, and its record."""

    format: str
    method: str = "glscl"
    backbone: Clip
    model: dict[str, Any]
    weights: Path
    built_in_clip: bool = False
    record: dict[str, Any] = {}


def read_directory(directory: Path) -> SavedModel:
    """The model that ``save_directory`` described; its weights are not read yet.

    Raises ``FileNotFoundError`` for a missing file, ``ValueError`` for one that does not
    describe a model.
    """
    file = directory / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{directory} holds no saved model: {file} is missing.")
    try:
        saved = SavedModel.model_validate_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} does not describe a model of glscl.") from error
    if saved.format != FORMAT:
        raise ValueError(
            f"{file} has the format {saved.format!r}, expected {FORMAT!r}."
        )
    saved.weights = directory / saved.weights.name  # never outside
    return saved


def authors_name(name: str) -> str:
    """The released code's name of a weight of ``GLSCL`` or ``EERCF``.

    Weights that both modalities share are named ``lim_video`` here. In the release,
    shared queries are ``spatial_queries``; see ``authors_shared_name`` for the decoder.
    """
    for prefix, released in AUTHORS_PREFIXES.items():
        if name.startswith(prefix):
            return released + name.removeprefix(prefix)
    return name


def authors_shared_name(name: str) -> str:
    """``authors_name`` for a model that shares queries and decoder."""
    return authors_name(name.replace("lim_video.decoder.", "lim_text.decoder."))


def authors_config(
    state: Mapping[str, Tensor], source: str, method: str = "glscl"
) -> tuple[str, dict[str, Any], dict[str, int]]:
    """Name and open_clip configuration of the CLIP in a checkpoint, sizes of the rest.

    Raises ``ValueError`` when ``state`` is no checkpoint of ``method`` with a ViT.
    """

    def shape(key: str) -> tuple[int, ...]:
        if key not in state:
            raise ValueError(
                f"{source} is not a released {method.upper()} checkpoint with a ViT: it "
                f"lacks {key!r}."
            )
        return tuple(state[key].shape)

    width, _, patch, _ = shape("clip.visual.conv1.weight")
    positions = shape("clip.visual.positional_embedding")[0] - 1
    context, text_width = shape("clip.positional_embedding")
    config = {
        "embed_dim": shape("clip.text_projection")[1],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": round(positions**0.5) * patch,
            "patch_size": patch,
            "width": width,
            "head_width": HEAD_WIDTH,
            "layers": _count(state, "clip.visual.transformer.resblocks."),
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": shape("clip.token_embedding.weight")[0],
            "width": text_width,
            "heads": text_width // HEAD_WIDTH,
            "layers": _count(state, "clip.transformer.resblocks."),
        },
    }
    sizes = {"temporal_layers": _count(state, "transformerClip.resblocks.")}
    if method == "eercf":
        sizes["max_frames"] = shape("frame_logit_weight")[0]
    else:
        sizes["num_queries"] = shape("spatial_queries")[0]
        sizes["num_decoder_layers"] = _count(state, "transformer_decoder_noun.layers.")
    known = (n for n in KNOWN_BACKBONES if _same_sizes(config, backbone_config(n)))
    return next(known, "authors-clip"), config, sizes


def authors_backbone(name: str, config: Mapping[str, Any], source: str) -> str:
    """``name``, if that open_clip model is the CLIP that ``authors_config`` found.

    Raises ``ValueError`` where its sizes differ or its activation is not QuickGELU.
    """
    known = backbone_config(name)
    if not _same_sizes(config, known):
        sizes = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
        raise ValueError(
            f"{source} is a checkpoint of another backbone than {name!r}; its CLIP has "
            f"the sizes {sizes}."
        )
    if not known.get("quick_gelu"):
        raise ValueError(
            f"The authors' checkpoints need QuickGELU, which {name!r} lacks: use "
            f"'{name}-quickgelu'."
        )
    return name


def _count(keys: Iterable[str], prefix: str) -> int:
    """How many numbered blocks ``keys`` has below ``prefix``."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({found[1] for key in keys if (found := pattern.match(key))})


def _same_sizes(config: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    return config["embed_dim"] == known["embed_dim"] and all(
        config[tower].items() >= known[tower].items()
        for tower in ("vision_cfg", "text_cfg")
    )
