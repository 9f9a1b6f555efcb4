"""Start-up time of the tools, in fresh processes."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from .machine import Rates
from .measure import Report, measure

_TOOLS = Path(__file__).parents[2]
_COMMANDS = {
    'tools/train.py --help': [str(_TOOLS / 'train.py'), '--help'],
    'tools/test.py --help': [str(_TOOLS / 'test.py'), '--help'],
    'import ghmdet': ['-c', 'import ghmdet'],
    'import torch': ['-c', 'import torch'],
    'Python alone': ['-c', 'pass'],
}
_REFERENCE = 'import torch'
# Runs the rest of the command line as Python would, then prints the peak memory of the process.
_WRAPPER = """
import atexit, runpy, sys
atexit.register(lambda: print(open('/proc/self/status').read()))
if sys.argv[1] == '-c':
    exec(sys.argv[2])
else:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(args: argparse.Namespace, rates: Rates) -> Report:
    """Time the commands, one process after the other."""
    variants = {
        name: lambda command=command: _run_python(command) for name, command in _COMMANDS.items()
    }
    rows = measure(variants, args.runs, warm_ups=0)  # a run for memory warms up too
    for name, row in rows.items():
        row.reference = _REFERENCE
        row.peak_bytes = _find_peak(_COMMANDS[name])
    loaded = _run_python(['-c', 'import ghmdet, sys; print("torch" in sys.modules)'])
    checks = {'import ghmdet leaves torch out': loaded.strip() == 'False'}
    return Report('startup', list(rows.values()), checks, ['peak: of the whole process'])


def _run_python(arguments: list[str]) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _find_peak(command: list[str]) -> int | None:
    if not Path('/proc/self/status').exists():
        return None
    found = re.search(r'VmHWM:\s+(\d+) kB', _run_python(['-c', _WRAPPER, *command]))
    return int(found[1]) * 1024 if found else None
