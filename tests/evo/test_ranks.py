"""Ranks train what one process trains, to rounding; among themselves, and from run to run, to the bit.

How far rounding goes is measured: one process trains on the same batches with their samples in another order, which
changes nothing but the order of sums. Ranks may be MARGIN times as far off; a wrong weight is a thousand times.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from grown_networks import CONFIG, grown_of, split_of
from rank_threads import CPU, HOME, Threads, together
from small_life import live, made, same, stable
from torch import Tensor

from evo.batches import batch_orders, cosine_rates
from evo.config import Config, ConfigError, TrainingConfig
from evo.ranks import Meeting, RankLostError, Ranks, RanksDifferError
from evo.segments import Segment, Segmented, digests, train
from evo.settings import build
from evo.surroundings import Surroundings
from evo.task import Split
from evo.training import Moment, Session, Trained
from evo.trials import Body, pack
from search_spaces.families import Mlp
from search_spaces.network import active
from search_spaces.randomness import keyed
from tournaments.objective import Kind

STEPS, BATCH, MARGIN = 24, 17, 10.0
QUANTISED = CONFIG.model_copy(update={"quantise_every": 3})
RULED = CONFIG.model_copy(update={"rates": "age * density"})
CLIPPED = CONFIG.model_copy(update={"clip_norm": 0.05})
Weights = Mapping[str, Tensor]


def orders_of(shuffle: int = 0, steps: int = STEPS) -> np.ndarray:
    """Batches of 17 samples, so that no two shares are of one size; shuffle: their samples in another order."""
    orders = batch_orders(80, steps, BATCH, keyed("test", "batches"))
    return orders if shuffle == 0 else keyed("test", "order", shuffle).permuted(orders, axis=1)


def session(
    kind: str, config: TrainingConfig, ranks: Ranks | None, shuffle: int = 0, share: float = 0.0
) -> tuple[Trained, dict[str, Tensor], dict[str, str]]:
    """A grown network, trained: figures, weights and running statistics, and digests of all that it holds."""
    network, state = grown_of(kind)
    made = Session(network, state, split_of(kind), "classification", config, at=Moment(0, 100), ranks=ranks)
    orders = orders_of(shuffle)
    trained = made.run(orders, cosine_rates(config, 0, STEPS, 100), trajectory=4, average=share)
    body = pack(network, made.close())
    return trained, {k: t.clone() for k, t in body.weights.items()}, digests(body)


def distance(one: Weights, other: Weights) -> float:
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one if one[name].numel())


@pytest.mark.parametrize(
    ("kind", "config", "size"),
    [
        ("mlp", CONFIG, 2), ("mlp", CONFIG, 3), ("mlp", QUANTISED, 2), ("mlp", RULED, 2), ("mlp", CLIPPED, 2),
        ("convnet", CONFIG, 2), ("convnet", CLIPPED, 3),
    ],
)  # fmt: skip
def test_ranks_train_what_one_process_trains(kind: str, config: TrainingConfig, size: int) -> None:
    trained, alone, _ = session(kind, config, None)
    rounding = max(distance(alone, session(kind, config, None, shuffle)[1]) for shuffle in (1, 2, 3, 4))
    assert 0 < rounding < 1e-3
    first, second, *_ = found = together(size, lambda ranks: session(kind, config, ranks))
    assert not any(isinstance(one, Exception) for one in found), found
    assert distance(alone, first[1]) <= MARGIN * rounding
    assert len({tuple(sorted(one[2].items())) for one in found}) == 1, "ranks hold other bits"
    assert np.array_equal(first[0].losses, second[0].losses)
    assert np.array_equal(first[0].norms, second[0].norms)
    assert np.allclose(first[0].losses, trained.losses, rtol=MARGIN * rounding, atol=MARGIN * rounding)
    again = together(size, lambda ranks: session(kind, config, ranks))
    assert again[0][2] == first[2], "another run came to other bits"


def test_the_first_gradient_is_that_of_the_whole_batch() -> None:
    """One step, of which the bound is known: a sum of b terms in another order is off by at most b roundings each."""
    trained, _, _ = session("mlp", CONFIG, None)
    for size in (2, 3, 5):
        found = together(size, lambda ranks: session("mlp", CONFIG, ranks)[0])
        for one in found:
            assert isinstance(one, Trained)
            assert one.norms[0] == pytest.approx(trained.norms[0], rel=2 * BATCH * 2**-24)
            assert one.losses[0] == pytest.approx(trained.losses[0], rel=2 * BATCH * 2**-24)


@pytest.mark.parametrize("size", [3, 5])
def test_batch_norms_in_fine_parts_exchange_as_often_on_every_rank(size: int) -> None:
    """A batch of 64 on three ranks, 21, 21 and 22 samples each: in 32 parts one share would have a part more."""

    def work(ranks: Ranks) -> tuple[list[float], dict[str, str]]:
        network, state = grown_of("convnet")
        made = Session(network, state, split_of("convnet"), "classification", CONFIG, ranks=ranks, parts=32)
        trained = made.run(batch_orders(80, 4, 64, keyed("test", "fine")), cosine_rates(CONFIG, 0, 4, 100))
        return trained.losses.tolist(), digests(pack(network, made.close()))

    found = together(size, work)
    assert not any(isinstance(one, Exception) for one in found), found
    assert all(one == found[0] for one in found), "ranks hold other bits"
    assert np.isfinite(found[0][0]).all()


def test_averages_and_velocities_are_those_of_the_whole_network() -> None:
    alone, _, _ = session("mlp", CONFIG, None, share=0.5)
    found = together(2, lambda ranks: session("mlp", CONFIG, ranks, share=0.5)[0])
    assert alone.velocities is not None
    assert alone.average is not None
    for one in found:
        assert isinstance(one, Trained)
        assert one.average is not None
        assert distance(one.average, alone.average) < 1e-4
        assert np.allclose(one.velocities, alone.velocities, rtol=1e-3, atol=1e-6)
    assert np.array_equal(found[0].velocities, found[1].velocities)


def test_only_trained_elements_are_exchanged_and_masked_ones_stay_nothing() -> None:
    network, state = grown_of("mlp")
    on = active(network)
    trained = sum(int(mask.sum()) for mask in on.values())
    assert trained < sum(mask.numel() for mask in on.values())

    def work(ranks: Ranks) -> set[int]:
        body, of_body = copy.deepcopy((network, state))
        sizes: set[int] = set()
        summed = ranks.sum
        ranks.sum = lambda vector: (sizes.add(len(vector)), summed(vector))[1]  # type: ignore[method-assign]
        made = Session(body, of_body, split_of("mlp"), "classification", CONFIG, ranks=ranks)
        made.run(orders_of(), cosine_rates(CONFIG, 0, STEPS, 100))
        after = made.close()
        for name, p in body.named_parameters():
            for values in (p, after.first[name], after.second[name], after.age[name]):
                assert not bool(values[~on[name]].any()), name
        return sizes

    assert together(2, work) == [{trained + 1}, {trained + 1}]


def test_shares_are_the_batch_whatever_its_size() -> None:
    for size, width in ((1, 1), (2, 5), (3, 17), (4, 64), (5, 7)):
        orders = np.arange(3 * width).reshape(3, width)
        parts = [Ranks(None, rank, size, CPU, None).share(orders) for rank in range(size)]
        assert np.array_equal(np.concatenate(parts, axis=1), orders)
        widths = [part.shape[1] for part in parts]
        assert max(widths) - min(widths) <= 1
        assert min(widths) >= 1


def test_all_ranks_see_that_training_diverged() -> None:
    """A sample that overflows is in one rank's share alone; every rank is told."""

    def work(ranks: Ranks) -> tuple[bool, list[bool]]:
        network, state = grown_of("mlp")
        data = split_of("mlp")
        data.x[orders_of()[5, 0]] = float("inf")
        made = Session(network, state, data, "classification", CONFIG, ranks=ranks)
        trained = made.run(orders_of(), cosine_rates(CONFIG, 0, STEPS, 100))
        made.close()
        return trained.diverged, np.isfinite(trained.losses).tolist()

    first, second = together(2, work)
    assert first == second
    assert first[0]
    assert not first[1][-1]


def segment_of() -> Segment:
    return Segment(("test",), cosine_rates(CONFIG, 0, 6, 100), Moment(40, 100), CONFIG)


@pytest.mark.parametrize("part", ["weights", "optimizer", "blueprint"])
def test_an_edit_that_differs_on_one_rank_is_told_by_name(part: str) -> None:
    def work(ranks: Ranks) -> object:
        network, state = grown_of("mlp")
        body = pack(network, state)
        if ranks.rank == 2:
            if part == "blueprint":
                body = dataclasses.replace(body, blueprint=body.blueprint + " ")
            else:
                held: Tensor = getattr(body, part)["biases.hidden1" if part == "weights" else "first/biases.hidden1"]
                held.view(-1)[1] = torch.nextafter(held.view(-1)[1], torch.tensor(9.0))
        return train(split_of("mlp"), "classification", body, segment_of(), ranks)

    name = {"weights": "biases.hidden1", "optimizer": "first/biases.hidden1", "blueprint": "blueprint"}[part]
    for error in together(3, work):
        assert isinstance(error, RanksDifferError)
        assert f"before step 40, rank 2 of 3 holds other bits than rank 0 in {name};" in str(error)
        assert len(str(error).splitlines()) == 1


def test_ranks_that_come_apart_in_training_are_found_out() -> None:
    def work(ranks: Ranks) -> object:
        network, state = grown_of("mlp")
        if ranks.rank == 1:
            summed = ranks.sum
            ranks.sum = lambda vector: summed(vector).mul_(1 + 2**-20)  # type: ignore[method-assign]
        return train(split_of("mlp"), "classification", pack(network, state), segment_of(), ranks)

    for error in together(2, work):
        assert isinstance(error, RanksDifferError)
        assert "after step 46, rank 1 of 2 holds other bits" in str(error)
        assert "more)" in str(error)


def test_a_rank_that_goes_away_or_never_comes_is_missed() -> None:
    def work(ranks: Ranks) -> object:
        if ranks.rank == 1:
            return None
        return ranks.sum(torch.ones(3))

    found = together(2, work)
    assert isinstance(found[0], RankLostError)
    assert found[1] is None
    with pytest.raises(RankLostError, match="rank 0 of 2 did not find the others"):
        Ranks.join(Meeting(HOME).convene(), 0, 2, CPU, HOME, timeout=0.5)


def test_signs_of_progress_reach_the_meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo.ranks.BEAT_SECONDS", 0.0)
    meeting = Meeting(HOME)
    address = meeting.convene()
    assert meeting.beats(address, 1) == ()
    ranks = Ranks.join(address, 0, 1, CPU, HOME)
    seen = []
    for _ in range(2):
        ranks.beat()
        seen.append(meeting.beats(address, 1))
    assert seen[0] != seen[1] != ()
    assert meeting.beats(meeting.convene(), 1) == (), "another group's"


# --- a whole life


def test_a_life_on_ranks_decides_what_a_life_on_one_decides(tmp_path: Path) -> None:
    """With this seed no two candidates are so close that rounding could choose between them.

    How far rounding goes in a whole life is measured by lives on two and on three ranks, neither nearer to the truth.
    """
    growers = {}
    for name, ranks in (("one", 1), ("two", 2), ("again", 2), ("three", 3)):
        config, task = made(**{"training.ranks": ranks, "training.batch_size": 33})
        growers[name] = live(config, task, tmp_path / name, Threads(task, ranks) if ranks > 1 else None)
    assert same(tmp_path / "two", tmp_path / "again") == []
    lives = {name: stable(tmp_path / name) for name in growers}
    one = lives["one"]
    changes = one.loc[one["kind"] == "decision", "delta_parameters"]
    assert (changes > 0).any(), "nothing grew"
    assert (changes < 0).any(), "nothing was pruned"
    for name in ("kind", "cycle", "step", "action", "selected", "active_parameters", "delta_parameters"):
        assert one[name].equals(lives["two"][name]), name
    bodies = {name: pack(grower.body, grower.state) for name, grower in growers.items()}
    rounding = distance(bodies["two"].weights, bodies["three"].weights)
    assert 0 < rounding < 1e-3
    assert 0 < distance(bodies["one"].weights, bodies["two"].weights) <= MARGIN * rounding


@pytest.mark.parametrize("short", [0, 1])
def test_memory_that_runs_out_on_one_rank_has_all_of_them_take_smaller_parts(
    short: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever rank it is, the life goes on in the same parts, to the same bits as if both had been short of it."""
    config, task = made(**{"training.ranks": 2})
    least = threading.local()
    plain = Mlp.forward

    def forward(self: Mlp, x: Tensor, *more: object) -> Tensor:
        if self.training and len(x) > getattr(least, "rows", 1000):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, x, *more)

    def limited(ranks: frozenset[int]) -> Callable[..., Segmented]:
        def run(data: Split, kind: Kind, parent: Body, segment: Segment, of: Ranks) -> Segmented:
            least.rows = 10 if of.rank in ranks else 1000
            try:
                return train(data, kind, parent, segment, of)
            finally:
                least.rows = 1000

        return run

    monkeypatch.setattr(Mlp, "forward", forward)
    for name, who in (("one", frozenset({short})), ("both", frozenset({0, 1}))):
        monkeypatch.setattr("rank_threads.train", limited(who))
        grower = live(config, task, tmp_path / name, Threads(task, 2))
        assert grower.life.parts.training == 4
        assert grower.life.reason == "lived its whole life"
    assert same(tmp_path / "one", tmp_path / "both") == []
    told = stable(tmp_path / "one").query("measure == 'parts of a batch'")
    assert list(told["reason"].str.split(":").str[0]) == ["memory did not suffice for training"]


# --- what cannot be


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"training.ranks": 65}, r"training\.ranks: expected at most training\.batch_size, 64.* got 65; write .*: 64"),
        (
            {"training.ranks": 2, "device": "cuda:1"},
            r"device: expected cuda or cpu .* got cuda:1.*; write .*: cuda",
        ),
        ({"training.ranks": 2, "workers": 4}, r"workers: expected 0 with training\.ranks: 2.* got 4; write workers: 0"),
        ({"training.ranks": 0}, r"training\.ranks: expected a whole number|whole number ≥ 1"),
    ],
)
def test_ranks_that_cannot_be_are_refused_in_a_line(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        build(settings)
    assert len(str(raised.value).splitlines()) == 1


def test_a_life_needs_the_ranks_that_it_asks_for() -> None:
    config, task = made(**{"training.ranks": 2})
    with pytest.raises(ConfigError, match=r"training\.ranks: expected 1, the processes that train here, got 2"):
        Surroundings.of(config, task, "n000", lambda parent, requests: [])
    with pytest.raises(ConfigError, match=r"expected 3, the processes that train here, got 2"):
        Surroundings.of(config, task, "n000", Threads(task, 3))
    many: Config = build(config.model_dump(), {"training.ranks": 500, "training.batch_size": 500})
    with pytest.raises(ConfigError, match=rf"expected at most {len(task.splits['train'])}, the training samples"):
        Surroundings.of(many, task, "n000", Threads(task, 500))
