"""Runs our programs many times in one second each: torch is imported once, every run is a fork.

Reads a JSON object a line, {"program": "ghmdet.train", "args": [...], "cwd": ..., "seconds": ...},
and answers with one, {"code": ..., "stdout": ..., "stderr": ..., "seconds": ...}.
"""

import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path


def run_child(call, stdout, stderr):
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    sys.stdout, sys.stderr = os.fdopen(1, 'w', closefd=False), os.fdopen(2, 'w', closefd=False)
    os.chdir(call['cwd'])
    os.environ.update(call.get('env', {}))
    sys.argv = [call['program'], *call['args']]
    code = 0
    try:
        importlib.import_module('ghmdet.config.cli').run(
            importlib.import_module(call['program']).main
        )
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait(pid, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 'timed out'


def answer(call):
    start = time.monotonic()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        pid = os.fork()
        if pid == 0:
            run_child(call, stdout.fileno(), stderr.fileno())
        code = wait(pid, call['seconds'])
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read().decode(errors='replace'))
    seconds = time.monotonic() - start
    return dict(code=code, stdout=texts[0], stderr=texts[1], seconds=seconds)


def main():
    sys.path.insert(0, str(Path(__file__).parents[2]))
    for module in ('ghmdet.train', 'ghmdet.test', 'ghmdet.utils'):
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == '__main__':
    main()
