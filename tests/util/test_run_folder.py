"""The folder of a run: what another rank may do, and files that are not a run's."""

import pytest
import torch

from glscl.util import parallel
from glscl.util.run_folder import RunFolder, best_model

CPU = torch.device("cpu")


def layer():
    torch.manual_seed(0)
    return torch.nn.Linear(2, 2)


def test_rank_0_writes_and_every_rank_reads(tmp_path, monkeypatch):
    model = layer()
    first = RunFolder(tmp_path / "run", {"epochs": 2}, {"model": model})
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    other = layer()
    other.weight.data += 1
    second = RunFolder(tmp_path / "run", {"epochs": 2}, {"model": other})
    second.save({"step": 3}, None)
    second.start_log([{"step": 1}], tensorboard=True)
    second.log({"step": 2}, 2)
    second.save_best(1, lambda path: path.mkdir(parents=True))
    assert not (tmp_path / "run").exists()
    assert second.restore(CPU, resume=True) is None
    first.save({"step": 3}, None)
    assert second.restore(CPU, resume=True)["step"] == 3
    assert torch.equal(other.weight, model.weight)


def test_a_checkpoint_keeps_the_model_of_its_best_epoch_alone(tmp_path):
    run = RunFolder(tmp_path, {}, {})
    for epoch in (0, 4):
        run.save_best(epoch, lambda path: path.mkdir())
    run.save({}, None)
    assert {path.name for path in tmp_path.glob("best-*")} == {"best-000", "best-004"}
    run.save({}, 4)
    assert list(tmp_path.glob("best-*")) == [best_model(tmp_path, 4)]


def test_without_a_path_nothing_is_read_or_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(None, {}, {"model": layer()})
    run.start_log([], tensorboard=False)
    run.log({"step": 1}, 1)
    run.save({"step": 1}, 0)
    run.close()
    assert run.restore(CPU, resume=False) is None
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    torch.save({"format": 0}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="not a checkpoint of this version"):
        RunFolder(tmp_path, {}, {}).restore(CPU, resume=True)
