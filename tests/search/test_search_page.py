"""What was found, on a page: self-contained, and served to this machine alone."""

import http.client
import json
import os
import re
import threading
import time
from itertools import pairwise
from types import SimpleNamespace
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
from toy import toy_model
from typer.testing import CliRunner

from book.builder import browser, pages
from glscl.cli import app
from glscl.data.encode import jpeg
from glscl.search import VideoIndex, Windows, serve
from glscl.search.page import clock, frames_at, moments_html, preview, write_page
from glscl.search.serve import MAX_QUERY, SearchServer

NAME = "<b>&amp; 'clip'.mp4"


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    root = tmp_path_factory.mktemp("videos")
    for i, name in enumerate((NAME, "other.mp4", "third.mp4")):
        levels = (np.arange(30) * 4 + 40 * i + 20)[:, None, None, None]
        pixels = np.broadcast_to(levels, (30, 66, 64, 3))
        write_video(root / name, pixels.astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def index(videos, tmp_path_factory):
    path = tmp_path_factory.mktemp("index")
    windows = Windows(1.5, 0.5)
    return VideoIndex.build(videos, path, toy_model(), windows, progress=False)


@pytest.fixture(scope="module")
def moments(index):
    return index.search("a red circle", k=5)


def decoded(data, tmp_path):
    (tmp_path / "preview.mp4").write_bytes(data)
    with av.open(str(tmp_path / "preview.mp4")) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# ---- the report --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0:00.0"), (59.96, "1:00.0"), (61.25, "1:01.2"), (3723.4, "1:02:03.4")],
)
def test_times_are_written_as_players_write_them(seconds, words):
    assert clock(seconds) == words


def test_frames_are_those_of_their_times(videos):
    found = frames_at(videos / "other.mp4", np.array([0.0, 1.0, 1.01, 2.5]), 32)
    assert found.shape == (4, 33, 32, 3)
    levels = found.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, [60, 92, 92, 140], atol=4)


def test_a_preview_plays_the_window_and_no_more(moments, tmp_path):
    moment = moments[0]
    frames = decoded(preview(moment), tmp_path)
    assert len(frames) == pytest.approx((moment.end - moment.start) * 8, abs=1)
    assert jpeg(frames[0])[:2] == b"\xff\xd8"


def test_a_page_needs_nothing_else_and_names_are_text(moments, tmp_path):
    write_page(tmp_path / "found.html", {"a <i>red</i> circle": moments, "x": []})
    text = (tmp_path / "found.html").read_text()
    assert list(pages.check(tmp_path)) == []
    assert "<i>red" not in text
    assert "<b>" not in text
    assert text.count("<video") == len(moments)
    assert text.count("<img") == sum(len(one.frame_weights) for one in moments)
    assert "Nothing was found" in text
    shown = [float(x) for x in re.findall(r"([\d.]+) %</span></li>", text)]
    weights = np.concatenate([one.frame_weights for one in moments])
    np.testing.assert_allclose(shown, 100 * weights, atol=0.051)


def test_a_method_without_frame_weights_shows_the_frames_alone(moments):
    text = moments_html([moments[0]._replace(frame_weights=None)])
    assert text.count("<img") == len(moments[0].frame_times)
    assert "glscl-bar" not in text.split("</style>")[1]
    assert 'aria-label="frames"' in text


def test_a_moment_whose_file_is_gone_says_so(moments, tmp_path):
    lost = moments[0]._replace(path=tmp_path / "lost.mp4")
    text = moments_html([lost])
    assert "does not exist" in text
    assert "<video" not in text


# ---- the server --------------------------------------------------------------------


@pytest.fixture
def server(index, monkeypatch):
    monkeypatch.setattr(serve, "RATE", 1000)
    running = SearchServer(index, "127.0.0.1", 0)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield running
    running.should_exit = True
    thread.join()


def get(server, target, method="GET", **headers):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.putrequest(method, target, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return SimpleNamespace(status=response.status, headers=response.headers, body=body)


def moments_for(server, query="red"):
    return json.loads(get(server, f"/search?q={query}").body)["moments"]


def test_an_answer_is_what_the_index_finds(server, index):
    found = moments_for(server, "a%20red%20circle")
    wanted = index.search("a red circle", k=8)
    assert [one["number"] for one in found] == [one.row for one in wanted]
    assert found[0]["weights"] == pytest.approx(wanted[0].frame_weights, abs=1e-4)
    assert {one["name"] for one in found} == {NAME, "other.mp4", "third.mp4"}
    assert str(index.about.folder) not in json.dumps(found)


def test_videos_previews_and_frames_are_sent(server, videos):
    one = next(m for m in moments_for(server) if m["name"] == "other.mp4")
    content = (videos / "other.mp4").read_bytes()
    whole = get(server, f"/video/{one['number']}")
    assert (whole.status, whole.body) == (200, content)
    assert whole.headers["Content-Type"] == "video/mp4"
    assert get(server, f"/preview/{one['number']}").body[4:8] == b"ftyp"
    assert get(server, f"/frame/{one['number']}/0").body[:2] == b"\xff\xd8"
    assert get(server, f"/frame/{one['number']}/99").status == 404


@pytest.mark.parametrize(
    ("requested", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=5-", slice(5, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=3-99999999", slice(3, None)),
        ("bytes=0-", slice(0, None)),
    ],
)
def test_players_get_the_range_they_request(server, videos, requested, part):
    one = next(m for m in moments_for(server) if m["name"] == "other.mp4")
    content = (videos / "other.mp4").read_bytes()
    answer = get(server, f"/video/{one['number']}", Range=requested)
    assert (answer.status, answer.body) == (206, content[part])
    assert answer.headers["Content-Range"].endswith(f"/{len(content)}")
    nothing = get(server, f"/video/{one['number']}", Range="bytes=99999999-")
    assert nothing.status == 416


@pytest.mark.parametrize(
    "target",
    [
        "/video/../../etc/passwd",
        "/video/%2e%2e%2fetc%2fpasswd",
        "/etc/passwd",
        "//etc/passwd",
        "/video/-1",
        "/video/999999",
        "/video/0x1",
        "/video/",
        "/frame/0/../../x",
        "/search.html",
        "/mini_clip.json",
        "/../search.css",
    ],
)
def test_nothing_else_is_sent(server, target):
    moments_for(server)
    answer = get(server, target)
    assert answer.status == 404
    assert b"root:" not in answer.body


def test_a_file_that_changed_since_it_was_indexed_is_not_sent(server, videos):
    one = next(m for m in moments_for(server) if m["name"] == "third.mp4")
    content = (videos / "third.mp4").read_bytes()
    stat = (videos / "third.mp4").stat()
    try:
        (videos / "third.mp4").write_bytes(b"secret")
        assert get(server, f"/video/{one['number']}").status == 404
    finally:
        (videos / "third.mp4").write_bytes(content)
        import os

        os.utime(videos / "third.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_queries_are_limited_in_length_and_rate(server, monkeypatch):
    assert get(server, "/search?q=" + "x" * (MAX_QUERY + 1)).status == 400
    assert get(server, "/search?q=%20").status == 400
    assert get(server, "/search").status == 400
    assert get(server, "/search?q=" + "%20x" * MAX_QUERY * 100).status in (400, 414)
    monkeypatch.setattr(serve, "RATE", 3)
    statuses = [get(server, "/search?q=x").status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]


def test_only_requests_to_this_machine_by_name_are_answered(server):
    port = urlsplit(server.url).port
    assert get(server, "/", Host=f"localhost:{port}").status == 200
    assert get(server, "/", Host="evil.example").status == 403
    assert get(server, "/", Host=f"evil.example:{port}").status == 403
    policy = get(server, "/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("host", ["192.168.1.20:8421", "10.0.0.7", "[fe80::1]:8421"])
def test_ip_addresses_reach_the_page(server, host):
    assert get(server, "/", Host=host).status == 200


def test_head_answers_without_a_body(server):
    answer = get(server, "/", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


def test_numbers_of_any_length_are_refused(server):
    found = moments_for(server)
    for target in (f"/video/{'9' * 5000}", f"/frame/{found[0]['number']}/{'9' * 5000}"):
        assert get(server, target).status == 404


def test_every_costly_answer_counts_and_frames_are_decoded_once(server, monkeypatch):
    found = moments_for(server)
    number = found[0]["number"]
    server.search.times.clear()
    monkeypatch.setattr(serve, "RATE", 2)
    statuses = [get(server, f"/frame/{number}/0").status for _ in range(4)]
    assert statuses == [200] * 4
    assert get(server, f"/preview/{number}").status == 200
    assert get(server, f"/preview/{number}").status == 429
    assert get(server, f"/frame/{found[1]['number']}/0").status == 429


def test_impossible_addresses_are_refused_in_one_sentence(index):
    with pytest.raises(
        ValueError, match="port must lie between 0 and 65535, got 70000"
    ):
        SearchServer(index, "127.0.0.1", 70000)
    running = SearchServer(index, "::1", 0)
    with running.socket:
        assert running.url.startswith("http://[::1]:")


def test_several_people_may_search_at_once(server):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(len(moments_for(server))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1


#: The element below, as its tags and classes: what style sheets see.
SKELETON = """html => {
    const body = new DOMParser().parseFromString(html, "text/html").body;
    const card = (html ? body : document).querySelector("figure");
    return [card, ...card.querySelectorAll("*")].map((e) => `${e.tagName}.${e.className}`);
}"""


@pytest.mark.browser
def test_typing_shows_moments_that_play(server, index):
    if browser.program() is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=browser.program(),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = chromium.new_page(viewport={"width": 390, "height": 800})
        problems, elsewhere = [], []
        page.on(
            "console", lambda m: problems.append(m.text) if m.type == "error" else 0
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda r: (
                None
                if r.url.startswith((server.url, "data:"))
                else elsewhere.append(r.url)
            ),
        )
        page.goto(server.url)
        page.get_by_label("What should the video show?").fill("a red circle")
        page.get_by_role("button", name="Search").click()
        page.wait_for_selector("#moments video", timeout=60_000)
        assert NAME in page.inner_text("#moments")
        assert page.locator("#moments b").count() == 0
        file = moments_html(index.search("a red circle", k=1))
        file = re.sub(r'<style>.*</style>| style="[^"]*"', "", file, flags=re.DOTALL)
        assert page.evaluate(SKELETON, "") == page.evaluate(SKELETON, file)
        played = page.evaluate(
            """async () => {
                const video = document.querySelector("#moments video");
                await video.play();
                await new Promise((done) => { video.ontimeupdate = done; });
                return [video.videoWidth, video.readyState, video.error];
            }"""
        )
        assert played[0] > 0
        assert played[1] >= 2
        assert played[2] is None
        pictures = page.locator("#moments img")
        pictures.first.scroll_into_view_if_needed()
        pictures.first.evaluate("picture => picture.decode()")
        assert pictures.first.evaluate("picture => picture.naturalWidth") > 0
        # No frame of a moment covers the next one, also where the strip is narrow.
        strip = page.locator(".glscl-frames").first
        edges = strip.locator("img").evaluate_all(
            "all => all.map((x) => x.getBoundingClientRect())"
            ".map((place) => [place.left, place.right])"
        )
        assert len(edges) > 1
        assert all(one[1] <= other[0] for one, other in pairwise(edges))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_label("What should the video show?").fill(" ")
        page.get_by_role("button", name="Search").click()
        page.locator("#state", has_text=re.compile("^Type")).wait_for()
        chromium.close()
    # The empty sentence is refused with a status that the console reports.
    assert [p for p in problems if "400" not in p] == []
    assert elsewhere == []


# ---- the commands ------------------------------------------------------------------


def test_the_commands_index_and_search(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")

    def run(*arguments):
        return CliRunner().invoke(app, [str(one) for one in arguments])

    path, page = tmp_path / "index", tmp_path / "found.html"
    # What can be refused at once is, before a model is looked for.
    for wrong, said in (
        ((tmp_path / "absent",), "no folder"),
        ((videos, "--window", 0), "seconds must be"),
        ((videos, "--shard", "2/2"), "--shard must be I/N"),
    ):
        refused = run("index", *wrong, "--index", path, "--model", tmp_path / "none")
        assert refused.exit_code == 1
        assert said in refused.output
    cut = "--window", 2, "--overlap", 0.25
    made = run("index", videos, "--index", path, "--model", "mini", *cut)
    assert made.exit_code == 0, made.output
    assert "3 added" in made.output
    again = run("index", videos, "--index", path)
    assert "3 unchanged" in again.output
    same = run("index", videos, "--index", path, "--window", 2)
    assert "3 unchanged" in same.output
    other = run("index", videos, "--index", path, "--window", 3)
    assert "'seconds': 2.0" in other.output
    assert "not of {'seconds': 3.0" in other.output
    (tmp_path / "batch.txt").write_bytes(b"\xef\xbb\xbfa ring\r\n\r\na star\n")
    found = run(
        "search", "a red circle", "--index", path, "--k", 2, "--html", page,
        "--batch", tmp_path / "batch.txt", "--after", "2020-01-01",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"  # torch leaves cores to the index
    assert found.output.count("2 moments") == 3
    assert "\na ring: " in found.output
    assert page.read_text().count("<h2>") == 3
    nothing = run("search", "x", "--index", path, "--below", "elsewhere", "--exact")
    assert "0 moments" in nothing.output
    assert run("search", "--index", path).exit_code == 1
    (tmp_path / "batch.txt").write_bytes(b"\xe9")
    assert "batch.txt, line 1: byte 0xe9" in run(
        "search", "--index", path, "--batch", tmp_path / "batch.txt"
    ).output  # fmt: skip
    onto_a_folder = run("search", "x", "--index", path, "--html", tmp_path)
    assert f"glscl: {tmp_path}: Is a directory." in onto_a_folder.output
    lost = run("search", "x", "--index", tmp_path / "lost")
    assert lost.exit_code == 1
    assert "holds no video index" in lost.output
