"""Runs a script in several processes that share a process group, on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.fork_server import ROOT, free_port, shared_server


def run_processes(script, folder, *args, num_processes=2, options=(), timeout=200):
    """Run the text of a script in `folder` and return what its processes wrote, rank 0 last.

    The processes are forks of the server, with options of torchrun its own. They import ghmdet and
    tests from this checkout, and fail the test if one of them fails.
    """
    path = folder / 'script_of_processes.py'
    path.write_text(script)
    if not options:
        run = shared_server().run_ranks
        results = run(num_processes, str(path), args, folder, launcher=None, seconds=timeout)
        for result in results:
            assert result['code'] == 0, result['stderr'][-3000:]
        return ''.join(result['stdout'] for result in reversed(results))
    env = {**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-m', 'torch.distributed.run']
    command += ['--nproc_per_node', str(num_processes), '--master_port', str(free_port())]
    command += [*options, str(path), *map(str, args)]
    streams = dict(capture_output=True, text=True)
    done = subprocess.run(command, env=env, cwd=folder, timeout=timeout, **streams)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
