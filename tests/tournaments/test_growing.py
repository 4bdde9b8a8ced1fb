"""New units and channels: what they see that linear features do not, how they start, and what they promise on noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from proposing import NETWORKS, convnet, findings, mlp

from search_spaces import surgery
from search_spaces.actions import Insert, Widen
from search_spaces.families import Mlp
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import seed
from tournaments.candidate import Candidate
from tournaments.channels import channels
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.growing import clone, counts, deepenable, drawn, insert, insert_between, widen
from tournaments.objective import losses, sampled
from tournaments.proposals import PROPOSERS
from tournaments.screening import line_search


def xor(n: int = 2000) -> tuple[Network, Findings]:
    """Whether two of ten inputs have the same sign: each of them, and each linear mixture, says nothing about it."""
    rng = keyed("xor")
    x = torch.from_numpy(rng.standard_normal((n, 10))).float()
    y = (x[:, 2] * x[:, 7] > 0).long()
    network = mlp(4, density=0.3).eval()
    with torch.no_grad():
        network.get_parameter("links.hidden1>output").mul_(0.01)
    evidence = collect(network, x, y, "classification", rng)
    return network, Findings(network, evidence, 30, 5, lambda purpose: keyed("xor", purpose))


def fitted_gain(network: Network, seen: Findings, candidate: Candidate) -> float:
    """Nats that the evidence's loss falls by, untrained, at the best step."""
    after, _ = surgery.apply(network, line_search(network, candidate, seen.evidence).actions)
    after.eval()
    with torch.no_grad():
        before, now = (losses("classification", n(seen.evidence.x), seen.evidence.y).mean() for n in (network, after))
    return float(before - now)


def test_linear_screening_is_blind_to_xor_and_units_are_not():
    network, seen = xor()
    linear = [c for name in ("connect", "skip") for c in PROPOSERS[name](seen) if c.site in ("output", "input>output")]
    assert len(linear) == 2
    assert all(c.predicted == 0.0 for c in linear)
    found = max(widen(seen), key=lambda c: c.predicted)
    assert found.predicted > 0.2
    assert fitted_gain(network, seen, found) > 0.1
    (action,) = found.actions
    assert isinstance(action, Widen)
    assert {2, 7} <= {s.slot for u in action.units for s in u.fan_in}


def test_new_units_are_whole_and_feed_what_the_layer_feeds():
    for name in NETWORKS:
        seen = findings(name)
        for candidate in (*widen(seen), *drawn(seen), *channels(seen), *insert(seen), *clone(seen)):
            (action,) = candidate.actions
            assert isinstance(action, Widen | Insert)
            site = action.before if isinstance(action, Insert) else action.site
            for unit in action.units:
                assert unit.fan_in
                assert unit.fan_out
                assert {s.layer for s in unit.fan_in} <= set(seen.sources(site))
                consumers = [site] if isinstance(action, Insert) else seen.consumers(site)
                assert {s.layer for s in unit.fan_out} <= set(consumers)


def test_a_clone_at_its_split_keeps_the_function_but_for_its_noise():
    for name in ("one hidden layer", "two hidden layers", "one channel layer"):
        seen = findings(name, grow=200)
        before = seen.network(seen.evidence.x).detach()
        for candidate in clone(seen):
            after, _ = surgery.apply(seen.network, candidate.actions)
            change = (after.eval()(seen.evidence.x).detach() - before).square().mean()
            assert 0 < float(change) < 0.02 * float(before.var())


def test_an_inserted_layer_takes_a_free_name():
    names = {c.actions[0].site for c in insert(findings("two hidden layers"))}
    assert names == {"hidden3"}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_budget_is_spent_on_few_large_units_or_many_small_ones(name):
    seen = findings(name, grow=60)
    few, many = min(counts(seen)), max(counts(seen))
    assert 1 <= few <= many <= 15
    by_layer: dict[str, list[int]] = {}
    for candidate in (*widen(seen), *channels(seen)):
        action = candidate.actions[0]
        assert isinstance(action, Widen)
        assert 0.5 * 60 <= candidate.cost <= 60 or len(action.units) < many
        by_layer.setdefault(action.site, []).append(len(action.units))
    assert all(max(found) <= many for found in by_layer.values())


# --- channels


def pictures(n: int = 800) -> tuple[Network, Findings]:
    """Whether a picture's left half has the vertical edges: seen by a kernel of both signs, not by the one there is."""
    rng = keyed("pictures")
    stripes = rng.integers(0, 2, (n, 1, 1)) * np.tile([1.0, -1.0], 4)[None, None, :] * (np.arange(8) < 4)
    x = rng.standard_normal((n, 8, 8)) * 0.5 + stripes * rng.choice((-1, 1), (n, 1, 1))
    y = torch.from_numpy((np.abs(stripes).sum((1, 2)) > 0).astype(np.int64))
    network = convnet(1).eval()
    with torch.no_grad():
        network.get_parameter("links.input>channel1").fill_(1 / 9)
        network.get_buffer("mask.input>channel1").fill_(1)
        network.get_parameter("links.channel1>output").mul_(0.1)
    x = torch.from_numpy(x.reshape(n, 64)).float()
    evidence = collect(network, x, y, "classification", rng)
    return network, Findings(network, evidence, 60, 5, lambda purpose: keyed("pictures", purpose))


def test_a_drawn_channel_that_helps_is_found_and_starts_with_what_it_gains():
    network, seen = pictures()
    edges = max(c.predicted for c in PROPOSERS["connect"](seen))
    found = max(channels(seen), key=lambda c: c.predicted)
    assert found.predicted > 1.5 * edges
    assert fitted_gain(network, seen, found) > 0.1


def test_kernels_start_where_a_normalisation_has_nothing_to_do():
    network, seen = pictures()
    for candidate in channels(seen):
        after, _ = surgery.apply(network, candidate.actions)
        z: dict[str, torch.Tensor] = {}
        after.eval()(seen.evidence.x, lambda name, value, z=z: z.setdefault(name, value))
        fresh = z["pre:channel1"][:, 1:]
        assert fresh.mean((0, 2, 3)).tolist() == pytest.approx([0.0] * fresh.shape[1], abs=0.02)
        assert fresh.var((0, 2, 3)).tolist() == pytest.approx([1.0] * fresh.shape[1], abs=0.02)


def test_on_pure_noise_95_percent_of_the_channels_promise_nothing():
    scores = []
    for draw in range(16):
        rng = keyed("noise channels", draw)
        settings = {"family": "convnet", "hidden": (3, 3), "density": 0.4, "activation": "relu"}
        network = seed(settings, (64,), (1, 8, 8), 4, rng).eval()
        # Smooth pictures, in which neighbours agree.
        rough = torch.from_numpy(rng.standard_normal((400, 1, 10, 10))).float()
        x = torch.nn.functional.avg_pool2d(rough, 3, 1).flatten(1) * 3
        y = sampled("classification", network(x).detach(), rng)
        evidence = collect(network, x, y, "classification", rng)
        scores += [
            c.predicted for c in channels(Findings(network, evidence, 40, 5, lambda p, d=draw: keyed("n", d, p)))
        ]
    assert len(scores) == 64
    assert np.mean(np.array(scores) > 0) <= 0.05 + 0.07


def wired_uniformly() -> Findings:
    """A seed below the cliff, whose units mostly lack an input or an output, with a skip from the input grown on it."""
    network = Mlp(
        [("input", 64), ("hidden1", 40), ("hidden2", 20), ("output", 3)],
        [("input", "hidden1"), ("hidden1", "hidden2"), ("hidden2", "output"), ("input", "output")],
    )
    draw = keyed("uniform")
    with torch.no_grad():
        for name, mask in network.masks().items():
            weight, on = network.get_parameter(name), network.get_buffer(mask)
            share = 0.5 if name == "links.input>output" else 0.01
            on.copy_(torch.from_numpy(draw.random(tuple(on.shape)) < share))
            weight.copy_(torch.from_numpy(draw.standard_normal(tuple(on.shape))).float() * on)
    x = torch.from_numpy(draw.standard_normal((600, 64))).float()
    y = ((x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0).long()).clamp(max=2)
    seen = collect(network, x, y, "classification", keyed("fisher"))
    return Findings(network, seen, 100, 10, lambda purpose: keyed("draw", purpose))


def test_units_are_as_large_as_the_live_ones_and_depth_lies_beside_a_skip_from_the_input():
    seen = wired_uniformly()
    assert counts(seen)[0] <= 4, "not a crowd of units with two inputs each, as all hidden units would make of it"
    assert ("output", "input") in deepenable(seen)
    assert ("hidden1", "input") not in deepenable(seen)
    [candidate] = insert_between(seen, "input", "output")
    assert isinstance(candidate.actions[0], Insert)
    assert all(len(unit.fan_in) > 10 for unit in candidate.actions[0].units)
