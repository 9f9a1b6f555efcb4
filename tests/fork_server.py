"""Runs our programs without the seconds that importing torch takes: every run is a fork.

The server reads a list of calls per line of JSON, runs them at the same time, and answers with a
list of results. `Server` is its client.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 120  # seconds
PRELOADED = ('ghmdet.train', 'ghmdet.test', 'ghmdet.utils', 'matplotlib.pyplot', 'PIL.features')
RANK_VARIABLES = {
    'pytorch': 'RANK LOCAL_RANK WORLD_SIZE',
    'slurm': 'SLURM_PROCID SLURM_LOCALID SLURM_NTASKS',
    'mpi': 'OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_SIZE',
}


class Server:
    """Starts the server; a call gives dict(code, stdout, stderr, seconds)."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
        )
        self.number = 0

    def __call__(self, program, args, cwd, seconds=LIMIT):
        """Run a module or a file of tools/ with arguments in a folder."""
        (answer,) = self.run_together(program, args, cwd, [{}], seconds)
        return answer

    def run_ranks(self, count, program, args, cwd, launcher='pytorch', seconds=LIMIT, **env):
        """Run the processes of a distributed run, as if started by hand: none stops the others."""
        env |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()), CUDA_VISIBLE_DEVICES='')
        if count == 1:
            return self.run_together(program, args, cwd, [env], seconds)
        names = RANK_VARIABLES[launcher or 'pytorch'].split()
        ranks = [dict(zip(names, (str(i), str(i), str(count)), strict=True)) for i in range(count)]
        args = [*args, '--launcher', launcher] if launcher else args
        return self.run_together(program, args, cwd, [env | rank for rank in ranks], seconds)

    def run_together(self, program, args, cwd, environments, seconds=LIMIT):
        """Run a program once for each environment, at the same time."""
        call = dict(program=program, args=[str(arg) for arg in args], cwd=str(cwd), seconds=seconds)
        self.number += 1
        message = dict(number=self.number, calls=[{**call, 'env': env} for env in environments])
        self.process.stdin.write(json.dumps(message) + '\n')
        self.process.stdin.flush()
        end = time.monotonic() + seconds + 60
        # Of a call that a test gave up, the answer may still come.
        while select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
            answer = json.loads(self.process.stdout.readline() or '{"number": null}')
            assert answer['number'] is not None, f'the fork server ended while it ran {call}'
            if answer['number'] == self.number:
                return answer['results']
        raise TimeoutError(f'the fork server did not answer in {seconds} + 60 s: {call}')

    def close(self):
        # Not only closed: a loader worker that a test left behind would hold the pipe open.
        self.process.communicate('\n', timeout=30)


@cache
def shared_server():
    """The server of this test process."""
    return Server()


def close_shared_server():
    if shared_server.cache_info().currsize:
        shared_server().close()


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def start(call):
    """Fork; return the process id and the files with what it writes."""
    streams = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
    if pid := os.fork():
        return pid, streams
    os.setsid()
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.fileno(), number)
    sys.stdout, sys.stderr = os.fdopen(1, 'w', closefd=False), os.fdopen(2, 'w', closefd=False)
    os.chdir(call['cwd'])
    os.environ.update(call['env'])
    sys.path[1:1] = filter(None, call['env'].get('PYTHONPATH', '').split(os.pathsep))
    program = call['program']
    sys.argv = [program, *call['args']]
    code = 0
    try:
        if program.endswith('.py'):
            file = ROOT / 'tools' / program
            sys.path.insert(1, str(file.parent))  # as Python does
            runpy.run_path(str(file), run_name='__main__')
        else:
            main = importlib.import_module(program).main
            importlib.import_module('ghmdet.config.cli').run(main)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    if 'coverage' in sys.modules and (measured := sys.modules['coverage'].Coverage.current()):
        measured.stop()
        measured.save()
    os._exit(code)


def wait(pid, end):
    """Return the exit code; kill what runs longer."""
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 'timed out'


def answer(calls):
    begin = time.monotonic()
    started = [start(call) for call in calls]
    results = []
    for (pid, streams), call in zip(started, calls, strict=True):
        code = wait(pid, begin + call['seconds'])
        texts = []
        for stream in streams:
            with stream:
                stream.seek(0)
                texts.append(stream.read().decode(errors='replace'))
        seconds = time.monotonic() - begin
        results.append(dict(code=code, stdout=texts[0], stderr=texts[1], seconds=seconds))
    return results


def main():
    for module in PRELOADED:
        importlib.import_module(module)
    # Half the time of a short training is yapf's, for the text of the config in each checkpoint.
    importlib.import_module('mmengine.config.config').FormatCode = lambda text, **_: (text, True)
    while line := sys.stdin.readline().strip():
        message = json.loads(line)
        results = answer(message['calls'])
        print(json.dumps(dict(number=message['number'], results=results)), flush=True)


if __name__ == '__main__':
    main()
