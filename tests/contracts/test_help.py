"""Every program reads its command line before it loads what takes seconds.

All tools and all programs of the package are found by their files; commands are `ghmdet` ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'analysis_tools'))

from benchmarks.startup import find_programs  # noqa: E402

import ghmdet_command  # noqa: E402

PROGRAMS = find_programs() | {f'ghmdet {name}': ['', name] for name in ghmdet_command.PROGRAMS}
# Calls each program with --help, with `--help` after each of its subcommands, with a wrong option,
# and with a stdout that nobody reads; every program in a fork of its own, so that it finds nothing
# loaded by another.
SCRIPT = """
import contextlib, io, json, os, re, runpy, sys
import ghmdet, ghmdet_command

def call(*args, to=None):
    sys.argv = [words[-1], *args]
    with contextlib.redirect_stderr(io.StringIO()) as out, contextlib.redirect_stdout(to or out):
        try:
            if words[0] == '':
                sys.argv.insert(0, 'ghmdet')
                sys.path.insert(0, '')
                ghmdet_command.main()
            elif words[0] == '-m':
                runpy.run_module(words[-1], run_name='__main__', alter_sys=True)
            else:
                sys.path[0] = os.path.dirname(words[-1])
                runpy.run_path(words[-1], run_name='__main__')
        except SystemExit as stop:
            return stop.code, out.getvalue()
    return 0, out.getvalue()

heavy = {'torch', 'torchvision', 'mmcv', 'cv2', 'matplotlib', 'pycocotools', 'faster_coco_eval'}
for name, words in json.loads(sys.argv[1]).items():
    if pid := os.fork():
        os.waitpid(pid, 0)
        continue
    calls = {'--help': call('--help')}
    for found in re.findall(r'^  \\{([\\w,-]+)\\}', calls['--help'][1], re.MULTILINE):
        calls |= {f'{each} --help': call(each, '--help') for each in found.split(',')}
    calls['--no-such-option'] = call('--no-such-option')
    reader, writer = os.pipe()
    os.close(reader)
    calls['unread'] = call('--help', to=os.fdopen(writer, 'w'))
    print(json.dumps([name, calls, sorted(heavy & set(sys.modules))]), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope='module')
def answers():
    command = [sys.executable, '-c', SCRIPT, json.dumps(PROGRAMS)]
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200)
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


def test_all_are_found():
    names = ['train.py', 'soak.py', 'benchmark.py', 'pascal_voc.py', '-m ghmdet.env']
    assert set(names) < set(PROGRAMS)


@pytest.mark.parametrize('name', PROGRAMS)
def test_arguments_are_read_before_torch_is_imported(answers, name):
    calls, heavy = answers[name]
    assert heavy == []
    code, text = calls.pop('--no-such-option')
    assert (code, 'error: ' in text) == (2, True), text
    is_checked = name != 'check_install.py'  # which imports nothing of ghmdet
    assert calls.pop('unread') == [141, ''] or not is_checked
    for code, text in calls.values():
        assert code == 0, text
        prog = name.replace('-m', 'python -m')
        assert text.startswith(f'usage: {prog} '), text
    count = {'benchmark.py': 9, 'soak.py': 2, 'coco.py': 6, 'analyze_logs.py': 2}
    count |= {'ghmdet coco': 6, 'ghmdet logs': 2}
    assert len(calls) == 1 + count.get(name, 0)
