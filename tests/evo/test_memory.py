"""Work for which memory does not suffice: smaller parts, on record, and the same results wherever it is done."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import short_of_memory
import torch
from small_life import cut, live, made, same, stable

from evo import cluster, placement, plugins
from evo.data import Split
from evo.grower import Grower
from evo.memory import Parts, ShortOfMemoryError, fitted, needed, ran_out
from evo.pool import RayPool
from evo.training import Session, predict
from evo.trials import TrialRequest, pack
from evo.workers import InProcess, attempt
from search_spaces import checkpoint
from search_spaces.families.mlp import Mlp
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from tournaments.evidence import collect

CPU = torch.device("cpu")
PLUGIN = {"plugins": ["short_of_memory"]}


@pytest.fixture(autouse=True)
def forward_given_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Mlp, "forward", short_of_memory.forward)
    yield
    monkeypatch.setattr(Mlp, "forward", short_of_memory.plain)


def network_of() -> Mlp:
    network = Mlp([("input", 6), ("hidden1", 5), ("output", 3)], [("input", "hidden1"), ("hidden1", "output")])
    draw = keyed("test", "memory")
    with torch.no_grad():
        for name, mask in network.masks().items():
            network.get_buffer(mask).fill_(1.0)
            weight = network.get_parameter(name)
            weight.copy_(torch.from_numpy(draw.normal(size=tuple(weight.shape))))
    return network


def split_of(n: int = 90) -> Split:
    draw = keyed("test", "samples")
    x = torch.from_numpy(draw.normal(size=(n, 6)).astype(np.float32))
    return Split(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def test_what_tells_of_too_little_memory() -> None:
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory"))
    assert ran_out(MemoryError())
    assert ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 TB"))
    broken = RuntimeError("capture was broken off")
    broken.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert ran_out(broken)
    assert not ran_out(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"), needed("training"):
        raise RuntimeError("shapes do not match")


def test_a_rank_in_another_process_tells_what_it_was_short_for() -> None:
    short = copy.copy(ShortOfMemoryError("looking"))  # made again from its arguments, as by whoever sends it
    assert (short.work, str(short)) == ("looking", "memory does not suffice for looking")


def test_parts_double_until_it_fits_or_is_a_single_sample() -> None:
    tried: list[Parts] = []

    def work(parts: Parts) -> str:
        tried.append(parts)
        with needed("looking" if parts.looking < 4 else "training"):
            if parts != Parts(8, 4):
                raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert fitted(Parts(2), 64, work) == ("done", Parts(8, 4))
    assert tried == [Parts(2), Parts(2, 2), Parts(2, 4), Parts(4, 4), Parts(8, 4)]

    def never(parts: Parts) -> None:
        with needed("training"):
            raise MemoryError

    with pytest.raises(ShortOfMemoryError, match="memory does not suffice for training"):
        fitted(Parts(), 6, never)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_gradients_of_parts_add_up_to_those_of_the_batch(parts: int) -> None:
    data, orders = split_of(), keyed("orders").integers(0, 90, (12, 20))
    found = []
    for count in (1, parts):
        network = copy.deepcopy(network_of())
        session = Session(
            network, OptimizerState.fresh(network), data, "classification", made()[0].training, parts=count
        )
        found.append((session.run(orders, np.full(12, 0.01)), network))
        session.close()
    (whole, one), (split, other) = found
    np.testing.assert_allclose(split.losses, whole.losses, rtol=1e-4)
    np.testing.assert_allclose(split.norms, whole.norms, rtol=1e-3)
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(other.get_parameter(name), parameter, rtol=1e-3, atol=1e-4)


def test_evidence_in_parts_is_the_same_evidence() -> None:
    data, network = split_of(), network_of()
    whole = collect(network, data.x, data.y, "classification", keyed("fisher"))
    parts = collect(network, data.x, data.y, "classification", keyed("fisher"), rows=16)
    assert parts.samples == 90
    assert abs(parts.loss - whole.loss) < 1e-6
    for mine, theirs in (
        (parts.activations, whole.activations),
        (parts.gradients, whole.gradients),
        (parts.fisher, whole.fisher),
    ):
        assert mine.keys() == theirs.keys()
        for layer, values in mine.items():
            torch.testing.assert_close(values, theirs[layer], rtol=1e-4, atol=1e-6)


def test_a_prediction_that_does_not_fit_gives_the_mode_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVO_TEST_ROWS", "20 16")
    network = network_of().train()
    with pytest.raises(ShortOfMemoryError, match="looking"):
        predict(network, split_of().x)
    assert network.training
    assert len(predict(network, split_of().x, 16)) == 90


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A life that 20 samples in training and 16 at other times are the most for."""
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVO_TEST_ROWS", "20 16")
        patch.setattr(Mlp, "forward", short_of_memory.forward)
        live(*made(**PLUGIN), folder)
    return folder


def lives(folder: Path) -> list[dict[str, object]]:
    """What the snapshots say of the life, oldest first."""
    return [checkpoint.load(home).extra["life"] for home in sorted((folder / "snapshots" / "n000").iterdir())]


def test_a_life_goes_on_in_parts_and_says_so(short: Path, unbroken: Path) -> None:
    rows = stable(short)
    choices = rows[rows["kind"] == "choice"]
    told = choices[choices["measure"] == "parts of a batch"]
    assert list(told["reason"].str.split(":").str[0]) == [
        "memory did not suffice for the growth data", "memory did not suffice for training",
    ]  # fmt: skip
    assert list(told["value"]) == [1.0, 4.0]
    assert "batches in 4 parts, 16 samples looked at together" in told["reason"].iloc[1]
    assert rows["reason"].iloc[-1] == "lived its whole life"
    assert (rows["kind"] == "candidate").any()
    assert not rows["diverged"].dropna().any()
    assert lives(short)[-1]["parts"] == {"training": 4, "looking": 512}
    # A life that memory suffices for has nothing of this.
    assert not (stable(unbroken)["measure"] == "parts of a batch").any()
    assert not any("parts" in life for life in lives(unbroken))


@pytest.mark.parametrize("commits", [1, 3])
def test_a_resume_replays_the_parts_and_measures_nothing(short: Path, tmp_path: Path, commits: int) -> None:
    """It goes on where memory is plenty, and still ends in the same bits."""
    folder = Path(shutil.copytree(short, tmp_path / "copy"))
    cut(folder, commits)
    live(*made(**PLUGIN), folder)
    assert same(folder, short) == []


def test_workers_that_are_short_of_memory_give_the_same(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVO_TEST_ROWS", "20 16")
    config, task = made(**PLUGIN)
    plugins.load(config)
    with cluster.session(CPU):
        for workers in (1, 2):
            plan = placement.pool(cluster.nodes(CPU), workers, "cpu")
            with contextlib.closing(RayPool.of(task, plan, CPU)) as pool:
                live(config, task, tmp_path / str(workers), pool)
            assert same(tmp_path / str(workers), short) == []


def test_one_fork_that_is_too_large_is_cut_alone_and_its_heir_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger networks run out of memory, the parent does not: only what grew is cut."""
    config, task = made(**{"growth.cycles": 6, "training.steps": 400})

    def forward(self: Mlp, x: torch.Tensor, *more: object) -> torch.Tensor:
        if self.training and self.count() > born.body.count() and len(x) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return short_of_memory.plain(self, x, *more)

    born = Grower(config, task, tmp_path)
    monkeypatch.setattr(Mlp, "forward", forward)
    life = live(config, task, tmp_path, InProcess(task))
    rows = stable(tmp_path)
    told = rows.loc[rows["measure"] == "parts of a batch", "reason"]
    assert told.str.startswith("memory did not suffice for arm").any()
    grown = life.body.count() > born.body.count()
    assert grown
    assert life.life.parts == Parts(2)
    assert not rows["diverged"].dropna().any()


def test_a_life_that_does_not_fit_at_all_ends_and_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, task = made(**PLUGIN)
    grower = Grower(config, task, tmp_path)
    monkeypatch.setenv("EVO_TEST_ROWS", "0 10000")
    grower.advance()
    assert grower.done
    ends = stable(tmp_path).iloc[-1]
    assert (ends["kind"], ends["reason"]) == ("finished", "memory does not suffice for training, one sample at a time")


def test_a_fork_that_does_not_fit_at_all_loses_its_trial_alone() -> None:
    config, task = made()
    parent = pack(network_of(), OptimizerState.fresh(network_of()))
    request = TrialRequest((7, "n000", 0), 1, 0, 0, "", None, 0, 4, 100, 1.0, 0.1, config.training)
    data = split_of()
    few = dataclasses.replace(task, shape=(6,), outputs=3, splits=dict.fromkeys(task.splits, data))
    assert not attempt(few, parent, request).diverged
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVO_TEST_ROWS", "0 100")
        lost = attempt(few, parent, request)
        patch.setenv("EVO_TEST_ROWS", "20 100")
        assert attempt(few, parent, request).parts == Parts(4)
    assert lost.diverged
    assert lost.body is parent
