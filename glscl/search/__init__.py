"""Search a folder of videos by sentences: ``VideoIndex.build``, ``VideoIndex.search``.

Names are loaded on first use: the page that shows moments needs no index.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glscl.search.build import Report, search_model
    from glscl.search.index import VideoIndex, Where
    from glscl.search.page import Moment
    from glscl.search.windows import Windows

_HOMES = {
    **{"Report": "build", "search_model": "build", "VideoIndex": "index"},
    **{"Where": "index", "Moment": "page", "Windows": "windows"},
}
__all__ = ["Moment", "Report", "VideoIndex", "Where", "Windows", "search_model"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'glscl.search' has no attribute '{name}'")
    return getattr(import_module(f"glscl.search.{_HOMES[name]}"), name)
