"""A network's life without a network: figures drawn by key, kept in the run folder as a grower keeps them.

Files in the run folder rule what goes wrong: `kill-NETWORK-CYCLE` kills the process once, `doom-NETWORK` every time,
`kill-NETWORK-closing` once when it is let go of, `kill-NETWORK-ended` once when its end is committed and not yet told,
`refuse-NETWORK` raises what no second try would mend, `poor-NETWORK` takes ten nats off whatever it learns, `slow`
makes each cycle last.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from evo import events
from evo.config import Config
from evo.recorder import Recorder, read_table
from evo.rows import settings_json
from evo.task import Task
from evo.trials import TrialRunner
from search_spaces.randomness import keyed

Parent = str | None


class FakeLife:
    def __init__(
        self, config: Config, task: Task, folder: Path, network: str, generation: int, parent: Parent, _: TrialRunner
    ) -> None:
        self.config, self.folder = config, folder
        self.network, self.generation, self.parent = network, generation, parent
        assert len(task.splits["train"]) == 200
        assert parent is None or (folder / "snapshots" / parent).is_dir()
        self.recorder = Recorder(folder, network)
        rows = read_table(folder, network).to_pylist()
        self.cycle = max((r["cycle"] for r in rows), default=-1)
        self.done = any(r["kind"] == "finished" for r in rows)
        self.opened = True
        if not rows:
            self.cycle = 0
            started = events.row("started", cycle=0, parent=parent, config=settings_json(config))
            self._commit([started])

    def advance(self) -> dict[str, float | int | str | bool]:
        assert self.opened
        assert not self.done
        self._misfortune()
        self.cycle += 1
        self.done = self.cycle == self.config.growth.cycles
        told = {"cycle": self.cycle, "done": self.done, **self._commit([])}
        if self.done:
            self._killed("ended")
        return told

    def close(self) -> None:
        self.opened = False
        self._killed("closing")

    def _killed(self, where: str) -> None:
        if (once := self.folder / f"kill-{self.network}-{where}").exists():
            once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def _commit(self, rows: list[dict[str, object]]) -> dict[str, float | int]:
        draw = keyed(self.config.seed, self.network, self.cycle)
        parameters = int(draw.integers(50, 400))
        information = float(draw.random()) + self.cycle + self.config.growth.stake
        information -= 10.0 * (self.folder / f"poor-{self.network}").exists()
        place = self.folder / "snapshots" / self.network / f"{self.cycle:06d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "blueprint.json").write_text(f'{{"units": {parameters}}}')
        found: dict[str, float | int] = {
            "validation_information_nats": information, "active_parameters": parameters,
        }  # fmt: skip
        rows.append(events.row("snapshot", cycle=self.cycle, snapshot=place.name, **found))
        if self.done:
            rows.append(events.row("finished", cycle=self.cycle, reason="lived its whole life"))
        self.recorder.commit([{**row, "generation": self.generation, "pid": os.getpid()} for row in rows])
        return found

    def _misfortune(self) -> None:
        if (self.folder / "slow").exists():
            time.sleep(0.3)
        if (self.folder / f"refuse-{self.network}").exists():
            raise ValueError("snapshots: expected a whole file, got half of one")
        once = self.folder / f"kill-{self.network}-{self.cycle}"
        doomed = (self.folder / f"doom-{self.network}").exists()
        if once.exists() or doomed:
            once.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
