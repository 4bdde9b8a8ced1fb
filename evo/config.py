"""Every setting of a run, with its default and its reason. `evo config` prints this page as YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from evo.transient import TransientError


class ConfigError(ValueError):
    """A setting that cannot be: one line with the field, what was expected and what to write instead."""


class UnavailableError(ConfigError, TransientError):
    """Others have what is needed, or it is away: a run at work elsewhere, a cluster that is full or does not answer."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts True as 1; a setting does not."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("truth", "neither true nor false")
        return value


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]


class DataConfig(Section):
    path: str | None = Field(default=None, description="folder of IDX files (mnist), or the table (.parquet, .csv)")
    target: str | None = Field(default=None, description="the table's target column")
    kind: Literal["auto", "classification", "regression"] = Field(
        default="auto", description="auto: by the target's type"
    )
    test: Share = Field(default=0.2, description="share held back for the report (mnist ships its own 10,000)")
    validation: Share = Field(default=0.1, description="share on which the front is judged")
    growth: Share = Field(default=0.15, description="share on which growth is decided (half) and audited (half)")
    limit: int | None = Field(default=None, ge=50, description="use only the first N samples, for a quick look")

    @model_validator(mode="after")
    def _something_to_train_on(self) -> DataConfig:
        held = self.test + self.validation + self.growth
        if held >= 1.0:
            raise ValueError(
                f"data.test + data.validation + data.growth: expected less than 1, so that some data is left to train "
                f"on, got {held:g}; write smaller shares"
            )
        return self


class NetworkConfig(Section):
    family: str = Field(default="mlp", description="a registered family")
    hidden: tuple[Count, ...] = Field(default=(8,), description="hidden units of the seed, layer by layer")
    density: float = Field(default=0.1, gt=0.0, le=1.0, description="share of each matrix that the seed connects")
    activation: Literal["relu", "gelu", "tanh", "sigmoid"] = Field(default="relu", description="of every hidden unit")
    wiring: Literal["even", "uniform"] = Field(
        default="even",
        description="even: every unit gets an input and an output; uniform: edges drawn alike, no promise",
    )
    initial: Literal["he", "lsuv", "xor"] = Field(
        default="he",
        description="he: by fan-in; lsuv: unit variance, measured; xor: the first layer detects pairs of bits",
    )
    start: str | None = Field(
        default=None, description="snapshot folder to take weights from, by matching names; what matched is told"
    )
    parent: str | None = Field(
        default=None,
        description="RUN or RUN:NETWORK/SNAPSHOT to go on from, its shape and optimiser too (--from); not with start",
    )

    @model_validator(mode="after")
    def _one_beginning(self) -> NetworkConfig:
        if self.start is not None and self.parent is not None:
            raise ValueError(
                "network.start, network.parent: expected one of them, got both; write network.parent (--from) to go on "
                "from a network as it is, or network.start for its weights in a seed of another shape"
            )
        return self


class TrainingConfig(Section):
    steps: int = Field(default=18_000, ge=1, description="the whole life of one network; losing trials not counted")
    epochs: float | None = Field(default=None, gt=0, description="the same in epochs; empty: as steps says")
    seconds: float | None = Field(
        default=None, gt=0, description="or stop after this long (such a run is not repeatable)"
    )
    batch_size: int = Field(default=64, ge=1, description="samples a step")
    ranks: int = Field(
        default=1, ge=1, description="processes, each on a GPU of its own if any, that share each batch of a network"
    )
    learning_rate: float = Field(default=1e-2, gt=0, description="of AdamW, at the start")
    final_rate: Fraction = Field(default=0.02, description="the cosine ends at this share of learning_rate")
    weight_decay: float | None = Field(default=None, ge=0, description="of AdamW; empty: as decay_epochs says")
    decay_epochs: float = Field(
        default=25.0,
        gt=0,
        description="epochs over which AdamW's decay forgets a weight, at the full rate; none for a whole table",
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="of AdamW: how slowly it forgets gradients")
    beta2: float = Field(
        default=0.99, ge=0, lt=1, description=".99, not .999: a slot's age is forgotten after 1,700 steps"
    )
    clip_norm: float = Field(default=1.0, gt=0, description="of the whole gradient")
    warmup: int = Field(default=20, ge=0, description="steps over which a fresh slot's update ramps up")
    rates: str = Field(
        default="uniform", description="update scale of each element: a rule, or several as 'age * density'"
    )
    rates_every: int = Field(default=100, ge=1, description="steps after which the update scales are computed anew")
    quantise_every: int = Field(
        default=0, ge=0, description="every n-th step sees weights rounded to int8, straight-through; 0: none"
    )
    scales: tuple[Count, ...] = Field(
        default=(), description="progressive resolution: blocks of so many pixels, coarse first, as [4, 2, 1]"
    )
    patience: int | None = Field(
        default=None, ge=1, description="cycles without a better information after which to stop"
    )

    @field_validator("scales")
    @classmethod
    def _coarse_to_fine(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        if scales and (list(scales) != sorted(scales, reverse=True) or scales[-1] != 1):
            raise ValueError(
                f"training.scales: expected falling sides of blocks that end at single pixels, got {list(scales)}; "
                "write for example training.scales: [4, 2, 1]"
            )
        return scales


class GrowthConfig(Section):
    cycles: int = Field(default=16, ge=1, description="train-then-decide rounds in a life")
    settle: Fraction = Field(default=0.1, description="last share of the life in which only training goes on")
    proposers: tuple[str, ...] = Field(
        default=("connect", "skip", "widen", "channels", "insert", "clone", "drawn", "narrow", "disconnect", "rewire"),
        description="who proposes candidates; `evo mechanisms` lists all",
    )
    analyzers: tuple[str, ...] = Field(
        default=(),
        description="whose findings are recorded at every decision: extrema, flow, gradients, graph, homology",
    )
    triggers: str = Field(
        default="always", description="'always', or names joined by 'or'/'and', as 'plateau or spike'"
    )
    every: int = Field(default=1, ge=1, description="cycles between two growths for the trigger schedule")
    until: Literal["end", "no_extrema"] = Field(
        default="end", description="when a life stops: end, of its steps; no_extrema: no unit is dead or saturated"
    )
    stake: Fraction = Field(default=0.5, description="parameters a candidate may add, as a share of those present")
    mutate: bool = Field(
        default=False, description="whether a child begins with one action drawn at random, without a tournament"
    )
    trim: Fraction = Field(default=0.12, description="parameters a candidate may remove, as a share of those present")
    incoming: int | None = Field(
        default=None, ge=1, description="new connections that may enter one unit at an event; empty: any number"
    )
    max_parameters: int = Field(default=100_000, ge=1, description="never grow beyond")
    false_alarm: float = Field(
        default=0.01, gt=0, lt=0.5, description="rate at which each trigger that tests fires on pure noise, per look"
    )
    window: int = Field(
        default=960, ge=96, le=960, description="latest steps that the triggers plateau and spike look at"
    )

    @field_validator("triggers")
    @classmethod
    def _readable_triggers(cls, text: str) -> str:
        words = text.split()
        names, joints = set(words[::2]), set(words[1::2])
        readable = len(words) % 2 == 1 and joints <= {"or", "and"} and not names & {"or", "and", "always"}
        if words != ["always"] and not readable:
            raise ValueError(
                f"growth.triggers: expected 'always', or names of triggers joined by 'or'/'and', got {text!r}; "
                "write for example growth.triggers: plateau or spike"
            )
        return text


class TournamentConfig(Section):
    candidates: int = Field(
        default=4, ge=1, description="survivors of the screening that are trialled, beside NoChange"
    )
    seeds: int = Field(default=2, ge=2, description="training seeds of each trial (2 at least, or no seed variance)")
    rungs: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        default=(20, 40), description="steps of each rung; half of the candidates survive a rung"
    )
    confidence: float = Field(default=0.9, gt=0.5, lt=1, description="one-sided, of the bound that ranks candidates")
    floor: float = Field(default=0.0, ge=0, description="nats that a winner's bound must exceed")
    jitter: Fraction = Field(
        default=0.1, description="share of each batch that every arm draws for itself, NoChange too"
    )
    average: Fraction = Field(
        default=0.0,
        description="share of a rung, its end, over which weights are averaged to be judged; 0: as they stand",
    )
    placebo_every: int = Field(default=4, ge=0, description="every n-th tournament carries a second NoChange; 0: none")
    evidence_samples: int = Field(default=2048, ge=64, description="training samples of the evidence pass")
    random_share: Fraction = Field(
        default=0.25, description="share of candidates kept at random (screening cannot see XOR)"
    )


class EconomyConfig(Section):
    policy: Literal["nats", "spike", "correct", "proportional"] = Field(
        default="nats",
        description="what earns credits: new highs of held-out information; or gradient spikes; or held-out hits",
    )
    caps: tuple[Count, Count, Count] | None = Field(
        default=None, description="largest growth an event in parameters, coarse, medium, fine, as [10, 50, 200]"
    )
    phases: tuple[Positive, Positive] | None = Field(
        default=None, description="epochs at which medium and fine begin, as [50, 100]; empty: thirds of the life"
    )
    endowment: float = Field(default=0.5, ge=0, description="nats of credit at birth")
    price: float = Field(default=0.004, gt=0, description="of a parameter at birth, in units of ln(N)/2N nats")
    final_price: float = Field(default=0.2, gt=0, description="the same at the end of life; it rises geometrically")
    cooldown: int = Field(default=0, ge=0, description="cycles of training alone after each growth")
    cooldown_epochs: float = Field(
        default=0.0, ge=0, description="or so many epochs, in whole cycles; the longer of the two holds"
    )
    limits: tuple[Positive, Positive, Positive] = Field(
        default=(1.0, 0.5, 0.25),
        description="largest growth an event, as shares of the parameters: coarse, medium, fine",
    )

    @field_validator("phases")
    @classmethod
    def _phases_rise(cls, phases: tuple[float, float] | None) -> tuple[float, float] | None:
        if phases is not None and phases[0] >= phases[1]:
            raise ValueError(
                f"economy.phases: expected medium to begin before fine, got {list(phases)}; write "
                f"economy.phases: [{min(phases):g}, {max(phases) + (phases[0] == phases[1]):g}]"
            )
        return phases


class SearchConfig(Section):
    networks: int = Field(default=16, ge=1, description="networks in all")
    population: int = Field(default=8, ge=2, le=64, description="networks a generation, or living at a time")
    algorithm: Literal["nsga2", "nsga3", "tpe", "regularised", "asha", "pbt"] = Field(
        default="nsga2",
        description="generations (nsga2, nsga3, tpe), aging (regularised), early ends (asha) or copies (pbt)",
    )
    objective: Literal["pareto", "score"] | None = Field(
        default=None,
        description="what tpe and regularised go by; empty: pareto. score: nats less price times parameters",
    )
    sample: int = Field(
        default=3, ge=1, description="regularised: living networks drawn, of which the best becomes the parent"
    )
    batch: int | None = Field(
        default=None, ge=1, description="regularised: children born at once; empty: half of the population"
    )
    child_life: float = Field(
        default=0.25, gt=0, le=1, description="regularised: length of a child's life, as a share of the seeds'"
    )
    child_tournaments: bool = Field(
        default=True, description="regularised: whether children hold tournaments too, or only train"
    )
    at_once: int | None = Field(
        default=None, ge=1, description="networks side by side; empty: as many as there are CPUs"
    )
    hidden: tuple[Count, Count] | None = Field(
        default=(6, 16), description="range of the seed's hidden units; empty, or only network.hidden given: as that is"
    )
    seed_parameters: tuple[Count, Count] | None = Field(
        default=(60, 95),
        description="range of the seed's parameters; empty, or only network.hidden or .density given: as density is",
    )
    learning_rate: tuple[Positive, Positive] = Field(
        default=(5e-3, 2e-2), description="range of training.learning_rate"
    )
    final_price: tuple[Positive, Positive] = Field(default=(0.05, 0.5), description="range of economy.final_price")
    stake: tuple[Fraction, Fraction] = Field(default=(0.3, 0.6), description="range of growth.stake")

    @model_validator(mode="after")
    def _ranges_rise(self) -> SearchConfig:
        for name in ("hidden", "seed_parameters", "learning_rate", "final_price", "stake"):
            low, high = getattr(self, name) or (0, 0)
            if low > high:
                raise ValueError(
                    f"search.{name}: expected [lowest, highest], got [{low:g}, {high:g}]; "
                    f"write search.{name}: [{high:g}, {low:g}]"
                )
        return self


class RecordConfig(Section):
    mlflow: bool = Field(default=True, description="mirror the events into MLflow")
    tracking_uri: str | None = Field(default=None, description="empty: sqlite in the folder of runs")
    keep: Literal["all", "front", "scales"] = Field(
        default="all",
        description="snapshots kept at the end: all; the front's and each last; or at growth, >2% better, and by phase",
    )
    keep_each: int | None = Field(default=None, ge=1, description="at most so many a network and phase, the best")
    heartbeat: float = Field(
        default=5.0,
        ge=0,
        description="seconds between signs of life for `evo watch`, 2 at least, 10 in a bucket; 0: none",
    )
    system_metrics: bool = Field(default=True, description="CPU, memory and GPUs in MLflow, as signs of life tell them")
    deltas: bool = Field(default=True, description="snapshots hold what changed since the one before, bit for bit")


class Config(Section):
    task: str = Field(default="digits", description="digits, mnist, parity:N, spirals, or table")
    seed: int = Field(default=0, ge=0, description="every random number follows from it")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda, or cuda:N")
    workers: int = Field(default=0, ge=0, description="trial workers of each network; 0: in its own process")
    address: str | None = Field(
        default=None,
        pattern=r"^(auto|(ray://)?([\w.-]+|\[[0-9A-Fa-f:]+\]):\d{1,5})$",
        description="Ray cluster: auto, HOST:PORT or ray://HOST:PORT; empty: a private one on this machine",
    )
    out: str = Field(default="runs", description="folder of runs, or an address such as s3://bucket/runs")
    name: str | None = Field(default=None, description="of the run; empty: task and time")
    job: str | None = Field(default=None, description="whose run it is; filled in by `evo queue`")
    plugins: tuple[str, ...] = Field(
        default=(), description="Python modules to import first, which add to the registries of mechanisms"
    )
    budget: float | None = Field(
        default=None, gt=0, description="seconds for the whole command; empty: until it is done"
    )
    wait: float = Field(
        default=3600.0, gt=0, description="seconds to wait for room on a cluster that is full of others' work"
    )
    data: DataConfig = Field(default=DataConfig(), description="what is learned, and how it is split")
    network: NetworkConfig = Field(default=NetworkConfig(), description="the seed that growth starts from")
    training: TrainingConfig = Field(default=TrainingConfig(), description="how a network learns between decisions")
    growth: GrowthConfig = Field(default=GrowthConfig(), description="when it may grow, and by how much")
    tournament: TournamentConfig = Field(default=TournamentConfig(), description="how candidates are compared")
    economy: EconomyConfig = Field(
        default=EconomyConfig(), description="credits: earned by information, paid by parameter"
    )
    search: SearchConfig = Field(default=SearchConfig(), description="the population (`evo search` only)")
    record: RecordConfig = Field(default=RecordConfig(), description="what is kept beside the events")

    @field_validator("address")
    @classmethod
    def _a_port(cls, address: str | None) -> str | None:
        if address not in (None, "auto") and not 1 <= int(address.rpartition(":")[2]) <= 65_535:
            raise ValueError(f"address: expected a port of 1 to 65535, got {address!r}; write for example HOST:6379")
        return address

    @field_validator("out")
    @classmethod
    def _no_torn_address(cls, out: str) -> str:
        scheme, colon, rest = out.partition(":/")
        if colon and not rest.startswith("/") and scheme.isalnum():
            raise ValueError(
                f"out: expected a folder, or an address with two slashes, got {out!r}; write {scheme}://{rest}"
            )
        return out

    @model_validator(mode="after")
    def _ranks_fit(self) -> Config:
        ranks, batch = self.training.ranks, self.training.batch_size
        if ranks == 1:
            return self
        if ranks > batch:
            raise ValueError(
                f"training.ranks: expected at most training.batch_size, {batch}, so that each has a sample of every "
                f"batch, got {ranks}; write training.ranks: {batch}"
            )
        if self.device.startswith("cuda:"):
            raise ValueError(
                f"device: expected cuda or cpu with training.ranks: {ranks}, got {self.device}, which is one GPU; "
                "write device: cuda"
            )
        if self.workers:
            raise ValueError(
                f"workers: expected 0 with training.ranks: {ranks}, whose processes run the trials as well, got "
                f"{self.workers}; write workers: 0"
            )
        return self
