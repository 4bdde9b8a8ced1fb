"""Training: one step over static tensors, with no host synchronisation, eager or captured as a CUDA graph.

Only trained elements are gathered, updated and put back, so the optimiser cannot move a masked weight. Where
`training.rates` names rules, their scales are computed anew at every `rates_every`-th step of the life. What these
freeze is not gathered, updated or aged, and a parameter that is frozen altogether asks for no gradient, so that layers
before the first trained one are not gone back through. Running statistics of a batch norm are no elements: they go on.

Of several ranks each takes its share of every batch, and the gradient is the sum of all: of the batch's mean loss,
however unequal the shares. It is clipped, and taken, by every rank as a whole.

n samples, b batch, k steps of a session, m trained elements.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from evo import learning_rates, memory
from evo.adam import Adam
from evo.averaging import Average
from evo.compact import Layout
from evo.config import TrainingConfig
from evo.data import Split
from evo.learning_rate_setting import Setting
from evo.memory import ROWS
from evo.quantisation import fake_quantise
from evo.rank_norms import spanning
from evo.ranks import Ranks
from evo.velocities import Velocities
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from tournaments.objective import Kind, losses

WARM_STEPS = 3
"""Eager steps before the first capture, as it asks for; one is enough where only the shapes have changed."""


@dataclass(frozen=True)
class Trained:
    """losses: (k,) float64 nats, mean of each batch. norms: (k,) float64, gradient norm before clipping.

    velocities: (S−1, S−1) float64, Gram matrix of the trajectory, where one was asked for and the run was long enough.
    average: of the last weights, by parameter name, where it was asked for.
    """

    losses: NDArray[np.float64]
    norms: NDArray[np.float64]
    velocities: NDArray[np.float64] | None = None
    average: dict[str, Tensor] | None = None

    @property
    def diverged(self) -> bool:
        return not bool(np.isfinite(self.losses).all() and np.isfinite(self.norms).all())


@dataclass(frozen=True)
class Moment:
    """Where in a life a session begins: step of total, and how many plateaus there were."""

    step: int = 0
    total: int = 1
    plateaus: int = 0


class Session:
    """Training of one shape. Make one, `run` it, `close` it to get the optimiser state back; growth makes a new one.

    at: where in the life it begins; the rules of update scales, and the steps that see quantised weights, follow it.
    Two sessions are one long one where the first ends at a step at which scales are computed anew.
    ranks: where this process is one of several that train this network together. parts: of a batch, each taken by
    itself, with their gradients added up: for memory that does not hold a batch. A batch norm then sees the parts.
    """

    def __init__(
        self,
        network: Network,
        state: OptimizerState,
        data: Split,
        kind: Kind,
        config: TrainingConfig,
        capture: bool | None = None,
        at: Moment = Moment(),
        ranks: Ranks | None = None,
        parts: int = 1,
    ) -> None:
        self.parts = parts
        self.network, self.state, self.data, self.kind, self.config = network, state, data, kind, config
        self.moment = self.refreshed = at
        self.ranks = ranks
        self.device = data.x.device
        self.capture = self.device.type == "cuda" if capture is None else capture
        self.ruled = learning_rates.parse(config.rates) != (learning_rates.UNIFORM,)
        self.parameters = dict(network.named_parameters())
        self.active = active(network)
        self.graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        self.warm = {False: 0, True: 0}
        self._lay_out(self._scales(state))
        network.train()

    @property
    def others(self) -> Tensor:
        """(o,): trained elements whose age or scale is not the majority's."""
        return self.adam.others

    def run(
        self, orders: NDArray[np.int64], rates: NDArray[np.float64], trajectory: int = 0, average: float = 0.0
    ) -> Trained:
        """Train through `orders` (k, b) at `rates` (k,). No host synchronisation but at the end, and where scales are
        computed anew. trajectory: snapshots of the weights on the way, whose velocities are told. average: share of the
        steps, the last of them, whose weights are averaged.
        """
        steps = len(orders)
        self.whole = orders.shape[1]
        if self.ranks is not None:
            orders = self.ranks.share(orders)
        self.orders = torch.from_numpy(np.ascontiguousarray(orders)).to(self.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.log = torch.zeros(steps, 2, device=self.device)
        self.adam.begin(rates, self.at)
        way, mean = Velocities(steps, trajectory, self.active), Average(steps, average)
        stops = {*way.stops, *mean.stops}
        refreshes = self._refreshes(steps)
        segments = sorted({0, steps, *refreshes})
        for start, stop in itertools.pairwise(segments):
            if start in refreshes:
                self._refresh(start, rates)
            self.adam.prepare(start, stop)
            cuts = sorted({start, stop, *(at for at in stops if start < at < stop)})
            for first, last in itertools.pairwise(cuts):
                way.look(first, self.parameters)
                mean.look(first, self.parameters)
                with spanning(self.network, self.ranks):
                    self._steps(first, last)
            self.adam.lived(stop - start)
        way.look(steps, self.parameters)
        mean.look(steps, self.parameters)
        self.moment = dataclasses.replace(self.moment, step=self.moment.step + steps)
        log = self.log.double().cpu().numpy()
        self.graphs.clear()
        return Trained(log[:, 0], log[:, 1], way.gram(), mean.weights())

    def close(self) -> OptimizerState:
        """The optimiser state in the parameters' shapes, as `run` left it. The parameters own their memory again."""
        self._release()
        return self._held()

    # --- update scales

    def _refreshes(self, steps: int) -> set[int]:
        """Before which of the next steps scales are computed anew."""
        if not self.ruled:
            return set()
        begin, every = self.moment.step, self.config.rates_every
        return {i for i in range(-begin % every, steps, every) if begin + i != self.refreshed.step}

    def _refresh(self, done: int, rates: NDArray[np.float64]) -> None:
        """New scales for what is now. The layout changes only where other elements are frozen than before."""
        if not bool(torch.isfinite(self.adam.theta).all()):
            return  # Training has diverged: there is nothing to learn from its weights.
        self.refreshed = dataclasses.replace(self.moment, step=self.moment.step + done)
        state = self._held()
        scales = self._scales(state)
        if self.layout.same(self._trained(scales)):
            self.adam.rescale(self.layout.compact(scales))
            return
        self._release()
        self.state = state
        self._lay_out(scales)
        self.adam.begin(rates, self.at)

    def _scales(self, state: OptimizerState) -> dict[str, Tensor]:
        """By parameter name, factor on the update of each element: the rules' times the state's own."""
        if not self.ruled:
            return state.scale
        epoch = len(self.data) / min(self.config.batch_size, len(self.data))
        setting = Setting(self.network, state, self.refreshed, self.config, epoch)
        return learning_rates.scales(self.config.rates, setting)

    def _trained(self, scales: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: on & (scales[name] != 0) for name, on in self.active.items()}

    # --- memory

    def _lay_out(self, scales: dict[str, Tensor]) -> None:
        """Trained elements into vectors; parameters that have none ask for no gradient."""
        state = self.state
        self.layout = layout = Layout(self.parameters, self.active, self._trained(scales))
        theta = layout.compact({k: p.detach() for k, p in self.parameters.items()})
        first, second, age, scale = (layout.compact(v) for v in (state.first, state.second, state.age, scales))
        self.adam = Adam(theta, first, second, age, scale, self.config)
        self.pieces = layout.pieces(theta)
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.requires_grad_(name in self.pieces)
                if name in self.pieces and layout.index[name] is None:
                    # A dense parameter lives in theta itself: the update needs no copy back.
                    p.data = self.pieces[name].view(p.shape)

    def _release(self) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.requires_grad_(True)
                if name in self.pieces and self.layout.index[name] is None:
                    # A view into theta may be aligned otherwise than a loaded tensor, and a product differ in its bits.
                    p.data = p.data.clone()

    def _held(self) -> OptimizerState:
        spread, state, adam = self.layout.spread, self.state, self.adam
        first, second = spread(adam.first, state.first), spread(adam.second, state.second)
        return dataclasses.replace(state, first=first, second=second, age=spread(adam.age, state.age))

    # --- steps

    def _steps(self, start: int, stop: int) -> None:
        """Steps start … stop−1 of a run, captured where that was asked for and pays."""
        every, begin = self.config.quantise_every, self.moment.step + 1
        if self.adam.moved:
            self.graphs.clear()
            self.warm = {kind: min(steps, WARM_STEPS - 1) for kind, steps in self.warm.items()}
            self.adam.moved = False
        for i in range(start, stop):
            quantised = every > 0 and (begin + i) % every == 0
            if self.capture and len(self.orders) > WARM_STEPS:
                self._captured(quantised)
            else:
                self._step(quantised)
            if self.ranks is not None:
                self.ranks.beat()

    def _captured(self, quantised: bool) -> None:
        """Some eager steps on a side stream, as capture asks for, then one graph a kind of step, replayed."""
        if quantised in self.graphs:
            self.graphs[quantised].replay()
            return
        if self.warm[quantised] < WARM_STEPS:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._step(quantised)
            torch.cuda.current_stream().wait_stream(side)
            self.warm[quantised] += 1
            return
        self.graphs[quantised] = graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(quantised)
        graph.replay()

    def _step(self, quantised: bool = False) -> None:
        order = self.orders.index_select(0, self.at).view(-1)
        names = self.layout.names
        loss, parts = self._gradients(order, quantised) if self.parts == 1 else self._added_up(order, quantised)
        with torch.no_grad():
            if self.ranks is not None:
                # The loss goes along: one exchange a step, and all ranks see alike whether it is finite.
                summed = self.ranks.sum(torch.cat([*parts, loss.detach().view(1)]))
                parts, loss = [summed[:-1]], summed[-1]
            norm = torch.zeros_like(loss)
            if names:
                g = torch.cat(parts)
                norm = torch.linalg.vector_norm(g)
                g.mul_((self.config.clip_norm / (norm + 1e-6)).clamp_(max=1.0))
                self.adam.step(g)
                for name in names:
                    index = self.layout.index[name]
                    if index is not None:
                        self.parameters[name].view(-1).index_copy_(0, index, self.pieces[name])
            self.log.index_copy_(0, self.at, torch.stack([loss.detach(), norm]).view(1, 2))
            self.at.add_(1)

    def _gradients(self, order: Tensor, quantised: bool) -> tuple[Tensor, list[Tensor]]:
        """Of the mean loss over the samples, or their share of that over the whole batch: it, and by parameter."""
        x, y = self.data.x.index_select(0, order), self.data.y.index_select(0, order)
        each = losses(self.kind, self._outputs(x, quantised), y)
        # A share of the mean over the whole batch, not the mean over a share.
        loss = each.mean() if self.ranks is None and self.parts == 1 else each.sum() / self.whole
        names = self.layout.names
        grads = torch.autograd.grad(loss, [self.parameters[name] for name in names]) if names else ()
        return loss, [self.layout.flat(name, grad) for name, grad in zip(names, grads, strict=True)]

    def _added_up(self, order: Tensor, quantised: bool) -> tuple[Tensor, list[Tensor]]:
        """The same, part by part: in as many on every rank, whatever its share, as each batch norm is an exchange."""
        size = 1 if self.ranks is None else self.ranks.size
        pieces = order.tensor_split(min(self.parts, self.whole // size))
        loss, parts = self._gradients(pieces[0], quantised)
        loss = loss.detach()
        for piece in pieces[1:]:
            more, others = self._gradients(piece, quantised)
            loss = loss + more.detach()
            for part, other in zip(parts, others, strict=True):
                part.add_(other)
        return loss, parts

    def _outputs(self, x: Tensor, quantised: bool) -> Tensor:
        if not quantised:
            outputs: Tensor = self.network(x)
            return outputs
        rounded = {name: fake_quantise(self.parameters[name]) for name in self.network.masks()}
        seen: Tensor = functional_call(self.network, rounded, (x,))
        return seen


@torch.no_grad()
def predict(network: Network, x: Tensor, batch: int = ROWS) -> Tensor:
    """(n, outputs) in evaluation mode; the mode that the network was in is restored.

    Raises memory.ShortOfMemoryError where so many samples at once are too many.
    """
    training = network.training
    network.eval()
    try:
        with memory.needed("looking"):
            return torch.cat([network(part) for part in torch.split(x, batch)])
    finally:
        network.train(training)


def held_out_losses(network: Network, data: Split, kind: Kind, rows: int = ROWS) -> NDArray[np.float64]:
    """(n,) float64 nats. The outputs are widened first, so that sums of differences are exact to rounding."""
    outputs = predict(network, data.x, rows).double()
    y = data.y if kind == "classification" else data.y.double()
    return np.asarray(losses(kind, outputs, y).cpu().numpy(), dtype=np.float64)
