"""A local web page: enter a sentence, play the moments that match.

Nothing that a client sends becomes a path: videos are requested by the number of a
window, and only files that are in the index, as it was indexed, are sent. The server
accepts connections of this machine alone unless told otherwise, answers to its own names
and to addresses in numbers, and limits the length and the rate of what costs work.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from glscl.data.encode import jpeg
from glscl.data.frames import VideoError
from glscl.search.index import Moment, VideoIndex
from glscl.search.page import FRAME_SIDE, clock, frames_at, preview

MAX_QUERY = 200  # letters of a query
RATE, PERIOD = 60, 10.0  # costly answers, in so many seconds
BEST = 8  # moments in an answer
KEPT = 1000  # moments whose numbers are valid
ASSETS = Path(__file__).parent / "assets"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; media-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
TYPES |= {".mov": "video/quicktime", ".ogv": "video/ogg", ".mkv": "video/x-matroska"}


class Search:
    """An index, the moments found lately, and the limits; one request at a time."""

    def __init__(self, index: VideoIndex):
        self.index = index
        self.moments: dict[int, Moment] = {}  # by row
        self.frames: dict[int, list[bytes]] = {}  # their frames as JPEG, once decoded
        self.lock = threading.Lock()
        self.times: deque[float] = deque()

    def limit_rate(self) -> None:
        """Refuse (429) when there were too many costly requests lately."""
        now = time.monotonic()
        while self.times and self.times[0] < now - PERIOD:
            self.times.popleft()
        if len(self.times) >= RATE:
            raise HTTPException(429, "Too many queries: wait some seconds.")
        self.times.append(now)

    def find(self, text: str) -> list[Moment]:
        """The moments for ``text``; refused (400) where it is empty or too long."""
        text = " ".join(text.split())
        if not text:
            raise HTTPException(400, "Type a sentence.")
        if len(text) > MAX_QUERY:
            raise HTTPException(400, f"At most {MAX_QUERY} letters, please.")
        with self.lock:
            self.limit_rate()
            fresh = self.index.refreshed()
            if fresh is not self.index or len(self.moments) > KEPT:
                self.index, self.moments, self.frames = fresh, {}, {}
            found = self.index.search(text, BEST)
            self.moments |= {moment.row: moment for moment in found}
        return found

    def moment(self, number: str) -> Moment:
        """The moment of a number that an answer gave, its file as it was indexed (404)."""
        valid = number.isdecimal() and len(number) < 19
        moment = self.moments.get(int(number)) if valid else None
        if moment is None or not _unchanged(self.index, moment):
            raise HTTPException(404, "There is no such moment.")
        return moment

    def video(self, number: str) -> Path:
        """The file of a moment."""
        with self.lock:
            return self.moment(number).path

    def preview(self, number: str) -> bytes:
        """The window of a moment as a small MP4."""
        with self.lock:
            moment = self.moment(number)
            self.limit_rate()
            return preview(moment)

    def frame(self, number: str, place: str) -> bytes:
        """A frame of a moment as JPEG; all frames of a moment are decoded together."""
        with self.lock:
            moment = self.moment(number)
            if moment.row not in self.frames:
                self.limit_rate()
                pixels = frames_at(moment.path, moment.frame_times, FRAME_SIDE)
                self.frames[moment.row] = [jpeg(one) for one in pixels]
            frames = self.frames[moment.row]
            if not place.isdecimal() or len(place) > 4 or int(place) >= len(frames):
                raise HTTPException(404, "There is no such frame.")
            return frames[int(place)]


def _unchanged(index: VideoIndex, moment: Moment) -> bool:
    """Whether the file of a moment is the one that was indexed."""
    snapshot = index.snapshot
    holder = int(np.searchsorted(snapshot.first, moment.row, side="right")) - 1
    segment = snapshot.segments[holder]
    file = segment.rows["file"][moment.row - snapshot.first[holder]]
    _, size, mtime_ns = segment.files[file].tolist()
    try:
        stat = moment.path.stat()
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (size, mtime_ns)


class Guard:
    """Answers only requests to known hosts, and adds the security headers to answers.

    A page of another name, made to point here, must not read the answers; addresses in
    numbers cannot be made to point elsewhere and are accepted.
    """

    def __init__(self, app: Any, host: str):
        self.app, self.names = app, {"localhost", socket.gethostname().lower(), host}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        if scope["type"] == "http" and not self._known(Request(scope)):
            refusal = {"error": "This server answers only to its own names."}
            await JSONResponse(refusal, 403)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    def _known(self, request: Request) -> bool:
        host = (request.url.hostname or "").lower()
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host in self.names
        return True


def application(search: Search, host: str = "127.0.0.1") -> Guard:
    """The page and its answers as an ASGI application."""

    def answer(request: Request) -> Response:
        found = search.find(request.query_params.get("q", ""))
        return JSONResponse({"moments": [_described(one) for one in found]})

    def video(request: Request) -> Response:
        path = search.video(request.path_params["number"])
        kind = TYPES.get(path.suffix.lower(), "application/octet-stream")
        return FileResponse(path, media_type=kind)

    def window(request: Request) -> Response:
        content = search.preview(request.path_params["number"])
        return Response(content, media_type=TYPES[".mp4"])

    def frame(request: Request) -> Response:
        number, place = request.path_params["number"], request.path_params["place"]
        return Response(search.frame(number, place), media_type="image/jpeg")

    def asset(name: str) -> Any:
        return lambda request: FileResponse(ASSETS / name)

    routes = [
        Route("/", asset("search.html")),
        Route("/search.js", asset("search.js")),
        Route("/search.css", asset("search.css")),
        Route("/search", answer),
        Route("/video/{number}", video),
        Route("/preview/{number}", window),
        Route("/frame/{number}/{place}", frame),
    ]
    handlers: Any = {HTTPException: _refused, VideoError: _unreadable}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), host)


def _refused(request: Request, error: HTTPException) -> Response:
    detail = "There is no such page." if error.detail == "Not Found" else error.detail
    return JSONResponse({"error": detail}, error.status_code)


def _unreadable(request: Request, error: VideoError) -> Response:
    return JSONResponse({"error": "The video cannot be read."}, 404)


class SearchServer:
    """Answers queries on ``index`` at ``address`` (host, port); port 0: any free one.

    Raises ``ValueError`` for a port that does not exist, ``OSError`` for an address that
    is taken or not of this machine.
    """

    def __init__(self, index: VideoIndex, address: tuple[str, int]):
        import uvicorn

        host, port = address
        if not 0 <= port <= 65535:
            raise ValueError(f"port must lie between 0 and 65535, got {port}.")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server(address, family=family)
        self.address = host, self.socket.getsockname()[1]
        self.limits = Search(index)
        app = application(self.limits, host)
        settings = uvicorn.Config(app, log_level="warning", access_log=False)
        self.server = uvicorn.Server(settings)

    def __enter__(self) -> SearchServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        host, port = self.address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def serve_forever(self) -> None:
        """Answer until ``shutdown`` or Ctrl-C."""
        self.server.run(sockets=[self.socket])

    def shutdown(self) -> None:
        """End ``serve_forever`` of another thread."""
        self.server.should_exit = True


def _described(moment: Moment) -> dict[str, Any]:
    """A moment for the page; of its path only the name."""
    return {
        "number": moment.row,
        "name": moment.path.name.encode("utf-8", "replace").decode(),
        "start": moment.start,
        "end": moment.end,
        "where": f"{clock(moment.start)} to {clock(moment.end)}",
        "score": round(moment.score, 4),
        "times": [clock(float(at)) for at in moment.frame_times],
        "weights": [round(float(w), 4) for w in moment.frame_weights],
    }
