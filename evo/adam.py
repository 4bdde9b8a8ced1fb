"""AdamW over a vector of elements of which each has its own age and its own scale.

Bias correction and warm-up count the updates that an element itself has had. Where all agree, torch's fused AdamW does
the update. Where they differ, it does so at the age and scale of the majority, and the others are then put where their
own say: the moments do not depend on either, so only their last step is taken again, from a table by (step, age), times
their own scale. So the count of different scales costs nothing.

m elements, o of them others, d different ages among those, k steps of a run.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.adamw import adamw

from evo.config import TrainingConfig

EPSILON = 1e-8


class Adam:
    """theta, first, second: (m,) float32, updated in place. age: (m,) int32. scale: (m,) > 0, factor on the update.

    moved: whether some tensor of a step has taken other memory since this was last set to False; a captured graph then
    reads what is no longer meant.
    """

    def __init__(
        self, theta: Tensor, first: Tensor, second: Tensor, age: Tensor, scale: Tensor, config: TrainingConfig
    ) -> None:
        self.theta, self.first, self.second, self.age = theta, first, second, age
        self.config, self.decay = config, config.weight_decay or 0.0
        self.device = theta.device
        self.mature = self._mature_age()
        self.moved = True
        self.clock = torch.zeros((), device=self.device)
        nothing = torch.zeros(0, device=self.device)
        self.others, self.which = nothing.long(), nothing.long()
        self.own: Tensor | None = None
        self.table = nothing
        self.rescale(scale)

    def rescale(self, scale: Tensor) -> None:
        """Say who the majority is. clock: its age, common: its scale, both of the largest group that is warmed up and
        alike; others: (o,) elements outside it; own: (o,) their scales, None where all are 1.
        """
        grown = self.age.clamp(max=self.mature)
        ready = grown >= self.config.warmup
        if not bool((scale != 1).any()):
            ages, counts = torch.unique(grown[ready], return_counts=True)
            major, self.common = int(ages[counts.argmax()]) if len(ages) else self.mature, 1.0
            plain, own = ready, None
        else:
            # One integer for age and scale together, as sorting pairs is slow.
            key = (grown.long() << 32) | scale.float().view(torch.int32).long()
            pairs, counts = torch.unique(key[ready], return_counts=True)
            pair = pairs[counts.argmax()] if len(pairs) else torch.tensor(-1, device=self.device)
            one = (key == pair).nonzero().view(-1)[:1]
            major = int(grown[one]) if len(one) else self.mature
            self.common = float(scale[one]) if len(one) else 1.0
            plain, own = ready & (key == pair), scale
        self.clock.fill_(float(major))
        others = (~(plain & (grown == major))).nonzero().view(-1)
        self.others = self._into(self.others, others)
        if own is not None:
            self.own = self._into(self.own, own.index_select(0, others))
        elif self.own is not None:
            self.own, self.moved = None, True

    def begin(self, rates: NDArray[np.float64], at: Tensor) -> None:
        """For a run at these rates (k,). at: (1,) int64, the step that comes next, counted by the caller."""
        self.planned, self.at = rates, at
        self.rates = torch.as_tensor(rates, dtype=torch.float32, device=self.device)
        self.table = self.table.new_zeros(0)
        self.moved = True

    def prepare(self, start: int, stop: int) -> None:
        """Steps start … stop−1 of the run, at the ages that the elements have now.

        table: (k, 3, d) = rate·ramp/(1−β₁^age), 1/√(1−β₂^age), and 1−rate·decay·ramp, or rate·decay·ramp where others
        have scales of their own; which: (o,) into d.
        """
        rates = self.planned[start:stop]
        if self.common != 1 or self.own is not None:
            self.rates[start:stop] = torch.as_tensor(rates * self.common, dtype=torch.float32, device=self.device)
        if not len(self.others):
            return
        distinct, which = torch.unique(self.age[self.others], return_inverse=True)
        self.which = self._into(self.which, which)
        t = distinct.double().cpu().numpy()[None, :] + 1 + np.arange(len(rates))[:, None]
        rate = rates[:, None] * np.minimum(t / max(self.config.warmup, 1), 1.0)
        shrink = rate * self.decay
        last = 1 - shrink if self.own is None else shrink
        rows = np.stack([rate / (1 - self.config.beta1**t), 1 / np.sqrt(1 - self.config.beta2**t), last], axis=1)
        shape = (len(self.planned), 3, len(distinct))
        if self.table.shape != shape:
            self.table, self.moved = torch.zeros(shape, device=self.device), True
        self.table[start:stop] = torch.as_tensor(rows, dtype=torch.float32, device=self.device)

    def step(self, g: Tensor) -> None:
        """One update by the gradient (m,). No host synchronisation."""
        before = self.theta.index_select(0, self.others) if len(self.others) else None
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
        if before is not None:
            self._correct(before)

    def lived(self, steps: int) -> None:
        """All elements have had so many updates more."""
        self.age += steps

    def _correct(self, before: Tensor) -> None:
        """The step of the others, from where they stood (o,), at their own ages and scales."""
        row = self.table.index_select(0, self.at).view(3, -1).index_select(1, self.which)
        first, second = self.first.index_select(0, self.others), self.second.index_select(0, self.others)
        denominator = second.sqrt_().mul_(row[1]).add_(EPSILON)
        if self.own is None:
            after = before.mul_(row[2]).addcdiv_(first.mul_(row[0]), denominator, value=-1.0)
        else:
            change = first.mul_(row[0]).div_(denominator).addcmul_(before, row[2])
            after = before.addcmul_(change, self.own, value=-1.0)
        self.theta.index_copy_(0, self.others, after)

    def _into(self, old: Tensor | None, value: Tensor) -> Tensor:
        """The value, where it fits in the memory that the old one had, as a captured graph goes on reading there."""
        if old is not None and old.shape == value.shape:
            return old.copy_(value)
        self.moved = True
        return value

    def _mature_age(self) -> int:
        """The age from which a float32 bias correction is 1: no difference between older elements is left."""
        slowest = max(self.config.beta1, self.config.beta2)
        return max(self.config.warmup, math.ceil(math.log(2**-25) / math.log(slowest)) if slowest > 0 else 1)
