"""Training: one loop for a laptop, a GPU, or many, with the same numbers.

``fit`` trains a model on the pairs of a split. A step is a function of the weights and
of (seed, step): data order, augmentation and dropout are drawn from seeds made of these
numbers. So a checkpoint needs no generator states, and a run that was killed and
resumed ends, on a CPU, in the same bits as one that was not.

    model = GLSCL.from_preset("mini")
    history = fit(model, CachedVideos(split, features), config, validation)

or, from the command line, on one device and on eight of one machine:

    glscl train --out runs/one --device cuda --precision bf16
    torchrun --nproc-per-node 8 -m glscl.cli train --out runs/eight --device cuda

The batch of a recipe is global. It can be computed at once, split over processes
(``torchrun``; see ``parallel``), or in parts of ``micro_batch`` pairs, which costs a
second forward pass and gives the same loss and gradients in the memory of one part
(GradCache, Gao et al. 2021). ``accumulate`` also saves memory, but its parts see no
negatives of each other: another, easier loss.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from glscl.config import TrainConfig
from glscl.data.pairs import (
    PairDataset,
    Pairs,
    Videos,
    epoch_order,
    pair_batches,
    stable_seed,
)
from glscl.evaluate import evaluate
from glscl.metrics import Metrics
from glscl.optim import (
    MULTIPLIERS,
    BertAdam,
    freeze,
    make_optimiser,
    set_learning_rates,
)
from glscl.retriever import Retriever
from glscl.util import parallel
from glscl.util.files import atomic_path, write_text

__all__ = ["BertAdam", "History", "NonFiniteError", "RunOptions", "fit"]

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
FORMAT = 1
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteError(RuntimeError):
    """A loss or a feature became NaN or infinite; names the step and the videos."""


@dataclass(frozen=True)
class RunOptions:
    """How a recipe is carried out. None of these changes what is learnt, except
    ``accumulate`` (fewer negatives) and the rounding of ``precision``.

    ``folder``: where checkpoints, the log and the best model go; None keeps all in
    memory. ``checkpoint_every``: steps between checkpoints within an epoch; there is
    always one at the end of an epoch. ``select_on``: which split may choose the best
    epoch; ``"test"`` must be said.
    """

    device: str = "cpu"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    micro_batch: int | None = None  # pairs at a time on one process, exact
    accumulate: int = 1  # parts of a batch with a loss of their own
    max_grad_norm: float = 1.0  # clipping of the whole gradient
    workers: int = 0  # processes that load data
    folder: Path | None = None
    resume: bool = True
    checkpoint_every: int | None = None
    select_on: Literal["validation", "test"] = "validation"
    tensorboard: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.precision not in DTYPES:
            raise ValueError(
                f"Unknown precision {self.precision!r}: expected one of {list(DTYPES)}."
            )
        if self.select_on not in ("validation", "test"):
            raise ValueError(
                f"select_on must be 'validation' or 'test', got {self.select_on!r}."
            )
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(
                f"device {self.device!r} was asked for, but torch finds no CUDA device."
            )
        for name in ("micro_batch", "accumulate", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.tensorboard and self.folder is None:
            raise ValueError("tensorboard needs a folder to write to.")


@dataclass
class History:
    """What a run did.

    ``steps``: one record a step with every part of the loss, the learning rates, κ, the
    gradient norm and the seconds. ``epochs``: one record an epoch with the metrics on
    the validation split. ``best_epoch``: the epoch (from 0) chosen there, None without
    validation.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None

    @property
    def seconds(self) -> float:
        """Time spent in steps and validation, resumed parts included."""
        return sum(record["seconds"] for record in [*self.steps, *self.epochs])


def fit(
    model: Retriever,
    train: Videos,
    config: TrainConfig,
    validation: Videos | None = None,
    options: RunOptions | None = None,
    on_step: Callable[[dict[str, float]], None] | None = None,
) -> History:
    """Train ``model`` in place and return what happened.

    With ``validation`` the model is evaluated after every epoch and ends with the
    weights of the best one (text→video R@1, ties by mean rank); otherwise with the last
    weights. ``on_step`` gets every step's record. Generators of the caller are left as
    they were.

    Raises ``ValueError`` for a batch that cannot be formed, for choosing on a test split
    without saying so, and for a checkpoint of other settings; ``NonFiniteError`` when
    training diverges.
    """
    options = options or RunOptions()
    if (
        validation is not None
        and validation.split.name == "test"
        and options.select_on != "test"
    ):
        raise ValueError(
            "The validation split is the test split, and choosing an epoch on it leaks; "
            "give another split, or say select_on='test'."
        )
    device = torch.device(options.device)
    devices = [device] if device.type == "cuda" else []
    parallel.start(device)
    with torch.random.fork_rng(devices=devices):
        run = _Run(model, train, config, validation, options, on_step)
        return run.complete()


class _Run:
    """The state of one run: weights, optimiser, step, history."""

    def __init__(
        self,
        model: Retriever,
        train: Videos,
        config: TrainConfig,
        validation: Videos | None,
        options: RunOptions,
        on_step: Callable[[dict[str, float]], None] | None,
    ):
        self.device = torch.device(options.device)
        self.model = model.to(self.device)
        self.train = train
        self.config = config
        self.validation = validation
        self.options = options
        self.on_step = on_step
        self.main = parallel.rank() == 0
        freeze(model, config.freeze)
        parallel.share_weights(model)
        self.optimiser = make_optimiser(model, config)
        self.parameters = [
            parameter
            for group in self.optimiser.param_groups
            for parameter in group["params"]
        ]
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=options.precision == "fp16"
        )
        self.tokens = model.backbone.tokenize(train.split.texts, model.config.max_words)
        self.step = 0
        self.history = History()
        self.best: dict[str, Tensor] | None = None
        self.batch_size, self.steps_per_epoch = _batching(train, config, options)
        self.total = self.steps_per_epoch * config.epochs

    # --- the loop -----------------------------------------------------------------

    def complete(self) -> History:
        """Run what is left, end with the best weights."""
        self._restore()
        with self._writers() as write, self._bar() as bar:
            while self.step < self.total:
                for batch in self._rest_of_epoch():
                    record = self.train_step(batch)
                    self.history.steps.append(record)
                    write(record)
                    bar.update()
                    bar.set_postfix_str(self._summary(record))
                    if self.on_step:
                        self.on_step(record)
                    self._checkpoint_within_epoch()
                if self.validation is not None:
                    write(self._validate(self.validation))
                self._save()
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()
        return self.history

    def _rest_of_epoch(self) -> Iterator[Pairs]:
        """This process's share of the batches of the epoch that are still to come."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        order = epoch_order(self.train.split, self.config, epoch)
        share = self.batch_size // parallel.world_size()
        batches = []
        for position in range(done, self.steps_per_epoch):
            start = position * self.batch_size + parallel.rank() * share
            batches.append(order[start : start + share])
        dataset = PairDataset(
            self.train, self.tokens, stable_seed("augment", self.config.seed, epoch)
        )
        yield from pair_batches(dataset, batches, self.options.workers)

    def train_step(self, batch: Pairs) -> dict[str, float]:
        """One update from this process's share of a batch; returns its record."""
        started = time.perf_counter()
        self.model.train()
        lengths = self.config.schedule_epochs or self.config.epochs
        multiplier = MULTIPLIERS[self.config.schedule](
            self.step, self.steps_per_epoch * lengths, self.config.warmup
        )
        set_learning_rates(self.optimiser, multiplier)
        self.optimiser.zero_grad(set_to_none=True)
        if self.model.config.mask_padding:
            batch = batch.trimmed()
        parts = batch.split(len(batch.captions) // self.options.accumulate)
        named: dict[str, float] = {}
        for number, part in enumerate(parts):
            losses = self.backward(part.to(self.device), number, 1 / len(parts))
            for name, value in losses._asdict().items():
                named[name] = named.get(name, 0.0) + value.item() / len(parts)
        parallel.average_gradients(self.parameters)
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters, self.options.max_grad_norm
        )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.model.clamp_logit_scale()
        self.step += 1
        rates = {
            f"lr {group['name']}": group["lr"] for group in self.optimiser.param_groups
        }
        return {
            "step": self.step,
            "epoch": (self.step - 1) // self.steps_per_epoch,
            **named,
            **rates,
            "kappa": self.model.kappa.item(),
            "gradient_norm": norm.item(),
            "seconds": time.perf_counter() - started,
        }

    def _summary(self, record: dict[str, float]) -> str:
        names = [name for name in self.model.loss_type._fields if name != "total"]
        parts = " + ".join(f"{name} {record[name]:.4f}" for name in names)
        rate = self.batch_size / record["seconds"]
        return f"loss {record['total']:.3f} = {parts}, {rate:.0f} pairs/s"

    def backward(self, batch: Pairs, part: int = 0, weight: float = 1.0) -> Any:
        """Add the gradients of ``weight`` × the loss of the global batch.

        With ``micro_batch``: encode all parts without a graph; take the gradient of the
        loss with respect to the features; encode each part again, with the same
        dropout, and go on from the features' gradient. Exact, since the loss depends on
        the weights through these features, and on the few it uses itself directly.
        """
        size = self.options.micro_batch
        if size is None or size >= len(batch.captions):
            encoded = self._encode(batch, part, 0)
            losses = self._loss(encoded, batch)
            self.scaler.scale(weight * losses.total).backward()
            return losses
        chunks = batch.split(size)
        with torch.no_grad():
            pieces = [self._encode(c, part, i) for i, c in enumerate(chunks)]
        leaves = {
            name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]
        }
        for x in leaves.values():
            x.requires_grad_(x.is_floating_point())
        losses = self._loss(leaves, batch)
        self.scaler.scale(weight * losses.total).backward()
        for i, chunk in enumerate(chunks):
            reached = [
                (x, gradient.split(size)[i])
                for name, x in self._encode(chunk, part, i).items()
                if x.requires_grad and (gradient := leaves[name].grad) is not None
            ]
            outputs, gradients = zip(*reached, strict=True)
            torch.autograd.backward(outputs, gradients)
        return losses

    def _encode(self, batch: Pairs, part: int, chunk: int) -> dict[str, Tensor]:
        """Everything the loss needs of each pair: it is this that is gathered."""
        where = (self.config.seed, self.step, parallel.rank(), part, chunk)
        torch.manual_seed(stable_seed("dropout", *where))
        with self._autocast():
            sides = self.model(
                batch.token_ids, batch.token_mask, batch.content, batch.frame_mask
            )
        return {
            f"{side} {name}": x
            for side, features in zip(
                ("text", "video"), self.model.for_loss(*sides), strict=True
            )
            for name, x in features._asdict().items()
            if x is not None
        }

    def _loss(self, encoded: dict[str, Tensor], batch: Pairs) -> Any:
        """The loss of the batch of all processes; stops on what is not a number."""
        for name, x in encoded.items():
            self._refuse(x, f"value of the {name}", batch)
        sides: dict[str, dict[str, Tensor]] = {"text": {}, "video": {}}
        for name, x in encoded.items():
            side, field_name = name.split()
            sides[side][field_name] = parallel.gather(x)
        text = self.model.text_type(**sides["text"])
        video = self.model.video_type(**sides["video"])
        with self._autocast():
            losses = self.model.loss(text, video)
        self._refuse(losses.total, "loss", batch)
        return losses

    def _refuse(self, values: Tensor, what: str, batch: Pairs) -> None:
        if values.isfinite().all():
            return
        videos = self.train.split.videos
        names = ", ".join(videos[i].id for i in batch.videos.tolist())
        raise NonFiniteError(
            f"Step {self.step + 1}: a {what} is not finite (learning rate too high, or "
            f"a broken video?). Videos of the batch: {names}."
        )

    def _autocast(self) -> Any:
        if self.options.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.options.precision])

    def _validate(self, validation: Videos) -> dict[str, Any]:
        started = time.perf_counter()
        result = evaluate(
            self.model,
            validation,
            batch_size=self.config.eval_batch_size,
            device=self.device,
            workers=self.options.workers,
        )
        epoch = (self.step - 1) // self.steps_per_epoch
        record: dict[str, Any] = {"epoch": epoch, "validation": result.metrics}
        record["seconds"] = time.perf_counter() - started
        self.history.epochs.append(record)
        best = self.history.best_epoch
        if best is None or _better(
            result.metrics, self.history.epochs[best]["validation"]
        ):
            self.history.best_epoch = epoch
            self.best = _copy(self.model)
            if self.main and self.options.folder is not None:
                self.model.save(self._best_folder(epoch))
        return record

    # --- files --------------------------------------------------------------------

    def _best_folder(self, epoch: int) -> Path:
        """Each epoch has a name of its own, so that a kill between writing it and the
        checkpoint that knows of it leaves the older best model as it was."""
        assert self.options.folder is not None
        return self.options.folder / f"best-{epoch:03d}"

    def _checkpoint_within_epoch(self) -> None:
        every = self.options.checkpoint_every
        if every and self.step % every == 0 and self.step % self.steps_per_epoch:
            self._save()

    def _save(self) -> None:
        """Write the checkpoint, whole or not at all, then drop older best models."""
        folder = self.options.folder
        if folder is None or not self.main:
            return
        state = {
            "format": FORMAT,
            "settings": self._settings(),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": json.dumps(asdict(self.history)),
        }
        with atomic_path(folder / CHECKPOINT) as temporary:
            torch.save(state, temporary)
        best = self.history.best_epoch
        if best is not None:
            for old in folder.glob("best-*"):
                if old != self._best_folder(best):
                    shutil.rmtree(old)

    def _restore(self) -> None:
        """Go on from the checkpoint of the folder, if there is one."""
        folder = self.options.folder
        if folder is None or not (folder / CHECKPOINT).exists():
            return
        if not self.options.resume:
            raise ValueError(
                f"{folder} holds a run already: choose another folder, or resume it."
            )
        state = torch.load(
            folder / CHECKPOINT, map_location=self.device, weights_only=True
        )
        self._check_settings(state, folder / CHECKPOINT)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.history = History(**json.loads(state["history"]))
        best = self.history.best_epoch
        if best is not None:
            self.best = type(self.model).load(self._best_folder(best)).state_dict()

    def _settings(self) -> str:
        """What must not change between a run and its resumption."""
        split = self.train.split
        return json.dumps(
            {
                "method": self.model.method,
                "model": asdict(self.model.config),
                "recipe": asdict(self.config),
                "precision": self.options.precision,
                "accumulate": self.options.accumulate,
                "max_grad_norm": self.options.max_grad_norm,
                "split": [split.name, len(split.videos), len(split.captions)],
            }
        )

    def _check_settings(self, state: dict[str, Any], path: Path) -> None:
        if state.get("format") != FORMAT:
            raise ValueError(f"{path} is not a checkpoint of this version of glscl.")
        theirs, ours = json.loads(state["settings"]), json.loads(self._settings())
        for name, value in ours.items():
            if theirs[name] != value:
                raise ValueError(
                    f"{path} belongs to a run with another {name}: {theirs[name]}, "
                    f"now {value}. Choose another folder, or the same settings."
                )

    @contextmanager
    def _writers(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A function that adds a record to the JSON lines and to TensorBoard.

        Lines that a killed run wrote after its last checkpoint are dropped.
        """
        folder = self.options.folder
        if folder is None or not self.main:
            yield lambda record: None
            return
        records = [*self.history.steps, *self.history.epochs]
        records.sort(key=lambda r: (r["epoch"], "validation" in r))
        write_text(folder / LOG, "".join(json.dumps(r) + "\n" for r in records))
        board = _tensorboard(folder) if self.options.tensorboard else None
        with (folder / LOG).open("a") as log:

            def write(record: dict[str, Any]) -> None:
                log.write(json.dumps(record) + "\n")
                log.flush()
                if board is not None:
                    for name, value in _scalars(record):
                        board.add_scalar(name, value, self.step)

            yield write
        if board is not None:
            board.close()

    def _bar(self) -> tqdm:
        """Steps, parts of the loss, pairs per second, time left. Left to itself, tqdm
        obeys the environment variable TQDM_DISABLE, so ``disable`` is only ever set."""
        quiet = not (self.options.progress and self.main)
        return tqdm(
            total=self.total,
            initial=self.step,
            desc="training",
            unit="step",
            **({"disable": True} if quiet else {}),
        )


def _batching(
    train: Videos, config: TrainConfig, options: RunOptions
) -> tuple[int, int]:
    """The global batch and the steps of an epoch; the incomplete last batch is left out.

    A split smaller than a batch is one batch.
    """
    pairs = len(epoch_order(train.split, config, 0))
    parts = parallel.world_size() * options.accumulate
    size = min(config.batch_size, pairs // parts * parts)
    if size == 0 or size % parts:
        raise ValueError(
            f"A batch of {config.batch_size} from {pairs} pairs cannot be cut into "
            f"{parts} equal parts ({parallel.world_size()} processes × "
            f"{options.accumulate} accumulated)."
        )
    return size, pairs // size


def _better(new: Metrics, old: Metrics) -> bool:
    """More text→video R@1, or as much with a lower mean rank."""
    a, b = new["t2v"], old["t2v"]
    return (a["R1"], -a["MnR"]) > (b["R1"], -b["MnR"])


def _copy(model: Retriever) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def _scalars(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RuntimeError(
            "TensorBoard is not installed: `pip install tensorboard`, or train without "
            f"it; {folder / LOG} holds the same numbers."
        ) from error
    return SummaryWriter(folder / "tensorboard")
