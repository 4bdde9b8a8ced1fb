"""Paired gains in nats with standard errors of two levels: which samples were held out, which seeds were drawn.

Every arm of a tournament (the candidates, the control, now and then a placebo) has S forks, one a seed, each judged on
the same n held-out samples. d[a, s, i] = loss of the control − loss of arm a at seed s, sample i; ΔMI_a is its mean.

    SE² = max(σ_d² − σ_r²/S, 0)/n + s²_seed/S

σ_d²: variance over the samples of the difference averaged over seeds. σ_r²: variance of what is left of d[a, s, i] when
its seed and sample means are taken out. s²_seed: variance of a per-seed mean difference, pooled over the arms.

Why not plainly σ_d²/n + s²_seed/S. Both terms hold the noise σ_r²/(nS) of single samples in single forks, so it would
be counted twice: of placebos at a nominal 10%, only 4–8% then exceed their bound. A placebo is nothing but seed noise,
its first term vanishes, and what remains is an exact t test over seeds.

Why the pooling is a two-way analysis. All arms are paired against one control, so their per-seed differences are
correlated by one half, and the mean of k such variances has fewer than k(S−1) degrees of freedom. Taking seed means and
arm means out of all k + 1 arms, control included, leaves a residual mean square of exactly k(S−1) degrees of freedom,
of which s²_seed is twice. It asks that arms vary alike over seeds; an arm that varies more than the others do gets a
bound that is too bold, a placebo among such arms one that is too shy.

Simulated false alarms at a nominal 10%, S = 2–4, 1–5 arms, n = 10–200, normal and heavy tails: 8–12%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairedGain:
    """ΔMI of one arm, all in nats. se² = se_samples² + se_seeds². bound: one-sided lower, nats − t(dof)·se."""

    nats: float
    se: float
    se_samples: float
    se_seeds: float
    dof: float
    bound: float


@dataclass(frozen=True)
class Audit:
    """A gain measured again on samples that decided nothing.

    nats: the gain on those samples. difference: the deciding gain minus it. se: of the difference, over the samples of
    both halves; the forks are the same, so seeds add nothing to it.
    """

    nats: float
    difference: float
    se: float

    def covered(self, confidence: float = 0.95) -> bool:
        """Whether the two-sided interval of the difference holds 0."""
        return bool(abs(self.difference) <= special.ndtri(0.5 + confidence / 2) * self.se)


def paired_gains(
    control: Array, arms: Sequence[Array], confidence: float, *, enumerated: bool = False
) -> tuple[PairedGain, ...]:
    """The gain of each arm over the control, in order. control, arms[a]: (S, n) losses in nats, S and n ≥ 2.

    arms: all that were trialled under this design, placebo included, so that the seeds' variance is pooled over them.
    enumerated: the n samples are all that there are, so only seeds are uncertain.
    """
    losses = _stack("arm", control, *arms)
    _check_confidence(confidence)
    k, seeds, n = losses.shape[0] - 1, losses.shape[1], losses.shape[2]
    if k == 0:
        return ()
    if seeds < 2 or n < 2:
        raise ValueError(f"losses: expected 2 seeds and 2 samples at least, got {seeds} and {n}; trial more of them")
    seed_means = losses.mean(2)  # (k + 1, S)
    residual = _centred(seed_means, 0, 1)
    seeds_dof = k * (seeds - 1)
    seeds_variance = 2 * float((residual**2).sum()) / seeds_dof / seeds
    gains = []
    for arm in losses[1:]:
        difference = losses[0] - arm  # (S, n)
        samples_variance = 0.0 if enumerated else _samples_variance(difference)
        gains.append(_gain(float(difference.mean()), samples_variance, n - 1, seeds_variance, seeds_dof, confidence))
    return tuple(gains)


def audit(control_a: Array, arm_a: Array, control_b: Array, arm_b: Array) -> Audit:
    """An arm's gain on the deciding half a against that on the other half b. Each: (S, n of the half) losses, nats."""
    gains, variances = [], []
    for control, arm in ((control_a, arm_a), (control_b, arm_b)):
        losses = _stack("half", control, arm)
        if losses.shape[2] < 2:
            raise ValueError(f"losses: expected 2 samples a half at least, got {losses.shape[2]}; hold out more data")
        difference = (losses[0] - losses[1]).mean(0)
        gains.append(float(difference.mean()))
        variances.append(float(difference.var(ddof=1)) / len(difference))
    return Audit(gains[1], gains[0] - gains[1], math.sqrt(sum(variances)))


def sample_size(delta: float, confidence: float) -> int:
    """Paired held-out samples that resolve a gain of `delta` nats: about 2z²/δ, as paired losses have variance 2δ."""
    _check_confidence(confidence)
    if not delta > 0:
        raise ValueError(f"delta: expected a gain above 0 nats, got {delta}")
    return max(2, math.ceil(2 * float(special.ndtri(confidence)) ** 2 / delta))


def quantile(confidence: float, dof: float) -> float:
    """Of the t distribution with `dof` degrees of freedom, which need not be whole."""
    return float(special.stdtrit(dof, confidence))


def binomial_tail(least: int, tries: int, share: float) -> float:
    """Chance of `least` hits or more in so many tries, each one with this share.

    The sum as an incomplete beta function, which takes importing none of scipy.stats: workers start the sooner.
    """
    return float(special.betainc(least, tries - least + 1, share)) if least > 0 else 1.0


def _samples_variance(difference: Array) -> float:
    """What other samples would change of the mean of (S, n) differences, beyond what the seeds' variance holds."""
    seeds, n = difference.shape
    whole = float(difference.mean(0).var(ddof=1))
    residual = float((_centred(difference, 0, 1) ** 2).sum()) / ((seeds - 1) * (n - 1))
    return float(max(whole - residual / seeds, 0.0) / n)


def _gain(
    nats: float, samples: float, samples_dof: float, seeds: float, seeds_dof: float, confidence: float
) -> PairedGain:
    """samples, seeds: variances of the mean. Degrees of freedom after Welch and Satterthwaite."""
    se = math.sqrt(samples + seeds)
    if se == 0.0:
        return PairedGain(nats, 0.0, 0.0, 0.0, float(seeds_dof), nats)
    share = seeds / (samples + seeds)  # of shares, not variances, as squares of tiny variances would vanish
    dof = 1 / ((1 - share) ** 2 / samples_dof + share**2 / seeds_dof)
    return PairedGain(nats, se, math.sqrt(samples), math.sqrt(seeds), dof, nats - quantile(confidence, dof) * se)


def _centred(values: Array, *axes: int) -> Array:
    for axis in axes:
        values = values - values.mean(axis, keepdims=True)
    return values


def _stack(what: str, *losses: Array) -> Array:
    """(arms, S, n) float64. Raises ValueError for shapes that differ, or a loss that is not finite."""
    shapes = [np.shape(each) for each in losses]
    if len(shapes[0]) != 2 or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"losses: expected one shape (seeds, samples) for the control and every {what}, got {shapes}")
    stacked = np.stack([np.asarray(each, dtype=np.float64) for each in losses])
    if not np.isfinite(stacked).all():
        raise ValueError(f"losses: expected finite nats, got NaN or infinity; leave a diverged {what} out of the pool")
    return stacked


def _check_confidence(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence: expected a one-sided level from 0.5 to under 1, got {confidence}; write .9, say")
