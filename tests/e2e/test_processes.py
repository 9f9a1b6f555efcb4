"""Training and testing spread over processes, on the CPU through gloo.

Most are forks of the server, one per rank; torchrun takes seconds to start.
"""

import json
import pickle
import subprocess
import sys
import time

import pytest

from tests.e2e.conftest import ENV, ROOT, write_config
from tests.fork_server import free_port

LIMIT = 120  # seconds: far from gloo's time-out of half an hour
SOON = 15  # seconds from a failure to the end of all processes
MEASURED = """
custom_imports = dict(imports=['tests.e2e.parts'])
custom_hooks = [dict(type='WriteMetricsHook')]
val_cfg = dict(compute_loss=True)
# Batches of another size give other rounding errors.
val_dataloader.update(batch_size=1)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file='{0}.json')
)
test_evaluator = dict(ann_file=data_root + '{0}.json')
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
PADDED = "test_dataloader.update(sampler=dict(type='DefaultSampler', shuffle=False))\n"
# Two files of which each is gone through twice.
CONCAT = """
part = dict(
    type='CocoDataset', data_root=data_root, data_prefix=dict(img='val/'), test_mode=True,
    metainfo=dict(classes=('circle', 'square', 'triangle')), pipeline=pipeline,
)
parts = [
    dict(type='RepeatDataset', times=2, dataset=dict(part, ann_file=f'{name}.json'))
    for name in ('two', 'rest')
]
test_dataloader['dataset'] = dict(_delete_=True, type='ConcatDataset', datasets=parts)
test_evaluator['check_ann_file'] = False
"""
LOADERS = dict(
    padded=PADDED,
    unpadded=PADDED.replace('shuffle=False', 'shuffle=False, round_up=False'),
    wrapped=CONCAT,
)


@pytest.fixture(scope='module')
def ranks(server):
    return server.run_ranks


@pytest.fixture(scope='module', autouse=True)
def parts(shapes):
    """Annotation files of parts of the five images."""
    for name, part in dict(two=slice(2), rest=slice(2, 5), five=slice(5)).items():
        content = json.loads((shapes / 'annotations' / 'val.json').read_text())
        content['images'] = content['images'][part]
        kept = {image['id'] for image in content['images']}
        content['annotations'] = [a for a in content['annotations'] if a['image_id'] in kept]
        (shapes / f'{name}.json').write_text(json.dumps(content))


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
    """Checkpoint of a training by two processes, and the metrics of its validation."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder / 'tiny.py', shapes, MEASURED.format('five'))
    options = ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=1']
    succeeded(ranks(2, 'ghmdet.train', [config, '--cfg-options', *options], folder))
    return folder / 'work_dirs' / 'tiny' / 'epoch_1.pth', read_metrics(folder, 2)


def read_metrics(folder, count):
    """Metrics by name, the same on all ranks."""
    texts = {(folder / f'metrics_{rank}.json').read_text() for rank in range(count)}
    assert len(texts) == 1
    return json.loads(texts.pop())


def same(metrics):
    return pytest.approx(metrics, rel=0, abs=0, nan_ok=True)


def measure(ranks, config, checkpoint, count, *args, launcher='pytorch'):
    """Metrics on all ranks."""
    answers = ranks(count, 'ghmdet.test', [config, checkpoint, *args], config.parent, launcher)
    succeeded(answers)
    assert 'not predicted' not in answers[0]['stdout'] + answers[0]['stderr']
    assert not (config.parent / '.dist_test').exists()
    return read_metrics(config.parent, count)


def measure_and_read(ranks, config, *args, **options):
    """Metrics, and the detections in both kinds of files."""
    folder = config.parent
    outputs = ('--out', folder / 'out.pkl', '--cfg-options')
    outputs += (f'test_evaluator.outfile_prefix={folder / "out.json"}',)
    metrics = measure(ranks, config, *args, *outputs, **options)
    dumped = pickle.loads((folder / 'out.pkl').read_bytes())
    pairs = [(each['img_id'], each['pred_instances']['bboxes'].tolist()) for each in dumped]
    return metrics, pairs, json.loads((folder / 'out.json').read_text())


@pytest.fixture(scope='module')
def expected(ranks, shapes, trained, tmp_path_factory):
    """What one process measures."""
    found = {}
    for name, number in dict(five=5, two=2).items():
        file = tmp_path_factory.mktemp(name) / 'tiny.py'
        config = write_config(file, shapes, MEASURED.format(name))
        found[name] = metrics, pairs, _ = measure_and_read(ranks, config, trained[0], 1)
        assert metrics['coco/bbox_mAP'] > 0
        assert [img_id for img_id, _ in pairs] == [1, 2, 3, 4, 5][:number]
    return found


@pytest.mark.parametrize(
    ('images', 'count', 'launcher', 'loader'),
    [
        ('five', 2, 'slurm', 'padded'),
        ('two', 3, 'mpi', 'unpadded'),
        ('five', 4, 'pytorch', 'padded'),
        ('five', 3, 'pytorch', 'wrapped'),
        pytest.param('five', 3, 'pytorch', 'unpadded', marks=pytest.mark.long),
        pytest.param('two', 3, 'pytorch', 'padded', marks=pytest.mark.long),
        pytest.param('two', 4, 'pytorch', 'unpadded', marks=pytest.mark.long),
    ],
)
def test_ap_of_several_processes_is_that_of_one(
    ranks, shapes, trained, expected, tmp_path, images, count, launcher, loader
):
    config = write_config(tmp_path / 'tiny.py', shapes, MEASURED.format(images) + LOADERS[loader])
    metrics, *results = measure_and_read(ranks, config, trained[0], count, launcher=launcher)
    assert metrics == same(expected[images][0])
    assert results == [*expected[images][1:]]


def test_format_only_writes_each_image_once(ranks, shapes, trained, expected, tmp_path):
    config = write_config(tmp_path / 'tiny.py', shapes, MEASURED.format('five'))
    out = tmp_path / 'out.json'
    assert measure(ranks, config, trained[0], 2, '--format-only', '--out', out) == {}
    assert json.loads(out.read_text()) == expected['five'][2]


def test_validation_inside_of_a_training_is_that_of_one_process(trained, expected):
    metrics = {key: value for key, value in trained[1].items() if not key.startswith('val/')}
    assert metrics == same(expected['five'][0])
    assert trained[1]['val/loss'] > 0


# --- trainings that fail ------------------------------------------------------------------------


@pytest.mark.follows('another process of this run has ended; see its error message')
@pytest.mark.follows('processes {} of {} did not join within {}; see their own output')
def test_a_rank_that_raises_wakes_the_others(ranks, shapes, tmp_path):
    """Started by hand, the others have only the broken connection to notice it by."""
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
    content = json.loads((shapes / 'annotations' / 'train.json').read_text())
    # The first batch is 0 to 3, of which rank 1 gets the last two.
    bad = content['images'][3]
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes((shapes / 'train' / bad['file_name']).read_bytes()[:1000])
    bad['file_name'] = str(broken)
    file = tmp_path / 'train.json'
    file.write_text(json.dumps(content))
    config = write_config(tmp_path / 'tiny.py', shapes, BROKEN.format(file=str(file)))
    answers = ranks(2, 'ghmdet.train', [config], tmp_path)
    assert [answer['code'] for answer in answers] == [1, 1]
    text = next(a['stderr'] for a in answers if str(broken) in a['stderr'])
    message = text[text.index('error: rank') :]
    assert str(broken) in message
    assert f'id {bad["id"]}' in message
    assert 'Traceback' in text


# --- torchrun ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('script', 'args'), [('dist_train.sh', ['a.py']), ('dist_test.sh', ['a.py', 'b.pth'])]
)
def test_scripts_hand_their_arguments_on(tmp_path, script, args):
    fake = tmp_path / 'torchrun'
    fake.write_text('#!/bin/sh\necho "$@" $PET_SIGNALS_TO_HANDLE\n')
    fake.chmod(0o755)
    env = dict(PATH=f'{tmp_path}:{ENV["PATH"]}', NNODES='2', NODE_RANK='1', PORT='7')
    command = [ROOT / 'tools' / script, *args, '4', '--amp']
    tool = ROOT / 'tools' / script.removeprefix('dist_').replace('.sh', '.py')
    words = finish(start(command, tmp_path, **env)).split()
    expected = '--nnodes=2 --node_rank=1 --master_addr=127.0.0.1 --master_port=7 --nproc_per_node=4'
    expected = [*expected.split(), str(tool), *args, '--launcher', 'pytorch', '--amp']
    assert words[: len(expected)] == expected
    assert ('SIGUSR1' in words[-1]) == (script == 'dist_train.sh')
    usage = start(command[:-2], tmp_path, **env)
    assert f'tools/{script} CONFIG' in finish(usage)
    assert usage.returncode == 2


@pytest.mark.long
@pytest.mark.parametrize('how', ['raise', 'kill'])
def test_torchrun_ends_when_a_rank_fails(shapes, tmp_path, how):
    config = write_config(tmp_path / 'tiny.py', shapes, FAIL.format(how=how))
    job = start([ROOT / 'tools' / 'dist_train.sh', config, 2], tmp_path, PORT=str(free_port()))
    text = finish(job)
    assert seconds_since(tmp_path / 'failed') < SOON
    assert job.returncode == 1
    expected = {'raise': 'error: rank 1: the hook of rank 1 gives up', 'kill': 'Signal 9 (SIGKILL)'}
    assert expected[how] in text


@pytest.mark.long
@pytest.mark.parametrize('rendezvous', ['c10d', 'static'])
def test_two_hosts(shapes, trained, expected, tmp_path, rendezvous):
    config = write_config(tmp_path / 'tiny.py', shapes, MEASURED.format('five'))
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
    assert read_metrics(tmp_path, 2) == same(expected['five'][0])
