"""Files are written whole, and caches go where they can be written."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from glscl.runs import DataSource
from glscl.util.files import cache_folder, printable, write_text


def test_files_that_threads_write_have_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").touch()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            paths = [tmp_path / str(number) for number in range(2000)]
            list(pool.map(lambda path: write_text(path, ""), paths))
    finally:
        sys.setswitchinterval(interval)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_a_name_that_is_shown_is_one_line_and_steers_no_terminal():
    assert (
        printable("a\nb\x1b[31m\udce9 é 語\u3000🎬.mp4") == "a?b?[31m? é 語\u3000🎬.mp4"
    )


def test_a_cache_is_beside_the_data_unless_the_data_are_read_only(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    root = tmp_path / "drive/mini"
    assert cache_folder(root) == root / "cache"
    root.mkdir(parents=True)
    assert DataSource("mini", root).cache_folder == root / "cache"
    # The superuser may write anywhere, so that a read-only folder is pretended.
    monkeypatch.setattr(os, "access", lambda path, mode: path != root)
    assert cache_folder(root) == tmp_path / "home/glscl"
    assert DataSource("mini", root).cache_folder == tmp_path / "home/glscl"
    own = tmp_path / "own"
    assert DataSource("mini", root, cache=own).cache_folder == own
