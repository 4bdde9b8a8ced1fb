"""Information flow against values that are known in closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate

from search_spaces.families import Mlp
from search_spaces.randomness import keyed
from tournaments.analyzers.flow import bottleneck, depths, flow, layer_information
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.information import probe

NOISE = 0.5


def read(T, y):
    gains = layer_information(T, y)
    return gains.mean(), gains.std(ddof=1) / math.sqrt(len(gains))


# the probe


@pytest.mark.parametrize("rho", [0.0, 0.4, 0.9])
def test_gaussian_information_is_read_within_its_error(rho):
    true = -0.5 * math.log1p(-(rho**2))
    found = []
    for repeat in range(40):
        rng = keyed("gaussian", repeat)
        x, e = rng.standard_normal((1000, 6)), rng.standard_normal(1000)
        y = rho * x.sum(1) / math.sqrt(6) + math.sqrt(1 - rho**2) * e
        found.append(read(x @ (rng.standard_normal((6, 6)) + 3 * np.eye(6)), y[:, None]))
    nats, errors = np.array(found).T
    assert abs(nats.mean() - true) < 3 * nats.std() / math.sqrt(40) + 7 / 1000  # a coefficient costs 1/2n, fitted twice
    assert np.mean(np.abs(nats - true) < 3 * errors + 7 / 1000) > 0.95


def test_the_information_of_two_gaussian_classes_is_known():
    rng, n = keyed("classes"), 4000
    labels = rng.integers(0, 2, n)
    T = rng.standard_normal((n, 12))
    T[:, 0] += 2 * labels - 1

    def missing(t):  # H(Y|T), weighted by the density of t in class 1
        return math.exp(-((t - 1) ** 2) / 2) / math.sqrt(2 * math.pi) * math.log1p(math.exp(-2 * t))

    true = math.log(2) - integrate.quad(missing, -12, 12)[0]
    nats, se = read(T, labels)
    assert abs(nats - true) < 3 * se


def test_width_alone_costs_little():
    rng, n = keyed("width"), 1500
    labels = rng.integers(0, 10, n)
    signal = 2 * np.eye(10)[labels] + rng.standard_normal((n, 10))
    wide = np.column_stack([np.repeat(signal, 8, axis=1), np.zeros((n, 300))])
    wide += 0.5 * rng.standard_normal(wide.shape)
    narrow, _ = read(signal, labels)
    assert narrow - read(wide, labels)[0] < 0.12
    assert narrow - probe(wide, labels).nats > 1  # what 380 coefficients a class cost where all are fitted


@pytest.mark.parametrize("labels", [True, False])
def test_noise_is_not_read_as_information_however_wide(labels):
    found = []
    for repeat in range(30):
        rng = keyed("noise", repeat)
        y = rng.integers(0, 4, 200) if labels else rng.standard_normal((200, 2))
        found.append(read(rng.standard_normal((200, 300)), y))
    nats, errors = np.array(found).T
    assert nats.mean() < 0.005
    assert np.mean(nats > 2 * errors) <= 0.1
    assert nats.min() > -0.15


def test_the_order_of_units_and_their_scales_are_indifferent():
    rng = keyed("scales")
    labels = rng.integers(0, 3, 500)
    T = rng.standard_normal((500, 5)) + np.eye(5)[labels]
    moved = T[:, [4, 2, 0, 1, 3]] * [1e-3, 1.0, 50.0, -7.0, 2.0] + 5
    np.testing.assert_allclose(layer_information(moved, labels), layer_information(T, labels), atol=1e-6)


# a network that passes on so many of four Gaussian coordinates, with Y their sum and noise


def chain(kept: list[int], skip: bool = False) -> Mlp:
    """Layers that copy the first so many coordinates; rectifiers far in their linear part. skip: input > output."""
    sizes = [4, *kept, 1]
    names = ["input", *(f"hidden{i + 1}" for i in range(len(kept))), "output"]
    links = list(itertools.pairwise(names)) + ([("input", "output")] if skip else [])
    network = Mlp(list(zip(names, sizes, strict=True)), links)
    with torch.no_grad():
        for i, (source, target) in enumerate(itertools.pairwise(names)):
            eye = torch.ones(1, sizes[i]) if target == "output" else torch.eye(sizes[i + 1], sizes[i])
            network.get_parameter(f"links.{source}>{target}").copy_(eye)
            network.get_buffer(f"mask.{source}>{target}").copy_(eye)
            if i == 0:
                network.get_parameter(f"biases.{target}").fill_(50.0)
        if skip:
            last = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
            network.get_parameter("links.input>output").copy_(last)
            network.get_buffer("mask.input>output").copy_(last)
    return network


def seen(network: Mlp, n: int = 3000, key: int = 0) -> Findings:
    rng = keyed("chain", key)
    x = rng.standard_normal((n, 4))
    y = x.sum(1, keepdims=True) + math.sqrt(NOISE) * rng.standard_normal((n, 1))
    tensors = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    return Findings(network, collect(network, *tensors, "regression", rng), 5, 2, lambda p: keyed("draw", p))


def known(coordinates: int) -> float:
    return 0.5 * math.log((4 + NOISE) / (4 - coordinates + NOISE))


def test_information_along_a_chain_and_where_it_is_lost():
    findings = seen(chain([4, 2, 2]))
    found = findings.analysis(flow)
    assert depths(findings) == ["input", "hidden1", "hidden2", "hidden3", "output"]
    for layer, coordinates in {"input": 4, "hidden1": 4, "hidden2": 2, "hidden3": 2, "output": 2}.items():
        [measure] = [m for m in found.measures if (m.site, m.name) == (layer, "information")]
        assert abs(measure.value - known(coordinates)) < 3 * measure.se + 0.01
        assert found.value(layer, "passing") == measure.value
    drops = {m.site: m for m in found.measures if m.name == "drop"}
    assert abs(drops["hidden2"].value - (known(4) - known(2))) < 3 * drops["hidden2"].se + 0.01
    assert all(abs(drops[layer].value) < 0.01 for layer in ("hidden1", "hidden3", "output"))
    assert "input" not in drops
    assert found.value("", "bottleneck") == 2
    assert bottleneck(findings) == "hidden2"
    assert found.arrays["drop"].shape == found.arrays["information"].shape == (5,)


def test_the_error_of_a_drop_is_paired():
    measures = {(m.site, m.name): m for m in flow(seen(chain([4, 3, 3]))).measures}
    unpaired = math.hypot(measures["hidden1", "information"].se, measures["hidden2", "information"].se)
    assert measures["hidden3", "drop"].se < 0.05 * unpaired  # the same samples tell the same
    assert 0 < measures["hidden2", "drop"].se < 1.1 * unpaired
    drops = [flow(seen(chain([4, 3]), 600, key)).value("hidden2", "drop") for key in range(60)]
    told = [m.se for m in flow(seen(chain([4, 3]), 600, 99)).measures if (m.site, m.name) == ("hidden2", "drop")]
    assert told[0] == pytest.approx(np.std(drops), rel=0.3)


def test_what_a_link_carries_past_a_layer_is_not_lost_there():
    found = flow(seen(chain([3], skip=True)))
    assert abs(found.value("hidden1", "information") - known(3)) < 0.05
    assert abs(found.value("hidden1", "passing") - known(4)) < 0.05
    assert abs(found.value("hidden1", "drop")) < 0.01
    assert found.value("", "bottleneck") == -1
    assert bottleneck(seen(chain([3], skip=True))) is None


def test_information_that_a_later_layer_shows_was_not_lost_before():
    # |x| tells nothing linearly; that the layer after it tells what it does shows that the probe was at fault
    network = Mlp([("input", 1), ("hidden1", 2), ("output", 1)], [("input", "hidden1"), ("hidden1", "output")])
    with torch.no_grad():
        for link, weight in {"input>hidden1": [[1.0], [-1.0]], "hidden1>output": [[1.0, 1.0]]}.items():
            network.get_parameter(f"links.{link}").copy_(torch.tensor(weight))
            network.get_buffer(f"mask.{link}").fill_(1)
    rng = keyed("fold")
    x = torch.from_numpy(rng.standard_normal((2000, 1))).float()
    findings = Findings(
        network, collect(network, x, x.abs(), "regression", rng), 5, 2, lambda purpose: keyed("draw", purpose)
    )
    found = flow(findings)
    assert found.value("input", "information") < 0.02
    assert found.value("hidden1", "information") > 1
    assert found.value("hidden1", "drop") < 0
    assert found.value("", "bottleneck") == -1


def test_where_nothing_is_lost_a_bottleneck_is_seldom_told():
    told = [flow(seen(chain([4, 4]), 400, key)).value("", "bottleneck") for key in range(60)]
    assert np.mean(np.array(told) >= 0) <= 0.1
