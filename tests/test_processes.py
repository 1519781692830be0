"""What tests start is what `python -m` would be, and ends as that would."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import processes


def test_a_command_has_its_own_arguments_environment_and_folder_and_says_how_it_ended(tmp_path: Path) -> None:
    (tmp_path / "shown.json").write_text('{"here": 1}')
    shown = processes.run("json.tool", "shown.json", environment=os.environ, cwd=tmp_path)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, '{\n    "here": 1\n}\n', "")
    refused = processes.run("json.tool", "--no-such-option", environment=os.environ)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "unrecognized arguments: --no-such-option" in refused.stderr
    said = processes.run("featurestore.cli", "settings", environment={**os.environ, "FEATURESTORE_PROJECT": "other"})
    assert "other" in said.stdout, said.stderr
    assert os.environ.get("FEATURESTORE_PROJECT") != "other"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_is_ended_by_its_signals(tmp_path: Path, number: int) -> None:
    output = tmp_path / "said"
    running = processes.start("http.server", "0", "--bind", "127.0.0.1", environment=os.environ, output=output)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.01)
    assert running.poll() is None
    os.kill(running.pid, number)
    assert running.wait(30) == -number
    running.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(running.pid, 0)
