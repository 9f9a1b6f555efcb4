"""Training and testing spread over processes, on the CPU through gloo.

Most processes are forks of servers that have torch imported (fork_server.py), one for each rank;
what torchrun itself does is left to few tests, as it takes seconds to start.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import scalars, write_config

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).with_name('fork_server.py')
LIMIT = 60  # seconds: far from gloo's time-out of half an hour
SOON = 15  # seconds from a failure to the end of all processes
RANK_VARIABLES = {
    'pytorch': 'RANK LOCAL_RANK WORLD_SIZE',
    'slurm': 'SLURM_PROCID SLURM_LOCALID SLURM_NTASKS',
    'mpi': 'OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_SIZE',
}

PARTS = """
import json
import os
import signal

from mmengine.dist import get_rank
from mmengine.hooks import Hook

from ghmdet.registry import HOOKS


@HOOKS.register_module()
class TellHook(Hook):
    def after_val_epoch(self, runner, metrics=None):
        with open(f'metrics_{get_rank()}.json', 'w') as file:
            json.dump(metrics, file)

    after_test_epoch = after_val_epoch


@HOOKS.register_module()
class FailHook(Hook):
    def __init__(self, how):
        self.how = how

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 2 and get_rank() == 1:
            open('failed', 'w').close()
            if self.how == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError('the hook of rank 1 gives up')
"""
TELL = """
custom_imports = dict(imports=['parts_of_tests'])
custom_hooks = [dict(type='TellHook')]
val_cfg = dict(compute_loss=True)
# Padding to the largest image of a batch changes what is detected at the edge.
val_dataloader.update(batch_size=1)
test_dataloader = val_dataloader
"""
FAIL = """
custom_imports = dict(imports=['parts_of_tests'])
custom_hooks = [dict(type='FailHook', how={how!r})]
train_dataloader.update(batch_size=2)
train_cfg = dict(max_epochs=5, val_interval=9)
"""
# Two processes, one image each: in each step one of them has no objects.
ONE_HAS_OBJECTS = """
train_dataloader.update(batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader['batch_sampler'] = None
train_dataloader['dataset'].update(
    ann_file={file!r}, filter_cfg=dict(_delete_=True, filter_empty_gt=False)
)
train_cfg = dict(max_epochs=1, val_interval=9)
"""
BROKEN = """
train_dataloader.update(
    batch_size=2, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader['batch_sampler'] = None
train_dataloader['dataset'].update(ann_file={file!r}, filter_cfg=dict(_delete_=True))
"""
CONCAT = """
test_dataloader = dict(
    val_dataloader,
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(
                type='RepeatDataset',
                times=2,
                dataset=dict(
                    type='CocoDataset',
                    ann_file=file,
                    data_root=data_root,
                    data_prefix=dict(img='val/'),
                    metainfo=dict(classes=('circle', 'square', 'triangle')),
                    test_mode=True,
                    pipeline=pipeline,
                ),
            )
            for file in {files!r}
        ],
    ),
)
test_evaluator = dict(val_evaluator, check_ann_file=False)
"""


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@pytest.fixture(scope='module')
def env(tmp_path_factory):
    folder = tmp_path_factory.mktemp('parts')
    (folder / 'parts_of_tests.py').write_text(PARTS)
    return {
        **os.environ,
        'CUDA_VISIBLE_DEVICES': '',
        'PYTHONPATH': os.pathsep.join([str(folder), str(ROOT)]),
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
    }


class Ranks:
    """Processes started by hand: nobody stops one where another has failed."""

    def __init__(self, env):
        self.servers = [
            subprocess.Popen(
                [sys.executable, str(SERVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=env,
            )
            for _ in range(4)
        ]

    def __call__(self, count, program, args, cwd, launcher='pytorch'):
        port = str(free_port())
        args = [str(arg) for arg in args]
        if count > 1:
            args += ['--launcher', launcher]
        for rank, server in enumerate(self.servers[:count]):
            numbers = (str(rank), str(rank), str(count))
            env = dict(zip(RANK_VARIABLES[launcher].split(), numbers, strict=True))
            env |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
            call = dict(program=program, args=args, cwd=str(cwd), seconds=LIMIT)
            server.stdin.write(json.dumps(call | (dict(env=env) if count > 1 else {})) + '\n')
            server.stdin.flush()
        return [json.loads(server.stdout.readline()) for server in self.servers[:count]]

    def close(self):
        for server in self.servers:
            server.kill()
            server.wait()


@pytest.fixture(scope='module')
def ranks(env):
    running = Ranks(env)
    yield running
    running.close()


def succeeded(answers):
    for answer in answers:
        assert answer['code'] == 0, answer['stderr'][-3000:]


def start(command, env, cwd):
    return subprocess.Popen(
        [str(word) for word in command],
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def torchrun(*options):
    return [sys.executable, '-m', 'torch.distributed.run', *options]


# --- the same AP ------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained(ranks, shapes, tmp_path_factory):
    """Trained by two processes, and what they told of their validation."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder / 'tiny.py', shapes, TELL)
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
        config = write_config(folder / 'tiny.py', shapes, TELL + first(number, shapes))
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


def write_part(shapes, file, place, split='val', keep_objects=lambda place: True):
    content = json.loads((shapes / 'annotations' / f'{split}.json').read_text())
    content['images'] = content['images'][place]
    kept = {image['id'] for i, image in enumerate(content['images']) if keep_objects(i)}
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in kept]
    file.write_text(json.dumps(content))
    return str(file)


@pytest.mark.parametrize(
    ('number', 'count', 'round_up', 'launcher'),
    [
        (5, 2, True, 'slurm'),
        (5, 3, False, 'mpi'),
        (5, 4, True, 'pytorch'),
        (2, 3, True, 'pytorch'),
        (2, 4, False, 'pytorch'),
    ],
)
def test_ap_of_several_processes_is_that_of_one(
    ranks, shapes, trained, expected, tmp_path, number, count, round_up, launcher
):
    sampler = dict(type='DefaultSampler', shuffle=False, round_up=round_up)
    extra = f'{TELL}{first(number, shapes)}test_dataloader.update(sampler={sampler})\n'
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
    config = write_config(tmp_path / 'tiny.py', shapes, TELL + CONCAT.format(files=files))
    found = measure(ranks, config, trained[0], 3, *both_outputs(tmp_path))
    metrics, results = expected[5]
    assert found == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)
    assert read_results(tmp_path) == results


def test_format_only_writes_each_image_once(ranks, shapes, trained, expected, tmp_path):
    config = write_config(tmp_path / 'tiny.py', shapes, TELL + first(5, shapes))
    out = tmp_path / 'out.json'
    metrics = measure(ranks, config, trained[0], 2, '--format-only', '--out', out)
    assert metrics == {}
    assert json.loads(out.read_text()) == expected[5][1][1]


def test_validation_inside_of_a_training_is_that_of_one_process(trained, expected):
    told = {key: value for key, value in trained[1].items() if not key.startswith('val/')}
    assert told == pytest.approx(expected[5][0], rel=0, abs=0, nan_ok=True)
    assert trained[1]['val/loss'] > 0


# --- a training that ends well ----------------------------------------------------------------


def test_only_one_rank_has_objects(ranks, shapes, tmp_path):
    file = write_part(
        shapes, tmp_path / 'half.json', slice(6), 'train', keep_objects=lambda i: i in (0, 3, 4)
    )
    config = write_config(tmp_path / 'tiny.py', shapes, ONE_HAS_OBJECTS.format(file=file))
    succeeded(ranks(2, 'ghmdet.train', [config], tmp_path))
    losses = scalars(tmp_path / 'work_dirs' / 'tiny', 'loss_bbox')
    assert len(losses) == 3
    assert all(loss > 0 for loss in losses)


# --- one that does not ------------------------------------------------------------------------


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


@pytest.mark.parametrize('how', ['raise', 'kill'])
def test_torchrun_ends_when_a_rank_fails(env, shapes, tmp_path, how):
    config = write_config(tmp_path / 'tiny.py', shapes, FAIL.format(how=how))
    script = ROOT / 'tools' / 'dist_train.sh'
    job = start([script, config, 2], env | dict(PORT=str(free_port())), tmp_path)
    text, _ = job.communicate(timeout=2 * LIMIT)
    assert seconds_since(tmp_path / 'failed') < SOON
    assert job.returncode == 1
    if how == 'raise':
        assert 'error: rank 1: the hook of rank 1 gives up' in text
        assert 'in before_train_iter' in text
    else:
        assert 'Signal 9 (SIGKILL)' in text


# --- two hosts --------------------------------------------------------------------------------


@pytest.mark.parametrize('rendezvous', ['c10d', 'static'])
def test_two_hosts(env, shapes, trained, expected, tmp_path, rendezvous):
    config = write_config(tmp_path / 'tiny.py', shapes, TELL + first(5, shapes))
    port = str(free_port())
    jobs = []
    for node in (0, 1):
        if rendezvous == 'static':
            command = [ROOT / 'tools' / 'dist_test.sh', config, trained[0], 1]
            own = env | dict(NNODES='2', NODE_RANK=str(node), PORT=port)
        else:
            place = ['--rdzv-backend', 'c10d', '--rdzv-endpoint', f'localhost:{port}']
            command = torchrun('--nnodes', '2', *place, ROOT / 'tools' / 'test.py', config)
            command += [trained[0], '--launcher', 'pytorch']
            own = env
        jobs.append(start(command, own, tmp_path))
    for job in jobs:
        text, _ = job.communicate(timeout=2 * LIMIT)
        assert job.returncode == 0, text[-3000:]
    assert read_metrics(tmp_path, 2) == pytest.approx(expected[5][0], rel=0, abs=0, nan_ok=True)
