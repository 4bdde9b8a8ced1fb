"""The 13 rules of multi-scale snapshots, one test each, by the rule's number: as the recipe sets them, as they act."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_life import live, made

import evo
from evo import recipes, retention
from evo.data import load_task
from evo.ensembles import ensemble
from evo.life import Life, Plan
from evo.run import Run
from evo.settings import build
from evo.surroundings import Surroundings, cooldown
from evo.traces import settings as trigger_settings
from search_spaces import checkpoint
from search_spaces.actions import Widen, from_json
from search_spaces.families import Mlp
from search_spaces.randomness import keyed
from search_spaces.spaces import connect, seed
from tournaments import economy, series, triggers
from tournaments.analyzers.extrema import layer_extrema
from tournaments.candidate import Candidate
from tournaments.candidate import made as connections
from tournaments.evidence import collect
from tournaments.extremes import clone_vertical
from tournaments.extremes.routing import Route, route, routes
from tournaments.findings import Findings
from tournaments.history import History
from tournaments.policies import POLICIES, Seen, Terms

NAME = "multi-scale-snapshots"
RULES = build(recipes.read(NAME))
LINKS = [("input", "hidden1"), ("hidden1", "hidden2"), ("hidden2", "output")]


def mlp(activation: str = "relu", density: float = 1.0) -> Mlp:
    network = Mlp([("input", 8), ("hidden1", 6), ("hidden2", 6), ("output", 3)], LINKS, activation)
    connect(network, density, keyed("rules", activation))
    return network.eval()


def looked(network: Mlp, grow: int = 60) -> Findings:
    rng = keyed("rules", "evidence")
    x = torch.from_numpy(rng.standard_normal((400, 8))).float()
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return Findings(network, collect(network, x, y, "classification", rng), grow, 5, lambda p: keyed("rules", p))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short life by the rules. So short that looks at the gradient must be many, phases and rests few epochs long."""
    short: dict[str, Any] = {
        "data.limit": 600, "training.epochs": 80, "training.warmup": 5, "growth.cycles": 24, "growth.window": 96,
        "growth.false_alarm": 0.49, "economy.cooldown_epochs": 3, "economy.phases": [25, 50],
        "tournament.rungs": [4, 8], "tournament.evidence_samples": 256, "record.mlflow": False,
    }  # fmt: skip
    return evo.grow(config=build(recipes.read(NAME), short), out=str(tmp_path_factory.mktemp("runs")))


def trialled(run: Run) -> list[tuple[Candidate, str]]:
    """Every candidate that was trialled, with the phase in which it was."""
    events = run.events
    phases = events[events["kind"] == "decision"].set_index("cycle")["phase"].to_dict()
    rows = events[(events["kind"] == "candidate") & ~events["placebo"].fillna(False).astype(bool)]
    found = [(Candidate(from_json(r.action_json), "", "", 0, 0.0), str(phases[r.cycle])) for r in rows.itertuples()]
    assert found
    return found


def growths(run: Run) -> Any:
    """Decisions that added parameters."""
    events = run.events
    return events[(events["kind"] == "decision") & (events["delta_parameters"].fillna(0) > 0)]


def test_rule_01_starts_at_a_hundredth_of_a_percent_with_weights_scaled_to_the_real_fan_in() -> None:
    network = seed(RULES.network.model_dump(), (784,), (1, 28, 28), 10, keyed("rule 1"))
    masks = {name: network.get_buffer(mask) for name, mask in network.masks().items()}
    edges, cells = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
    assert edges / cells == pytest.approx(1e-4, rel=0.05)
    denser = seed({**RULES.network.model_dump(), "density": 0.02}, (784,), (1, 28, 28), 10, keyed("rule 1"))
    mask, weight = denser.get_buffer("mask.input>hidden1"), denser.get_parameter("links.input>hidden1").detach()
    fan_in = mask.sum(dim=1)
    assert len(torch.unique(fan_in)) > 5, "edges fall where they may"
    scaled = (weight * (fan_in / 2).sqrt()[:, None])[mask.bool()]
    assert float(scaled.var()) == pytest.approx(1.0, abs=0.1), "He: variance 2 / real fan-in"


def test_rule_02_growth_is_triggered_by_spikes_of_the_gradient_variance() -> None:
    assert "spike" in RULES.growth.triggers.split()
    settings = trigger_settings(RULES)
    window, fired = settings.window, {1.0: 0, 1.5: 0}
    for variance in fired:
        for draw in range(300):
            norms = keyed("rule 2", draw).standard_normal(window)
            norms[-window // 4 :] *= variance**0.5
            fired[variance] += series.spike(History(np.empty(0), norms + 5), settings).fired
    assert fired[1.0] / 300 == pytest.approx(settings.false_alarm, abs=0.08)
    assert fired[1.5] > 2 * fired[1.0], "a change of 50% is seen, by no means always"
    spiked = History(np.ones(window), np.r_[np.ones(3 * window // 4), 1 + 5 * norms[-window // 4 :]])
    assert triggers.judge("spike", spiked, settings).fired


def test_rule_03_extrema_are_the_ends_of_the_activation_functions_range() -> None:
    assert "extrema" in RULES.growth.analyzers
    inner = torch.linspace(-0.4, 0.4, 200)
    for activation, ends in (("tanh", (-0.95, 0.95)), ("sigmoid", (0.02, 0.98))):
        middle = inner if activation == "tanh" else inner + 0.5
        units = torch.stack([torch.full((200,), ends[1]), torch.full((200,), ends[0]), middle], dim=1)
        found = layer_extrema("hidden1", activation, units)
        assert found.high.tolist() == [1.0, 0.0, 0.0], "beyond .95 of the range"
        assert found.low.tolist() == [0.0, 1.0, 0.0], "below .05 of the range"
        assert found.saturated.tolist()[0]
        assert not found.saturated.tolist()[2]
    relu = torch.stack([torch.zeros(200), torch.ones(200), inner.clamp(min=0)], dim=1)
    found = layer_extrema("hidden1", "relu", relu)
    assert found.dead.tolist() == [True, False, False], "zero"
    assert found.saturated.tolist() == [False, True, False], "top"


def _pairs(layers: int, units: int, forward: bool) -> list[Route]:
    rng = keyed("rule 4", forward)
    sources = range(1, layers)
    return [
        Route((a, i), (b, j), float(rng.random()))
        for a in sources for b in range(a + 1, layers + 1) for i in range(units) for j in range(units)
        if (i % 2 == 0) is forward and (j % 2 == 0) is not forward
    ]  # fmt: skip


def test_rule_04_routes_lead_from_high_to_low_units_near_by_and_few_back() -> None:
    assert "route" in RULES.growth.proposers
    chosen = routes(_pairs(6, 8, True), _pairs(6, 8, False), 200)
    back = [r for r in chosen if r.source[1] % 2 == 1]
    assert len(chosen) > 50
    assert all(0 < r.target[0] - r.source[0] <= 3 for r in chosen), "within 3 layers"
    assert max(Counter(r.source for r in chosen).values()) == 4, "fan-out at most 4"
    assert len(back) / len(chosen) == pytest.approx(0.2, abs=0.02), "a fifth leads back"
    network = mlp(density=0.4)
    with torch.no_grad():
        network.get_parameter("biases.hidden1")[:3] = 20.0  # always on
        network.get_parameter("biases.hidden2")[:3] = -20.0  # never on
    (found,) = route(looked(network))
    edges = [edge for action in found.actions if hasattr(action, "edges") for edge in action.edges]
    assert edges
    assert all(edge.row < 3 for edge in edges if edge.link == "hidden1>hidden2")
    assert all(edge.column < 3 for edge in edges if edge.link == "hidden1>hidden2")


def test_rule_05_a_saturated_unit_is_cloned_in_the_adjacent_layers_at_seven_tenths() -> None:
    assert "clone_vertical" in RULES.growth.proposers
    network = mlp()
    with torch.no_grad():
        network.get_parameter("biases.hidden1").fill_(0.0)
        network.get_parameter("biases.hidden2").fill_(0.0)
        network.get_parameter("biases.hidden2")[1] = 30.0
    found = clone_vertical(looked(network, grow=200))
    widens = [a for c in found for a in c.actions if isinstance(a, Widen)]
    assert widens
    assert {a.site for a in widens} == {"hidden1"}, "the hidden layer beside hidden2"
    twin = network.unit("hidden2", 1)
    ours = np.array([s.value for a in widens for u in a.units for s in u.fan_out])
    theirs = np.array([s.value for s in twin.fan_out])
    assert ours == pytest.approx(0.7 * theirs, rel=0.5), ".7, and noise of a tenth that breaks the symmetry"
    assert float(np.dot(ours, theirs) / np.dot(theirs, theirs)) == pytest.approx(0.7, abs=0.15)


def test_rule_06_a_spike_earns_ten_credits_and_a_growth_costs_a_hundred() -> None:
    policy, terms = POLICIES[RULES.economy.policy], Terms(price=0.01, held=100, entropy=2.3)
    ledger = policy.open(RULES.economy.endowment, Seen(0.0), terms)
    for spikes in range(1, 13):
        ledger = policy.earn(ledger, Seen(0.0, spikes=1))
        assert ledger.balance == 10 * spikes
        assert (policy.purse(ledger, terms) > 0) is (spikes >= 10)
    assert policy.pay(ledger, 7, terms).balance == policy.pay(ledger, 70, terms).balance == 20, "whatever its size"


def test_rule_07_an_event_adds_at_most_10_50_or_200_by_phase(run: Run) -> None:
    task = load_task(build(RULES.model_dump(), {"data.limit": 600}))
    around = Surroundings.of(RULES, task, "n000", lambda parent, requests: [])
    per_epoch = len(task.splits["train"].x) / around.config.training.batch_size

    def most(epoch: float) -> int:
        life = Life(0, round(epoch * per_epoch), economy.Ledger(0.0, 0.0), 0.0, 0.0, 400)
        return economy.limit(around.phase(life), 100_000, RULES.economy.limits, RULES.economy.caps)

    assert [most(epoch) for epoch in (0, 49, 51, 99, 101, 149)] == [10, 10, 50, 50, 200, 200]
    caps = {"coarse": 10, "medium": 50, "fine": 200}
    grown = growths(run)
    assert len(grown)
    assert all(row.delta_parameters <= caps[row.phase] for row in grown.itertuples())
    assert all(connections(candidate).total() <= caps[phase] for candidate, phase in trialled(run)), (
        "connections, not the net"
    )


def test_rule_08_a_snapshot_is_kept_at_each_growth_and_at_each_improvement_beyond_two_percent(run: Run) -> None:
    assert RULES.record.keep == "scales"
    there = {path.name for path in (run.folder / "snapshots" / "n000").iterdir()}
    shots = run.events[run.events["kind"] == "snapshot"]
    for decision in growths(run).itertuples():
        assert shots[shots["seq"] > decision.seq]["snapshot"].iloc[0] in there
    best = max(float(shots["information_nats"].iloc[0]), 0.0)
    better = []
    for shot in shots.itertuples():
        if shot.information_nats > 1.02 * best:
            better.append(shot.snapshot)
        best = max(best, shot.information_nats)
    assert better
    assert set(better) <= there
    assert len(there) < len(shots), "and not the others"


def test_rule_09_at_most_five_new_connections_enter_a_unit(run: Run) -> None:
    hub = [Route((1, i), (2, 0), 1.0 + i) for i in range(20)]
    assert len(routes(hub, [], 20)) == 5
    chosen = routes(_pairs(6, 8, True), _pairs(6, 8, False), 10_000)
    assert max(Counter(r.target for r in chosen).values()) == 5
    assert RULES.growth.incoming == 5
    assert all(max(connections(candidate).values(), default=0) <= 5 for candidate, _ in trialled(run))


def test_rule_10_growth_is_followed_by_ten_epochs_of_training_alone(run: Run) -> None:
    task = load_task(build(RULES.model_dump()))
    for samples in (len(task.splits["train"].x), 39_000):
        plan = Plan.of(RULES, samples)
        each = plan.segment * RULES.training.batch_size / samples
        assert 10 <= cooldown(RULES, plan, samples) * each < 10 + each, "whole cycles, 10 epochs at least"
    decisions = run.events[run.events["kind"] == "decision"]
    grown = growths(run)
    assert len(grown)
    for growth in grown.itertuples():
        later = decisions[decisions["seq"] > growth.seq]
        resting = later[later["epoch"] < growth.epoch + 3]
        assert all(action == "NoChange" for action in resting["action"])
        assert all(why.startswith("rests after growth") for why in resting["reason"])


def test_rule_11_snapshots_are_kept_by_phase_as_differences(run: Run) -> None:
    assert RULES.record.deltas
    events, record = run.events, build(recipes.read(NAME)).record
    stay = retention.kept(events, run.front, record)
    by_phase = retention.phases(events).set_index("snapshot")["phase"]
    assert {by_phase[snapshot] for _, snapshot in stay} == {"coarse", "medium", "fine"}
    homes = sorted((run.folder / "snapshots" / "n000").iterdir())
    assert {("n000", home.name) for home in homes} == set(stay)
    heads = [json.loads((home / "blueprint.json").read_text()) for home in homes]
    assert any(head.get("base") for head in heads), "told as what differs from one before"
    shots = events[events["kind"] == "snapshot"].set_index("snapshot")
    for home in homes:
        assert checkpoint.load(home).network.count() == shots.loc[home.name, "active_parameters"]


def test_rule_12_a_life_ends_with_its_epochs_or_when_no_extrema_are_left(run: Run, tmp_path: Path) -> None:
    assert (RULES.training.epochs, RULES.growth.until) == (150, "no_extrema")
    finished = run.events[run.events["kind"] == "finished"].iloc[0]
    assert finished["epoch"] == pytest.approx(80, abs=0.1)
    settings = {"growth.until": "no_extrema", "network.activation": "tanh", "training.learning_rate": 1e-4}
    config, task = made(**settings)
    grower = live(config, task, tmp_path)
    assert grower.cycle < Plan.of(config, len(task.splits["train"].x)).cycles
    assert "no unit is dead or saturated" in grower.life.reason


def test_rule_13_answers_come_from_one_snapshot_or_an_ensemble_across_scales(run: Run) -> None:
    task = run.load_task()
    across = ensemble(run, task=task)
    phases = retention.phases(run.events).set_index("snapshot")["phase"]
    assert [phases[snapshot] for _, snapshot in across.members] == ["coarse", "medium", "fine"]
    x = task.splits["validation"].x
    each = [
        checkpoint.load(run.folder / "snapshots" / network / snapshot).network.eval()(x).double().softmax(dim=1)
        for network, snapshot in across.members
    ]
    assert torch.allclose(across.module(x).double().softmax(dim=1), torch.stack(each).mean(dim=0), atol=1e-6)
    alone = ensemble(run, members=["/".join(across.members[-1])], task=task)
    assert torch.allclose(alone.module(x).double().softmax(dim=1), each[-1], atol=1e-6)
    assert alone.validation["gain_nats"] == pytest.approx(0.0, abs=1e-9)
    best = max(across.each)
    assert across.validation["best_information_nats"] == pytest.approx(best)
