"""What a layer's units say: too many dead or saturated, too many always at work, one that carries far more than others.

- extrema: more units are dead or saturated than the `share` that is tolerated, by more than chance (binomial).
- active: more than `busy` of a layer's units are active, that is, leave the low end of their activation function on
  more than half of the samples, at each of `patience` looks in a row, and that is no chance where a unit is as likely
  active as not. Looks at the same units are no new evidence, so they do not loosen the test; that there are several
  layers tightens it (Bonferroni).
- variance: a unit's activation varies more than `ratio` times as much as its layer's units do on average, by more than
  the error of that figure, once `samples` were seen. Of all units the farthest is taken, and the moving average that is
  tested holds what earlier looks have tested already, mostly at the very same samples: so each unit is tested at the
  rate divided by the units' count and by `LOOKS` (Bonferroni). The rate is that of firing at any of `LOOKS` looks in a
  row while no unit truly varies by more than `ratio`, and a single look's is no higher. Over a longer time alarms add
  up, by no more than the rate in each `LOOKS` looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy import special

from search_spaces.network import Network
from tournaments.analyzers.extrema import hidden_extrema
from tournaments.evidence import Evidence
from tournaments.history import Array, Firing, History, Settings, Spread, tested, unknown, verdict
from tournaments.statistics import binomial_tail

MEMORY = 0.7
"""What is kept of a moving average from look to look."""

LOOKS = math.ceil(1 / (1 - MEMORY))
"""So many looks a moving average holds, about."""


def extrema(history: History, settings: Settings) -> Firing:
    """Binomial test of the count of dead or saturated units against the tolerated share."""
    if history.units <= 0:
        return unknown("extrema", "no units")
    p = binomial_tail(history.extreme_units, history.units, settings.share)
    told = f"{history.extreme_units} of {history.units} units dead or saturated, {settings.share:.0%} tolerated"
    return tested("extrema", p, settings.false_alarm, told)


def active(history: History, settings: Settings) -> Firing:
    """Sign test of the busiest layer's count of active units, the least of the last looks."""
    looks = {name: counts[-settings.patience :] for name, counts in history.activity.items()}
    looks = {name: counts for name, counts in looks.items() if len(counts) == settings.patience and counts[-1][1] > 0}
    if not looks:
        return unknown("active", f"fewer than {settings.patience} looks at any layer since the last growth")
    least = {name: (min(count for count, _ in counts), counts[-1][1]) for name, counts in looks.items()}
    chances = {
        name: binomial_tail(count, units, 0.5) if count > settings.busy * units else 1.0
        for name, (count, units) in least.items()
    }
    layer = min(least, key=lambda name: (chances[name], -least[name][0] / least[name][1]))
    p = min(1.0, chances[layer] * len(chances))
    told = (
        f"{layer}: {least[layer][0]} of {least[layer][1]} units active on most samples for {settings.patience} looks, "
    )
    return tested("active", p, settings.false_alarm, f"{told}{settings.busy:.0%} tolerated")


def variance(history: History, settings: Settings) -> Firing:
    """Lower confidence bound of the largest ratio of a unit's variance to its layer's mean."""
    spreads = {name: spread for name, spread in history.spreads.items() if spread.samples >= settings.samples}
    if not spreads:
        return unknown("variance", f"fewer than {settings.samples} samples seen since the last growth")
    units = sum(len(spread.ratios) for spread in spreads.values())
    z = float(special.ndtri(1 - settings.false_alarm / (units * LOOKS)))
    bounds = [
        (ratio - z * error, ratio, name, slot)
        for name, spread in spreads.items()
        for slot, (ratio, error) in enumerate(zip(spread.ratios, spread.errors, strict=True))
    ]
    bound, ratio, layer, slot = max(bounds)
    told = f"unit {slot} of {layer} varies {ratio:.2f} × as much as its layer's mean, {bound:.2f} × at least"
    limit = f"{settings.ratio:g} (p {settings.false_alarm:g}, {units} units, {LOOKS} looks)"
    return verdict("variance", bound > settings.ratio, bound, settings.ratio, told, limit)


def active_units(network: Network, evidence: Evidence) -> dict[str, tuple[int, int]]:
    """Layer -> (units that leave their low end on more than half of the samples, units)."""
    return {found.layer: (int((found.low < 0.5).sum()), found.units) for found in hidden_extrema(network, evidence)}


@torch.no_grad()
def unit_spreads(evidence: Evidence) -> dict[str, tuple[Array, Array]]:
    """Layer -> (ratio of each unit's variance to the layer's mean, its standard error), (p,) each.

    u_s = squared deviation of unit i in sample s, averaged over the positions of a picture, which are no samples of
    their own. The ratio is mean u / mean ū, its error by the delta method that of mean (u − ratio · ū) / mean ū.
    A layer in which nothing varies is left out.
    """
    found = {}
    for layer, values in evidence.activations.items():
        if layer == "input":
            continue
        maps = values.double().flatten(2) if values.ndim > 2 else values.double().unsqueeze(2)
        u = (maps - maps.mean((0, 2), keepdim=True)).square().mean(2)  # (n, p)
        every = u.mean(1, keepdim=True)
        level = every.mean()
        if float(level) <= 0 or not bool(level.isfinite()):
            continue
        ratio = u.mean(0) / level
        error = ((u - ratio * every) / level).std(0, correction=1) / len(u) ** 0.5
        found[layer] = (ratio.cpu().numpy(), error.cpu().numpy())
    return found


def averaged(before: Mapping[str, Spread], look: Mapping[str, tuple[Array, Array]], samples: int) -> dict[str, Spread]:
    """Moving averages after one more look at so many samples.

    The looks are at the same samples, so their errors do not average out: theirs is the average of the errors. Samples
    are counted at every look, as a time to wait: the errors do not shrink by it.
    """
    after = {}
    for layer, (ratio, error) in look.items():
        old = before.get(layer)
        if old is None or len(old.ratios) != len(ratio):
            old = Spread(tuple(ratio.tolist()), tuple(error.tolist()), 0)
        ratios = MEMORY * np.array(old.ratios) + (1 - MEMORY) * ratio
        errors = MEMORY * np.array(old.errors) + (1 - MEMORY) * error
        after[layer] = Spread(tuple(ratios.tolist()), tuple(errors.tolist()), old.samples + samples)
    return after
