"""Learning-rate rules by name, and expressions of them: `training.rates: age * density`.

An expression is the product of the rules that it names, and of nothing else. The factors multiply the update of each
element, together with `OptimizerState.scale`; an element whose factor is 0 is frozen, and costs no work.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evo import learning_rate_rules as rules
from evo.config import ConfigError
from evo.learning_rate_setting import Factors, Setting
from tournaments import outside

RateRule = Callable[[Setting], Factors]

RATES: dict[str, RateRule] = {
    "uniform": rules.uniform,
    "cascade": rules.cascade,
    "scaffold": rules.scaffold,
    "age": rules.age,
    "component": rules.component,
    "pretrained": rules.pretrained,
    "growth_aware": rules.growth_aware,
    "warmup": rules.warmup,
    "trust": rules.trust,
    "freeze": rules.freeze,
    "distance": rules.distance,
    "density": rules.density,
    "sedimentary": rules.sedimentary,
    "backoff": rules.backoff,
    "phases": rules.phases,
    "combined": rules.combined,
}
UNIFORM = "uniform"


@dataclass(frozen=True)
class Scale:
    """The update scale of a parameter's active elements. frozen: share of them at 0."""

    layer: str
    parameter: str
    smallest: float
    median: float
    largest: float
    frozen: float


def parse(expression: str) -> tuple[str, ...]:
    """ "age * density" -> ("age", "density"). Raises ConfigError for a name that there is not, or is there twice."""
    names = tuple(part.strip() for part in expression.split("*"))
    wrong = [name for name in names if name not in RATES]
    if wrong:
        close = difflib.get_close_matches(wrong[0], RATES, n=1)
        cure = f"write {close[0]}" if close else "write for example training.rates: age * density"
        raise ConfigError(
            f"training.rates: expected {', '.join(RATES)}, or several joined by '*', got {wrong[0]!r} in "
            f"{expression!r}; {cure}"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"training.rates: {twice[0]!r} stands twice in {expression!r}; write each rule once")
    return names


def scales(expression: str, setting: Setting) -> dict[str, Tensor]:
    """By parameter name, float32 of its shape: the product of the rules and of the state's own scale.

    Raises ConfigError where a rule gives what is no factor.
    """
    names = parse(expression)
    found = _product(names, setting)
    still = {name: found[name] == 0 for name in found}
    if setting.trainable is None and any(bool((still[name] & on).any()) for name, on in setting.active.items()):
        # What is frozen does not age, so the others' strata are counted without it.
        found = _product(names, dataclasses.replace(setting, trainable={name: ~off for name, off in still.items()}))
    return found


def describe(expression: str, setting: Setting) -> list[Scale]:
    """The resulting scale of every parameter that has an active element, layer by layer from the input."""
    found, on = scales(expression, setting), setting.active
    told = []
    for name in sorted(found, key=lambda name: setting.depths.get(setting.layers[name], 0)):
        values = found[name][on[name]].double()
        if len(values):
            low, middle, high = (float(v) for v in (values.min(), values.median(), values.max()))
            told.append(Scale(setting.layers[name], name, low, middle, high, float((values == 0).double().mean())))
    return told


def _product(names: tuple[str, ...], setting: Setting) -> dict[str, Tensor]:
    product = {name: scale.float() for name, scale in setting.state.scale.items()}
    for rule in names:
        factors = _factors(rule, setting)
        if factors.keys() != product.keys():
            odd = sorted(factors.keys() ^ product.keys())[0]
            raise ConfigError(f"training.rates: {rule} must give one factor for each parameter, but not so {odd!r}")
        for name, before in product.items():
            if not _fits(factors[name].shape, before.shape):
                raise ConfigError(
                    f"training.rates: {rule} gives {name} factors of shape {tuple(factors[name].shape)}, expected what "
                    f"broadcasts to {tuple(before.shape)}; return one factor, or one an element"
                )
            product[name] = before * factors[name].float()
    bad = [~(torch.isfinite(p) & (p >= 0)).all() for p in product.values()]
    if bool(torch.stack(bad).any()):
        told = " * ".join(names)
        raise ConfigError(f"training.rates: {told} gives a factor that is negative or not finite; write another rule")
    return product


def _factors(rule: str, setting: Setting) -> Factors:
    """A rule's factors. One from outside may be wrong, and is told so by name."""
    function = RATES[rule]
    if outside.ours(function):
        return function(setting)
    said = f"training.rates: {rule}"
    found: object = outside.asked(said, function, setting, error=ConfigError)
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"{said}: expected factors by parameter name, got {outside.shown(found)}; "
            "return for example setting.everywhere(0.5), or setting.by_layer(...)"
        )
    factors: Factors = {}
    for name, factor in found.items():
        if not isinstance(factor, Tensor) or factor.is_complex():
            raise ConfigError(
                f"{said}: expected a tensor of real factors for {name}, got {outside.shown(factor)}; "
                "return for example setting.everywhere(0.5)"
            )
        here = setting.parameters[name].device if name in setting.parameters else factor.device
        if not bool((torch.isfinite(factor) & (factor >= 0)).all()):
            raise ConfigError(f"{said}: gives {name} a factor that is negative or not finite; {outside.CURE}")
        factors[str(name)] = factor.detach().to(here)
    return factors


def _fits(shape: torch.Size, wanted: torch.Size) -> bool:
    """Whether a tensor of that shape broadcasts to the other without making it larger."""
    padded = (1,) * (len(wanted) - len(shape)) + tuple(shape)
    return len(padded) == len(wanted) and all(a in (1, b) for a, b in zip(padded, wanted, strict=True))
