"""What a result was computed with, whatever is installed."""

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
