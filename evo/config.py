"""Every setting of a run, with its default and its reason. `evo config` prints this page as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class DataConfig(Section):
    path: str | None = Field(None, description="folder of IDX files (mnist), or the table (.parquet, .csv)")
    target: str | None = Field(None, description="the table's target column")
    kind: Literal["auto", "classification", "regression"] = Field("auto", description="auto: by the target's type")
    test: Fraction = Field(0.2, description="share held back for the report (mnist ships its own 10,000)")
    validation: Fraction = Field(0.1, description="share on which the front is judged")
    growth: Fraction = Field(0.15, description="share on which growth is decided (half) and audited (half)")
    limit: int | None = Field(None, ge=50, description="use only the first N samples, for a quick look")


class NetworkConfig(Section):
    family: str = Field("mlp", description="a registered family")
    hidden: tuple[int, ...] = Field((8,), description="hidden units of the seed, layer by layer")
    density: float = Field(0.1, gt=0.0, le=1.0, description="share of each matrix that the seed connects")
    activation: Literal["relu", "gelu", "tanh", "sigmoid"] = Field("relu", description="of every hidden unit")


class TrainingConfig(Section):
    epochs: float = Field(300.0, gt=0, description="the whole life of one network; trials are not counted")
    seconds: float | None = Field(None, gt=0, description="or stop after this long (such a run is not repeatable)")
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(5e-3, gt=0)
    final_rate: Fraction = Field(0.02, description="the cosine ends at this share of learning_rate")
    weight_decay: float = Field(1e-4, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1, description=".99, not .999: a slot's age is forgotten after 1,700 steps")
    clip_norm: float = Field(1.0, gt=0, description="of the whole gradient")
    warmup: int = Field(20, ge=0, description="steps over which a fresh slot's update ramps up")
    patience: int | None = Field(None, ge=1, description="cycles without a better information after which to stop")


class GrowthConfig(Section):
    cycles: int = Field(40, ge=1, description="train-then-decide rounds in a life")
    settle: Fraction = Field(0.1, description="last share of the life in which only training goes on")
    triggers: str = Field("always", description="'always', or names joined by 'or'/'and': plateau, spike, extrema")
    stake: Fraction = Field(0.25, description="parameters a candidate may add, as a share of those present")
    trim: Fraction = Field(0.12, description="parameters a candidate may remove, as a share of those present")
    max_parameters: int = Field(100_000, ge=1, description="never grow beyond")
    false_alarm: float = Field(0.01, gt=0, lt=0.5, description="rate at which the spike trigger fires on pure noise")


class TournamentConfig(Section):
    candidates: int = Field(4, ge=1, description="survivors of the screening that are trialled, beside NoChange")
    seeds: int = Field(2, ge=2, description="training seeds of each trial (2 at least, or no seed variance)")
    rungs: tuple[int, ...] = Field((20, 40), description="steps of each rung; half of the candidates survive a rung")
    confidence: float = Field(0.9, gt=0.5, lt=1, description="one-sided, of the bound that ranks candidates")
    floor: float = Field(0.0, ge=0, description="nats that a winner's bound must exceed")
    jitter: Fraction = Field(0.1, description="share of each batch that every arm draws for itself, NoChange too")
    placebo_every: int = Field(4, ge=0, description="every n-th tournament carries a second NoChange; 0: none")
    evidence_samples: int = Field(4096, ge=64, description="training samples of the evidence pass")
    random_share: Fraction = Field(0.25, description="share of candidates kept at random (screening cannot see XOR)")


class EconomyConfig(Section):
    endowment: float = Field(0.5, ge=0, description="nats of credit at birth")
    price: float = Field(0.02, gt=0, description="of a parameter at birth, in units of ln(N)/2N nats")
    final_price: float = Field(0.5, gt=0, description="the same at the end of life; it rises geometrically")
    cooldown: int = Field(0, ge=0, description="cycles of training alone after each growth")
    limits: tuple[float, float, float] = Field(
        (1.0, 0.5, 0.25), description="largest growth an event, as shares of the parameters: coarse, medium, fine"
    )


class SearchConfig(Section):
    networks: int = Field(16, ge=1, description="networks in all")
    population: int = Field(8, ge=2, le=64, description="networks a generation")
    algorithm: Literal["nsga2", "asha", "pbt"] = Field("nsga2", description="asha and pbt judge one scalar, score")
    at_once: int | None = Field(None, ge=1, description="networks side by side; empty: as many as there are CPUs")
    hidden: tuple[int, int] = Field((4, 10), description="range of the seed's hidden units")
    seed_parameters: tuple[int, int] = Field((60, 95), description="range of the seed's parameters")
    learning_rate: tuple[float, float] = Field((2e-3, 1e-2))
    final_price: tuple[float, float] = Field((0.1, 1.0), description="range of economy.final_price")
    stake: tuple[float, float] = Field((0.15, 0.4), description="range of growth.stake")


class RecordConfig(Section):
    mlflow: bool = Field(True, description="mirror the events into MLflow")
    tracking_uri: str | None = Field(None, description="empty: sqlite in the folder of runs")
    keep: Literal["all", "front"] = Field("all", description="snapshots kept at the end")


class Config(Section):
    task: str = Field("digits", description="digits, mnist, parity:N, spirals, or table")
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(0, ge=0, description="trial workers of each network; 0: in its own process")
    out: str = Field("runs", description="folder of runs")
    name: str | None = Field(None, description="of the run; empty: task and time")
    budget: float | None = Field(None, gt=0, description="seconds for the whole command; empty: until it is done")
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    growth: GrowthConfig = GrowthConfig()
    tournament: TournamentConfig = TournamentConfig()
    economy: EconomyConfig = EconomyConfig()
    search: SearchConfig = SearchConfig()
    record: RecordConfig = RecordConfig()


class ConfigError(ValueError):
    """A setting that cannot be: one line with the field, what was expected and what to write instead."""
