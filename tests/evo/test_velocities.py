"""The Gram matrix of a run's velocities, against snapshots taken by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from grown_networks import CONFIG, KINDS, grown_of, split_of

from evo.batches import batch_orders, cosine_rates
from evo.learning_rates import RATES
from evo.training import Moment, Session, Trained
from evo.velocities import Velocities
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed

STEPS = 43


def run(kind: str, count: int, steps: int = STEPS, rates: str = "uniform") -> tuple[Network, OptimizerState, Trained]:
    network, state = grown_of(kind)
    config = CONFIG.model_copy(update={"rates": rates})
    session = Session(network, state, split_of(kind), "classification", config, at=Moment(0, STEPS))
    orders = batch_orders(80, STEPS, CONFIG.batch_size, keyed("test", "batches"))[:steps]
    trained = session.run(orders, cosine_rates(CONFIG, 0, STEPS, STEPS)[:steps], count)
    return network, session.close(), trained


def weights(network: Network) -> np.ndarray:
    parts = [network.get_parameter(name).detach()[on] for name, on in active(network).items()]
    return torch.cat(parts).double().numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [3, 5, 15])
def test_velocities_are_differences_of_snapshots_at_equal_distances(kind: str, count: int) -> None:
    stride = STEPS // (count - 1)
    stops = [STEPS - stride * i for i in range(count)][::-1]
    seen = np.stack([weights(run(kind, 0, stop)[0]) for stop in stops])
    steps = np.diff(seen, axis=0)
    found = run(kind, count)[2].velocities
    assert found is not None
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, steps @ steps.T, rtol=1e-9, atol=1e-14)
    assert (np.diag(found) > 0).all(), "snapshots are copies, not the live weights"


@pytest.mark.parametrize("rates", ["uniform", "cascade"])
def test_looking_changes_nothing(rates: str) -> None:
    plain, after, one = run("mlp", 0, rates=rates)
    looked, state, other = run("mlp", 7, rates=rates)
    assert one.velocities is None
    assert np.array_equal(one.losses, other.losses)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), looked.parameters(), strict=True))
    assert all(torch.equal(after.second[k], state.second[k]) for k in after.second)


def test_what_is_frozen_has_no_velocity(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout changes at step 20, in the midst; the velocities go on being those of all active weights."""
    monkeypatch.setitem(
        RATES, "late", lambda s: s.by_layer(lambda layer: float(s.moment.step < 20 or layer == "output"))
    )
    found = run("mlp", 4, rates="late")[2].velocities
    stops = [1, 15, 29, 43]
    seen = np.stack([weights(run("mlp", 0, stop, "late")[0]) for stop in stops])
    assert found is not None
    np.testing.assert_allclose(found, np.diff(seen, axis=0) @ np.diff(seen, axis=0).T, rtol=1e-9, atol=1e-14)


def test_a_run_that_is_too_short_has_none() -> None:
    assert run("mlp", 15, 13)[2].velocities is None
    found = run("mlp", 15, 14)[2].velocities
    assert found is not None
    assert found.shape == (14, 14)


@pytest.mark.parametrize("count", [-1, 1, 2])
def test_fewer_than_three_snapshots_are_no_trajectory(count: int) -> None:
    with pytest.raises(ValueError, match=f"at least 3 snapshots, or 0 for none, got {count}"):
        Velocities(10, count, {})


def test_the_network_may_go_on_changing() -> None:
    network, _ = grown_of("mlp")
    way = Velocities(4, 3, active(network))
    before = copy.deepcopy(network)
    for done in (0, 2, 4):
        way.look(done, dict(network.named_parameters()))
        with torch.no_grad():
            network.get_parameter("biases.output").add_(1.0 + done)
    found = way.gram()
    assert found is not None
    np.testing.assert_allclose(found, np.array([[3.0, 9.0], [9.0, 27.0]]), rtol=1e-6)
    assert not torch.equal(before.get_parameter("biases.output"), network.get_parameter("biases.output"))
