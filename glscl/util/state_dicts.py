"""State dicts: read from a file without running code, copied into a model by name."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


def read_state_dict(path: Path, archives: Collection[str] = ()) -> dict[str, Tensor]:
    """Tensors of a weight file by name, floating ones in fp32; runs no code of a file.

    Reads ``.safetensors``, a ``torch.save``d state dict (bare or under "state_dict"),
    and the TorchScript archives, which may hold code, whose SHA-256 is in ``archives``.
    Raises ``ValueError`` for anything else.
    """
    script = _is_torchscript(path)
    if script and hashlib.sha256(path.read_bytes()).hexdigest() not in archives:
        raise ValueError(
            f"{path} is a TorchScript archive, which can run code, and none that OpenAI "
            "published for this model: save its state dict instead."
        )
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        elif script:
            state = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"Cannot read weights from {path} ({type(error).__name__}): expected "
            "safetensors or a state dict of tensors."
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise ValueError(f"{path} does not hold a state dict of named tensors.")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _is_torchscript(path: Path) -> bool:
    """Whether a file is an archive as ``torch.jit.save`` writes it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def own_names(model: nn.Module) -> list[str]:
    """Names of all weights of ``model``, a weight with several names by its first."""
    saved = model.state_dict().keys()
    tensors = chain(model.named_parameters(), model.named_buffers())
    return [name for name, _ in tensors if name in saved]


def copy_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    name_of: Callable[[str], str] = str,
    ignored: tuple[str, ...] = (),
) -> None:
    """Copy every weight of ``model`` from ``state``.

    ``name_of`` gives the name in ``state`` of a weight of the model; entries whose name
    starts with one of ``ignored`` may be there and are not read. Raises ``ValueError``
    naming the first missing, unknown or ill-sized entry.
    """
    expected = {name_of(name): name for name in own_names(model)}
    missing = [key for key in expected if key not in state]
    unknown = [k for k in state if k not in expected and not k.startswith(ignored)]
    for keys, problem in ((missing, "lacks"), (unknown, "has an unknown")):
        if keys:
            raise ValueError(
                f"Weights {source} do not fit this model: the file {problem} "
                f"{keys[0]!r} ({len(missing)} missing, {len(unknown)} unknown)."
            )
    target = model.state_dict()
    for key, name in expected.items():
        if state[key].shape != target[name].shape:
            raise ValueError(
                f"Weights {source} are of another backbone or configuration: {key} has "
                f"shape {tuple(state[key].shape)}, expected "
                f"{tuple(target[name].shape)}."
            )
    renamed = {name: state[key] for key, name in expected.items()}
    model.load_state_dict(renamed, strict=False)
