"""The examples under docs/ run, and do what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import evo

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "own_mechanism.py"


def test_an_own_proposer_analyzer_trigger_and_rate_rule_are_used_from_outside_the_package(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    run = evo.Run.open(tmp_path / done.stdout.split()[-1])
    events = run.events
    arms = events[events["kind"] == "candidate"]
    assert "steepest" in set(arms["proposer"])
    found = events[(events["kind"] == "analysis") & (events["analyzer"] == "slopes")]
    assert set(found["site"]) >= {"hidden1", "output"}
    assert (found["value"] > 0).all()
    assert (found["value_se"] > 0).all()
    decided = events[events["kind"] == "decision"]
    assert decided["reason"].str.contains("the loss fell over the last").all()
    config = json.loads(events["config"].dropna().iloc[0])
    assert config["training"]["rates"] == "shallow"
    # The rule at work: without it the first stretch of training, up to the first decision, comes out otherwise.
    training = {**config["training"], "rates": "uniform"}
    growth = {"proposers": ["widen"], "triggers": "always"}
    plain = evo.grow("digits", out=str(tmp_path), training=training, growth=growth, record={"mlflow": False})
    first = [e[e["kind"] == "segment"]["train_loss"].iloc[0] for e in (events, plain.events)]
    assert first[0] != first[1]
