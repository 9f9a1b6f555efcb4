"""The tool on logs written by hand; tests/reports has what they mean."""

import re

import pytest

from tests.reports.test_logs import start, step, validation


@pytest.fixture
def run_logs(run_tool):
    """Run the tool; return what it prints, or its error."""

    def run(*args):
        code, out, err = run_tool('analysis_tools/analyze_logs.py', *args)
        return err if code else out

    return run


def test_curves_of_runs_that_lack_something(run_logs, tmp_path):
    start(tmp_path / 'a', '1', [step(10, 1), validation(10, 0.5)])
    start(tmp_path / 'b', '1', [step(10, 1), step(20, 2)])
    printed = run_logs('plot_curve', 'a', 'b')
    assert printed.splitlines() == [
        'not drawn, since not all logs have it: coco/bbox_mAP',
        'written to curves.png',
    ]
    assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG')
    assert "b has no 'bbox_mAP', and no validation; it has lr, loss" in run_logs(
        'plot_curve', 'a', 'b', '--keys', 'bbox_mAP'
    )


def test_ap_of_a_log_of_mmdetection_2_is_drawn_beside_ours(run_logs, tmp_path):
    start(tmp_path / 'a', '1', [step(10, 1), validation(10, 0.5)])
    start(tmp_path / 'b', '1', [step(10, 1), {'bbox_mAP': 0.4, 'step': 1}])
    assert run_logs('plot_curve', 'a', 'b') == 'written to curves.png\n'


def test_the_legend_names_runs_of_one_name_by_their_path(run_logs, tmp_path):
    for parent in ('x', 'y'):
        start(tmp_path / parent / 'run', '1', [step(10, 1), step(20, 2)])
    paths = [tmp_path / 'x' / 'run', tmp_path / 'y' / 'run']
    out = tmp_path / 'new' / 'a.svg'
    run_logs('plot_curve', *paths, '--out', out, '--title', 'T$', '--start-epoch', '2')
    comments = re.findall('<!-- (.*?) -->', out.read_text())
    assert {f'loss ({path})' for path in paths} <= {*comments}
    assert 'T$' in comments
    run_logs('plot_curve', *paths, '--keys', 'loss', '--legend', 'one', 'two', '--out', out)
    assert {'one', 'two'} <= {*re.findall('<!-- (.*?) -->', out.read_text())}
    assert 'run has no epoch from --start-epoch 3 on' in run_logs(
        'plot_curve', paths[0], '--start-epoch', '3'
    )


def test_a_legend_of_another_length_is_an_error(run_logs, tmp_path):
    start(tmp_path, '1', [step(10)])
    args = 'plot_curve', tmp_path, '--keys', 'loss', 'lr', '--legend', 'one'
    assert '--legend: expected a text for each of 1 logs and 2 keys, 2 in all, got 1' in run_logs(
        *args
    )


@pytest.mark.follows('no loss or AP in common; choose --keys')
def test_logs_without_a_common_loss(run_logs, tmp_path):
    for name in 'ab':
        start(tmp_path / name, '1', [{'iter': 10, 'lr': 0.1, f'loss_{name}': 1}])
    args = 'plot_curve', tmp_path / 'a', tmp_path / 'b'
    assert 'choose --keys of: lr, loss_a\n' in run_logs(*args)
    assert run_logs(*args, '--keys', 'lr') == 'written to curves.png\n'


def test_times(run_logs, tmp_path):
    """The first record of an epoch is left out; epoch means 0.3 and 0.4, of which 0.1 loads."""
    times = [(9, 1), (0.2, 1), (0.4, 1), (9, 2), (0.4, 2)]
    records = [step(10 * i, e, time=t, data_time=0.1) for i, (t, e) in enumerate(times, 1)]
    start(tmp_path / 'run', '1', records[:3])
    start(tmp_path / 'run', '2', records[3:])
    assert run_logs('cal_train_time', tmp_path / 'run').splitlines()[:8] == [
        '-----Analyze train time of run-----',
        'slowest epoch 2, average time is 0.4000 s/iter',
        'fastest epoch 1, average time is 0.3000 s/iter',
        'time std over epochs is 0.0500',
        'average iter time: 0.3500 s/iter',
        'median iter time: 0.4000 s/iter',
        'data_time: 30.0% of the time',
        'from iteration 10 (1): 0.3000 s/iter',
    ]
    assert 'slowest epoch 2, average time is 4.7' in run_logs(
        'cal_train_time', tmp_path / 'run', '--include-outliers'
    )


def test_times_of_an_iteration_based_run_have_no_epochs(run_logs, tmp_path):
    start(tmp_path, '1', [step(10, time=0.3)])
    printed = run_logs('cal_train_time', tmp_path)
    assert 'average iter time: 0.3000 s/iter' in printed
    assert 'epoch 0' not in printed
