"""The folder of a training run: what outlives its process.

    checkpoint.pt   all that the run needs to be resumed, replaced as a whole
    log.jsonl       one record a line
    best-003        the best model so far, of epoch 3
    tensorboard     the numbers of the log, if asked for

All processes of a run read it, rank 0 alone writes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from glscl.util import parallel
from glscl.util.files import atomic_path, write_text

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
FORMAT = 1


class RunFolder:
    """The files of one run below ``path``; with None nothing is read or written.

    ``settings``: what must not change between a run and its resumption; ``parts``: what
    has a ``state_dict`` that belongs to a checkpoint, such as the model, by name.
    """

    def __init__(
        self, path: Path | None, settings: dict[str, Any], parts: dict[str, Any]
    ):
        self.path = path
        self.settings = json.dumps(settings)
        self.parts = parts
        self._target = path if parallel.rank() == 0 else None  # None: does not write
        self._board: Any = None

    def restore(self, device: torch.device, resume: bool) -> dict[str, Any] | None:
        """Load the ``parts`` and return what ``save`` was given; None at the start.

        Raises ``ValueError`` for a checkpoint that is there without ``resume``, of
        another format, or of other settings.
        """
        if self.path is None or not (self.path / CHECKPOINT).exists():
            return None
        if not resume:
            raise ValueError(
                f"{self.path} holds a run already: choose another folder, or resume it."
            )
        file = self.path / CHECKPOINT
        state = torch.load(file, map_location=device, weights_only=True)
        if state.get("format") != FORMAT:
            raise ValueError(f"{file} is not a checkpoint of this version of glscl.")
        stored = json.loads(state["settings"])
        for name, value in json.loads(self.settings).items():
            if stored[name] != value:
                raise ValueError(
                    f"{file} belongs to a run with another {name}: {stored[name]}, "
                    f"now {value}. Choose another folder, or the same settings."
                )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return state

    def save(self, state: dict[str, Any], best_epoch: int | None) -> None:
        """Write a checkpoint of the ``parts`` and ``state``, whole or not at all.

        Then models of epochs other than ``best_epoch`` are removed.
        """
        if self._target is None:
            return
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        with atomic_path(self._target / CHECKPOINT) as temporary:
            settings = {"format": FORMAT, "settings": self.settings}
            torch.save({**settings, **parts, **state}, temporary)
        if best_epoch is not None:
            for old in self._target.glob("best-*"):
                if old != best_model(self._target, best_epoch):
                    shutil.rmtree(old)

    def save_best(self, epoch: int, save: Callable[[Path], None]) -> None:
        """Let ``save`` write the model of an ``epoch`` that is the best so far."""
        if self._target is not None:
            save(best_model(self._target, epoch))

    def start_log(self, records: list[dict[str, Any]], tensorboard: bool) -> None:
        """Write the log anew from ``records``, those of the checkpoint.

        Lines that a killed run wrote after its last checkpoint are dropped so. Raises
        ``RuntimeError`` where TensorBoard is asked for and not installed.
        """
        if self._target is None:
            return
        log = self._target / LOG
        write_text(log, "".join(map(_line, records)))
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise RuntimeError(
                    "TensorBoard is not installed: `pip install tensorboard`, or train "
                    f"without it; {log} holds the same numbers."
                ) from error
            self._board = SummaryWriter(self._target / "tensorboard")

    def log(self, record: dict[str, Any], step: int) -> None:
        """Add a record to the log, and its numbers to TensorBoard at ``step``."""
        if self._target is None:
            return
        with (self._target / LOG).open("a") as file:
            file.write(_line(record))
        if self._board is not None:
            for name, value in _scalars(record):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what TensorBoard still holds in memory."""
        if self._board is not None:
            self._board.close()


def best_model(folder: Path, epoch: int) -> Path:
    """Where the best model of the run in ``folder``, that of ``epoch``, is saved.

    Each epoch has a name of its own, so that a run killed between writing a model and
    the checkpoint that refers to it keeps the older best model.
    """
    return folder / f"best-{epoch:03d}"


def _line(record: dict[str, Any]) -> str:
    """A record as a line of JSON, which has no infinity: null where a step overflowed."""
    known = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(known, allow_nan=False) + "\n"


def _scalars(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested dictionaries, named by the path of their keys."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
