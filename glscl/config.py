"""Settings of models, recipes and runs, checked; the published ones by name.

All methods share encoders and training: ``glscl``, ``eercf``, ``glccl``, and the heads
``clip4clip``, ``ts2net``, ``xclip``, ``xpool``, ``drl``, ``dicosa`` (``glscl.heads``). A
preset is complete, and its tag says where it comes from: ``released`` (what the authors'
scripts do, also where that is a defect), ``readme`` (the same where their README says
otherwise), ``recommended`` (their sizes and rates without the defects), ``mini`` (chosen
by this project for the built-in benchmark).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field

from glscl.util.settings import Settings, known_names, load_yaml

AtLeast1 = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
ShareBelow1 = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class EncoderConfig(Settings):
    """What all methods have: CLIP, lengths, the temporal transformer, masks.

    Defaults are the released MSR-VTT models, except that padding is masked
    (``mask_padding``), which the releases do not do.
    """

    backbone: str = "ViT-B-32-quickgelu"  #: open_clip's name of the CLIP, or ``mini``
    #: Its weights: a tag of open_clip, a file, ``builtin`` (of ``mini``); null: random.
    pretrained: str | None = "openai"
    max_words: Annotated[int, Field(ge=3)] = 32  #: L, tokens, BOS and EOS included
    max_frames: AtLeast1 = 12  #: F, frames that a model sees of a video
    sample_fps: Positive = 1.0  #: candidate frames a second, before F are chosen
    #: Which frames are candidates: every so many from the start (stride), or the first of
    #: every whole second, at a rate that is rounded down (seconds).
    sampling: Literal["stride", "seconds"] = "stride"
    #: Blocks of the frame transformer; 0: there is none.
    temporal_layers: Annotated[int, Field(ge=0)] = 4
    #: Standard deviation of the frames' position embeddings at the start; null: they are
    #: CLIP's own.
    position_std: Positive | None = None
    mask_padding: bool = True  #: whether padding is left out of every sum and maximum


@dataclass(frozen=True)
class ModelConfig(EncoderConfig):
    """Every choice that changes what a GLSCL model computes."""

    pooling: Literal["gim", "mean"] = "gim"  #: of the frames, for the global part
    temperature: Positive = 3.0  #: τ of the GIM, in the unit of the inner products
    local: bool = True  #: whether there is a LIM
    local_weight: NotNegative = 0.5  #: of the local similarity in the sum
    num_queries: AtLeast1 = 8  #: Q, queries, and so concepts of an item
    num_decoder_layers: AtLeast1 = 3  #: layers of the LIM's decoder
    num_heads: AtLeast1 = 8  #: H, attention heads of the LIM's decoder
    dropout: ShareBelow1 = 0.1  #: share of the decoder's activations set to zero
    share_queries: bool = True  #: one set of queries for captions and videos
    share_decoder: bool = True  #: one decoder for captions and videos
    icl_weight: NotNegative = 1.0  #: λ, weight of the ICL in the loss
    #: What the ICL's sum over pairs is divided by: Q (released) or the pairs (batch).
    icl_normalise: Literal["released", "batch"] = "released"
    beta: NotNegative = 0.005  #: β, weight of the ICL's second term
    alpha: NotNegative = 1e-4  #: α, weight of the IDL in the loss
    idl_margin: NotNegative = 0.1  #: concepts are penalised above a cosine of 1 − it
    idl_sides: Literal["video", "both"] = "video"  #: whose concepts the IDL penalises


@dataclass(frozen=True)
class EERCFConfig(EncoderConfig):
    """Every choice that changes what an EERCF model computes."""

    patches: bool = True  #: score patches too, not the frames alone
    pearson_weight: NotNegative = 0.001  #: of the Pearson terms in the loss
    gate_temperature: Positive = 0.1  #: of the text-gated frames


@dataclass(frozen=True)
class GLCCLConfig(EncoderConfig):
    """Every choice that changes what a GLCCL model computes."""

    temperature: Positive = 5.0  #: τ of the GLIM, in the unit of the inner products
    csc_weight: NotNegative = 0.5  #: of the CSC in the loss


@dataclass(frozen=True)
class TS2NetConfig(EncoderConfig):
    """Every choice that changes what TS2-Net's head computes."""

    sharpness: Positive = 4.0  #: of the softmax over a video's normalised scores


@dataclass(frozen=True)
class XCLIPConfig(EncoderConfig):
    """Every choice that changes what X-CLIP's head computes."""

    temperature: Positive = 0.01  #: of the means that are weighted by their own scores


@dataclass(frozen=True)
class XPoolConfig(EncoderConfig):
    """Every choice that changes what X-Pool's head computes."""

    dropout: ShareBelow1 = 0.3  #: share of activations set to zero


@dataclass(frozen=True)
class DRLConfig(EncoderConfig):
    """Every choice that changes what DRL's head computes; WTI alone: ``cdcr_weight`` 0."""

    cdcr_weight: NotNegative = 0.001  #: of the CDCR in the loss
    cdcr_on: NotNegative = 0.11  #: of a channel's correlation with itself
    cdcr_off: NotNegative = 0.0  #: of its correlation with other channels


@dataclass(frozen=True)
class DiCoSAConfig(EncoderConfig):
    """Every choice that changes what DiCoSA's head computes."""

    num_concepts: AtLeast1 = 8  #: C, slices of the channels
    temperature: Positive = 3.0  #: τ of the pooling
    concept_on: NotNegative = 0.01  #: of a slice's correlation with itself
    concept_off: NotNegative = 0.005  #: of its correlation with other slices
    #: What correlations are divided by: L as released, or the channels of a slice less 1.
    concept_normalise: Literal["released", "channels"] = "released"


@dataclass(frozen=True)
class TrainConfig(Settings):
    """The recipe: optimiser, schedule, batch, augmentation. Lengths are in epochs."""

    epochs: AtLeast1 = 5  #: passes over the training data
    batch_size: AtLeast1 = 128  #: pairs a step, over all processes
    eval_batch_size: AtLeast1 = 64  #: items encoded at a time in evaluation
    optimiser: Literal["bertadam", "adamw"] = "bertadam"  #: see ``glscl.optim``
    learning_rate: Positive = 1e-4  #: highest rate, of new modules
    clip_lr_scale: NotNegative = 1e-3  #: CLIP's learning rate as a share of that
    weight_decay: NotNegative = 0.2  #: share of a weight removed a step, times its rate
    warmup: ShareBelow1 = 0.1  #: share of the steps in which the rate rises
    schedule: Literal["released", "cosine"] = "released"  #: ``glscl.optim.MULTIPLIERS``
    schedule_epochs: AtLeast1 | None = None  #: epochs of it; null: as ``epochs``
    decay: Literal["released", "matrices"] = "released"  #: what weight decay acts on
    #: An epoch has every caption with its video, or every video with one caption.
    epoch_over: Literal["captions", "videos"] = "captions"
    group_size: AtLeast1 = 1  #: so many videos in a row of the split share a batch
    #: Which part of CLIP is not trained.
    freeze: Literal["nothing", "conv1", "embeddings", "visual"] = "conv1"
    #: "released": CLIP's matrices live in float16 without a float32 copy, and so do their
    #: gradients and their optimiser, see ``Backbone.convert_weights``.
    clip_arithmetic: Literal["float32", "released"] = "float32"
    augment: str | None = "rand-m7-n4-mstd0.5-inc1"  #: timm's RandAugment; null: none
    #: Of the frames as decoded, or, faster, as they are kept after resizing.
    augment_on: Literal["decoded", "resized"] = "resized"
    #: The gradient of features is divided by it on its way into the encoders, as the
    #: release does on so many GPUs; 1: independent of their number.
    gradient_divisor: AtLeast1 = 1
    #: The split that decides which weights are kept ("test" leaks).
    select_on: Literal["validation", "test"] = "validation"
    #: Steps between evaluations within an epoch, the first after step 1; null: only
    #: where epochs end.
    look_every: AtLeast1 | None = None
    keep: Literal["best", "released", "recalls"] = "best"  #: ``glscl.metrics.RULES``
    qb_k: AtLeast1 = 1  #: QB-Norm of the test: neighbours
    qb_beta: Positive = 20.0  #: QB-Norm of the test: inverse temperature
    qb_theta: AtLeast1 = 1  #: QB-Norm of the test: hits that make a hub
    seed: int = 42  #: of every random choice of the training


@dataclass(frozen=True)
class RunOptions(Settings):
    """How a recipe is carried out. None of these changes what is learnt, except
    ``accumulate`` (fewer negatives) and the rounding of ``precision``.
    """

    device: str = "cpu"  #: of torch: ``cpu``, ``cuda``, ``cuda:1``
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  #: of matrix products
    micro_batch: AtLeast1 | None = None  #: pairs at a time on one process, exact
    accumulate: AtLeast1 = 1  #: parts of a batch with a loss of their own
    max_grad_norm: Positive = 1.0  #: largest length of the whole gradient
    workers: Annotated[int, Field(ge=0)] = 0  #: processes that load data
    #: Where checkpoints, the log and the best model go; null: all stays in memory.
    folder: Path | None = None
    resume: bool = True  #: go on with a run in the folder
    #: Steps between checkpoints within an epoch; there is always one at its end.
    checkpoint_every: AtLeast1 | None = None
    tensorboard: bool = False  #: write event files too
    progress: bool = True  #: show a progress bar

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device.startswith("cuda"):
            from glscl.util.parallel import usable_device

            usable_device(self.device)
        if self.tensorboard and self.folder is None:
            raise ValueError("tensorboard needs a folder to write to.")


@dataclass(frozen=True)
class DataOptions(Settings):
    """Which data set, and where; ``glscl.runs.DataSource`` explains and opens it."""

    #: ``mini``, one of ``benchmarks.BENCHMARKS``, or the file of a table of your own,
    #: whose paths start at ``videos`` or ``root``.
    name: str = "mini"
    root: Path = Path("data/mini")  #: folder of the annotations
    variant: str | None = None  #: of MSR-VTT: 9k, 7k or full; null: the first
    videos: Path | None = None  #: folder of the video files; null: ``root``/videos
    missing: Literal["refuse", "drop"] = "refuse"  #: what to do about missing videos
    #: Of ``glscl data verify``: the videos that it calls unreadable count as missing.
    report: Path | None = None
    #: Where frames and features are kept; null: ``root``/cache where it can be written.
    cache: Path | None = None
    #: Gigabytes of decoded frames of a split that are kept at most; 0: none.
    frame_cache: Annotated[float, Field(ge=0)] = 20.0


@dataclass(frozen=True)
class Preset:
    """A benchmark's model and recipe, and where the values come from."""

    name: str
    tag: str
    model: EncoderConfig
    train: TrainConfig

    def changed(self, changes: Mapping[str, Any]) -> Preset:
        """With ``changes`` of the model or the recipe; ``ValueError`` for unknown names."""
        known_names(changes, type(self.model), TrainConfig)
        of_model = vars(self.model)
        model = {k: v for k, v in changes.items() if k in of_model}
        train = {k: v for k, v in changes.items() if k not in of_model}
        return replace(
            self, model=replace(self.model, **model), train=replace(self.train, **train)
        )

    def settings(self) -> dict[str, Any]:
        """Every setting by name, of the model and of the recipe."""
        return {**asdict(self.model), **asdict(self.train)}


Tag = Literal["released", "readme", "recommended"]
#: The kind of model settings of every method.
#:
#: :meta hide-value:
MODEL_CONFIGS: dict[str, type[EncoderConfig]] = {
    "glscl": ModelConfig,
    "eercf": EERCFConfig,
    "glccl": GLCCLConfig,
    "clip4clip": EncoderConfig,  # nothing of its own
    "ts2net": TS2NetConfig,
    "xclip": XCLIPConfig,
    "xpool": XPoolConfig,
    "drl": DRLConfig,
    "dicosa": DiCoSAConfig,
}
BENCHMARKS = ("msrvtt", "msvd", "didemo", "lsmdc", "activitynet", "vatex")
#: The groups of ``presets.yaml`` that make a preset, by its tag; the later ones win.
_GROUPS = {
    "released": ("recommended", "released"),
    "readme": ("recommended", "released", "readme"),
    "recommended": ("recommended",),
    "mini": ("mini",),
}


@lru_cache(maxsize=1)
def _presets() -> dict[str, Any]:
    """By group, method and benchmark."""
    return load_yaml(Path(__file__).with_name("presets.yaml").read_text("utf-8"))


def preset_names(method: str = "glscl") -> list[str]:
    """Every preset of a method, by name; ``ValueError`` for an unknown method."""
    if method not in MODEL_CONFIGS:
        raise ValueError(
            f"Unknown method {method!r}: expected one of {list(MODEL_CONFIGS)}."
        )
    return ["mini", *BENCHMARKS]


def get_preset(name: str, tag: Tag = "recommended", method: str = "glscl") -> Preset:
    """The settings of a benchmark; ``ValueError`` names the known ones otherwise.

    The built-in benchmark ``"mini"`` has one preset, whatever the ``tag``.
    """
    names, kind = preset_names(method), MODEL_CONFIGS[method]
    if name not in names:
        raise ValueError(f"Unknown preset {name!r}: expected one of {names}.")
    if tag not in get_args(Tag):
        raise ValueError(f"Unknown tag {tag!r}: expected one of {get_args(Tag)}.")
    changes: dict[str, Any] = {}
    whose = "mini" if name == "mini" else tag
    for group in _GROUPS[whose]:
        for who in ("all", method):
            by_benchmark = _presets()[group].get(who, {})
            changes |= by_benchmark.get("all", {}) | by_benchmark.get(name, {})
    return Preset(name, whose, kind(), TrainConfig()).changed(changes)


Config = TypeVar("Config", bound=EncoderConfig | TrainConfig)


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """``config`` with ``changes``; ``ValueError`` for a name it does not have."""
    known_names(changes, type(config))
    return replace(config, **changes)


ADDED = {"sampling"}  # settings that models saved before them lack: their defaults


def config_from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """The inverse of ``asdict``; unknown and missing names are refused."""
    missing = {field.name for field in fields(kind)} - values.keys() - ADDED
    if missing:
        raise ValueError(f"{kind.__name__} lacks the settings {sorted(missing)}.")
    return override(kind(), values)


def identity(config: EncoderConfig) -> dict[str, Any]:
    """A dictionary for JSON without ``ADDED`` settings that have their defaults, so that
    it equals one from before they were added."""
    plain, given = type(config)(), asdict(config).items()
    return {n: x for n, x in given if n not in ADDED or x != getattr(plain, n)}
