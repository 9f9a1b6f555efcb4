"""Start-up time of the tools, in fresh processes."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from .measure import Rates, Report, measure

_ROOT = Path(__file__).parents[3]


def find_programs() -> dict[str, list[str]]:
    """Return what Python is called with to run each tool and each program of the package."""

    def find(folder: str, pattern: str) -> list[Path]:
        files = sorted((_ROOT / folder).glob(pattern))
        return [file for file in files if "\nif __name__ == '__main__':" in file.read_text()]

    tools = {file.name: [str(file)] for file in find('tools', '**/*.py')}
    modules = [f'ghmdet.{file.stem}' for file in find('ghmdet', '*.py')]
    modules += [f'ghmdet.{file.parent.name}' for file in find('ghmdet', '*/__main__.py')]
    return tools | {f'-m {module}': ['-m', module] for module in modules}


_COMMANDS = {
    **{f'{name} --help': [*words, '--help'] for name, words in find_programs().items()},
    'import ghmdet': ['-c', 'import ghmdet'],
    'import torch': ['-c', 'import torch'],
    'Python alone': ['-c', 'pass'],
}
_REFERENCE = 'import torch'
# Runs the rest of the command line as Python would, then prints the peak memory of the process.
_WRAPPER = """
import atexit, os, runpy, sys
atexit.register(lambda: print(open('/proc/self/status').read()))
if sys.argv[1] == '-c':
    exec(sys.argv[2])
elif sys.argv[1] == '-m':
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
else:
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name='__main__')
"""


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
    helps = [row for row in rows.values() if row.name.endswith('--help')]
    slowest = max(helps, key=lambda row: row.median)
    remarks = [
        'peak: of the whole process',
        f'slowest of {len(helps)}: {slowest.name}, {slowest.median:.2f} s',
    ]
    return Report('startup', list(rows.values()), checks, remarks)


def _run_python(arguments: list[str]) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _find_peak(command: list[str]) -> int | None:
    if not Path('/proc/self/status').exists():
        return None
    found = re.search(r'VmHWM:\s+(\d+) kB', _run_python(['-c', _WRAPPER, *command]))
    return int(found[1]) * 1024 if found else None
