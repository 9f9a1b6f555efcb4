"""Every task of tools/analysis_tools/benchmark.py at a tiny size: are its figures consistent?"""

import json
import os
import statistics
import time

import benchmark
import pytest
import torch
from benchmarks import load, loss, measure, networks, startup
from benchmarks.measure import Rates
from torch import nn

pytestmark = pytest.mark.long
RATES = Rates(1e9, {'float32': 2e9, 'bfloat16': 4e9})
PARTS_OF_STEP = ('preprocessing', 'backbone and neck', 'head', 'targets and loss')
PARTS_OF_STEP += ('backward', 'optimizer')


def run(*argv):
    (args,) = benchmark.parse_args([str(arg) for arg in argv])
    with measure.quiet_log():
        report = benchmark.TASKS[args.task].run(args, RATES)
    check_report(report)
    return report, {row.name: row for row in report.rows}


def check_report(report):
    assert all(report.checks.values()), report.checks
    content = report.to_dict()
    medians = {row['name']: statistics.median(row['seconds']) for row in content['rows']}
    for row in content['rows']:
        assert row['median'] == medians[row['name']]
        assert row['min'] == min(row['seconds'])
        assert row['max'] == max(row['seconds'])
        if row['reference']:
            assert row['ratio'] == medians[row['reference']] / row['median']
        if row['floor_seconds']:
            assert row['gap'] == row['median'] / row['floor_seconds']


def test_loss():
    report, rows = run('loss', '--size', 64, 64, '--runs', 2)
    assert list(rows) == ['GHMC', 'GHMC literal loop', 'GHMR', 'GHMR literal loop']
    references = ['GHMC literal loop'] * 2 + ['GHMR literal loop'] * 2
    assert [row.reference for row in report.rows] == references
    # 8 x 8 cells of 9 anchors, 80 classes, 4 bytes, passed 3 times; 4 deltas, 7 times; 1 GB/s
    assert rows['GHMC'].floor_seconds == pytest.approx(576 * 80 * 4 * 3 / 1e9)
    assert rows['GHMR'].floor_seconds == pytest.approx(576 * 4 * 4 * 7 / 1e9)
    assert len(rows['GHMC'].seconds) == 2


def test_json_and_table_of_a_loss_that_differs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loss, 'GHMC', lambda bins, momentum: loss.LiteralGHMC(29, 0.75, 1 + 1e-6))
    monkeypatch.setattr(loss.LiteralGHM, 'to', lambda self, device: self, raising=False)
    file = tmp_path / 'figures.json'
    benchmark.main(['loss', '--size', '64', '64', '--runs', '3', '--json', str(file)])
    content = json.loads(file.read_text())
    assert content['versions']['torch'] == torch.__version__.partition('+')[0]
    assert content['machine']['rates'].keys() == {'bytes_per_second', 'flop_per_second'}
    (report,) = content['reports']
    assert report['arguments']['runs'] == 3
    assert report['checks'] == {
        'GHMC: gradients within 0.0001 of the literal loop': False,
        'GHMR: gradients within 0.0001 of the literal loop': True,
    }
    row, reference = report['rows'][:2]
    assert row['ratio'] == reference['median'] / row['median']
    printed = capsys.readouterr().out
    assert f'{row["median"]:.4f}' in printed
    assert 'ok: GHMR: gradients within 0.0001' in printed


def test_step():
    _, rows = run('step', '--size', 64, 64, '--runs', 2)
    ours = 'ghmdet float32'
    parts = [f'{ours}: {part}' for part in PARTS_OF_STEP]
    assert list(rows) == [ours, *parts, 'torchvision float32']
    for i, total in enumerate(rows[ours].seconds):
        assert sum(rows[part].seconds[i] for part in parts) <= total
    assert rows[ours].notes['img/s'] == 2 / rows[ours].median


def test_inference():
    _, rows = run('inference', '--size', 64, 64, '--runs', 2, '--candidates', 500)
    parts = ['', ': preprocessing', ': network', ': post-processing']
    names = ('ghmdet float32', 'torchvision float32')
    assert list(rows) == [f'{name}{part}' for name in names for part in parts]
    for name in names:
        assert rows[name].notes['detections'] == 100
        for i, total in enumerate(rows[name].seconds):
            assert sum(rows[f'{name}{part}'].seconds[i] for part in parts[1:]) <= total


def test_floor_counts_the_operations():
    layer, images = nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10)
    flop = 2 * 3 * 9 * 8 * 100
    floors = networks.find_floor(lambda: layer(images).sum().backward(), RATES)
    # Forward, and the gradient of the weight; the images need none.
    assert floors == {False: 2 * flop / 2e9, True: 2 * flop / 4e9}


def test_dataloader():
    report, rows = run('dataloader', '--images', 3, '--workers', 1, '--runs', 1)
    assert report.checks == {'both pipelines give images of (3, 800, 1067)': True}
    assert rows['config, 1 workers'].reference == 'literal mmcv chain, 1 workers'
    for row in rows.values():
        assert row.notes['images/s'] == 3 / row.median


def test_dataset():
    report, rows = run('dataset', '--images', 100, '--runs', 1)
    # Without the hundredth image, which has no box; 860,001 boxes in 118,287 images.
    assert report.checks == {'both readers find 99 images with 727 boxes': True}
    assert list(rows) == ['CocoDataset', 'pycocotools', 'the bytes alone']


def test_evaluation():
    report, _ = run('evaluation', '--images', 12, '--detections', 20, '--runs', 1)
    numbers = [float(n) for n in report.remarks[0].partition(': ')[2].split(', ')]
    assert len(numbers) == 12
    assert 0 < numbers[0] < numbers[1] < 1
    assert report.checks == {'the twelve numbers are equal to 1e-12': True}


def test_load(monkeypatch):
    slow = {'alone': 1.0, 'one busy': 1.5, 'two busy': 4.0}
    own = {"torch's default": 3.0, 'PASSIVE': 0.5, 'as it is': 1.0}
    calls = []

    def run_child(program, name, variant, folder, args):
        calls.append((name, variant))
        noise = 0.5 if len(calls) == 1 else 0.1
        return [slow.get(name, 1.0) * own[variant]] * 3, noise

    monkeypatch.setattr(load, '_run_child', run_child)
    monkeypatch.setattr(load.time, 'sleep', lambda _: None)
    (args,) = benchmark.parse_args(['load', '--programs', 'train', '--runs', '2'])
    report = load.run(args, RATES)
    assert calls[:3] == [('alone', 'as it is')] * 2 + [('alone', "torch's default")]
    assert len(calls) == 2 * 6 * 3 + 1
    row = report.rows[3]
    assert (row.name, row.seconds) == ('train, one busy: as it is', [1.5] * 6)
    assert report.ratio(row) == 3
    assert row.notes == {'x alone': 1.5, 'other cores': 0.1}
    assert report.checks == {
        "train alone: 0.33 x torch's default, at most 1.1": True,
        'train, one busy: 1.50 x alone, at most 1.8': True,
        'train, two busy: 4.00 x alone, at most 3.0': False,
        'train, one at step 20: 1.00 x alone, at most 1.8': True,
        'train, two at step 20: 1.00 x alone, at most 3.0': True,
    }


@pytest.mark.parametrize('program', load.PROGRAMS)
def test_steps_of_a_program_beside_load(program, tmp_path):
    load.draw_shapes(tmp_path, dict(train=40, val=40), seed=0)
    (args,) = benchmark.parse_args(['load', '--seconds', '0.1'])
    begin = time.perf_counter()
    seconds, noise = load._run_child(program, 'one busy', 'PASSIVE', str(tmp_path), args)
    assert 0 < len(seconds) <= 200  # 20 at least where there is time, without the first 5
    assert 0 < sum(seconds) < time.perf_counter() - begin
    assert 0 <= noise < (os.cpu_count() or 1)


def test_startup(monkeypatch):
    names = ('train.py --help', '-m ghmdet.env --help', 'benchmark.py --help', 'import torch')
    monkeypatch.setattr(startup, '_COMMANDS', {name: startup._COMMANDS[name] for name in names})
    report, rows = run('startup', '--runs', 1)
    assert report.checks == {'import ghmdet leaves torch out': True}
    slowest = max(names[:3], key=lambda name: rows[name].median)
    assert report.remarks[1].startswith(f'slowest of 3: {slowest}, ')
    assert all(rows[name].peak_bytes < rows['import torch'].peak_bytes for name in names[:3])


def test_memory_of_a_call():
    extra = measure.find_extra_memory(lambda: torch.ones(25 * 2**20), 'cpu')
    # 100 MiB, give or take what the allocator does
    assert extra is None or 99 * 2**20 < extra < 110 * 2**20
