"""Persistent homology of shapes whose Betti numbers are known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from search_spaces.families import Mlp
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.analyzers.homology import homology, persistence, simplices
from tournaments.evidence import collect
from tournaments.findings import Findings


def circle(rng, n, noise=0.0):
    angle = rng.random(n) * 2 * math.pi
    return np.column_stack([np.cos(angle), np.sin(angle)]) + noise * rng.standard_normal((n, 2))


def torus(rng, n, large=2.0, small=1.0):
    """Evenly over its surface: angles around the tube are kept in proportion to the area there."""
    around, tube = rng.random((2, 4 * n)) * 2 * math.pi
    kept = np.flatnonzero(rng.random(4 * n) < (large + small * np.cos(tube)) / (large + small))[:n]
    around, tube = around[kept], tube[kept]
    out = large + small * np.cos(tube)
    return np.column_stack([out * np.cos(around), out * np.sin(around), small * np.sin(tube)])


def sphere(rng, n):
    points = rng.standard_normal((n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def blobs(rng, n, apart=12.0):
    return rng.standard_normal((n, 2)) + apart * (np.arange(n) % 2)[:, None] * [1.0, 0.0]


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_circle_is_one_piece_with_a_loop(noise):
    found = persistence(circle(keyed("circle"), 1000, noise), landmarks=60, trim=0.05 if noise else 0.0)
    assert found.betti == (1, 1)
    if not noise:  # an equilateral triangle in the unit circle has sides of √3
        assert found.diagrams[1][0, 1] == pytest.approx(math.sqrt(3), abs=0.1)


def test_a_torus_has_two_loops_and_a_cavity():
    assert persistence(torus(keyed("torus"), 3000), landmarks=280, dimension=2).betti == (1, 2, 1)


def test_a_flat_torus_in_four_dimensions_too():
    rng = keyed("flat torus")
    flat = np.column_stack([circle(rng, 2000), circle(rng, 2000)])
    assert persistence(flat, landmarks=150, dimension=2).betti == (1, 2, 1)


def test_two_blobs_are_two_pieces():
    assert persistence(blobs(keyed("blobs"), 1000), landmarks=60, trim=0.05).betti == (2, 0)


def test_a_sphere_has_a_cavity_and_no_loop():
    assert persistence(sphere(keyed("sphere"), 1500), landmarks=100, dimension=2).betti == (1, 0, 1)


def test_a_figure_of_eight_has_two_loops():
    rng = keyed("eight")
    points = circle(rng, 1000) + np.where(rng.random(1000) < 0.5, 1.0, -1.0)[:, None] * [1.0, 0.0]
    assert persistence(points, landmarks=80).betti == (1, 2)


CLOUDS = {
    "gaussian": lambda rng, n: rng.standard_normal((n, 3)),
    "many units": lambda rng, n: rng.standard_normal((n, 30)),
    "rectified": lambda rng, n: np.maximum(rng.standard_normal((n, 6)), 0),
    "heavy tails": lambda rng, n: rng.standard_t(3, (n, 3)),
    "square": lambda rng, n: rng.random((n, 2)),
}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_clouds_without_holes_seldom_show_any(cloud):
    found = [persistence(CLOUDS[cloud](keyed(cloud, i), 800), landmarks=50, trim=0.05).betti for i in range(20)]
    assert sum(betti != (1, 0) for betti in found) <= 1


def test_the_complex_does_not_depend_on_order_place_or_turn():
    rng = keyed("order")
    points = circle(rng, 400, 0.05)
    found = persistence(points, landmarks=24)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    for other in (points[rng.permutation(400)], points @ turn + 7):
        moved = persistence(other, landmarks=24)
        assert moved.betti == found.betti
        np.testing.assert_allclose(moved.diagrams[0], found.diagrams[0], atol=1e-5)
    larger = persistence(3 * points, landmarks=24)
    assert larger.betti == found.betti
    assert larger.radius == pytest.approx(3 * found.radius)


def test_more_landmarks_cover_better():
    points = circle(keyed("cover"), 600)
    radii = [persistence(points, landmarks=m).radius for m in (4, 8, 16, 32, 64)]
    assert radii == sorted(radii, reverse=True)
    assert radii[-1] < 2 * math.pi / 64


def test_intervals_are_ordered_and_one_piece_never_dies():
    found = persistence(blobs(keyed("ordered"), 300), landmarks=18)
    for diagram in found.diagrams:
        length = diagram[:, 1] - diagram[:, 0]
        assert (length > 0).all()
        assert (np.diff(length[np.isfinite(length)]) <= 0).all()
    assert np.isinf(found.diagrams[0][:, 1]).sum() == 1
    assert found.longest[0] == pytest.approx(found.diagrams[0][1, 1])


def test_places_where_many_samples_lie_are_counted_exactly():
    places = np.repeat(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]]), 40, axis=0)
    found = persistence(places, landmarks=10)
    assert found.betti == (3, 0)
    assert found.radius == 0.0
    assert persistence(np.zeros((50, 2)), landmarks=5).betti == (1, 0)


def test_a_few_outliers_are_no_pieces():
    rng = keyed("outliers")
    points = np.concatenate([rng.standard_normal((1000, 2)), [[40.0, 0.0], [0.0, 55.0], [-60.0, 3.0]]])
    assert persistence(points, landmarks=60, trim=0.05).betti == (1, 0)
    assert persistence(points, landmarks=60).betti[0] == 1  # fewer than NEIGHBOURS of them: no piece of the cloud


def test_simplices_are_counted():
    assert simplices(4, 1) == 4 + 6 + 4
    assert simplices(4, 2) == 15


@pytest.mark.parametrize(
    ("points", "given", "word"),
    [
        (np.zeros(5), {}, "points"),
        (np.full((9, 2), np.nan), {}, "finite"),
        (np.zeros((40, 2)), {"landmarks": 30}, "half"),
        (np.zeros((40, 2)), {"landmarks": 0}, "landmarks"),
        (np.zeros((40, 2)), {"landmarks": 4, "dimension": -1}, "dimension"),
        (np.zeros((40, 2)), {"landmarks": 4, "trim": 1.0}, "trim"),
    ],
)
def test_bad_input_is_named(points, given, word):
    with pytest.raises(ValueError, match=word):
        persistence(points, **given)


# of a layer


def seen(n: int = 1200) -> Findings:
    """A layer whose activations lie on a circle, one with two clusters, one that is constant."""
    rng = keyed("layers")
    network = Mlp(
        [("input", 5), ("hidden1", 3), ("hidden2", 3), ("hidden3", 2), ("output", 2)],
        [("input", "hidden1"), ("hidden1", "hidden2"), ("hidden2", "hidden3"), ("hidden3", "output")],
    )
    connect(network, 1.0, keyed("homology"))
    x = torch.from_numpy(rng.standard_normal((n, 5))).float()
    evidence = collect(network, x, torch.arange(n) % 2, "classification", rng)
    ring = np.column_stack([100 * circle(rng, n, 0.02) * [1.0, 0.01] + 3, np.full(n, 0.25)])
    pair = np.column_stack([blobs(rng, n)[:, 0], -blobs(rng, n)[:, 0]])
    given = {"hidden1": ring, "hidden2": np.column_stack([pair, pair @ [1.0, 1.0]]), "hidden3": np.ones((n, 2))}
    activations = {**evidence.activations, **{k: torch.from_numpy(v).float() for k, v in given.items()}}
    evidence = dataclasses.replace(evidence, activations=activations)
    return Findings(network, evidence, 5, 2, lambda purpose: keyed("draw", purpose))


def test_the_shapes_of_layers_are_told_with_their_errors():
    found = homology(seen())
    told = {
        site: (found.value(site, "betti0"), found.value(site, "betti1")) for site in ("input", "hidden1", "hidden2")
    }
    assert told == {"input": (1, 0), "hidden1": (1, 1), "hidden2": (2, 0)}  # whatever the units' scales
    assert (found.value("hidden3", "betti0"), found.value("hidden3", "longest0")) == (1, 0)
    errors = {(m.site, m.name): m.se for m in found.measures}
    assert errors["hidden1", "betti1"] == 0.0  # every half shows it
    assert 0 < errors["hidden1", "longest1"] < 0.1 * found.value("hidden1", "longest1")
    assert found.arrays["hidden1.diagram1"].shape[1] == 2
    assert found.arrays["hidden1.diagram1"][0, 1] == pytest.approx(math.sqrt(3) * math.sqrt(2), rel=0.1)
    assert np.isfinite(found.arrays["hidden2.diagram0"]).all()
    assert not any(m.site == "output" for m in found.measures)
