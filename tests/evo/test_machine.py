"""Which process is surely dead: one of this very machine's, and no other machine's of the same name."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from evo.machine import HOST, SPACE, gone


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="needs Linux")
def test_a_machine_is_told_from_another_of_its_name_by_the_start_of_its_kernel() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    boot, _, inode = SPACE.partition("/")
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert gone(HOST, SPACE, ended.pid)
    assert not gone(HOST, SPACE, os.getpid())
    assert not gone("elsewhere", SPACE, ended.pid)
    # A clone has other starts; a container another inode; before, only the inode was told, or nothing.
    for space in (f"00000000-0000/{inode}", f"{boot}/1{inode}", int(inode), 0, None):
        assert not gone(HOST, space, ended.pid)
