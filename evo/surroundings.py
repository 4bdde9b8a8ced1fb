"""Surroundings: what a life reads and never changes: settings, data, the plan, and who runs its trials."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evo import memory, resolution, segments
from evo.config import Config, ConfigError, TrainingConfig
from evo.data import Split, Task
from evo.life import Life, Plan
from evo.memory import WHOLE
from evo.segments import Segment, Segmented, Together
from evo.training import predict
from evo.trials import Body, TrialRunner
from search_spaces.network import Network
from search_spaces.randomness import keyed
from tournaments import economy
from tournaments.place import GramCache
from tournaments.policies import POLICIES, Policy, Terms


@dataclass(frozen=True)
class Surroundings:
    """What a life reads and never changes. evidence: the training samples that screening looks at."""

    config: Config
    task: Task
    network: str
    plan: Plan
    evidence: Split
    cache: GramCache
    runner: TrialRunner

    @staticmethod
    def of(config: Config, task: Task, network: str, runner: TrialRunner) -> Surroundings:
        resolution.check(task, config.training.scales)
        _check_policy(config, task)
        _check_ranks(config, task, runner)
        train = task.splits["train"]
        rng = keyed(config.seed, network, "evidence")
        count = min(config.tournament.evidence_samples, len(train.x))
        index = np.sort(rng.choice(len(train.x), count, replace=False))
        plan = Plan.of(config, len(train.x))
        training = resolved(config.training, len(train.x), task.enumerated)
        rest = cooldown(config, plan, len(train.x))
        settled = {"training": training, "economy": config.economy.model_copy(update={"cooldown": rest})}
        config = config.model_copy(update=settled)
        return Surroundings(
            config,
            task,
            network,
            plan,
            Split(train.x[index], train.y[index]),
            GramCache(),
            runner,
        )

    def seen(self, life: Life) -> Surroundings:
        """The same with its pictures at the resolution of this cycle: what teaches, and what decides after that."""
        scales, cycles = self.config.training.scales, self.plan.cycles
        if self.task.picture is None or not scales:
            return self
        evidence = resolution.coarsened(
            self.evidence, self.task.picture, resolution.next_scale(scales, life.cycle, cycles)
        )
        return dataclasses.replace(self, task=resolution.at(self.task, scales, life.cycle, cycles), evidence=evidence)

    def train(self, parent: Body, segment: Segment) -> Segmented:
        """A copy of the parent, trained: here, or by the ranks that the config asks for."""
        if self.config.training.ranks == 1:
            return segments.train(self.task.splits["train"], self.task.kind, parent, segment)
        assert isinstance(self.runner, Together)
        return self.runner.train(parent, segment)

    @property
    def policy(self) -> Policy:
        """What a credit is, and how it is earned."""
        return POLICIES[self.config.economy.policy]

    def terms(self, life: Life) -> Terms:
        """What growth costs, at this point of the life."""
        return Terms(self.price(life), len(self.task.splits["growth"]), self.task.entropy)

    def epoch(self, life: Life) -> float:
        """Epochs of the network's own life."""
        samples = len(self.task.splits["train"])
        return life.step * min(self.config.training.batch_size, samples) / samples

    def phase(self, life: Life) -> economy.Phase:
        """Coarse, medium or fine, at this point of the life."""
        return economy.phase(life.step / self.plan.total, self.epoch(life), self.config.economy.phases)

    def price(self, life: Life) -> float:
        """Nats a parameter, at this point of the life."""
        e = self.config.economy
        samples = len(self.task.splits["train"].x)
        return economy.price(life.step / self.plan.total, samples, e.price, e.final_price)


def _check_policy(config: Config, task: Task) -> None:
    """Raises ConfigError where what the policy counts does not exist."""
    if config.economy.policy == "correct" and task.kind != "classification":
        raise ConfigError(
            f"economy.policy: 'correct' expected a task of classes, got {task.name!r}, whose targets are values; "
            "write economy.policy: nats"
        )


def _check_ranks(config: Config, task: Task, runner: TrialRunner) -> None:
    """Raises ConfigError where there are not the ranks that were asked for, or no sample for one of them."""
    ranks, samples = config.training.ranks, len(task.splits["train"])
    present = runner.ranks if isinstance(runner, Together) else 1
    if ranks > samples:
        raise ConfigError(
            f"training.ranks: expected at most {samples}, the training samples of {task.name}, got {ranks}; "
            f"write training.ranks: {samples}"
        )
    if ranks not in (1, present):
        raise ConfigError(
            f"training.ranks: expected {present}, the processes that train here, got {ranks}; "
            f"write training.ranks: {present}, or use `evo grow` or `evo search`, which start as many as are asked for"
        )


def cooldown(config: Config, plan: Plan, samples: int) -> int:
    """Cycles of training alone after each growth. A cycle of rest holds no tournament: it is its segment alone."""
    settings = config.economy
    if plan.cycles == 0:
        return settings.cooldown
    steps = settings.cooldown_epochs * samples / min(config.training.batch_size, samples)
    return max(settings.cooldown, math.ceil(steps / plan.segment))


def resolved(training: TrainingConfig, samples: int, enumerated: bool = False) -> TrainingConfig:
    """With the weight decay that `decay_epochs` stands for. What a weight forgets over is a number of *epochs*, of
    whatever size the data are (Wang & Aitchison 2024): rate · decay · steps an epoch = 1 / decay_epochs. A whole table,
    `enumerated`, leaves nothing to forget: no sample beyond it is to be guessed, and its epochs are short.
    """
    if training.weight_decay is not None:
        return training
    if enumerated:
        return training.model_copy(update={"weight_decay": 0.0})
    steps = max(samples / min(training.batch_size, samples), 1.0)
    return training.model_copy(update={"weight_decay": 1 / (training.learning_rate * steps * training.decay_epochs)})


def correct(around: Surroundings, network: Network) -> int:
    """Predictions of the deciding half that are right, where the policy counts them; else 0."""
    if around.config.economy.policy != "correct":
        return 0
    held = around.task.splits["growth"]
    outputs, _ = memory.fitted(WHOLE, 1, lambda parts: predict(network, held.x, parts.rows))
    return int((outputs.argmax(1) == held.y).sum())


def information(task: Task, losses: NDArray[np.float64]) -> float:
    """Nats: H(Y) less the mean held-out loss."""
    return task.entropy - float(losses.mean())
