"""Text-video retrieval with CLIP: GLSCL, its siblings, and the book about them.

Importing the package is light: the model, decord and open_clip are loaded when they
are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glscl.eercf import EERCF
    from glscl.glccl import GLCCL
    from glscl.model import GLSCL

__version__ = "0.1.0"
__all__ = ["EERCF", "GLCCL", "GLSCL", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the three models and the submodules on first use."""
    if name in ("EERCF", "GLCCL", "GLSCL"):
        return getattr(import_module("glscl.methods"), name)
    if name.startswith("_"):
        raise AttributeError(f"module 'glscl' has no attribute '{name}'")
    try:
        return import_module(f"glscl.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"glscl.{name}":
            raise
        raise AttributeError(f"module 'glscl' has no attribute '{name}'") from None
