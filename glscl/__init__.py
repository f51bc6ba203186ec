"""Text-video retrieval with CLIP: GLSCL, two related methods, and what they share.

Importing the package is light: torch, open_clip and the video decoder are loaded when
a model or a module is first used.
"""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glscl.eercf import EERCF
    from glscl.glccl import GLCCL
    from glscl.model import GLSCL

__version__ = "0.1.0"
_MODELS = {"GLSCL": "glscl.model", "EERCF": "glscl.eercf", "GLCCL": "glscl.glccl"}
__all__ = ["EERCF", "GLCCL", "GLSCL", "__version__"]


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted([*__all__, *(one.name for one in iter_modules(__path__))])


def __getattr__(name: str) -> Any:
    """Load the three models and the submodules on first use."""
    if name in _MODELS:
        return getattr(import_module(_MODELS[name]), name)
    if name.startswith("_") or find_spec(f"glscl.{name}") is None:
        raise AttributeError(f"module 'glscl' has no attribute '{name}'")
    return import_module(f"glscl.{name}")
