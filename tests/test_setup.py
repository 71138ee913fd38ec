"""Set-up's failures: one clear line each, on a copy of the files that it needs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools/setup.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", "setup", *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False)


def error_line(result: subprocess.CompletedProcess) -> str:
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def test_missing_interpreter(copy):
    assert "no interpreter 'python9'" in error_line(make(copy, "PYTHON=python9"))


def test_old_interpreter(copy):
    old = copy / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.8.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    line = error_line(make(copy, f"PYTHON={old}"))
    assert "Python 3.8.1 is too old" in line and "3.11" in line
    assert not (copy / ".venv").exists()


def test_broken_environment(copy):
    (copy / ".venv/bin").mkdir(parents=True)
    assert ".venv is broken; delete it" in error_line(make(copy))


def test_no_network(copy):
    line = error_line(make(copy, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0", PIP_FIND_LINKS=""))
    assert "is there a network?" in line and ".venv/install.log" in line


def test_help_lists_the_targets():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "train" in done.stdout and "test" in done.stdout and "PYTHON=" in done.stdout
