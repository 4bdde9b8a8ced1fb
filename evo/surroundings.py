"""Surroundings: what a life reads and never changes: settings, data, the plan, and who runs its trials."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evo.config import Config, TrainingConfig
from evo.data import Split, Task
from evo.life import Life, Plan
from evo.trials import TrialRunner
from search_spaces.randomness import keyed
from tournaments import economy
from tournaments.place import GramCache


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
        train = task.splits["train"]
        rng = keyed(config.seed, network, "evidence")
        count = min(config.tournament.evidence_samples, len(train.x))
        index = np.sort(rng.choice(len(train.x), count, replace=False))
        config = config.model_copy(update={"training": resolved(config.training, len(train.x))})
        return Surroundings(
            config,
            task,
            network,
            Plan.of(config, len(train.x)),
            Split(train.x[index], train.y[index]),
            GramCache(),
            runner,
        )

    def price(self, life: Life) -> float:
        """Nats a parameter, at this point of the life."""
        e = self.config.economy
        samples = len(self.task.splits["train"].x)
        return economy.price(life.step / self.plan.total, samples, e.price, e.final_price)


def resolved(training: TrainingConfig, samples: int) -> TrainingConfig:
    """With the weight decay that `decay_epochs` stands for. What a weight forgets over is a number of *epochs*, of
    whatever size the data are (Wang & Aitchison 2024): rate · decay · steps an epoch = 1 / decay_epochs.
    """
    if training.weight_decay is not None:
        return training
    steps = max(samples / min(training.batch_size, samples), 1.0)
    return training.model_copy(update={"weight_decay": 1 / (training.learning_rate * steps * training.decay_epochs)})


def information(task: Task, losses: NDArray[np.float64]) -> float:
    """Nats: H(Y) less the mean held-out loss."""
    return task.entropy - float(losses.mean())
