"""Training and testing spread over processes, on the CPU through gloo.

Most are forks of the server, one per rank; torchrun takes seconds to start.
"""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import ENV, ROOT, write_config
from tests.fork_server import free_port

LIMIT = 120  # seconds: far from gloo's time-out of half an hour
SOON = 15  # seconds from a failure to the end of all processes
MEASURED = """
custom_imports = dict(imports=['tests.e2e.parts'])
custom_hooks = [dict(type='WriteMetricsHook')]
val_cfg = dict(compute_loss=True)
# Padding to the largest image of a batch changes what is detected at the edge.
val_dataloader.update(batch_size=1)
test_dataloader = val_dataloader
"""
FAIL = """
custom_imports = dict(imports=['tests.e2e.parts'])
custom_hooks = [dict(type='FailHook', how={how!r})]
train_dataloader.update(batch_size=2)
train_cfg = dict(max_epochs=5, val_interval=9)
"""
BROKEN = """
train_dataloader.update(
    batch_size=2, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader['batch_sampler'] = None
train_dataloader['dataset'].update(ann_file={file!r}, filter_cfg=dict(_delete_=True))
"""
CONCAT = """
part = dict(
    type='CocoDataset', data_root=data_root, data_prefix=dict(img='val/'), test_mode=True,
    metainfo=dict(classes=('circle', 'square', 'triangle')), pipeline=pipeline,
)
parts = [dict(type='RepeatDataset', times=2, dataset=dict(part, ann_file=f)) for f in {files!r}]
test_dataloader = dict(
    val_dataloader, dataset=dict(_delete_=True, type='ConcatDataset', datasets=parts)
)
test_evaluator = dict(val_evaluator, check_ann_file=False)
"""


@pytest.fixture(scope='module')
def ranks(server):
    return server.run_ranks


def succeeded(answers):
    for answer in answers:
        assert answer['code'] == 0, answer['stderr'][-3000:]


def start(command, cwd, **env):
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    command = [str(word) for word in command]
    return subprocess.Popen(command, env=ENV | env, cwd=cwd, **streams)


def finish(job):
    """Wait for a job; return what it wrote."""
    try:
        return job.communicate(timeout=LIMIT)[0]
    finally:
        job.kill()


# --- the same AP ------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained(ranks, shapes, tmp_path_factory):
    """Trained by two processes, and what they told of their validation."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder / 'tiny.py', shapes, MEASURED)
    options = ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=1']
    succeeded(ranks(2, 'ghmdet.train', [config, '--cfg-options', *options], folder))
    return folder / 'work_dirs' / 'tiny' / 'epoch_1.pth', read_metrics(folder, 2)


def read_metrics(folder, count):
    """Metrics by name, the same on all ranks."""
    told = [(folder / f'metrics_{rank}.json').read_text() for rank in range(count)]
    assert len(set(told)) == 1
    return json.loads(told[0])


def measure(ranks, config, checkpoint, count, *args, launcher='pytorch'):
    """What all ranks say that the metrics are."""
    answers = ranks(count, 'ghmdet.test', [config, checkpoint, *args], config.parent, launcher)
    succeeded(answers)
    assert 'not predicted' not in answers[0]['stdout'] + answers[0]['stderr']
    assert not (config.parent / '.dist_test').exists()
    return read_metrics(config.parent, count)


@pytest.fixture(scope='module')
def expected(ranks, shapes, trained, tmp_path_factory):
    """Metrics and results of one process: of five images, and of two."""
    found = {}
    for number in (5, 2):
        folder = tmp_path_factory.mktemp(f'one_{number}')
        config = write_config(folder / 'tiny.py', shapes, MEASURED + first(number, shapes))
        metrics = measure(ranks, config, trained[0], 1, *both_outputs(folder))
        assert metrics['coco/bbox_mAP'] > 0
        found[number] = metrics, read_results(folder)
        dumped, _ = found[number][1]
        assert [img_id for img_id, _ in dumped] == [1, 2, 3, 4, 5][:number]
    return found


def both_outputs(folder):
    json_file = folder / 'out.json'
    return (
        '--out',
        folder / 'out.pkl',
        '--cfg-options',
        f'test_evaluator.outfile_prefix={json_file}',
    )


def read_results(folder):
    """What was detected, of both files."""
    dumped = pickle.loads((folder / 'out.pkl').read_bytes())
    pairs = [(each['img_id'], each['pred_instances']['bboxes'].tolist()) for each in dumped]
    return pairs, json.loads((folder / 'out.json').read_text())


def first(number, shapes):
    """Config of a test of the first images only."""
    file = shapes / f'first_{number}.json'
    if not file.exists():
        write_part(shapes, file, slice(number))
    return f"""
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file={str(file)!r})
)
test_evaluator = dict(ann_file={str(file)!r})
"""


def write_part(shapes, file, place, split='val'):
    content = json.loads((shapes / 'annotations' / f'{split}.json').read_text())
    content['images'] = content['images'][place]
    kept = {image['id'] for image in content['images']}
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in kept]
    file.write_text(json.dumps(content))
    return str(file)


@pytest.mark.parametrize(
    ('number', 'count', 'round_up', 'launcher'),
    [
        (5, 2, True, 'slurm'),
        (2, 3, False, 'mpi'),
        (5, 4, True, 'pytorch'),
        *(
            pytest.param(*each, 'pytorch', marks=pytest.mark.long)
            for each in [(5, 3, False), (2, 3, True), (2, 4, False)]
        ),
    ],
)
def test_ap_of_several_processes_is_that_of_one(
    ranks, shapes, trained, expected, tmp_path, number, count, round_up, launcher
):
    sampler = dict(type='DefaultSampler', shuffle=False, round_up=round_up)
    extra = f'{MEASURED}{first(number, shapes)}test_dataloader.update(sampler={sampler})\n'
    config = write_config(tmp_path / 'tiny.py', shapes, extra)
    args = both_outputs(tmp_path)
    found = measure(ranks, config, trained[0], count, *args, launcher=launcher)
    metrics, results = expected[number]
    assert found == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)
    assert read_results(tmp_path) == results


def test_ap_of_wrapped_datasets(ranks, shapes, trained, expected, tmp_path):
    """Two files of which each is gone through twice; three processes."""
    parts = (slice(0, 2), slice(2, 5))
    files = [write_part(shapes, tmp_path / f'{i}.json', part) for i, part in enumerate(parts)]
    config = write_config(tmp_path / 'tiny.py', shapes, MEASURED + CONCAT.format(files=files))
    found = measure(ranks, config, trained[0], 3, *both_outputs(tmp_path))
    metrics, results = expected[5]
    assert found == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)
    assert read_results(tmp_path) == results


def test_format_only_writes_each_image_once(ranks, shapes, trained, expected, tmp_path):
    config = write_config(tmp_path / 'tiny.py', shapes, MEASURED + first(5, shapes))
    out = tmp_path / 'out.json'
    metrics = measure(ranks, config, trained[0], 2, '--format-only', '--out', out)
    assert metrics == {}
    assert json.loads(out.read_text()) == expected[5][1][1]


def test_validation_inside_of_a_training_is_that_of_one_process(trained, expected):
    told = {key: value for key, value in trained[1].items() if not key.startswith('val/')}
    assert told == pytest.approx(expected[5][0], rel=0, abs=0, nan_ok=True)
    assert trained[1]['val/loss'] > 0


# --- trainings that fail ------------------------------------------------------------------------


def test_a_rank_that_raises_wakes_the_others(ranks, shapes, tmp_path):
    """Started by hand, the others have nobody but the broken connection to tell them."""
    config = write_config(tmp_path / 'tiny.py', shapes, FAIL.format(how='raise'))
    other, failed = ranks(2, 'ghmdet.train', [config], tmp_path)
    assert (other['code'], failed['code']) == (1, 1)
    assert 'in before_train_iter' in failed['stderr']
    assert 'error: rank 1: the hook of rank 1 gives up' in failed['stderr']
    assert 'error: rank 0: another process of this run has ended' in other['stderr']
    assert seconds_since(tmp_path / 'failed') < SOON


def seconds_since(file):
    return time.time() - file.stat().st_mtime


def test_a_broken_image_names_itself(ranks, shapes, tmp_path):
    """Of one rank only, in a loader worker."""
    file = Path(write_part(shapes, tmp_path / 'train.json', slice(None), 'train'))
    content = json.loads(file.read_text())
    # The first batch is 0 to 3, of which rank 1 gets the last two.
    bad = content['images'][3]
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes((shapes / 'train' / bad['file_name']).read_bytes()[:1000])
    bad['file_name'] = str(broken)
    file.write_text(json.dumps(content))
    config = write_config(tmp_path / 'tiny.py', shapes, BROKEN.format(file=str(file)))
    answers = ranks(2, 'ghmdet.train', [config], tmp_path)
    assert [answer['code'] for answer in answers] == [1, 1]
    text = next(a['stderr'] for a in answers if str(broken) in a['stderr'])
    message = text[text.index('error: rank') :]
    assert str(broken) in message
    assert f'id {bad["id"]}' in message
    assert 'Traceback' in text


@pytest.mark.parametrize('how', [pytest.param('raise', marks=pytest.mark.long), 'kill'])
def test_torchrun_ends_when_a_rank_fails(shapes, tmp_path, how):
    config = write_config(tmp_path / 'tiny.py', shapes, FAIL.format(how=how))
    script = ROOT / 'tools' / 'dist_train.sh'
    job = start([script, config, 2], tmp_path, PORT=str(free_port()))
    text = finish(job)
    assert seconds_since(tmp_path / 'failed') < SOON
    assert job.returncode == 1
    if how == 'raise':
        assert 'error: rank 1: the hook of rank 1 gives up' in text
        assert 'in before_train_iter' in text
    else:
        assert 'Signal 9 (SIGKILL)' in text


# --- two hosts --------------------------------------------------------------------------------


@pytest.mark.parametrize('rendezvous', [pytest.param('c10d', marks=pytest.mark.long), 'static'])
def test_two_hosts(shapes, trained, expected, tmp_path, rendezvous):
    config = write_config(tmp_path / 'tiny.py', shapes, MEASURED + first(5, shapes))
    port = str(free_port())
    jobs = []
    for node in (0, 1):
        if rendezvous == 'static':
            command = [ROOT / 'tools' / 'dist_test.sh', config, trained[0], 1]
            env = dict(NNODES='2', NODE_RANK=str(node), PORT=port)
        else:
            command = [sys.executable, '-m', 'torch.distributed.run', '--nnodes', '2']
            command += ['--rdzv-backend', 'c10d', '--rdzv-endpoint', f'localhost:{port}']
            command += [ROOT / 'tools' / 'test.py', config, trained[0], '--launcher', 'pytorch']
            env = {}
        jobs.append(start(command, tmp_path, **env))
    for job in jobs:
        text = finish(job)
        assert job.returncode == 0, text[-3000:]
    assert read_metrics(tmp_path, 2) == pytest.approx(expected[5][0], rel=0, abs=0, nan_ok=True)
