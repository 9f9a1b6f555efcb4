"""Runs a script in processes of torchrun, on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_processes(script, folder, *args, num_processes=2, options=(), timeout=300):
    """Run the text of a script in `folder` and return what its processes wrote.

    They import ghmdet and tests from this checkout, and fail the test if one of them fails.
    `options` are those of torchrun.
    """
    path = folder / 'script_of_processes.py'
    path.write_text(script)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    env['PYTHONPATH'] = str(Path(__file__).parents[1])
    command = [sys.executable, '-m', 'torch.distributed.run']
    command += ['--nproc_per_node', str(num_processes), '--master_port', str(port)]
    command += [*options, str(path)]
    done = subprocess.run(
        [*command, *map(str, args)],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
