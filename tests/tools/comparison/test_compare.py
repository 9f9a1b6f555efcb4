"""compare.py with a trainer that takes no time: processes, kills, wrong command lines.

The trainer writes the log of a training whose AP is worked out from seed and learning rate, and
goes on from where its log ends. Real trainings are in tests/e2e/test_compare.py.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ghmdet.config.shipped import config_path

ROOT = Path(__file__).parents[3]
# AP is 0.1 + 100 lr + 0.01 seed.
TRAINER = """
import argparse, json, os, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument('config')
for name in ('--work-dir', '--seed', '--threads', '--data-root'):
    parser.add_argument(name)
parser.add_argument('--resume', action='store_true')
parser.add_argument('--cfg-options', nargs='*')
args = parser.parse_args()
options = dict(option.split('=', 1) for option in args.cfg_options)
folder = Path(args.work_dir)
print('training', flush=True)
if options.get('model.bbox_head.loss_cls.bins') == args.seed + '7':
    sys.exit('error: bins of this seed are wrong')
rate, seed = float(options.get('optim_wrapper.optimizer.lr', 1e-3)), int(args.seed)
file = folder / 'start' / 'vis_data' / 'scalars.json'
file.parent.mkdir(parents=True, exist_ok=True)
lines = file.read_text().splitlines() if file.exists() else []
with (folder / 'starts').open('a') as stream:
    stream.write(f'{os.getpid()} ')
for i in range(len(lines) + 1, 21):
    time.sleep(PAUSE)
    with file.open('a') as stream:
        row = dict(iter=i, step=i, loss=1.0, time=3.0, peak_memory=100 + i)
        stream.write(json.dumps(row) + '\\n')
if rate < 1e-3:
    for line in ('INFO - as usual', 'WARNING - lr is low', 'WARNING - lr is low'):
        print('11/29 20:16:14 - mmengine -', line)
ap = 0.1 + 100 * rate + 0.01 * seed
if len(lines) > 20:
    sys.exit()
if len(lines) == 20:  # stopped in the validation, which a start of its own repeats
    file = folder / 'start_2' / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
with file.open('a') as stream:
    stream.write(json.dumps({'coco/bbox_mAP': ap, 'coco/cat_precision': ap, 'step': 20}) + '\\n')
"""
DRIVER = """
import sys
from pathlib import Path
from unittest import mock
sys.path.insert(0, TOOLS)
sys.argv[0] = 'compare.py'
import compare
from comparison import runs
runs.TRAIN = Path(TRAINER)
compare.run(compare.main)
"""


@pytest.fixture
def comparison(tmp_path):
    """Start compare.py with the fake trainer in `tmp_path`; `pause` is the time of an iteration."""
    started = []

    def start(*args, pause=0.0, wait=True):
        trainer = tmp_path / 'trainer.py'
        trainer.write_text(TRAINER.replace('PAUSE', str(pause)))
        driver = DRIVER.replace('TOOLS', repr(str(ROOT / 'tools')))
        process = subprocess.Popen(
            [sys.executable, '-c', driver.replace('TRAINER', repr(str(trainer))), *map(str, args)],
            cwd=tmp_path,
            env=os.environ | {'PYTHONPATH': str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        if not wait:
            return process
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    yield start
    for process in started:
        process.kill()
        process.communicate()


CONFIG = config_path('retinanet_r18_fpn_small')
SHORT = '--cfg-options', 'train_cfg.max_iters=20', 'train_cfg.val_interval=10'
VARIANTS = '--variant', 'base', '--variant', 'slow', 'optim_wrapper.optimizer.lr=5e-4'


def read_runs(folder):
    with (folder / 'runs.csv').open(encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream))


def figures(folder):
    """What may not depend on interruptions: all but time, memory and command."""
    moving = {'minutes', 'memory_mb', 'command'}
    return [{k: v for k, v in row.items() if k not in moving} for row in read_runs(folder)]


def wait_for(condition, text, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f'waited {seconds} s for {text}'
        time.sleep(0.02)


def test_variants_times_data_times_seeds(comparison, cells, tmp_path):
    """AP is 0.1 + 100 lr + 0.01 seed; 20 iterations of 3 s are a minute; memory is the largest."""
    data = '--data', cells, '--data', 'same=cells', 'train_dataloader.batch_size=2'
    code, out, err = comparison(
        CONFIG, *VARIANTS, *data, *SHORT, '--seeds', 2, '--out', 'out', '--jobs', 2
    )
    assert code == 0, err
    assert '8 runs: 2 data x 2 variants x 2 seeds; 0 finished' in out
    rows = read_runs(tmp_path / 'out')
    names = [(row['data'], row['variant'], row['seed']) for row in rows]
    expected = [(d, v, s) for d in ('cells', 'same') for v in ('base', 'slow') for s in '01']
    assert names == expected
    aps = [float(row['coco/bbox_mAP']) for row in rows]
    assert aps == pytest.approx([0.2, 0.21, 0.15, 0.16] * 2)
    assert {row['iterations'] for row in rows} == {'20'}
    assert [float(row['minutes']) for row in rows] == [1.0] * 8
    assert [float(row['memory_mb']) for row in rows] == [120.0] * 8
    command = rows[6]['command']
    assert command.startswith(f'python tools/train.py {CONFIG} --work-dir ')
    assert 'train_dataloader.batch_size=2 optim_wrapper.optimizer.lr=5e-4' in command
    assert '--data-root cells' in command
    text = (tmp_path / 'out/comparison.md').read_text('utf-8')
    assert 'lower' in text  # by 0.05 with both seeds
    assert out.count('warning: lr is low') == 2  # of each variant on each data once, not by seed
    assert 'as usual' not in out


def test_called_again_it_goes_on(comparison, cells, tmp_path):
    """More seeds and variants add runs; finished ones are not started again."""
    args = CONFIG, '--data', cells, *SHORT, '--out', 'out'
    assert comparison(*args, '--variant', 'base', '--seeds', 1)[0] == 0
    code, out, _ = comparison(*args, *VARIANTS, '--seeds', 2)
    assert code == 0
    assert '4 runs' in out
    assert '1 finished' in out
    starts = [file.read_text().split() for file in tmp_path.glob('out/cells/*/*/starts')]
    assert [len(each) for each in starts] == [1] * 4


def test_stopped_in_the_last_validation_it_goes_on(comparison, cells, tmp_path):
    given = CONFIG, *VARIANTS, '--data', cells, '--seeds', '1', *SHORT, '--out', 'out'
    assert comparison(*given)[0] == 0
    before = figures(tmp_path / 'out')
    folder = tmp_path / 'out/cells/base/seed_0'
    log = folder / 'start/vis_data/scalars.json'
    *training, _ = log.read_text().splitlines()
    log.write_text('\n'.join(training) + '\n')
    record = json.loads((folder / 'run.json').read_text())
    (folder / 'run.json').write_text(json.dumps(record | dict(finished=False)))
    code, out, err = comparison(*given)
    assert (code, err) == (0, '')
    assert 'cells, base, seed 0: coco/bbox_mAP 0.200' in out
    assert 'the rest takes' not in out
    assert figures(tmp_path / 'out') == before


def test_failed_run_is_named_and_left_out_then_tried_again(comparison, cells, tmp_path):
    """The trainer fails with 27 bins and seed 2; with other settings the folder is refused."""
    args = CONFIG, '--data', cells, *SHORT, '--out', 'out', '--variant', 'base', '--variant', 'b'
    code, out, err = comparison(*args, 'model.bbox_head.loss_cls.bins=27')
    assert code == 1
    assert 'cells, b, seed 2: failed: exit code 1: bins of this seed are wrong' in out
    assert '1 of 6 runs failed and are left out' in err
    assert 'bins of this seed are wrong' in (tmp_path / 'out/comparison.md').read_text('utf-8')
    summary = (tmp_path / 'out/comparison.csv').read_text('utf-8')
    assert 'cells,coco/bbox_mAP,b,2,' in summary  # two seeds, not three
    assert comparison(*args, 'model.bbox_head.loss_cls.bins=27')[1].count(': failed: ') == 1
    code, _, err = comparison(*args, 'model.bbox_head.loss_cls.bins=28')
    assert code == 1
    assert 'model.bbox_head.loss_cls.bins: 27 there, 28 now' in err


@pytest.mark.follows('holds a run of other settings')
@pytest.mark.parametrize('way', ['name', 'out', 'remove'])
def test_other_settings_in_the_same_folder(comparison, cells, tmp_path, way):
    """Each of the three ways out works."""
    args = [CONFIG, '--data', cells, *SHORT, '--seeds', 1]
    assert comparison(*args, '--out', 'out', '--variant', 'a')[0] == 0
    setting = 'optim_wrapper.optimizer.lr=5e-4'
    code, _, err = comparison(*args, '--out', 'out', '--variant', 'a', setting)
    assert code == 1
    assert 'optim_wrapper.optimizer.lr: 0.001 there, 0.0005 now' in err
    if way == 'remove':
        subprocess.run(['rm', '-r', tmp_path / 'out/cells/a/seed_0'], check=True)
    name, out = {'name': ('b', 'out'), 'out': ('a', 'new')}.get(way, ('a', 'out'))
    assert comparison(*args, '--out', out, '--variant', name, setting)[0] == 0
    rows = read_runs(tmp_path / out)
    assert [float(row['coco/bbox_mAP']) for row in rows] == pytest.approx([0.15])


def test_kills_leave_the_same_table(comparison, cells, tmp_path):
    """Kill compare.py; its trainings go on, and the next call waits for them; kill a training."""
    args = CONFIG, '--data', cells, *VARIANTS, *SHORT, '--seeds', 2, '--jobs', 2, '--out'
    assert comparison(*args, 'reference')[0] == 0
    process = comparison(*args, 'out', pause=0.2, wait=False)
    first = tmp_path / 'out/cells/base/seed_0'
    wait_for((first / 'start/vis_data/scalars.json').exists, 'the first training')
    process.kill()
    process.communicate()
    second = comparison(*args, 'out', pause=0.2, wait=False)
    third = tmp_path / 'out/cells/base/seed_1'
    wait_for((third / 'start/vis_data/scalars.json').exists, 'the third training')
    os.kill(int((third / 'starts').read_text()), signal.SIGKILL)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 1
    assert '1 of 4 runs failed' in err
    assert 'killed by signal 9 (SIGKILL)' in (tmp_path / 'out/comparison.md').read_text('utf-8')
    assert comparison(*args, 'out')[0] == 0
    # It was waited for: two at a time would have written more than its 20 iterations.
    log = (first / 'start/vis_data/scalars.json').read_text()
    assert log.count('loss') == 20
    assert len((third / 'starts').read_text().split()) == 2
    assert figures(tmp_path / 'out') == figures(tmp_path / 'reference')
    same = (tmp_path / name / 'curves.csv' for name in ('out', 'reference'))
    assert len({file.read_text() for file in same}) == 1


def test_signal_while_another_comparison_trains(comparison, cells, tmp_path):
    """It does not wait for that training, and starts none."""
    args = CONFIG, '--data', cells, *SHORT, '--seeds', 2, '--jobs', 1, '--out', 'out'
    first = comparison(*args, pause=0.3, wait=False)
    folder = tmp_path / 'out/cells/base'
    wait_for((folder / 'seed_0/start/vis_data/scalars.json').exists, 'the first training')
    first.kill()
    second = comparison(*args, pause=0.3, wait=False)
    assert second.stdout.readline().startswith('2 runs')
    time.sleep(1)
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=5)
    assert second.returncode == 130
    assert not (folder / 'seed_1').exists()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_trainings(comparison, cells, tmp_path, number):
    """Exit code 130; nothing runs any more; called again it goes on."""
    args = CONFIG, '--data', cells, *VARIANTS, *SHORT, '--seeds', 1, '--jobs', 2, '--out', 'out'
    process = comparison(*args, pause=0.3, wait=False)
    log = tmp_path / 'out/cells/slow/seed_0/start/vis_data/scalars.json'
    wait_for(log.exists, 'the second training')
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'stopping as soon as each training has saved' in err
    assert 'failed' not in out
    length = len(log.read_text())
    time.sleep(0.5)
    assert len(log.read_text()) == length
    assert comparison(*args)[0] == 0
    assert len(read_runs(tmp_path / 'out')) == 2


@pytest.mark.follows('--data expects NAME=ROOT')
def test_data_without_a_name(comparison, cells, tmp_path):
    args = CONFIG, *SHORT, '--seeds', 1, '--out', 'out', '--data'
    code, _, err = comparison(*args, 'cells')
    assert code == 2
    assert 'e.g. cells=data/cells' in err
    assert comparison(*args, cells)[0] == 0
    assert read_runs(tmp_path / 'out')[0]['data'] == 'cells'


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--first-seed', -1], '--first-seed expects an integer of at least 0, got -1'),
        (['--seeds', 0], "expected an integer in 1 to 1024, got '0'"),
        (
            ['--variant', 'optim_wrapper.optimizer.lr=1'],
            "--variant expects a name before its settings, got 'optim_wrapper.optimizer.lr=1'",
        ),
    ],
)
def test_wrong_command_lines(comparison, args, message):
    code, _, err = comparison(CONFIG, *args)
    assert code == 2
    assert message in err


def test_nohup(comparison, cells, tmp_path):
    """SIGHUP that is ignored at the start stays ignored; a file gets the lines of a terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        args = CONFIG, '--data', cells, *SHORT, '--seeds', 1, '--out', 'out'
        process = comparison(*args, pause=0.05, wait=False)
    finally:
        signal.signal(signal.SIGHUP, before)
    log = tmp_path / 'out/cells/base/seed_0/start/vis_data/scalars.json'
    wait_for(log.exists, 'the training')
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, '')
    assert '1/1 cells, base, seed 0: coco/bbox_mAP 0.200' in out
