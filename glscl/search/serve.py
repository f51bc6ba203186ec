"""A local web page: enter a sentence, play the moments that match.

Nothing that a client sends becomes a path: videos are requested by the number of a
window, and only files that are in the index, unchanged since, are sent. The server
accepts connections of this machine alone unless told otherwise, answers only requests to
its own names or to an IP address, and limits the length and the rate of costly requests.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from glscl.data.encode import jpeg
from glscl.data.video import VideoError
from glscl.data.videofiles import file_state
from glscl.search.index import VideoIndex
from glscl.search.page import ASSETS, FRAME_SIDE, Moment, clock, frames_at, preview
from glscl.util.files import printable

MAX_QUERY = 200  # characters of a sentence
RATE, PERIOD = 60, 10.0  # costly requests in so many seconds
PARTS = ("card.css", "card.js", "search.css", "search.js")  # of the page
BEST = 8  # moments in an answer
MAX_MOMENTS = 1000  # moments whose numbers are valid
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; media-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Search:
    """The answers: an index and the moments found lately; one request at a time.

    Each method of a ``request`` answers one route; ``HTTPException`` is a refusal.
    """

    def __init__(self, index: VideoIndex):
        self.index = index
        self.moments: dict[str, Moment] = {}  # by the number of the window
        self.frames: dict[str, dict[str, bytes]] = {}  # their frames as JPEG, by place
        self.lock = threading.Lock()
        self.times: list[float] = []  # of the last costly requests

    def limit_rate(self) -> None:
        """Refuse (429) when there were too many costly requests lately."""
        now = time.monotonic()
        self.times = [one for one in self.times if one >= now - PERIOD]
        if len(self.times) >= RATE:
            raise HTTPException(429, "Too many queries: wait some seconds.")
        self.times.append(now)

    def search(self, request: Request) -> Response:
        """The moments for the sentence ``q``; refused (400) if it is empty or too long."""
        text = " ".join(request.query_params.get("q", "").split())
        if not text:
            raise HTTPException(400, "Type a sentence.")
        if len(text) > MAX_QUERY:
            raise HTTPException(400, f"At most {MAX_QUERY} characters, please.")
        with self.lock:
            self.limit_rate()
            fresh = self.index.refreshed()
            if fresh is not self.index or len(self.moments) > MAX_MOMENTS:
                self.index, self.moments, self.frames = fresh, {}, {}
            found = self.index.search(text, BEST)
            self.moments |= {str(moment.row): moment for moment in found}
        return JSONResponse({"moments": [_as_json(moment) for moment in found]})

    def moment(self, request: Request) -> Moment:
        """The moment of a number that an answer gave, its file as it was indexed (404)."""
        moment = self.moments.get(request.path_params["number"])
        with suppress(OSError):  # there may be no such file any more
            if moment is not None and file_state(moment.path) == moment.state:
                return moment
        raise HTTPException(404, "There is no such moment.")

    def video(self, request: Request) -> Response:
        """The file of a moment."""
        with self.lock:
            return FileResponse(self.moment(request).path)

    def preview(self, request: Request) -> Response:
        """The window of a moment as a small MP4."""
        with self.lock:
            moment = self.moment(request)
            self.limit_rate()
            return Response(preview(moment), media_type="video/mp4")

    def frame(self, request: Request) -> Response:
        """A frame of a moment as JPEG; all frames of a moment are decoded together."""
        number, place = request.path_params["number"], request.path_params["place"]
        with self.lock:
            moment = self.moment(request)
            if number not in self.frames:
                self.limit_rate()
                pixels = frames_at(moment.path, moment.frame_times, FRAME_SIDE)
                pictures = {str(i): jpeg(one) for i, one in enumerate(pixels)}
                self.frames[number] = pictures
            picture = self.frames[number].get(place)
        if picture is None:
            raise HTTPException(404, "There is no such frame.")
        return Response(picture, media_type="image/jpeg")


def _as_json(moment: Moment) -> dict[str, Any]:
    """A moment for the page; of its path only the name."""
    weights = moment.frame_weights
    return {
        "number": moment.row,
        "name": printable(moment.path.name),
        "start": moment.start,
        "end": moment.end,
        "where": f"{clock(moment.start)} to {clock(moment.end)}",
        "score": round(moment.score, 4),
        "times": [clock(float(at)) for at in moment.frame_times],
        "weights": None if weights is None else weights.round(4).tolist(),
    }


def application(search: Search, host: str) -> Starlette:
    """The page and its answers; ``host`` is one of the names that it answers to.

    A page of another host, whose name resolves to this machine (DNS rebinding), must not
    read the answers. IP addresses do not resolve to anything else and are accepted.
    """
    names = {"localhost", socket.gethostname().lower(), host}

    async def guarded(request: Request, answer: Any) -> Response:
        known = _is_ip(request.url.hostname) or request.url.hostname in names
        refusal = PlainTextResponse("This server answers only to its own names.", 403)
        response = await answer(request) if known else refusal
        response.headers.update(HEADERS)
        return response

    def unreadable(request: Request, error: Exception) -> Response:
        return PlainTextResponse("The video cannot be read.", 404)

    def asset(name: str) -> Any:
        return lambda request: FileResponse(ASSETS / name)

    routes = [
        Route("/", asset("search.html")),
        *(Route(f"/{name}", asset(name)) for name in PARTS),
        Route("/search", search.search),
        Route("/video/{number}", search.video),
        Route("/preview/{number}", search.preview),
        Route("/frame/{number}/{place}", search.frame),
    ]
    guard = Middleware(BaseHTTPMiddleware, dispatch=guarded)
    handlers: Any = {VideoError: unreadable}
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


def _is_ip(host: str | None) -> bool:
    try:
        return bool(ipaddress.ip_address(host or ""))
    except ValueError:
        return False


class SearchServer(uvicorn.Server):
    """Answers queries on ``index`` at a host and port, 0: any free one; ``run`` starts it.

    Raises ``ValueError`` for an impossible port, ``OSError`` for an address that is taken
    or not of this machine.
    """

    def __init__(self, index: VideoIndex, host: str, port: int):
        if not 0 <= port <= 65535:
            raise ValueError(f"port must lie between 0 and 65535, got {port}.")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server((host, port), family=family)
        self.search = Search(index)
        app = application(self.search, host)
        super().__init__(uvicorn.Config(app, log_level="warning", access_log=False))

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        host, port = self.socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until ``should_exit`` or Ctrl-C."""
        with self.socket:
            super().run(sockets or [self.socket])
