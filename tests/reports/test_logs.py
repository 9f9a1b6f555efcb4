"""Logs of ghmdet, of MMDetection 3.x and 2.x, as they write them."""

import json
import math

import pytest

from ghmdet.reports.logs import read_log


def write(file, records, end='\n'):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n'.join(json.dumps(record) for record in records) + end)
    return file


def step(done, epoch=None, **values):
    """A record of training, as mmengine's LoggerHook writes it."""
    epochs = {} if epoch is None else {'epoch': epoch}
    return {'lr': 0.1, 'loss': 1 / done, **values, **epochs, 'iter': done, 'step': done}


def validation(at, ap):
    return {'coco/bbox_mAP': ap, 'data_time': 0.1, 'time': 0.2, 'step': at}


def start(work_dir, name, records, end='\n'):
    return write(work_dir / name / 'vis_data' / 'scalars.json', records, end)


# Of 7 iterations an epoch, logged every third.
EPOCHS = [step(3, 1), step(6, 1), 1, step(10, 2), step(13, 2), 2, step(17, 3), step(20, 3), 3]


@pytest.mark.parametrize('at', [lambda epoch: epoch, lambda epoch: 7 * epoch])
def test_metrics_stand_at_the_iteration_of_the_validation(tmp_path, at):
    """MMDetection's log has the epoch as their `step`, ours the iteration."""
    records = [validation(at(r), r / 10) if isinstance(r, int) else r for r in EPOCHS]
    log = read_log(start(tmp_path, '1', records))
    assert log.epoch_length() == 7
    assert log.column('bbox_mAP') == ([7, 14, 21], [0.1, 0.2, 0.3])
    assert [record['epoch'] for record in log.val] == [1, 2, 3]


def test_the_interval_of_the_log_tells_the_length_of_an_epoch(tmp_path):
    """COCO on 8 GPUs: 7330 iterations, a record each 50; the bounds alone allow 7328 to 7334."""
    records = [
        step((epoch - 1) * 7330 + done, epoch)
        for epoch in range(1, 13)
        for done in range(50, 7330, 50)
    ]
    assert read_log(start(tmp_path, '1', [*records, validation(12, 0.3)])).val[0]['iter'] == 87960


@pytest.mark.parametrize('at', [(0, 0), (40, 80)])
def test_an_iteration_based_run_has_metrics_at_iterations(tmp_path, at):
    """Before, all had step 0: they stand at the last record of training before them."""
    records = [step(20), step(40), validation(at[0], 0.1), step(60), step(80)]
    log = read_log(start(tmp_path, '1', [*records, validation(at[1], 0.2)]))
    assert log.column('coco/bbox_mAP') == ([40, 80], [0.1, 0.2])
    assert log.epoch_length() is None
    assert 'epoch' not in log.val[0]


def test_a_later_start_counts_from_its_first_iteration_on(tmp_path):
    bins = {'ghm/loss_cls/bin_00': 5, 'step': 40}
    first = [step(10, 1), step(20, 1), validation(1, 0.1), step(30, 2), step(40, 2), bins]
    start(tmp_path / 'run', '20260101', [*first, validation(2, 0.9)])
    second = [step(30, 2, loss=7), step(40, 2, loss=8), bins, validation(2, 0.2)]
    start(tmp_path / 'run', '20260102', second)
    start(tmp_path / 'run', '20260103', [validation(0, 0.5)])  # a validation alone
    log = read_log(tmp_path / 'run')
    assert log.name == 'run'
    assert log.column('loss') == ([10, 20, 30, 40], [0.1, 0.05, 7, 8])
    assert log.column('bbox_mAP') == ([20, 40], [0.1, 0.2])
    assert log.ghm == [{'ghm/loss_cls/bin_00': 5, 'iter': 40}]
    assert log.starts == {'20260101': 10, '20260102': 30}
    assert read_log(tmp_path / 'run' / '20260101').column('bbox_mAP') == ([20, 40], [0.1, 0.9])


def test_a_run_begun_anew_hides_what_was_before(tmp_path):
    for name, loss in (('1', 1), ('2', 2)):
        start(tmp_path, name, [step(done, loss=loss) for done in (10, 20)][: 3 - loss])
    log = read_log(tmp_path)
    assert (log.column('loss'), log.starts) == (([10], [2]), {'2': 10})


@pytest.mark.parametrize(('at', 'epoch'), [(2, 2), (20, 2), (0, None), (20, None)])
def test_a_start_that_first_validates_replaces_that_validation(tmp_path, at, epoch):
    """A checkpoint is saved before the validation that is due, which a resumed run repeats."""
    start(tmp_path, '1', [step(10, epoch and 1), step(20, epoch), validation(at, 0.4)])
    start(tmp_path, '2', [validation(at, 0.5), step(30, epoch and 3)])
    assert read_log(tmp_path).column('bbox_mAP') == ([20], [0.5])


@pytest.mark.parametrize(('at', 'epoch'), [(60, {}), (65, {'epoch': 2}), (2, {'epoch': 2})])
def test_a_start_that_only_validates_has_the_validation_at_the_end(tmp_path, at, epoch):
    """The training was stopped in its last validation, which the next start repeats."""
    first = [step(20, **epoch), validation(20, 0.1), step(40, **epoch), step(60, **epoch)]
    start(tmp_path, '1', first)
    start(tmp_path, '2', [validation(at, 0.3)])
    log = read_log(tmp_path)
    assert log.column('bbox_mAP') == ([20, max(at, 60)], [0.1, 0.3])
    assert [record['iter'] for record in log.train] == [20, 40, 60]
    assert [*log.starts] == ['1']
    start(tmp_path, '3', [validation(0, 0.9)])  # of no training
    assert read_log(tmp_path).column('bbox_mAP')[1] == [0.1, 0.3]


@pytest.mark.parametrize('end', ['\n{"lr": 0.1, "lo', '\n{"lr": 0.1}\n{', '\n\n', '\n\0\0\0\0'])
def test_a_last_line_that_is_cut_off_is_left_out(tmp_path, end):
    assert len(read_log(start(tmp_path, '1', [step(10), step(20)], end)).train) == 2


def test_values_that_are_not_finite_are_read(tmp_path):
    odd = step(20, loss=math.nan, loss_cls=math.inf, loss_bbox=None, note='text')
    log = read_log(start(tmp_path, '1', [step(10), odd]))
    assert math.isnan(log.column('loss')[1][1])
    assert log.column('loss_cls') == ([20], [math.inf])
    assert math.isnan(log.column('loss_bbox')[1][0])
    assert 'note' not in log.keys


def old(mode, epoch, number, **values):
    return {'mode': mode, 'epoch': epoch, 'iter': number, 'lr': 0.1, **values}


def test_logs_of_mmdetection_2_count_within_the_epoch(tmp_path):
    """The first line is the environment, `iter` of a validation the length of its loader."""
    records = [{'env_info': 'sys.platform: linux', 'seed': 0}]
    for epoch in (1, 2):
        records += [old('train', epoch, done, loss=epoch) for done in (50, 100)]
        records += [old('val', epoch, 5000, bbox_mAP=epoch / 10)]
    write(tmp_path / '20210101_000000.log.json', records)
    log = read_log(tmp_path)
    assert log.column('loss') == ([50, 100, 150, 200], [1, 1, 2, 2])
    assert log.column('coco/bbox_mAP') == ([100, 200], [0.1, 0.2])
    assert read_log(tmp_path / '20210101_000000.log.json').name == '20210101_000000'


def test_iteration_based_logs_of_mmdetection_2_count_on(tmp_path):
    records = [old('train', 1, 50), old('train', 2, 100, loss=1), old('val', 2, 5000, bbox_mAP=0.1)]
    log = read_log(write(tmp_path / 'a.log.json', records))
    assert (log.column('loss')[0], log.column('bbox_mAP')) == ([100], ([100], [0.1]))


def test_a_missing_key_is_named_with_those_that_there_are(tmp_path):
    log = read_log(start(tmp_path, 'run', [step(10)]))
    with pytest.raises(
        ValueError, match="run has no 'bbox_mAP', and no validation; it has lr, los"
    ):
        log.column('bbox_mAP')
    with pytest.raises(ValueError, match='did you mean loss'):
        log.column('los')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'a.json: no record of training .*, as of fewer iterations than default_hooks.log'),
        ('{"loss": 1}\nnot JSON\n{"loss": 1}', "a.json, line 2: no record of a log: 'not JSON'"),
        ('[1, 2]', r"a.json, line 1: no record of a log: '\[1, 2\]'"),
        (
            '2026/11/29 05:46:58 - mmengine - INFO',
            'a.json, line 1: .*give the work dir of a traini',
        ),
        ('{"images": [], "annotations": []}', 'a.json: no record of training'),
    ],
)
def test_what_is_no_log_is_named(tmp_path, content, message):
    file = tmp_path / 'a.json'
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_log(file)


def test_a_missing_log_is_named(tmp_path):
    (tmp_path / 'Run').mkdir()
    with pytest.raises(FileNotFoundError, match='run has no log of a training, but there is .*Run'):
        read_log(tmp_path / 'run')
    with pytest.raises(FileNotFoundError, match='Run has no log of a training; give the work dir'):
        read_log(tmp_path / 'Run')


def test_an_empty_file_of_a_start_that_ended_at_once_is_left_out(tmp_path):
    start(tmp_path, '1', [step(10)])
    start(tmp_path, '2', [], end='')
    assert len(read_log(tmp_path).train) == 1


@pytest.mark.follows('give the work dir of a training, or its file')
def test_the_advice_of_these_messages(tmp_path):
    """Both the work dir and its file give the log."""
    file = start(tmp_path / 'run', '20260101', [step(10)])
    (tmp_path / 'run' / '20260101' / '20260101.log').write_text('2026/11/29 - mmengine')
    with pytest.raises(ValueError, match='give the work dir of a training, or its file'):
        read_log(tmp_path / 'run' / '20260101' / '20260101.log')
    assert (
        read_log(tmp_path / 'run').train
        == read_log(file).train
        == [{'lr': 0.1, 'loss': 0.1, 'iter': 10}]
    )
