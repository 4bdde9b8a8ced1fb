"""The update scales of a run's best network in its last snapshot, as `evo show` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evo.config import Config, TrainingConfig
from evo.run import Run

if TYPE_CHECKING:
    from evo.learning_rates import Scale

HEADS = ("layer", "parameter", "#smallest", "#median", "#largest", "#frozen")
UNIFORM = "uniform"


def table(run: Run) -> tuple[str, list[tuple[str, ...]]]:
    """A title, and a row of HEADS for each parameter; no rows where no rule is named, or the reason in the title."""
    # Runs from before there were rules name none.
    expression = str(run.setting("training", "rates") or UNIFORM)
    if expression.strip() == UNIFORM:
        return "Update scales: uniform, 1 for every element", []
    try:
        where, scales = last_scales(run, expression)
    except (ValueError, OSError) as err:
        return f"Update scales, {expression}: not known, as {err}", []
    rows: list[tuple[str, ...]] = [
        (s.layer, s.parameter, f"{s.smallest:.3g}", f"{s.median:.3g}", f"{s.largest:.3g}", f"{s.frozen:.0%}")
        for s in scales
    ]
    return f"Update scales of {where}, {expression}", rows


def last_scales(run: Run, expression: str) -> tuple[str, list[Scale]]:
    """ "NETWORK/SNAPSHOT" of the best network and the scale of each of its parameters, as at the snapshot's step.

    Raises ValueError where the run has no snapshot, or that cannot be read, or its rule is not known here.
    """
    # Not at the top, as most runs have nothing to show here that needs torch.
    from evo import learning_rates, plugins
    from evo.front import snapshot_folder
    from evo.learning_rate_setting import Setting
    from evo.training import Moment
    from search_spaces import checkpoint

    saved = run.events[run.events["kind"] == "snapshot"]
    if not len(saved):
        raise ValueError("no snapshot was saved yet")
    network = run.best.network if len(run.front) else str(saved["network"].iloc[0])
    row = saved[saved["network"] == network].iloc[-1]
    config = Config.model_validate(run.info["config"])
    plugins.load(Config())  # what is installed; a module that a run's folder names is not imported to look at it
    learning_rates.parse(expression)
    found = checkpoint.load(snapshot_folder(run.folder, network, str(row["snapshot"])))
    if found.state is None:
        raise ValueError(f"{network}/{row['snapshot']} has no optimizer.safetensors, so its ages are not known")
    life = found.extra.get("life")
    plateaus = int(life.get("plateaus", 0)) if isinstance(life, dict) else 0
    epoch = row["step"] / row["epoch"] if row["epoch"] > 0 else 1.0
    moment = Moment(int(row["step"]), _total(config.training, epoch), plateaus)
    setting = Setting(found.network, found.state, moment, config.training, epoch)
    return f"{network}/{row['snapshot']}", learning_rates.describe(expression, setting)


def _total(config: TrainingConfig, epoch: float) -> int:
    return config.steps if config.epochs is None else max(1, round(config.epochs * epoch))
