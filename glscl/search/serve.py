"""A local web page: enter a sentence, play the moments that match.

Nothing that a client sends becomes a path: videos are requested by the number of a
window, and only files that are in the index, as it was indexed, are sent. The server
accepts connections of this machine alone unless told otherwise, answers only to its own
name, and limits the length and the number of queries.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from glscl.data.encode import jpeg
from glscl.data.frames import VideoError
from glscl.search.index import Moment, VideoIndex
from glscl.search.page import FRAME_SIDE, clock, frames_at, preview

MAX_QUERY = 200  # letters of a query
RATE, PERIOD = 60, 10.0  # costly answers, in so many seconds
BEST = 8  # moments in an answer
SENT = 2**16  # bytes of a video sent at a time
ASSETS = Path(__file__).parent / "assets"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
FILES = {
    "/": ("search.html", "text/html; charset=utf-8"),
    "/search.js": ("search.js", "text/javascript; charset=utf-8"),
    "/search.css": ("search.css", "text/css; charset=utf-8"),
}
TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
TYPES |= {".mov": "video/quicktime", ".ogv": "video/ogg", ".mkv": "video/x-matroska"}


class RefusedError(Exception):
    """A request that gets a status and one sentence instead of an answer."""

    def __init__(self, status: HTTPStatus, sentence: str):
        super().__init__(sentence)
        self.status = status


class SearchServer(ThreadingHTTPServer):
    """Answers queries on ``index`` at ``address`` (host, port)."""

    daemon_threads = True

    def __init__(self, index: VideoIndex, address: tuple[str, int]):
        super().__init__(address, _Handler)
        self.index = index
        self.moments: dict[int, Moment] = {}  # what was found lately, by row
        self.lock = threading.Lock()  # one model, one query at a time
        self.times: deque[float] = deque()

    @property
    def url(self) -> str:
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def names(self) -> set[str]:
        """The hosts that a request may be addressed to: a page of another name, made to
        point here, must not read the answers."""
        host, port = str(self.server_address[0]), self.server_address[1]
        hosts = {"localhost", "127.0.0.1", "[::1]", host, f"[{host}]"}
        return {f"{one}:{port}" for one in hosts} | (hosts if port == 80 else set())

    def limit_rate(self) -> None:
        """Raise ``RefusedError`` when there were too many requests lately."""
        now = time.monotonic()
        while self.times and self.times[0] < now - PERIOD:
            self.times.popleft()
        if len(self.times) >= RATE:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS, "Too many queries: wait some seconds."
            )
        self.times.append(now)

    def search(self, text: str) -> list[Moment]:
        """The moments for ``text``; ``RefusedError`` for an empty or too long one."""
        text = " ".join(text.split())
        if not text:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "Type a sentence.")
        if len(text) > MAX_QUERY:
            raise RefusedError(
                HTTPStatus.BAD_REQUEST, f"At most {MAX_QUERY} letters, please."
            )
        with self.lock:
            self.limit_rate()
            fresh = self.index.refreshed()
            if fresh is not self.index:
                self.index, self.moments = fresh, {}
            found = self.index.search(text, BEST)
            if len(self.moments) > 1000:
                self.moments = {}
            self.moments |= {moment.row: moment for moment in found}
        return found

    def moment(self, number: str) -> Moment:
        """The moment of a number that an answer gave, its file as it was indexed."""
        moment = self.moments.get(int(number)) if number.isdecimal() else None
        if moment is None or not _unchanged(self.index, moment):
            raise RefusedError(HTTPStatus.NOT_FOUND, "There is no such moment.")
        return moment


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


class _Handler(BaseHTTPRequestHandler):
    server: SearchServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "glscl", ""
    timeout = 30

    def do_GET(self) -> None:
        try:
            if self.headers.get("Host") not in self.server.names():
                raise RefusedError(
                    HTTPStatus.FORBIDDEN, "This server answers only to its own name."
                )
            url = urlsplit(self.path)
            self._answer(url.path, url.query)
        except RefusedError as refused:
            self._send_json({"error": str(refused)}, refused.status)
        except VideoError:
            problem = {"error": "The video cannot be read."}
            self._send_json(problem, HTTPStatus.NOT_FOUND)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    def _answer(self, path: str, query: str) -> None:
        if path in FILES:
            name, kind = FILES[path]
            self._send((ASSETS / name).read_bytes(), kind)
            return
        match path.split("/")[1:]:
            case ["search"]:
                text = parse_qs(query[: 9 * MAX_QUERY + 9]).get("q", [""])[0]
                found = self.server.search(text)
                self._send_json({"moments": [_described(one) for one in found]})
            case ["video", number]:
                self._send_video(self.server.moment(number).path)
            case ["preview", number]:
                moment = self.server.moment(number)
                with self.server.lock:
                    self.server.limit_rate()
                    content = preview(moment)
                self._send(content, "video/mp4")
            case ["frame", number, place] if place.isdecimal():
                self._send_frame(self.server.moment(number), int(place))
            case _:
                raise RefusedError(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _send_frame(self, moment: Moment, place: int) -> None:
        if place >= len(moment.frame_times):
            raise RefusedError(HTTPStatus.NOT_FOUND, "There is no such frame.")
        times = moment.frame_times[place : place + 1]
        self._send(jpeg(frames_at(moment.path, times, FRAME_SIDE)[0]), "image/jpeg")

    def _send_video(self, path: Path) -> None:
        """A video, or the range of its bytes that a player requests."""
        size = path.stat().st_size
        first, last = _range(self.headers.get("Range", ""), size)
        partial = (first, last) != (0, size - 1)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        kind = TYPES.get(path.suffix.lower(), "application/octet-stream")
        self._end_headers(kind, last - first + 1)
        left = last - first + 1
        with path.open("rb") as file:
            file.seek(first)
            while left and (block := file.read(min(SENT, left))):
                self.wfile.write(block)
                left -= len(block)

    def _send_json(self, content: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(content).encode(), "application/json", status)

    def _send(
        self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        self.send_response(status)
        self._end_headers(kind, len(content))
        self.wfile.write(content)

    def _end_headers(self, kind: str, length: int) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged: queries are private."""


def _range(header: str, size: int) -> tuple[int, int]:
    """First and last byte of a ``Range`` header; the whole file for none, or a list."""
    unit, _, value = header.partition("=")
    first, dash, last = value.partition("-")
    if unit != "bytes" or not dash or not (first + last).isdecimal():
        return 0, size - 1
    if not first:  # the last so many
        begin, end = max(0, size - int(last)), size - 1
    else:
        begin, end = int(first), min(int(last) if last else size - 1, size - 1)
    if begin > end:
        raise RefusedError(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "The video has no such bytes."
        )
    return begin, end


def _described(moment: Moment) -> dict[str, Any]:
    """A moment for the page; of its path only the name."""
    name = moment.path.name.encode("utf-8", "replace").decode()
    return {
        "number": moment.row,
        "name": name,
        "start": moment.start,
        "end": moment.end,
        "where": f"{clock(moment.start)} to {clock(moment.end)}",
        "score": round(moment.score, 4),
        "times": [clock(float(at)) for at in moment.frame_times],
        "weights": [round(float(w), 4) for w in moment.frame_weights],
    }
