"""Learning-rate rules: how large the update of each element is, by what is known of it.

Each is a pure function from a `Setting` to factors on the *update*: scaling the gradient does nothing under Adam. The
numbers are those of Structure Net's list of strategies, as shares of its base rate .001; rules that protect what is
there from what is new are 1 everywhere until something is new. Other numbers are a user's own rule, one function.

i: depth of a layer, 0 behind the input, of L. k: stratum of an element, the growth events since it was made.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evo.learning_rate_setting import Factors, Setting

SCAFFOLD, PATCH, FULL = 0.1, 0.5, 1.0
NEARLY_FROZEN = 0.01
WARM_UP_EPOCHS = 5.0
LARGEST_TRUST = 10.0


def uniform(setting: Setting) -> Factors:
    """1: every element learns at the rate that the cosine gives."""
    return setting.everywhere(1.0)


def cascade(setting: Setting) -> Factors:
    """.1^(i/L) by depth (strategy 1). Its text says that late layers should adapt most, its formula says least; this
    is the formula.
    """
    return setting.by_layer(lambda layer: 0.1 ** (_depth(setting, layer) / len(setting.depths)))


def scaffold(setting: Setting) -> Factors:
    """The seed's elements .1, those grown .5 (strategy 2, dual rates: .0001 and .0005)."""
    if not setting.grown:
        return setting.everywhere(1.0)
    return {name: _where(setting.is_from(name, "seed"), SCAFFOLD, PATCH) for name in setting.parameters}


def age(setting: Setting) -> Factors:
    """.1^k: ten times slower with every growth phase (strategy 3)."""
    return {name: 0.1**stratum for name, stratum in setting.strata.items()}


def component(setting: Setting) -> Factors:
    """By origin: the seed .1, patches (Connect) .5, new units, layers and skips 1 (strategy 4)."""
    if not setting.grown:
        return setting.everywhere(1.0)
    return {
        name: _where(setting.is_from(name, "seed"), SCAFFOLD, _where(setting.is_from(name, "Connect"), PATCH, FULL))
        for name in setting.parameters
    }


def pretrained(setting: Setting) -> Factors:
    """What was there before the latest growth .01, new units and layers 1, new edges between old units, the adapters,
    .5 (strategy 5: 1e-5, 1e-3, 5e-4).
    """
    adapters = {name: setting.is_from(name, "Connect", "Skip") for name in setting.parameters}
    return {
        name: _where(stratum > 0, NEARLY_FROZEN, _where(adapters[name], PATCH, FULL))
        for name, stratum in setting.strata.items()
    }


def growth_aware(setting: Setting) -> Factors:
    """The seed's elements .5^k, halved by every growth event; those grown 1 (strategy 6)."""
    return {name: _where(setting.is_from(name, "seed"), 0.5**stratum, FULL) for name, stratum in setting.strata.items()}


def warmup(setting: Setting) -> Factors:
    """Elements grown: min(1, epochs/5) (strategy 7), averaged over the steps for which the factor will stand, so that
    it is never 0 (an element at 0 does not age). The seed's: 1.
    """
    return {name: _where(setting.is_from(name, "seed"), FULL, _ramp(setting, name)) for name in setting.parameters}


def trust(setting: Setting) -> Factors:
    """‖w‖/(‖u‖ + 1e-8) of each layer, at most 10 (strategy 8, LARS; on Adam's update as in You et al. 2020, LAMB).

    w: the layer's active weights and biases that have been updated, u: Adam's direction for them. 1 for a layer where
    either norm is 0.
    """
    return setting.by_layer(_ratios(setting).__getitem__)


def freeze(setting: Setting) -> Factors:
    """By thirds of the life (strategy 9): 1; then .01 for the first two layers and .1 for later ones; then .1 for the
    last layer and 0 for all others, which costs no work. The last layer never counts as one of the first two.
    """
    share = setting.moment.step / max(setting.moment.total, 1)
    last = len(setting.depths) - 1

    def factor(layer: str) -> float:
        depth = _depth(setting, layer)
        if share < 1 / 3:
            return 1.0
        if share < 2 / 3:
            return 0.01 if depth < min(2, last) else 0.1
        return 0.1 if depth == last else 0.0

    return setting.by_layer(factor)


def distance(setting: Setting) -> Factors:
    """.9 in the layer that grew last, .7 in layers linked to it, .5 further off (strategy 10); 1 before any growth."""
    found = setting.distances(setting.grown_last)
    if not found:
        return setting.everywhere(1.0)
    return setting.by_layer(lambda layer: (0.9, 0.7, 0.5)[min(found.get(layer, 2), 2)])


def density(setting: Setting) -> Factors:
    """By the density of all links into a layer: more than 10% → .5, less than 2% → 2, else 1 (strategy 11)."""
    cells, present = dict.fromkeys(setting.depths, 0), dict.fromkeys(setting.depths, 0)
    buffers = dict(setting.network.named_buffers())
    for name, mask in setting.network.masks().items():
        cells[setting.layers[name]] += buffers[mask].numel()
        present[setting.layers[name]] += int(buffers[mask].sum())

    def factor(layer: str) -> float:
        share = present.get(layer, 0) / max(cells.get(layer, 0), 1)
        return 0.5 if share > 0.1 else 2.0 if share < 0.02 else 1.0

    return setting.by_layer(factor)


def sedimentary(setting: Setting) -> Factors:
    """Strata (strategy 12): the newest 1, the one before .1, older ones .01; patches (Connect) .5 at any age."""
    return {
        name: _where(
            setting.is_from(name, "Connect"),
            PATCH,
            _where(stratum == 0, FULL, _where(stratum == 1, SCAFFOLD, NEARLY_FROZEN)),
        )
        for name, stratum in setting.strata.items()
    }


def backoff(setting: Setting) -> Factors:
    """.5^plateaus: halved whenever the loss has stood still (exponential back-off)."""
    return setting.everywhere(0.5**setting.moment.plateaus)


def phases(setting: Setting) -> Factors:
    """Growth or consolidation. For 5 epochs after a growth its elements 1 and all others .1; else 1 everywhere."""
    recent = round(WARM_UP_EPOCHS * setting.epoch)
    young = {
        name: (stratum == 0) & setting.moving[name] & (setting.state.age[name] < recent)
        for name, stratum in setting.strata.items()
    }
    if not setting.grown_last or not any(bool(new.any()) for new in young.values()):
        return setting.everywhere(1.0)
    return {name: _where(new, FULL, SCAFFOLD) for name, new in young.items()}


def combined(setting: Setting) -> Factors:
    """The list's recommendation: the seed .1^k · .1^(i/L), patches (Connect) .5, what else was grown min(1, epochs/5).

    Its growth phase of 20 epochs is a growth event here, as in `age`.
    """
    depth, old = cascade(setting), age(setting)
    return {
        name: _where(
            setting.is_from(name, "seed"),
            old[name] * depth[name],
            _where(setting.is_from(name, "Connect"), PATCH, _ramp(setting, name)),
        )
        for name in setting.parameters
    }


def _where(condition: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
    return torch.where(condition, yes, no).float()


def _depth(setting: Setting, layer: str) -> int:
    return setting.depths.get(layer, 0)


def _ramp(setting: Setting, name: str) -> Tensor:
    """Mean of min(1, t/T) over the next updates t = age+1 … age+every, T the steps of the warm-up."""
    length, every = max(WARM_UP_EPOCHS * setting.epoch, 1.0), setting.config.rates_every
    had = setting.state.age[name].double()
    rising = (length - had).floor().clamp(0, every)
    return (((had * rising + rising * (rising + 1) / 2) / length + (every - rising)) / every).float()


def _ratios(setting: Setting) -> dict[str, float]:
    """By layer, the trust ratio."""
    config, state = setting.config, setting.state
    names = list(dict.fromkeys(setting.layers.values()))
    squares = {layer: torch.zeros(2, dtype=torch.float64, device=_device(setting)) for layer in names}
    for name, on in setting.active.items():
        count = state.age[name].double()
        moved = on & (count > 0)
        first = state.first[name].double() / (1 - config.beta1**count)
        second = state.second[name].double() / (1 - config.beta2**count)
        direction = torch.where(moved, first / (second.sqrt() + 1e-8), 0.0)
        weights = torch.where(moved, setting.parameters[name].double(), 0.0)
        squares[setting.layers[name]] += torch.stack([weights.square().sum(), direction.square().sum()])
    norms = torch.stack([squares[layer] for layer in names]).sqrt().tolist()
    return {
        layer: min(weight / (update + 1e-8), LARGEST_TRUST) if weight * update > 0 and math.isfinite(weight) else 1.0
        for layer, (weight, update) in zip(names, norms, strict=True)
    }


def _device(setting: Setting) -> torch.device:
    return next(iter(setting.parameters.values())).device
