"""Tools run in the process of the tests."""

import runpy
import sys
from pathlib import Path

import pytest

from ghmdet.config import cli

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def run_tool(capsys, monkeypatch, tmp_path):
    """Run a tool in `tmp_path`; return its exit code, stdout and stderr."""

    def run_tool(tool, *args):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        main = runpy.run_path(str(TOOLS / tool))['main']
        code = 0
        try:
            cli.run(main)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run_tool
