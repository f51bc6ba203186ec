"""CLIP as this project uses it: sentence, token, frame and patch features.

The only file that imports open_clip. ``load_backbone`` builds the built-in mini CLIP or
any open_clip model with the text tower of the original CLIP, with random, downloaded or
local weights.
"""

from __future__ import annotations

import importlib.util
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from glscl.data.split import Caption
from glscl.util.numeric import autocast_disabled
from glscl.util.shapes import check_shape
from glscl.util.state_dicts import copy_weights, read_state_dict

ASSETS = Path(__file__).parent / "mini" / "assets"
MINI = "mini"
#: Without the size of the shipped vocabulary, which ``backbone_config`` sets.
MINI_CONFIG: dict[str, Any] = json.loads((ASSETS / "mini.json").read_text())
# Extra entries of OpenAI's TorchScript archives: sizes, not weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
# Devices that compute in float16 with float16 weights; others compute in float32.
_COMPUTE_HALF = ("cuda",)
_declared: list[torch.library.Library] = []


class TextOutput(NamedTuple):
    """``captions`` (A, D): the sentence features; ``tokens`` (A, L, D): every token."""

    captions: Tensor
    tokens: Tensor


def _declare_torchvision_operators() -> None:
    """Make ``import torchvision`` work beside a torch built for another device.

    A CPU torch cannot load the binary of a CUDA torchvision, whose Python part then
    fails to register fake kernels for two operators it never calls here. Declaring
    their schemas is enough.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    with suppress(OSError):
        for binary in sorted(Path(spec.origin).parent.glob("_C*")):
            torch.ops.load_library(str(binary))
            return
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    fragment.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    fragment.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(fragment)


@lru_cache(maxsize=1)
def open_clip() -> Any:
    """The open_clip package, imported on first use."""
    _declare_torchvision_operators()
    with warnings.catch_warnings():
        # torchvision warns of the binary that the declared operators replace.
        warnings.filterwarnings(
            "ignore", message="Failed to load image Python extension"
        )
        import open_clip as package
    return package


@lru_cache(maxsize=1)
def mini_tokenizer() -> Any:
    """open_clip's BPE tokenizer over the vocabulary of the built-in benchmark."""
    path = ASSETS / "mini_bpe.txt.gz"
    context = MINI_CONFIG["text_cfg"]["context_length"]
    return open_clip().SimpleTokenizer(bpe_path=str(path), context_length=context)


def backbone_config(name: str) -> dict[str, Any]:
    """The open_clip configuration of ``name``: sizes of both towers, the activation.

    Raises ``ValueError`` for an unknown name, or a model without CLIP's text tower.
    """
    if name == MINI:
        text = {**MINI_CONFIG["text_cfg"], "vocab_size": mini_tokenizer().vocab_size}
        return {**MINI_CONFIG, "text_cfg": text}
    config = open_clip().get_model_config(name)
    if config is None:
        raise ValueError(
            f"Unknown backbone {name!r}: expected 'mini' or a name of "
            "open_clip.list_models(), for example 'ViT-B-32-quickgelu'."
        )
    custom = config.pop("custom_text", False) or "multimodal_cfg" in config
    if custom or config["text_cfg"].get("hf_model_name"):
        raise ValueError(
            f"Backbone {name!r} has a text tower other than CLIP's; expected a model "
            "with CLIP's own, for example 'ViT-B-32-quickgelu'."
        )
    return config


class Backbone(nn.Module):
    """Both towers of a CLIP, with every feature that the retrieval heads use.

    ``name`` is the model's open_clip name (it fixes QuickGELU and the tokenizer),
    ``config`` its open_clip configuration. Weights start random.
    """

    def __init__(self, name: str, config: Mapping[str, Any]):
        super().__init__()
        self.name = name
        self.config = json.loads(json.dumps(config))
        names = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
        sizes = {name: self.config[name] for name in names if name in self.config}
        package = open_clip()
        self.clip = package.CLIP(**sizes)
        self.embed_dim: int = sizes["embed_dim"]
        self.quick_gelu = bool(sizes.get("quick_gelu", False))
        self.context_length: int = self.clip.context_length
        side = self.clip.visual.image_size
        self.image_size: int = side if isinstance(side, int) else side[0]
        self.image_mean: tuple[float, ...] = package.OPENAI_DATASET_MEAN
        self.image_std: tuple[float, ...] = package.OPENAI_DATASET_STD

    @property
    def logit_scale(self) -> nn.Parameter:
        """log κ, a scalar parameter."""
        return self.clip.logit_scale

    @property
    def patch_size(self) -> int:
        """Side of a square patch in pixels."""
        return self.clip.visual.patch_size[0]

    def tokenize(
        self, texts: Sequence[Caption], max_words: int
    ) -> tuple[Tensor, Tensor]:
        """BPE ids (A, L) and the mask (A, L), True on BOS, words and EOS.

        ``texts``: sentences, or all of them as ids from BOS to EOS. L is ``max_words``,
        at most the context length. Longer captions are cut and end in EOS. Raises
        ``ValueError`` for an empty list, an impossible length, ids that do not end in
        EOS, and sentences where the tokenizer of the backbone is not known.
        """
        if not 3 <= max_words <= self.context_length:
            raise ValueError(
                f"max_words must lie between 3 and the context length "
                f"{self.context_length} of {self.name}, got {max_words}."
            )
        if isinstance(texts, str) or not texts:
            raise ValueError("texts must be a list of at least one caption.")
        if isinstance(texts[0], str):
            tokenizer = mini_tokenizer() if self.name == MINI else _tokenizer(self.name)
            token_ids = tokenizer(list(texts), context_length=max_words)
        else:
            token_ids = torch.tensor([self._padded(ids, max_words) for ids in texts])
        # BOS and EOS are the two largest ids and id 0 is a real token ("!"), so the
        # mask comes from the position of EOS, not from ids that are not zero.
        end = token_ids.argmax(dim=-1, keepdim=True)
        return token_ids, torch.arange(max_words) <= end

    def _padded(self, ids: Any, max_words: int) -> list[int]:
        vocabulary = self.config["text_cfg"]["vocab_size"]
        if len(ids) < 2 or not 0 <= min(ids) <= max(ids) == ids[-1] < vocabulary:
            raise ValueError(
                f"A caption of token ids must have ids below {vocabulary} and end in the "
                f"largest of them, EOS, got {ids}."
            )
        kept = [*ids[: max_words - 1], ids[-1]] if len(ids) > max_words else [*ids]
        return kept + [0] * (max_words - len(kept))

    def encode_text(
        self, token_ids: Tensor, token_mask: Tensor | None = None
    ) -> TextOutput:
        """Sentence features (A, D) and the features of every token (A, L, D).

        ``token_ids`` (A, L), L up to the context length. With ``token_mask`` (A, L),
        padded positions are masked as keys. This changes only the features of padded
        tokens: attention is causal, so no real token attends past EOS.
        """
        A, L = check_shape(token_ids, "A L", "token_ids").values()
        if self.context_length < L:
            raise ValueError(
                f"token_ids has {L} tokens a caption, the backbone {self.name} takes "
                f"{self.context_length}."
            )
        attention_mask = self.clip.attn_mask[:L, :L]
        if token_mask is not None:
            check_shape(token_mask, "A L", "token_mask", A=A, L=L)
            hidden = torch.zeros_like(attention_mask).expand(A, L, L)
            hidden = hidden.masked_fill(~token_mask.bool()[:, None, :], float("-inf"))
            heads = self.clip.transformer.resblocks[0].attn.num_heads
            attention_mask = (attention_mask + hidden).repeat_interleave(heads, dim=0)
        tokens = self._compute(self._tokens, token_ids, attention_mask)
        rows = torch.arange(A, device=token_ids.device)
        return TextOutput(tokens[rows, token_ids.argmax(dim=-1)], tokens)

    def _tokens(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        clip, L = self.clip, token_ids.shape[1]
        dtype = clip.transformer.get_cast_dtype()
        x = clip.token_embedding(token_ids).to(dtype)
        x = x + clip.positional_embedding[:L].to(dtype)
        x = clip.transformer(x, attn_mask=attention_mask)
        return clip.ln_final(x) @ clip.text_projection

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Frame features (N, D) of ``pixels`` (N, 3, H, W): the projected CLS token."""
        check_shape(pixels, "N 3 H W", "pixels", H=self.image_size, W=self.image_size)
        return self._compute(self.clip.visual, pixels)

    def encode_image_with_patches(self, pixels: Tensor) -> Tensor:
        """``encode_image`` and the projected patch features: (N, 1 + P, D).

        Raises ``ValueError`` for a visual tower other than a plain ViT.
        """
        check_shape(pixels, "N 3 H W", "pixels", H=self.image_size, W=self.image_size)
        visual = self.clip.visual
        if not hasattr(visual, "ln_post") or visual.attn_pool is not None:
            raise ValueError(
                f"Backbone {self.name} has no patch tokens in the shared space; "
                "expected a plain ViT such as 'ViT-B-32-quickgelu'."
            )
        return self._compute(self._patches, pixels)

    def _patches(self, pixels: Tensor) -> Tensor:
        visual = self.clip.visual
        out = visual.forward_intermediates(
            pixels, indices=1, normalize_intermediates=True, output_fmt="NLC"
        )
        patches = out["image_intermediates"][-1] @ visual.proj
        return torch.cat([out["image_features"][:, None], patches], dim=1)

    def convert_weights(self) -> None:
        """Make CLIP's matrices float16, as the released programs do on a GPU.

        These are weights and biases of all linear, convolution and attention layers and
        both projections; embeddings, norms and the logit scale stay as they are. So the
        gradients of these weights are float16, too. On CUDA CLIP then computes in
        float16, elsewhere in float32 from the float16 values; features are float32.
        """
        open_clip().convert_weights_to_lp(self.clip, torch.float16)

    def forward(self, encode: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``encode(*inputs)``, with weights that ``functional_call`` put in their place."""
        return encode(*inputs)

    def _compute(self, encode: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``encode(*inputs)`` in the arithmetic of the weights, see ``convert_weights``."""
        half = {n: p for n, p in self.named_parameters() if p.dtype == torch.float16}
        if not half:
            return encode(*inputs)
        device = self.logit_scale.device.type
        if device in _COMPUTE_HALF:
            with torch.autocast(device, torch.float16):
                return encode(*inputs).float()
        weights = {name: parameter.float() for name, parameter in half.items()}
        with autocast_disabled(self.logit_scale):
            return functional_call(self, weights, (encode, *inputs))


@lru_cache(maxsize=4)
def _tokenizer(name: str) -> Any:
    if open_clip().get_model_config(name) is None:
        raise ValueError(
            f"Backbone {name!r} is no model of open_clip, so its tokenizer is not known: "
            "give captions as token ids."
        )
    return open_clip().get_tokenizer(name)


def load_backbone(
    name: str = MINI, pretrained: str | Path | None = "builtin"
) -> Backbone:
    """A CLIP by its open_clip name, or ``"mini"``, in evaluation mode.

    ``pretrained``: ``"builtin"`` (the shipped weights, mini only), ``None`` (random),
    a weight tag of open_clip such as ``"openai"`` (downloads once), or the path of a
    local file: ``.safetensors``, a ``.pt``/``.bin`` state dict, or the TorchScript
    archive that OpenAI published for ``name``.

    Raises ``ValueError`` for names and weights that do not fit, ``FileNotFoundError``
    for a missing file, ``ConnectionError`` when a download fails.
    """
    backbone = Backbone(name, backbone_config(name))
    if pretrained is None:
        return backbone.eval()
    if pretrained == "builtin":
        if name != MINI:
            raise ValueError(
                f"Only the backbone 'mini' has built-in weights; for {name!r} give "
                "pretrained='openai', another open_clip tag, a file, or None."
            )
        pretrained = ASSETS / "mini_clip.safetensors"
    if pretrained == "openai" and name != MINI and not backbone.quick_gelu:
        raise ValueError(
            f"OpenAI's weights need QuickGELU: use '{name}-quickgelu', not '{name}'."
        )
    file = _weights_file(name, str(pretrained))
    state = read_state_dict(file, _published_archives(name))
    if all(key in state for key in _NOT_WEIGHTS) and not backbone.quick_gelu:
        raise ValueError(
            f"{pretrained} has the form of OpenAI's weights, which need QuickGELU: use "
            f"'{name}-quickgelu', not '{name}'."
        )
    copy_weights(backbone.clip, state, str(pretrained), ignored=_NOT_WEIGHTS)
    return backbone.eval()


def _weights_file(name: str, pretrained: str) -> Path:
    """The file ``pretrained``, or that of a tag of open_clip, downloaded once."""
    package = open_clip()
    tags = package.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        if Path(pretrained).is_file():
            return Path(pretrained)
        raise FileNotFoundError(
            f"No weights {pretrained!r} for backbone {name!r}: neither a file nor one of "
            f"its open_clip tags ({', '.join(tags) or 'none'})."
        )
    try:
        config = package.get_pretrained_cfg(name, pretrained)
        return Path(package.download_pretrained(config))
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise ConnectionError(
            f"Could not download the weights {pretrained!r} of {name} "
            f"({type(error).__name__}); without a network give the path of a local "
            "file as pretrained."
        ) from error


def _published_archives(name: str) -> list[str]:
    """SHA-256 of OpenAI's TorchScript archives of a model, a part of their addresses."""
    address = open_clip().get_pretrained_url(name, "openai")
    return re.findall(r"(?<=/)[0-9a-f]{64}(?=/)", address)
