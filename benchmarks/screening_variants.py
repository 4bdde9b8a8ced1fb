"""Should screening regress what a place already has out of the new features (H⊥), or take them as they are (H)?

    OMP_NUM_THREADS=1 python benchmarks/screening_variants.py [--parents 6] [--candidates 20]

Networks trained on digits for a while propose groups of 20 masked edges and of two drawn units, all of about the same
cost. Each group's gain is predicted twice, as ½ cᵀA⁻¹c/f row by row, with H⊥ and G⊥ or with H and G, and measured:
three forks a group, trained for 100 steps, against three of the control on the same batches, on held-out data. Prints
JSON with the rank correlations of predicted with measured gain, parent by parent, and what the predictions add up to.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from evo.batches import batch_orders, cosine_rates
from evo.config import Config
from evo.data import load_task
from evo.surroundings import resolved
from evo.task import Task
from evo.training import Session, held_out_losses
from search_spaces import surgery
from search_spaces.actions import Connect, Edge, Skip, Spoke, Unit, Widen
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import seed
from tournaments.candidate import Candidate
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.screening import line_search

EDGES, STEPS, FORKS = 20, 100, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parents", type=int, default=6)
    parser.add_argument("--candidates", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = Config()
    task = load_task(config)
    rows = [_parent(config, task, number, args.candidates) for number in range(args.parents)]
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "parents": rows,
                "mean_rank_correlation": {
                    name: round(float(np.mean([row[name]["rank_correlation"] for row in rows])), 3)
                    for name in ("regressed_out", "as_they_are", "gradient_size")
                },
            },
            indent=1,
        )
    )


def _parent(config: Config, task: Task, number: int, count: int) -> dict[str, dict[str, float]]:
    rng = keyed("screening variants", number)
    settings = {"family": "mlp", "hidden": (12, 8), "density": 0.25, "activation": "relu"}
    network = seed(settings, task.shape, task.picture, task.outputs, rng)
    network, _ = _trained(config, task, network, None, (150, 600)[number % 2], ("parent", number))
    train = task.splits["train"]
    evidence = collect(network, train.x, train.y, task.kind, rng)
    findings = Findings(network, evidence, EDGES, 5, lambda purpose: keyed("variants", number, purpose))
    control = _held_out(config, task, network, number)
    scores: dict[str, list[float]] = {"regressed_out": [], "as_they_are": [], "gradient_size": [], "measured": []}
    while len(scores["measured"]) < count:
        drawn = _drawn(findings, rng)
        if drawn is None:
            continue
        candidate, target, Z, edges = drawn
        for name, score in zip(scores, _scores(findings, target, Z, edges), strict=False):
            scores[name].append(score)
        started, _ = surgery.apply(network, line_search(network, candidate, evidence).actions)
        scores["measured"].append(control - _held_out(config, task, started, number))
    measured = np.array(scores.pop("measured"))
    return {
        name: {
            "rank_correlation": round(float(spearmanr(found, measured).statistic), 3),
            "measured_over_predicted": round(float(measured.sum() / np.sum(found)), 3),
        }
        for name, found in scores.items()
    }


Pairs = list[tuple[int, int]]


def _drawn(findings: Findings, rng: np.random.Generator) -> tuple[Candidate, str, Tensor, Pairs] | None:
    """A candidate, the place that it feeds, new features there (n, c), and which row gets which of them."""
    places = [p for p in findings.places.values() if p.layer != "hidden1" or rng.random() < 0.5]
    place = places[int(rng.integers(len(places)))]
    if rng.random() < 0.35 and place.layer != "hidden1":
        return _units(findings, place.layer, rng)
    source = place.sources[int(rng.integers(len(place.sources)))]
    Z = findings.features(source, place.layer)
    linked = findings.linked(source, place.layer)
    open_ = (
        ~findings.mask(source, place.layer) if linked else torch.ones(_rows(findings, place.layer), Z.shape[1]).bool()
    )
    # Pixels that never change are no features.
    at = torch.nonzero(open_ & (Z.std(dim=0) > 0.05)).numpy()
    if len(at) < 2 * EDGES:
        return None
    chosen: Pairs = [(int(i), int(j)) for i, j in at[rng.choice(len(at), EDGES, replace=False)]]
    columns = sorted({j for _, j in chosen})
    Z = Z[:, columns]
    edges = [(i, columns.index(j)) for i, j in chosen]
    values = _values(findings, place.layer, Z, edges)
    link = f"{source}>{place.layer}"
    made = tuple(Edge(link, i, j, v) for (i, j), v in zip(chosen, values, strict=True))
    action = Connect(place.layer, made) if linked else Skip(link, made)
    return Candidate((action,), "drawn", "", EDGES, 0.0), place.layer, Z, edges


def _units(findings: Findings, target: str, rng: np.random.Generator) -> tuple[Candidate, str, Tensor, Pairs] | None:
    layer = findings.sources(target)[-1]
    source = findings.sources(layer)[-1]
    H, rows, units, outputs, edges = findings.features(source, target), _rows(findings, target), [], [], []
    for number in range(2):
        columns = rng.choice(H.shape[1], min(5, H.shape[1]), replace=False)
        weights = rng.standard_normal(len(columns))
        z = H[:, columns] @ torch.from_numpy(weights).float()
        scale, bias = float(z.std()) + 1e-6, -float(z.mean() / (z.std() + 1e-6))
        outputs.append(findings.network.nonlinearity(z / scale + bias))
        units.append((columns, weights / scale, bias))
        edges += [(int(k), number) for k in rng.choice(rows, min(4, rows), replace=False)]
    Z = torch.stack(outputs, dim=1)
    if float(Z.std(dim=0).min()) < 1e-3:
        return None
    values = dict(zip(edges, _values(findings, target, Z, edges), strict=True))
    made = tuple(
        Unit(
            tuple(Spoke(source, int(j), float(w)) for j, w in zip(columns, weights, strict=True)),
            tuple(Spoke(target, k, v) for (k, n), v in values.items() if n == number),
            bias,
        )
        for number, (columns, weights, bias) in enumerate(units)
    )
    cost = sum(len(u.fan_in) + len(u.fan_out) + 1 for u in made)
    return Candidate((Widen(layer, made),), "drawn", "", cost, 0.0), target, Z, edges


def _rows(findings: Findings, layer: str) -> int:
    return findings.network.axis_sizes()[layer]


def _fits(
    findings: Findings, target: str, Z: Tensor, edges: Pairs, regress: bool
) -> dict[int, tuple[list[int], Tensor, float]]:
    """Row -> its new columns, their closed-form values, nats gained."""
    stats = findings.statistics(target)
    known = torch.cat([findings.features(s, target) for s in stats.columns], dim=1)
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    found = {}
    for k in sorted({k for k, _ in edges}):
        columns = [j for row, j in edges if row == k]
        z, g = Z[:, columns].double(), stats.G[:, k].double()
        if regress:
            basis, _ = torch.linalg.qr(known[:, stats.present[k]].double())
            z, g = z - basis @ (basis.t() @ z), g - basis @ (basis.t() @ g)
        A = z.t() @ z / len(z) + 1e-3 * float(Z.var(dim=0).mean()) * torch.eye(len(columns), dtype=torch.float64)
        c = z.t() @ g / len(z)
        solved = torch.linalg.solve(A, c)
        found[k] = (columns, solved / float(stats.f[k]), 0.5 * float(c @ solved) / float(stats.f[k]))
    return found


def _values(findings: Findings, target: str, Z: Tensor, edges: Pairs) -> list[float]:
    fits = _fits(findings, target, Z, edges, regress=True)
    by_edge = {
        (k, j): float(v) for k, (columns, values, _) in fits.items() for j, v in zip(columns, values, strict=True)
    }
    return [by_edge[edge] for edge in edges]


def _scores(findings: Findings, target: str, Z: Tensor, edges: Pairs) -> tuple[float, float, float]:
    """With what is there regressed out, as they are, and the plain size of the gradient with regard to the weights."""
    G = findings.statistics(target).G
    size = sum(float((Z[:, j] @ G[:, k] / len(Z)) ** 2) for k, j in edges)
    out, plain = (sum(n for _, _, n in _fits(findings, target, Z, edges, way).values()) for way in (True, False))
    return out, plain, size


def _trained(
    config: Config, task: Task, network: Network, state: OptimizerState | None, steps: int, key: tuple[str | int, ...]
) -> tuple[Network, OptimizerState]:
    train = task.splits["train"]
    training = resolved(config.training, len(train.x))
    network, state = surgery.apply(network, (), state or OptimizerState.fresh(network))
    assert state is not None
    session = Session(network, state, train, task.kind, training)
    session.run(
        batch_orders(len(train.x), steps, training.batch_size, keyed(*key)), cosine_rates(training, 0, steps, 20_000)
    )
    return network, session.close()


def _held_out(config: Config, task: Task, network: Network, number: int) -> float:
    """Nats, the mean over the forks and all held-out data but the test set."""
    losses = []
    for fork in range(FORKS):
        trained, _ = _trained(config, task, _copy(network), None, STEPS, ("fork", number, fork))
        losses += [held_out_losses(trained, task.splits[name], task.kind) for name in ("growth", "audit", "validation")]
    return float(np.concatenate(losses).mean())


def _copy(network: Network) -> Network:
    twin = type(network).from_blueprint(network.blueprint())
    twin.load_state_dict(network.state_dict())
    return twin


if __name__ == "__main__":
    main()
