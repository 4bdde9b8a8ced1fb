"""What goes wrong is one line with an exit code."""

from __future__ import annotations

import pytest

from evo.complaints import plainly


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (MemoryError("3 EiB, too much"), 2, "evo: memory does not suffice (3 EiB, too much); ask for less"),
        (MemoryError(), 2, "evo: memory does not suffice; ask for less"),
        (FileNotFoundError(2, "No such file", "there"), 2, "evo: there: no such file; check the path"),
        (KeyboardInterrupt(), 130, "evo: stopped at once"),
    ],
)  # fmt: skip
def test_an_error_is_one_line(raised: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    @plainly
    def command() -> None:
        raise raised

    with pytest.raises(SystemExit) as ended:
        command()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == code
    assert len(lines) == 1
    assert lines[0].startswith(told)
