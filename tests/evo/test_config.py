"""Settings: what wins over what, what `evo config` prints, and one clear line for each thing that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.api import settings_of
from evo.config import Config, ConfigError, NetworkConfig
from evo.settings import assignment, build, read_yaml, to_yaml

FIRST = next(iter(type(Config().training).model_fields))


def test_printed_defaults_load_back_equal() -> None:
    assert build(yaml.safe_load(to_yaml(Config()))) == Config()


def test_every_setting_is_printed_with_its_description() -> None:
    lines = [line for line in to_yaml(Config()).splitlines() if line.strip()]
    assert all("# " in line for line in lines), [line for line in lines if "# " not in line]


@settings(deadline=None)
@given(
    st.integers(0, 2**40), st.floats(1e-12, 1e12), st.lists(st.integers(1, 10**6), max_size=4).map(tuple),
    st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1),
)  # fmt: skip
def test_any_settings_survive_yaml(seed: int, rate: float, hidden: tuple[int, ...], target: str | None) -> None:
    layer = {"training.learning_rate": rate, "network": {"hidden": hidden}, "data.target": target}
    config = build({"seed": seed}, layer)
    assert build(yaml.safe_load(to_yaml(config))) == config


def test_later_layers_win_and_siblings_stay(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("seed: 1\ntraining:\n  epochs: 10\n  warmup: 3\n")
    config = build(read_yaml(file), assignment("training.epochs=20"), {"seed": 2})
    assert (config.seed, config.training.epochs, config.training.warmup) == (2, 20.0, 3)
    assert config.training.batch_size == Config().training.batch_size


def test_layers_may_be_nested_dotted_or_sections() -> None:
    wanted = build({"growth": {"cycles": 3}})
    assert build({"growth.cycles": 3}) == wanted
    assert build({"growth": wanted.growth}) == wanted
    assert build(wanted.model_dump()) == wanted


def test_values_of_set_are_yaml() -> None:
    assert build(assignment("network.hidden=[4, 5]")).network.hidden == (4, 5)
    assert build(assignment("training.learning_rate=1e-3")).training.learning_rate == 1e-3
    assert build({"data.limit": 90}, assignment("data.limit=")).data.limit is None
    assert build(assignment("record.mlflow=off")).record.mlflow is False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs=3", "epochs: there is no such setting; write training.epochs"),
        ("trainng.epochs=3", "trainng.epochs: there is no such setting; write training.epochs"),
        ("trainin={}", "trainin: there is no such setting; write training"),
        ("training.epochs.x=3", "training.epochs.x: there is no such setting; write training.epochs"),
        ("zzz=1", "zzz: there is no such setting; `evo config` lists every setting"),
        ("training=3", f"training: expected a section of settings, got 3; write for example training.{FIRST}"),
        ("training.batch_size=abc", "training.batch_size: expected a whole number ≥ 1, got 'abc'; write for example "
         "training.batch_size: 64"),
        ("training.batch_size=yes", "training.batch_size: expected a whole number ≥ 1, got True; write for example "
         "training.batch_size: 64"),
        ("training.clip_norm=.nan", "training.clip_norm: expected a number > 0, got nan; write for example "
         "training.clip_norm: 1.0"),
        ("training.clip_norm=", "training.clip_norm: expected a number > 0, got None; write for example "
         "training.clip_norm: 1.0"),
        ("network.hidden=8", "network.hidden: expected a list of whole numbers ≥ 1, got 8; write for example "
         "network.hidden: [8]"),
        ("network.hidden=[8, 0]", "network.hidden: expected a list of whole numbers ≥ 1, got 0; write for example "
         "network.hidden: [8]"),
        ("search.hidden=[9]", "search.hidden: expected a list of 2 whole numbers ≥ 1 or null, got [9]; write for "
         f"example search.hidden: {list(Config().search.hidden)}"),
        ("search.hidden=[9, 4]", "search.hidden: expected [lowest, highest], got [9, 4]; write search.hidden: [4, 9]"),
        ("network.activation=elu", "network.activation: expected one of relu, gelu, tanh, sigmoid, got 'elu'; write "
         "for example network.activation: relu"),
        ("record.mlflow=3", "record.mlflow: expected true or false, got 3; write for example record.mlflow: true"),
        ("device=gpu", "device: expected auto, cpu, cuda or cuda:N, got 'gpu'; write for example device: auto"),
        ("data.limit=3", "data.limit: expected a whole number ≥ 50 or null, got 3; write for example data.limit: null"),
    ],
)  # fmt: skip
def test_mistakes_name_field_expectation_and_cure(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(assignment(text))
    assert str(caught.value) == told


@pytest.mark.parametrize(
    "layers", [({"training": 3}, {"training.steps": 9}), ({"training.steps": 9, "growth": None}, {"growth.cycles": 2})]
)
def test_a_section_and_its_settings_at_odds(layers: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(ConfigError, match=r"^(training|growth): expected a section of settings, got (3|None); write"):
        build(*layers)


@pytest.mark.parametrize(
    ("text", "field"), [("growth.triggers=plateu or", "growth.triggers"), ("data.test=0.9", "data.test")]
)
def test_mistakes_between_values(text: str, field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}.*expected.*got.*; write"):
        build(assignment(text))


def test_several_mistakes_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"^seed: .*\(and 1 more like it\)$"):
        build({"seed": -1, "workers": -1})


@pytest.mark.parametrize("content", ["a: [1", "- 1\n- 2", "just text", "\x00"])
def test_files_that_hold_no_settings(tmp_path: Path, content: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"^--config: .*expected"):
        read_yaml(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*; write one with `evo config"):
        read_yaml(tmp_path / "none.yaml")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing yet\n")
    assert build(read_yaml(tmp_path / "c.yaml")) == Config()


@pytest.mark.parametrize("text", ["a.b", "=3", "training.epochs"])
def test_assignments_need_a_key_and_a_value(text: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        assignment(text)


def test_a_seed_whose_shape_is_given_is_not_searched_for() -> None:
    ranges = (Config().search.hidden, Config().search.seed_parameters)
    assert None not in ranges

    def searched(*layers: dict[str, Any]) -> tuple[Any, Any]:
        made = build(*layers)
        assert build(made.model_dump()) == made, "settled once"
        return made.search.hidden, made.search.seed_parameters

    assert searched({"training.steps": 7}) == ranges
    assert searched({"network.hidden": [8]}) == (None, None), "also where it is the default's"
    assert searched({"network": {"density": 0.1}}) == (ranges[0], None)
    assert searched({"search.hidden": [5, 9]}, {"network.hidden": [8, 8]}) == ((5, 9), None), "whichever came first"
    assert searched(Config().model_dump()) == ranges
    assert settings_of(Config(network=NetworkConfig(hidden=(5,)))) == {"network": {"hidden": (5,)}}
    with pytest.raises(ConfigError, match=r"^search: expected a section"):
        build({"network.hidden": [8], "search": 3})


def test_an_address_that_lost_a_slash_is_no_folder() -> None:
    with pytest.raises(ConfigError, match=r"out: expected a folder, or .*, got 's3:/b/runs'; write s3://b/runs"):
        build({"out": "s3:/b/runs"})
    assert build({"out": "s3://b/runs"}).out == "s3://b/runs"
    assert build({"out": "/a/b:c/runs"}).out == "/a/b:c/runs"
