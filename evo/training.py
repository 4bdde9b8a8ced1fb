"""Training: one step over static tensors, with no host synchronisation, eager or captured as a CUDA graph.

Only active elements are gathered, updated and put back, so the optimiser cannot move a masked weight. Every element has
its own age: bias correction and warm-up count the updates that *it* has had. Where all ages agree, torch's fused AdamW
does the update. Where they differ, it does so at the age of the majority, and the few others are then put where their
own age says: the moments do not depend on it, so only their last step is taken again, from a table by (step, age).

n samples, b batch, k steps of a session, m active elements, o of them others, d distinct (age, scale) pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.adamw import adamw

from evo.config import TrainingConfig
from evo.data import Split
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from tournaments.objective import Kind, losses

EPSILON = 1e-8


@dataclass(frozen=True)
class Trained:
    """losses: (k,) float64 nats, mean of each batch. norms: (k,) float64, gradient norm before clipping."""

    losses: NDArray[np.float64]
    norms: NDArray[np.float64]

    @property
    def diverged(self) -> bool:
        return not bool(np.isfinite(self.losses).all() and np.isfinite(self.norms).all())


def batch_orders(n: int, steps: int, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(k, b): shuffled epochs end to end. A batch larger than the data is cut to the data."""
    batch = min(batch, n)
    epochs = math.ceil(steps * batch / n)
    order = np.concatenate([rng.permutation(n) for _ in range(max(epochs, 1))])
    return order[: steps * batch].reshape(steps, batch)


def jittered(orders: NDArray[np.int64], n: int, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The same batches with `share` of their places drawn anew."""
    swap = rng.random(orders.shape) < share
    return np.where(swap, rng.integers(0, n, orders.shape), orders)


def cosine_rates(config: TrainingConfig, start: int, steps: int, total: int) -> NDArray[np.float64]:
    """(k,): the learning rate at steps start … start+k−1 of a life of `total`."""
    progress = np.minimum(np.arange(start, start + steps) / max(total, 1), 1.0)
    floor = config.final_rate
    return np.asarray(config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * progress))))


class Session:
    """Training of one shape. Make one, `run` it, `close` it to get the optimiser state back; growth makes a new one."""

    def __init__(
        self,
        network: Network,
        state: OptimizerState,
        data: Split,
        kind: Kind,
        config: TrainingConfig,
        capture: bool | None = None,
    ) -> None:
        self.network, self.state, self.data, self.kind, self.config = network, state, data, kind, config
        self.device = data.x.device
        self.decay = config.weight_decay or 0.0
        self.capture = self.device.type == "cuda" if capture is None else capture
        self.parameters = dict(network.named_parameters())
        self.index: dict[str, Tensor | None] = {}
        chosen = active(network)
        for name, mask in chosen.items():
            flat = mask.reshape(-1)
            self.index[name] = None if bool(flat.all()) else flat.nonzero().reshape(-1)
        self.theta = self._compact({k: p.detach() for k, p in self.parameters.items()})
        self.first, self.second = self._compact(state.first), self._compact(state.second)
        self.age, self.scale = self._compact(state.age), self._compact(state.scale)
        self.pieces = dict(
            zip(
                self.parameters,
                torch.split(self.theta, [self._size(name) for name in self.parameters]),
                strict=True,
            )
        )
        with torch.no_grad():
            for name, p in self.parameters.items():
                if self.index[name] is None:
                    # A dense parameter lives in theta itself: the update needs no copy back.
                    p.data = self.pieces[name].view(p.shape)
        self.mature = self._mature_age()
        self._split_ages()
        network.train()

    def run(self, orders: NDArray[np.int64], rates: NDArray[np.float64]) -> Trained:
        """Train through `orders` (k, b) at `rates` (k,). One host synchronisation, at the end."""
        steps = len(orders)
        self.orders = torch.from_numpy(np.ascontiguousarray(orders)).to(self.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.log = torch.zeros(steps, 2, device=self.device)
        self.rates = torch.as_tensor(rates, dtype=torch.float32, device=self.device)
        if len(self.others):
            self._tables(rates)
        if self.capture and steps > 3:
            self._run_captured(steps)
        else:
            for _ in range(steps):
                self._step()
        self.age += steps
        log = self.log.double().cpu().numpy()
        return Trained(log[:, 0], log[:, 1])

    def close(self) -> OptimizerState:
        """The optimiser state in the parameters' shapes, as `run` left it. The parameters own their memory again."""
        with torch.no_grad():
            for name, p in self.parameters.items():
                if self.index[name] is None:
                    # A view into theta may be aligned otherwise than a loaded tensor, and a product differ in its bits.
                    p.data = p.data.clone()
        return OptimizerState(
            first=self._spread(self.first, self.state.first),
            second=self._spread(self.second, self.state.second),
            age=self._spread(self.age, self.state.age),
            scale=self.state.scale,
        )

    # --- one step

    def _step(self) -> None:
        order = self.orders.index_select(0, self.at).view(-1)
        x, y = self.data.x.index_select(0, order), self.data.y.index_select(0, order)
        loss = losses(self.kind, self.network(x), y).mean()
        grads = torch.autograd.grad(loss, list(self.parameters.values()))
        with torch.no_grad():
            flat = [
                g.reshape(-1) if index is None else g.reshape(-1).index_select(0, index)
                for g, index in zip(grads, self.index.values(), strict=True)
            ]
            g = torch.cat(flat)
            norm = torch.linalg.vector_norm(g)
            g.mul_((self.config.clip_norm / (norm + 1e-6)).clamp_(max=1.0))
            before = self.theta.index_select(0, self.others) if len(self.others) else None
            self._update(g)
            if before is not None:
                self._correct(before)
            for name, index in self.index.items():
                if index is not None:
                    self.parameters[name].view(-1).index_copy_(0, index, self.pieces[name])
            self.log.index_copy_(0, self.at, torch.stack([loss.detach(), norm]).view(1, 2))
            self.at.add_(1)

    def _update(self, g: Tensor) -> None:
        """AdamW for all elements, as if each had the majority's age."""
        adamw(
            [self.theta],
            [g],
            [self.first],
            [self.second],
            [],
            [self.clock],
            fused=True,
            amsgrad=False,
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            lr=self.rates.index_select(0, self.at).view(()),
            weight_decay=self.decay,
            eps=EPSILON,
            maximize=False,
        )

    def _correct(self, before: Tensor) -> None:
        """The step of the others, from where they stood (o,), at their own ages and scales."""
        row = self.table.index_select(0, self.at).view(3, -1).index_select(1, self.which)
        first, second = self.first.index_select(0, self.others), self.second.index_select(0, self.others)
        denominator = second.sqrt_().mul_(row[1]).add_(EPSILON)
        after = before.mul_(row[2]).addcdiv_(first.mul_(row[0]), denominator, value=-1.0)
        self.theta.index_copy_(0, self.others, after)

    def _tables(self, rates: NDArray[np.float64]) -> None:
        """table: (k, 3, d) = rate·scale·ramp/(1−β₁^age), 1/√(1−β₂^age), 1−rate·decay·scale·ramp; which: (o,) into d."""
        pairs = torch.stack([self.age.double(), self.scale.double()], dim=1)[self.others]
        distinct, self.which = torch.unique(pairs, dim=0, return_inverse=True)
        age, scale = distinct.cpu().numpy().T
        t = age[None, :] + 1 + np.arange(len(rates))[:, None]
        rate = rates[:, None] * scale[None, :] * np.minimum(t / max(self.config.warmup, 1), 1.0)
        table = np.stack(
            [
                rate / (1 - self.config.beta1**t),
                1 / np.sqrt(1 - self.config.beta2**t),
                1 - rate * self.decay,
            ],
            axis=1,
        )
        self.table = torch.as_tensor(table, dtype=torch.float32, device=self.device)

    def _run_captured(self, steps: int) -> None:
        """Three eager steps on a side stream, as capture asks for, then one graph replayed."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        for _ in range(steps - 3):
            graph.replay()

    # --- compact form

    def _size(self, name: str) -> int:
        index = self.index[name]
        return self.parameters[name].numel() if index is None else len(index)

    def _compact(self, values: dict[str, Tensor]) -> Tensor:
        """(m,): the active elements of every parameter, in order; a copy."""
        parts = []
        for name in self.parameters:
            flat, index = values[name].reshape(-1), self.index[name]
            parts.append(flat if index is None else flat.index_select(0, index))
        return torch.cat(parts)

    def _spread(self, compact: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
        spread = {}
        pieces = torch.split(compact, [self._size(name) for name in self.parameters])
        for name, piece in zip(self.parameters, pieces, strict=True):
            full, index = torch.zeros_like(like[name]), self.index[name]
            if index is None:
                full.view(-1).copy_(piece)
            else:
                full.view(-1).index_copy_(0, index, piece)
            spread[name] = full
        return spread

    def _mature_age(self) -> int:
        """The age from which a float32 bias correction is 1: no difference between older elements is left."""
        slowest = max(self.config.beta1, self.config.beta2)
        return max(self.config.warmup, math.ceil(math.log(2**-25) / math.log(slowest)) if slowest > 0 else 1)

    def _split_ages(self) -> None:
        """clock: the age of the largest group that is warmed up and not rescaled; others: (o,) elements outside it."""
        grown = self.age.clamp(max=self.mature)
        plain = (grown >= self.config.warmup) & (self.scale == 1)
        ages, counts = torch.unique(grown[plain], return_counts=True)
        major = int(ages[counts.argmax()]) if len(ages) else self.mature
        self.clock = torch.tensor(float(major), device=self.device)
        self.others = (~(plain & (grown == major))).nonzero().view(-1)


@torch.no_grad()
def predict(network: Network, x: Tensor, batch: int = 8192) -> Tensor:
    """(n, outputs) in evaluation mode; the mode that the network was in is restored."""
    training = network.training
    network.eval()
    outputs = torch.cat([network(part) for part in torch.split(x, batch)])
    network.train(training)
    return outputs


def held_out_losses(network: Network, data: Split, kind: Kind) -> NDArray[np.float64]:
    """(n,) float64 nats. The outputs are widened first, so that sums of differences are exact to rounding."""
    outputs = predict(network, data.x).double()
    y = data.y if kind == "classification" else data.y.double()
    return np.asarray(losses(kind, outputs, y).cpu().numpy(), dtype=np.float64)
