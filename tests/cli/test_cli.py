import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import glscl
from glscl.cli import app
from glscl.mini.synthetic import BenchmarkError

runner = CliRunner()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    sizes = ["--train", "3", "--val", "2", "--test", "2"]
    result = runner.invoke(app, ["data", "make", "--root", str(root), *sizes])
    assert result.exit_code == 0, result.output
    return root, result


def test_make_writes_videos_and_says_what(made):
    root, result = made
    assert "train: 3 clips, 15 captions" in result.output
    assert len(list(root.rglob("*.mp4"))) == 7


def test_show_lists_captions_by_kind(made):
    root, _ = made
    result = runner.invoke(app, ["data", "show", "--root", str(root), "--count", "1"])
    assert result.exit_code == 0
    assert result.output.count("single") == 2
    assert result.output.count(".mp4") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data", "show", "--root", "nowhere"], "nowhere"),
        (["data", "show", "--split", "dev"], "dev"),
        (["data", "make", "--train", "0"], "train"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_1(made, arguments, sentence):
    root, _ = made
    if "--root" not in arguments:
        arguments = [*arguments, "--root", str(root)]
    result = subprocess.run(
        [sys.executable, "-m", "glscl.cli", *arguments],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert sentence in result.stderr
    assert result.stderr.startswith("glscl: ")
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_unwritable_place_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    result = runner.invoke(app, ["data", "make", "--root", str(blocked / "mini")])
    assert result.exit_code == 1
    assert "file" in result.stderr


def test_version_and_help():
    assert runner.invoke(app, ["--version"]).output.strip() == glscl.__version__
    assert "data" in runner.invoke(app, ["--help"]).output


def test_the_program_is_installed():
    program = Path(sys.executable).with_name("glscl")
    result = subprocess.run([program, "--version"], capture_output=True, text=True)
    assert result.stdout.strip() == glscl.__version__


def test_debug_shows_where_an_error_arose(tmp_path):
    command = ["data", "show", "--root", str(tmp_path)]
    plain = runner.invoke(app, command)
    assert plain.exit_code == 1
    assert isinstance(plain.exception, SystemExit)
    assert plain.output.startswith("glscl: No built-in benchmark in")
    shown = runner.invoke(app, ["--debug", *command])
    assert isinstance(shown.exception, BenchmarkError)
    again = runner.invoke(app, command)
    assert isinstance(again.exception, SystemExit)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
@pytest.mark.parametrize("command", [["index", ".", "--model", "mini"], ["eval", "."]])
def test_a_device_that_is_not_there_is_one_sentence(command):
    result = runner.invoke(app, [*command, "--device", "cuda:1"])
    words = "device 'cuda:1' was given, but torch finds no CUDA device."
    assert result.exit_code == 1
    assert words in result.output


def test_running_out_of_memory_is_one_sentence(tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr("glscl.mini.synthetic.load_benchmark", exhausted)
    result = runner.invoke(app, ["data", "show"])
    assert result.exit_code == 1
    assert result.output == "glscl: Out of memory.\n"


@pytest.mark.parametrize(
    "command",
    [
        ["data", "verify", ".", "--workers", "99999999999"],
        ["data", "prepare", ".", "out", "--fps", "nan"],
        ["data", "prepare", ".", "out", "--size", "0"],
        ["data", "make", "--train", "99999999999"],
        ["train", "--out", "out", "--workers", "-1"],
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_the_option(command):
    result = runner.invoke(app, command)
    assert result.exit_code == 2
    assert f"Invalid value for '{command[-2]}'" in result.output
