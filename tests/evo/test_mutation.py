"""The action that a child begins with: drawn by its name, legal, on record, and part of the books."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from small_life import live, made, same

from evo import books
from evo.grower import Grower
from evo.recorder import read_events
from search_spaces import actions, checkpoint, surgery
from tournaments.proposals import PROPOSERS

CHILD = {"growth.mutate": True, "growth.cycles": 1, "training.steps": 60}


def test_a_child_begins_with_one_action_and_says_which(copy: Path) -> None:
    parent = checkpoint.load(copy / "snapshots" / "n000" / "000002")
    config, task = made(**CHILD)
    names = [f"n{i:03d}" for i in range(1, 9)]
    for name in names:
        Grower(config, task, copy, name, generation=1, parent="n000/000002")
    kinds, costs = set(), []
    for name in names:
        rows = read_events(copy, name)
        assert list(rows["kind"]) == ["started", "mutation", "snapshot"]
        started, drawn, shot = (row for _, row in rows.iterrows())
        found = checkpoint.load(copy / "snapshots" / name / "000000")
        done = actions.from_json(drawn["action_json"])
        expected, state = surgery.apply(parent.network, done, parent.state)
        assert expected.blueprint() == found.network.blueprint() == json.loads(started["blueprint"])
        for key, tensor in surgery.tensors(expected).items():
            assert tensor.equal(surgery.tensors(found.network)[key])
        assert state is not None
        assert found.state is not None
        assert all(t.equal(found.state.age[k]) for k, t in state.age.items())
        assert drawn["proposer"] in PROPOSERS
        assert "drawn at random from" in drawn["reason"]
        cost = drawn["delta_parameters"]
        assert cost == found.network.count() - parent.network.count()
        assert started["active_parameters"] == drawn["active_parameters"] == shot["active_parameters"]
        assert started["information_nats"] == shot["information_nats"]
        kinds.add(drawn["action"])
        costs.append(cost)
    assert len(kinds) > 2, kinds
    assert min(costs) < 0 < max(costs)


def test_it_lives_on_and_its_books_balance(copy: Path) -> None:
    config, task = made(**CHILD)
    live(config, task, copy, network="n001", generation=1, parent="n000/000002")
    first = read_events(copy, "n001")
    table = books.books(read_events(copy)).set_index("network")
    assert table["residual"].abs().max() < 1e-6
    past = books.history(read_events(copy), "n001")
    assert list(dict.fromkeys(past["network"])) == ["n000", "n001"]
    assert "mutation" not in set(past["kind"])
    grown = first.loc[first["kind"].isin(["decision"]), "delta_parameters"].sum()
    assert first["active_parameters"].iloc[-1] == first["active_parameters"].iloc[0] + grown


def test_killed_at_birth_it_is_born_the_same(copy: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(copy, tmp_path / "again"))
    config, task = made(**CHILD)
    live(config, task, copy, network="n001", generation=1, parent="n000/000001")
    Grower(config, task, again, "n001", generation=1, parent="n000/000001")
    for path in (again / "events").glob("n001-*"):
        path.unlink()  # as if it had been killed between its first snapshot and its first events
    live(config, task, again, network="n001", generation=1, parent="n000/000001")
    assert same(copy, again) == []


def test_where_nothing_is_legal_it_says_so(copy: Path) -> None:
    config, task = made(**CHILD, **{"growth.proposers": ["narrow", "disconnect"], "growth.trim": 0.0})
    Grower(config, task, copy, "n001", generation=1, parent="n000/000002")
    row = read_events(copy, "n001").iloc[1]
    assert (row["kind"], row["action"], row["delta_parameters"]) == ("mutation", "NoChange", 0)
    assert row["reason"] == "none of 0 candidates is legal here"


def test_no_action_is_drawn_for_a_seed_or_unasked(copy: Path, tmp_path: Path) -> None:
    Grower(*made(**CHILD), tmp_path / "seed")
    assert "mutation" not in set(read_events(tmp_path / "seed")["kind"])
    Grower(*made(), copy, "n001", generation=1, parent="n000/000002")
    assert "mutation" not in set(read_events(copy, "n001")["kind"])
