"""What every analyzer keeps to, on networks of every family and on odd ones."""

from __future__ import annotations

import dataclasses
import importlib
import math

import numpy as np
import pytest
import torch
from proposing import NETWORKS, ODD, convnet, evidence, findings, mlp

from search_spaces.network import Network
from search_spaces.randomness import keyed
from tournaments.analysis import Analysis
from tournaments.analyzers import ANALYZERS
from tournaments.evidence import Evidence, collect
from tournaments.findings import Findings

EVERY = pytest.mark.parametrize("analyzer", ANALYZERS)


def made(network: Network, seen: Evidence) -> Findings:
    return Findings(network, seen, 30, 8, lambda purpose: keyed("made", purpose))


def sound(found: Analysis, analyzer: str) -> None:
    assert found.analyzer == analyzer
    names = [(m.site, m.name) for m in found.measures]
    assert len(set(names)) == len(names)
    for m in found.measures:
        assert math.isfinite(m.value), m
        assert math.isfinite(m.se), m
        assert m.se >= 0, m
        assert m.unit, m
    for name, values in found.arrays.items():
        assert values.dtype == np.float64, name
        assert np.isfinite(values).all(), name
    assert found.cost.samples > 0
    assert math.isfinite(found.cost.operations)
    assert found.cost.operations > 0 or not found.measures


def alike(a: Analysis, b: Analysis) -> None:
    assert a.measures == b.measures
    assert a.cost == b.cost
    assert a.arrays.keys() == b.arrays.keys()
    assert all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)


def test_the_registry_names_functions_by_what_they_are():
    assert list(ANALYZERS) == ["extrema", "flow", "gradients", "graph", "homology"]
    assert all(name == function.__name__ for name, function in ANALYZERS.items())
    assert all("Cost:" in (importlib.import_module(f.__module__).__doc__ or "") for f in ANALYZERS.values())


@EVERY
@pytest.mark.parametrize("name", [*NETWORKS, *ODD])
def test_measures_are_finite_with_units_and_errors_and_a_cost(analyzer, name):
    sound(ANALYZERS[analyzer](findings(name)), analyzer)


@EVERY
@pytest.mark.parametrize("name", ["skips", "channels and hidden", "layer that feeds nothing"])
def test_the_same_findings_give_the_same_analysis(analyzer, name):
    alike(ANALYZERS[analyzer](findings(name)), ANALYZERS[analyzer](findings(name)))


@EVERY
@pytest.mark.parametrize("name", ["skips", "two channel layers"])
def test_nothing_is_changed_by_looking(analyzer, name):
    network, seen = evidence(name)
    network.train()  # a pass in training mode would move the running means of a normalisation
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    tensors = {k: v.clone() for k, v in {**seen.activations, "x": seen.x, "y": seen.y}.items()}
    slopes = {k: v.clone() for k, v in seen.gradients.items()}
    ANALYZERS[analyzer](findings(name))
    assert network.training
    network.eval()
    assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())
    assert all(torch.equal(v, tensors[k]) for k, v in {**seen.activations, "x": seen.x, "y": seen.y}.items())
    assert all(torch.equal(v, slopes[k]) for k, v in seen.gradients.items())


@EVERY
def test_it_runs_when_asked_and_once(analyzer):
    calls = []

    def counted(seen: Findings) -> Analysis:
        calls.append(seen)
        return ANALYZERS[analyzer](seen)

    seen = findings("one hidden layer")
    seen.statistics("output")
    assert not calls
    assert seen.analysis(counted) is seen.analysis(counted)
    assert len(calls) == 1


@EVERY
@pytest.mark.parametrize("network", [mlp(6, 5), convnet(3, hidden=(4,))], ids=["mlp", "convnet"])
@pytest.mark.parametrize("target", ["one class", "values", "one value"])
def test_any_target_will_do(analyzer, network, target):
    rng = keyed("target", target)
    x = torch.from_numpy(rng.standard_normal((200, math.prod(network.input_shape())))).float()
    kind = "classification" if target == "one class" else "regression"
    y = torch.zeros(200, 3) if target == "one value" else x[:, :3].clone()
    seen = collect(network.eval(), x, torch.zeros(200).long() if target == "one class" else y, kind, rng)
    sound(ANALYZERS[analyzer](made(network, seen)), analyzer)


@EVERY
def test_samples_that_are_all_alike_and_few_of_them(analyzer):
    network = mlp(6, 5).eval()
    rng = keyed("alike")
    x = torch.ones(40, 10)
    sound(
        ANALYZERS[analyzer](made(network, collect(network, x, torch.arange(40) % 3, "classification", rng))), analyzer
    )
    few = torch.from_numpy(rng.standard_normal((12, 10))).float()
    seen = collect(network, few, torch.arange(12) % 3, "classification", rng)
    sound(ANALYZERS[analyzer](made(network, seen)), analyzer)


def test_a_measure_is_found_by_site_and_name():
    found = ANALYZERS["extrema"](findings("dead layer"))
    assert found.value("hidden1", "dead_share") == 1.0
    with pytest.raises(KeyError, match="output"):
        found.value("output", "dead_share")


def test_an_analysis_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ANALYZERS["graph"](findings("dense")).analyzer = "other"
