"""docs/judge/analysis.md: the command of compare.py with real trainings, and killed ones."""

import csv
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from ghmdet.datasets import draw_shapes
from tests.e2e.conftest import ENV, ROOT

PAGE = (ROOT / 'docs/judge/analysis.md').read_text()
COMMAND = re.search(r'^python (tools/compare\.py CONFIG .*?)\n```', PAGE, re.DOTALL | re.MULTILINE)[
    1
]
WORDS = shlex.split(COMMAND.replace('CONFIG', 'tiny.py').replace('\\\n', ''))
CONFIG = """
_base_ = __import__('ghmdet').config_path('retinanet_r18_fpn_small')
model = dict(
    backbone=dict(num_stages=2, out_indices=(0, 1)),
    neck=dict(in_channels=[64, 128], out_channels=16, norm_cfg=None),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, norm_cfg=None,
                   anchor_generator=dict(strides=[4, 8, 16])),
)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[2].scale = test_pipeline[1].scale = (64, 64)
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline), **loader)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline), **loader)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=100, val_interval=50)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=10, save_best=None))
"""
FEWER = '--seeds', '1', '--jobs', '2', '--threads', '1'
MOVING = {'minutes', 'memory_mb', 'command'}
LIMIT = 600  # seconds


@pytest.fixture
def folder(tmp_path):
    """The folder in which the page's command runs: a config and two data sets."""
    (tmp_path / 'tiny.py').write_text(CONFIG)
    for seed, name in enumerate(('cells', 'boards')):
        data = tmp_path / 'data' / name
        files = draw_shapes(data, dict(train=12), seed)
        (data / 'annotations' / 'val.json').write_text(files['train'].read_text())
        (data / 'train').rename(data / 'images')
    return tmp_path


def start(folder, out):
    words = [sys.executable, ROOT / WORDS[0], *WORDS[1:-1], out, *FEWER]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen([*map(str, words)], cwd=folder, env=ENV, **options)


def table(file):
    with file.open(newline='', encoding='utf-8') as stream:
        return [{k: v for k, v in r.items() if k not in MOVING} for r in csv.DictReader(stream)]


def trainings(folder):
    """The process ids of the trainings that have begun, from their locks."""
    records = (json.loads(f.read_text() or '{}') for f in folder.glob('out/*/*/*/training.lock'))
    return [record['pid'] for record in records if 'pid' in record and is_alive(record['pid'])]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.long
@pytest.mark.timeout(LIMIT)
def test_killed_at_random_it_ends_with_the_same_table(folder):
    """Kill compare.py once, and two of its trainings; metrics, curves and statistics are equal."""
    assert WORDS[-2:] == ['--out', 'compared']
    process = start(folder, 'reference')
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, output
    assert '4 runs: 2 data x 2 variants x 1 seeds; 0 finished' in output

    draw = random.Random(0)
    for target in ('compare', 'training', 'training'):
        process = start(folder, 'out')
        end = time.monotonic() + LIMIT
        moment = None
        while moment is None or time.monotonic() < moment or not trainings(folder):
            assert time.monotonic() < end, f'waited {LIMIT} s for a training'
            assert process.poll() is None, process.communicate()
            if moment is None and trainings(folder):
                moment = time.monotonic() + draw.uniform(0, 4)
            time.sleep(0.05)
        if target == 'compare':
            process.kill()
        else:
            os.kill(draw.choice(trainings(folder)), signal.SIGKILL)
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT)
    process = start(folder, 'out')
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, output
    assert table(folder / 'out/runs.csv') == table(folder / 'reference/runs.csv')
    assert table(folder / 'out/curves.csv') == table(folder / 'reference/curves.csv')
    found, expected = (table(folder / each / 'comparison.csv') for each in ('out', 'reference'))
    costs = 'minutes', 'memory_mb'
    kept = [[row for row in rows if row['metric'] not in costs] for rows in (found, expected)]
    assert kept[0] == kept[1]
