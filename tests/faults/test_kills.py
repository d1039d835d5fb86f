"""Whenever a stage is killed or asked to stop: no bad file, and the next run ends like a clean one.

``python tests/faults/kills.py --kills 200`` is the long run, of which `docs/faults.md` has figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

STAGES = ("cutout", "simulate", "train", "infer", "report")


@pytest.mark.fault
def test_crash_points_kills_and_signals_of_every_stage() -> None:
    script = Path(__file__).with_name("kills.py")
    # The second commit is a product, or a training's state.
    command = [sys.executable, str(script), "--kills", "5", "--commits", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert tuple(found) == STAGES
    for stage, seen in found.items():
        assert seen["wrong"] == [], stage
        assert seen["kills"] == 5
        assert seen["crashes"] == 4
    assert sum(seen["stopped"] for seen in found.values()) > len(STAGES)
