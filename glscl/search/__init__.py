"""Search a folder of videos by sentences: ``VideoIndex.build``, ``VideoIndex.search``."""

from glscl.search.build import Report, search_model
from glscl.search.index import Moment, VideoIndex, Where
from glscl.search.windows import Windows

__all__ = ["Moment", "Report", "VideoIndex", "Where", "Windows", "search_model"]
