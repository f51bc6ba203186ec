"""What a result was computed with, whatever is installed."""

import subprocess
from importlib import metadata

from book.kit import provenance


def test_a_decoder_that_is_not_installed_is_left_out(monkeypatch):
    version = metadata.version

    def without_decord(name):
        if name == "decord":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(provenance.metadata, "version", without_decord)
    found = provenance.provenance()
    assert "decord" not in found
    assert found["av"] == version("av")


def test_a_stored_result_is_no_change_of_the_commit_and_a_new_module_is(tmp_path):
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        who = ["-c", "user.name=A", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True)
    clean = provenance.commit(tmp_path)
    assert len(clean) == 12
    for name, found in (("book/results/a.json", clean), ("book/a.py", f"{clean}+")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
        assert provenance.commit(tmp_path) == found
