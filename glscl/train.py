"""Training: one loop for a CPU, a GPU, or several.

``fit`` trains a model on the pairs of a split. A step is a function of the weights and
of (seed, step): data order, augmentation and dropout are drawn from seeds made of these
numbers. So a checkpoint needs no generator states, and on a CPU a run that was killed
and resumed ends with bit-identical weights.

    model = GLSCL.from_preset("mini")
    history = fit(model, CachedVideos(split, features), config, validation)

The batch of a recipe is global. It can be computed at once, split over processes
(``torchrun``; see ``parallel``), or in parts of ``micro_batch`` pairs, which costs a
second forward pass and gives the same loss and gradients in the memory of one part
(GradCache, Gao et al. 2021). ``accumulate`` also saves memory, but a part has no
negatives from the other parts: a different, easier loss.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from glscl import optim
from glscl.config import RunOptions, TrainConfig, identity
from glscl.data.pairs import Pairs, Videos, epoch_order, pair_batches, stable_seed
from glscl.evaluate import evaluate
from glscl.metrics import RULES, Metrics
from glscl.optim import BertAdam
from glscl.retriever import Retriever, map_features
from glscl.util import parallel
from glscl.util.numeric import validate_mask, values_unchecked
from glscl.util.run_folder import RunFolder, best_model

__all__ = ["BertAdam", "History", "NonFiniteError", "RunOptions", "fit"]


class NonFiniteError(RuntimeError):
    """A loss or a feature became NaN or infinite; names the step and the videos.

    Seen at the end of a step, so the weights in memory are spoilt, those on disk not.
    """


@dataclass
class History:
    """What a run did.

    ``steps``: one record a step with every part of the loss, the learning rates, κ, the
    gradient norm and the seconds. ``looks`` and ``epochs``: a record with the metrics on
    the validation split for each look within an epoch, and for each end of one, with
    whether its weights were ``kept``. ``best_epoch``: the epoch (from 0) whose weights
    the run ends with, None without validation.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None

    def records(self) -> list[dict[str, Any]]:
        """All of it in the order in which it came."""
        every: list[dict[str, Any]] = [*self.steps, *self.looks, *self.epochs]
        return sorted(every, key=lambda one: one.get("step", 0) or one["after"])

    @property
    def seconds(self) -> float:
        """Time spent in steps and validation, resumed parts included."""
        return sum(record["seconds"] for record in self.records())

    def wins(self, metrics: Metrics, keep: str) -> bool:
        """Whether an epoch that ends with ``metrics`` is kept by the rule ``keep``."""
        score, later = RULES[keep]
        seen = self.looks + self.epochs
        before = [score(look["validation"]["t2v"]) for look in seen]
        new = score(metrics["t2v"])
        return not before or new > max(before) or (later and new == max(before))


def fit(
    model: Retriever,
    train: Videos,
    config: TrainConfig,
    validation: Videos | None = None,
    options: RunOptions | None = None,
    on_step: Callable[[dict[str, float]], None] | None = None,
) -> History:
    """Train ``model`` in place and return what happened.

    With ``validation`` the model is evaluated after every epoch, within epochs if the
    recipe says so, and ends with the weights that its rule keeps (``TrainConfig.keep``);
    otherwise with the last ones. With ``clip_arithmetic="released"`` CLIP's matrices are
    float16 from here on. ``on_step`` is called with every step's record. Generators of
    the caller are left as they were.

    Raises ``ValueError`` for a batch that cannot be formed, for choosing on a test split
    without saying so, for settings that exclude each other and for a checkpoint of other
    settings; ``NonFiniteError`` when training diverges.
    """
    options = options or RunOptions()
    on_test = validation is not None and validation.split.name == "test"
    if on_test and config.select_on != "test":
        raise ValueError(
            "The validation split is the test split, and choosing an epoch on it leaks; "
            "give another split, or a recipe with select_on='test'."
        )
    device = torch.device(options.device)
    devices = [device] if device.type == "cuda" else []
    parallel.start(device)
    with torch.random.fork_rng(devices=devices):
        return _Run(model, train, config, validation, options, on_step).complete()


@dataclass(eq=False)
class _Run:
    """The state of one run: weights, optimiser, step, history."""

    model: Retriever
    train: Videos
    config: TrainConfig
    validation: Videos | None
    options: RunOptions
    on_step: Callable[[dict[str, float]], None] | None = None

    def __post_init__(self) -> None:
        model, config, options = self.model, self.config, self.options
        self.device = torch.device(options.device)
        model.to(self.device)
        if config.clip_arithmetic == "released":
            if config.optimiser != "bertadam" or options.precision == "fp16":
                raise ValueError(
                    "clip_arithmetic='released' needs optimiser='bertadam' (AdamW's eps "
                    "is 0 in float16) and precision 'fp32' or 'bf16' for the rest (it "
                    f"has no loss scaling), got {config.optimiser!r} and "
                    f"{options.precision!r}."
                )
            model.backbone.convert_weights()
        model.gradient_divisor = config.gradient_divisor
        optim.freeze(model, config.freeze)
        parallel.broadcast_weights(model)
        self.optimiser = optim.make_optimiser(model, config)
        groups = self.optimiser.param_groups
        self.parameters = [p for group in groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=options.precision == "fp16"
        )
        parts = {"model": model, "optimiser": self.optimiser, "scaler": self.scaler}
        self.folder = RunFolder(options.folder, self._settings(), parts)
        texts = self.train.split.texts
        self.tokens = model.backbone.tokenize(texts, model.config.max_words)
        self.step, self.history = 0, History()
        self.parts: tuple[str, ...] = ()  # names of those of the loss
        self.best: dict[str, Tensor] | None = None
        self.finite: dict[str, list[Tensor]] = {}  # by what may not be, of one step
        self.batch_size, self.steps_per_epoch = _batching(self.train, config, options)
        self.total = self.steps_per_epoch * config.epochs

    # --- the loop -----------------------------------------------------------------

    def complete(self) -> History:
        """Run the remaining steps, then load the weights of the best epoch."""
        self._restore()
        every = self.options.checkpoint_every
        with self._progress_bar() as bar:
            while self.step < self.total:
                for batch in self._rest_of_epoch():
                    record = self.train_step(batch)
                    self.history.steps.append(record)
                    self.folder.log(record, self.step)
                    bar.update()
                    bar.set_postfix_str(self._summary(record))
                    if self.on_step:
                        self.on_step(record)
                    # The end of an epoch has its look and its checkpoint anyway.
                    if self.step % self.steps_per_epoch != 0:
                        self._look_within()
                        if every and self.step % every == 0:
                            self._save()
                if self.validation is not None:
                    self.folder.log(self._validate(self.validation), self.step)
                self._save()
        self.folder.close()
        parallel.barrier()  # until rank 0 has written the best model
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()
        return self.history

    def _rest_of_epoch(self) -> Iterator[Pairs]:
        """This process's share of the remaining batches of the epoch."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        order = epoch_order(self.train.split, self.config, epoch)
        share = self.batch_size // parallel.world_size()
        batches = []
        for position in range(done, self.steps_per_epoch):
            start = position * self.batch_size + parallel.rank() * share
            batches.append(order[start : start + share])
        seed = stable_seed("augment", self.config.seed, epoch)
        workers = self.options.workers
        return pair_batches(self.train, self.tokens, seed, batches, workers)

    def train_step(self, batch: Pairs) -> dict[str, float]:
        """One update from this process's share of a batch; returns its record."""
        started = time.perf_counter()
        self.model.train()
        lengths = self.config.schedule_epochs or self.config.epochs
        multiplier = optim.MULTIPLIERS[self.config.schedule](
            self.step, self.steps_per_epoch * lengths, self.config.warmup
        )
        optim.set_learning_rates(self.optimiser, multiplier)
        self.optimiser.zero_grad(set_to_none=True)
        validate_mask(batch.token_mask, "N L", "token_mask", "caption")
        validate_mask(batch.frame_mask, "N F", "frame_mask", "video")
        if self.model.config.mask_padding:
            batch = batch.trimmed()
        parts = batch.split(len(batch.captions) // self.options.accumulate)
        self.finite.clear()
        with values_unchecked():
            losses = [
                self.backward(part.to(self.device), number, 1 / len(parts))
                for number, part in enumerate(parts)
            ]
        parallel.average_gradients(self.parameters)
        self.scaler.unscale_(self.optimiser)
        limit = self.options.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.model.clamp_logit_scale()
        self.step += 1
        self.parts = losses[0]._fields
        means = torch.stack([torch.stack(part) for part in losses]).double().mean(0)
        numbers = self._look(batch, *means, self.model.kappa, norm)
        groups = self.optimiser.param_groups
        return {
            "step": self.step,
            "epoch": (self.step - 1) // self.steps_per_epoch,
            **dict(zip(self.parts, numbers, strict=False)),
            **{f"lr {group['name']}": group["lr"] for group in groups},
            "kappa": numbers[-2],
            "gradient_norm": numbers[-1],
            "seconds": time.perf_counter() - started,
        }

    def _look(self, batch: Pairs, *numbers: Tensor) -> list[float]:
        """The values of ``numbers``, the only wait for the device in a step.

        Raises ``NonFiniteError`` where a loss or a feature of the step is not finite.
        """
        flags = [torch.stack(flags).all() for flags in self.finite.values()]
        values = torch.stack([x.double() for x in (*numbers, *flags)]).tolist()
        for what, finite in zip(self.finite, values[len(numbers) :], strict=True):
            if not finite:
                videos = self.train.split.videos
                names = ", ".join(videos[i].id for i in batch.videos.tolist())
                raise NonFiniteError(
                    f"Step {self.step}: a {what} is not finite (learning rate too high, "
                    f"or a broken video?). Videos of the batch: {names}."
                )
        return values[: len(numbers)]

    def _summary(self, record: dict[str, float]) -> str:
        names = (name for name in self.parts if name != "total")
        parts = " + ".join(f"{name} {record[name]:.4f}" for name in names)
        rate = self.batch_size / record["seconds"]
        return f"loss {record['total']:.3f} = {parts}, {rate:.0f} pairs/s"

    def backward(self, batch: Pairs, part: int = 0, weight: float = 1.0) -> Any:
        """Add the gradients of ``weight`` × the loss of the global batch.

        With ``micro_batch``: encode all parts without a graph; compute the gradient of
        the loss with respect to the features; encode each part again, with the same
        dropout, and backpropagate the gradient of its features. Exact, since the loss
        depends on the weights through the features, and directly on those that it uses
        itself, such as the logit scale.
        """
        size = self.options.micro_batch
        if size is None or size >= len(batch.captions):
            losses = self._loss(*self._encode(batch, part, 0))
            self.scaler.scale(weight * losses.total).backward()
            return losses
        chunks = batch.split(size)
        with torch.no_grad():
            encoded = [self._encode(c, part, i) for i, c in enumerate(chunks)]
        text, video = (map_features(_leaf, *x) for x in zip(*encoded, strict=True))
        losses = self._loss(text, video)
        self.scaler.scale(weight * losses.total).backward()
        for i, chunk in enumerate(chunks):
            outputs, gradients = [], []
            again = chain(*self._encode(chunk, part, i))
            for x, leaf in zip(again, chain(text, video), strict=True):
                if x is not None and x.requires_grad and leaf.grad is not None:
                    outputs.append(x)
                    gradients.append(leaf.grad.split(size)[i])
            torch.autograd.backward(outputs, gradients)
        return losses

    def _encode(self, batch: Pairs, part: int, chunk: int) -> tuple[Any, Any]:
        """The features of captions and of videos that the loss needs."""
        where = (self.config.seed, self.step, parallel.rank(), part, chunk)
        torch.manual_seed(stable_seed("dropout", *where))
        with self._autocast():
            text, video = self.model(
                batch.token_ids, batch.token_mask, batch.content, batch.frame_mask
            )
        return self.model.loss_features(text, video)

    def _loss(self, text: Any, video: Any) -> Any:
        """The loss of the batch of all processes, from this one's share of features."""
        for side, features in (("text", text), ("video", video)):
            for name, x in features._asdict().items():
                if x is not None:
                    self._note_finite(f"value of the {side} {name}", x)
        text, video = (map_features(parallel.gather, x) for x in (text, video))
        with self._autocast():
            losses = self.model.loss(text, video)
        self._note_finite("loss", losses.total)
        return losses

    def _note_finite(self, what: str, x: Tensor) -> None:
        self.finite.setdefault(what, []).append(x.detach().isfinite().all())

    def _autocast(self) -> Any:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = kinds.get(self.options.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def _evaluated(self, validation: Videos) -> dict[str, Any]:
        """A record with the metrics of now."""
        started = time.perf_counter()
        size, workers = self.config.eval_batch_size, self.options.workers
        found = evaluate(self.model, validation, size, self.device, workers)
        return {
            "epoch": (self.step - 1) // self.steps_per_epoch,
            "after": self.step,
            "validation": found.metrics,
            "seconds": time.perf_counter() - started,
        }

    def _look_within(self) -> None:
        every = self.config.look_every
        if every and self.validation and (self.step == 1 or self.step % every == 0):
            self.history.looks.append(self._evaluated(self.validation))
            self.folder.log(self.history.looks[-1], self.step)

    def _validate(self, validation: Videos) -> dict[str, Any]:
        """Evaluate after an epoch, and keep its weights if they are to be kept."""
        record, history = self._evaluated(validation), self.history
        record["kept"] = history.wins(record["validation"], self.config.keep)
        history.epochs.append(record)
        # Where no epoch ends as well as the looks before, the last weights remain.
        if record["kept"] or (history.best_epoch is None and self.step == self.total):
            history.best_epoch = record["epoch"]
            state = self.model.state_dict()
            self.best = {name: x.detach().clone() for name, x in state.items()}
            self.folder.save_best(record["epoch"], self.model.save)
        return record

    # --- files --------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """What must not change between a run and its resumption."""
        split, options = self.train.split, self.options
        return {
            "method": self.model.method,
            "model": identity(self.model.config),
            "recipe": asdict(self.config),
            "precision": options.precision,
            "accumulate": options.accumulate,
            "max_grad_norm": options.max_grad_norm,
            "split": [split.name, len(split.videos), len(split.captions)],
        }

    def _save(self) -> None:
        state = {"step": self.step, "history": json.dumps(asdict(self.history))}
        self.folder.save(state, self.history.best_epoch)

    def _restore(self) -> None:
        """Continue from the checkpoint of the folder, if there is one."""
        state = self.folder.restore(self.device, self.options.resume)
        if state is not None:
            self.step = state["step"]
            self.history = History(**json.loads(state["history"]))
        best = self.history.best_epoch
        if best is not None and self.options.folder is not None:
            saved = type(self.model).load(best_model(self.options.folder, best))
            self.best = saved.state_dict()
        self.folder.start_log(self.history.records(), self.options.tensorboard)

    def _progress_bar(self) -> tqdm:
        """Steps, parts of the loss, pairs per second, time left."""
        hidden = parallel.rank() != 0 or not self.options.progress
        # ``disable=False`` would overrule the environment variable TQDM_DISABLE.
        choice = {"disable": True} if hidden else {}
        steps = {"total": self.total, "initial": self.step}
        return tqdm(**steps, desc="training", unit="step", **choice)


def _batching(
    train: Videos, config: TrainConfig, options: RunOptions
) -> tuple[int, int]:
    """The size of the global batch and the steps of an epoch.

    An incomplete last batch is dropped; a split smaller than a batch is one batch.
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


def _leaf(*parts: Tensor) -> Tensor:
    """The rows of all ``parts``, a leaf of the graph that collects a gradient."""
    return torch.cat(parts).requires_grad_(parts[0].is_floating_point())
