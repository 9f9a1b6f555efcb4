"""Advice of `checkpoint`."""

import errno
import importlib
import os
import re
import shutil
import sys
from functools import partial

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file

import ghmdet.test
from ghmdet.checkpoint import download, load_hook, save_hook
from ghmdet.checkpoint.download import TIMEOUT_VARIABLE
from ghmdet.checkpoint.reader import TRUST_VARIABLE
from ghmdet.engine import CheckpointError
from ghmdet.registry import METRICS
from tests.advice import advice
from tests.advice.conftest import change_checkpoint, edit, options
from tests.checkpoint.test_download import ONES, check_ones, publish, site  # noqa: F401

SHAPES = 'circle', 'square', 'triangle'
LOAD = options('load_from=checkpoint.pth')
MORE = options('train_cfg.max_epochs=2')
RESUME = '--resume checkpoint.pth'
MATCH = (
    ' default_hooks.load_weights.type=LoadWeightsHook default_hooks.load_weights.match_classes=True'
)
TWO_CLASSES = (
    options('model.bbox_head.num_classes=2'),
    '\n'.join(
        f"{split}_dataloader = dict(dataset=dict(metainfo=dict(classes=('circle', 'square'))))"
        for split in ('train', 'val', 'test')
    ),
)
STRANGE = "val_evaluator = [dict(type='StrangeMetric'), dict(type='CocoMetric')]"
OTHER_ORDER = (
    "test_dataloader = dict(dataset=dict(metainfo=dict(classes=('square', 'circle', 'triangle'))))"
)
RENAMED = tuple(
    edit(lambda data: data['categories'][2].update(name='delta'), split)
    for split in ('train', 'val')
) + (
    '\n'.join(
        f"{split}_dataloader = dict(dataset=dict(metainfo=dict(classes=('circle', 'square', "
        "'delta'))))"
        for split in ('train', 'val', 'test')
    ),
)


@METRICS.register_module(force=True)
class StrangeMetric(BaseMetric):
    """A value of which nobody knows whether it should be large or small."""

    default_prefix = 'strange'

    def process(self, data_batch, data_samples):
        self.results.append(dict(img_id=0))

    def compute_metrics(self, results):
        return dict(number=1.0)


def publish_weights(checkpoint):
    return dict(state_dict=checkpoint['state_dict'], meta=dict(epoch=1))


def forget_classes(checkpoint):
    checkpoint['meta'].pop('dataset_meta', None)


def name_classes(*names):
    def act(checkpoint):
        checkpoint['meta']['dataset_meta'] = dict(classes=names)

    return change_checkpoint(act)


def of_another_program(checkpoint):
    prefix = 'backbone.'
    weights = {
        f'siamese.left.encoder.body.{name.removeprefix(prefix)}': value
        for name, value in checkpoint['state_dict'].items()
        if name.startswith(prefix)
    }
    return dict(state_dict=dict(weights, **{'decoder.weight': torch.zeros(9)}))


@pytest.mark.parametrize(
    ('part', 'wrong', 'right'),
    [
        advice(
            'leave --resume (resume=True) out and set `--cfg-options load_from=...`',
            (change_checkpoint(publish_weights), RESUME),
            (change_checkpoint(publish_weights), LOAD),
        ),
        advice(
            'Resume with the config of that run',
            (options('model.bbox_head.stacked_convs=2', 'train_cfg.max_epochs=2'), RESUME),
            (MORE, RESUME),
        ),
        advice(
            '. To copy the rows of classes with the same name: --cfg-options',
            (*TWO_CLASSES, LOAD),
            (*TWO_CLASSES, LOAD + MATCH),
        ),
        advice(
            'Leave match_classes out',
            (change_checkpoint(forget_classes), LOAD + MATCH),
            (change_checkpoint(forget_classes), LOAD),
        ),
        advice(
            "or save the names: checkpoint['meta'] = dict(dataset_meta=dict(classes=(...)))",
            (change_checkpoint(forget_classes), LOAD + MATCH),
            (name_classes('circle', 'square', 'triangle'), LOAD + MATCH),
        ),
        advice(
            'Correct the names in the file or leave match_classes out',
            (name_classes('circle', 'square'), LOAD + MATCH),
            (name_classes('circle', 'square', 'triangle'), LOAD + MATCH),
        ),
        advice(
            'a part of one is chosen by init_cfg=dict(',
            (change_checkpoint(of_another_program), LOAD),
            (
                change_checkpoint(of_another_program),
                "model = dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', "
                "checkpoint='checkpoint.pth', prefix='siamese.left.encoder.body')))",
            ),
        ),
        advice(
            'choose another with --work-dir or work_dir in the config',
            '--work-dir small.py',
            '--work-dir out',
        ),
        advice(
            "set default_hooks.checkpoint.save_best and rule ('greater' or 'less')",
            (STRANGE, options('default_hooks.checkpoint.save_best=auto')),
            (
                STRANGE,
                options(
                    'default_hooks.checkpoint.save_best=strange/number',
                    'default_hooks.checkpoint.rule=less',
                ),
            ),
        ),
        advice(
            'or save_best=None',
            (STRANGE, options('default_hooks.checkpoint.save_best=auto')),
            (STRANGE, options('default_hooks.checkpoint.save_best=None')),
        ),
    ],
)
def test_what_is_to_be_set(part, wrong, right, follow):
    follow(part, wrong, right)


@pytest.mark.follows('was trained on other classes than the dataset has')
@pytest.mark.parametrize(
    'right',
    [
        lambda names: OTHER_ORDER.replace("('square', 'circle', 'triangle')", names),
        lambda names: 'test_dataloader = dict(dataset=dict(metainfo=None))',
    ],
    ids=['set', 'left out'],
)
def test_other_classes(right, run):
    first = run(OTHER_ORDER, program=ghmdet.test)
    names = re.search(r'metainfo=dict\(classes=(\(.*?\))\)', first.error)[1]
    assert 'or leave them out for a test' in first.error
    then = run(right(names), program=ghmdet.test)
    assert then.code == 0, then.error
    assert then.ap


def test_other_names_of_the_same_classes(run):
    first = run(*RENAMED, program=ghmdet.test)
    hook = re.search(r'set default_hooks.load_weights=(dict\(.*\))', first.error)[1]
    then = run(*RENAMED, f'default_hooks = dict(load_weights={hook})', program=ghmdet.test)
    assert then.code == 0, then.error


@pytest.mark.follows('Give the config that the file was trained with')
def test_a_test_of_another_network(run):
    deeper = options('model.bbox_head.stacked_convs=2')
    first = run(deeper, program=ghmdet.test)
    assert 'Give the config that the file was trained with, or another file' in first.error
    assert run(program=ghmdet.test).code == 0
    of_deeper = run(deeper).folder / 'work_dirs/tiny/epoch_1.pth'
    copy = partial(shutil.copy, of_deeper)
    then = run(deeper, lambda to: copy(to / 'checkpoint.pth'), program=ghmdet.test)
    assert then.code == 0, then.error


@pytest.mark.follows('or train from the file first: load_from')
def test_a_test_with_fewer_classes(run):
    first = run(*TWO_CLASSES, program=ghmdet.test)
    assert 'or train from the file first: load_from' in first.error
    trained = run(*TWO_CLASSES, LOAD)
    assert trained.code == 0, trained.error
    new = trained.folder / 'work_dirs/tiny/epoch_1.pth'
    then = run(
        *TWO_CLASSES,
        lambda folder: shutil.copy(new, folder / 'checkpoint.pth'),
        program=ghmdet.test,
    )
    assert then.code == 0, then.error


@pytest.mark.follows('match_classes=True needs the class names of the training dataset')
def test_names_for_the_rows(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(load_hook, '_names', lambda runner, split: None)  # of any other dataset
        first = run(LOAD + MATCH)
    assert 'train_dataloader.dataset has no metainfo.classes' in first.error
    then = run(
        f'train_dataloader = dict(dataset=dict(metainfo=dict(classes={SHAPES})))', LOAD + MATCH
    )
    assert '3 of 3 classes copied' in then.text


@pytest.mark.follows('none of the {} checkpoints of {} can be read')
@pytest.mark.parametrize('how', ['restore', 'name another', 'begin'])
def test_no_checkpoint_can_be_read(how, run):
    def damage(folder):
        (folder / 'work_dirs/tiny').mkdir(parents=True)
        (folder / 'work_dirs/tiny/epoch_1.pth').write_bytes(b'PK')

    first = run(damage, '--resume', MORE)
    assert 'Restore a complete copy of one, name another with --resume FILE, or' in first.error
    if how == 'restore':
        shutil.copy(first.folder / 'checkpoint.pth', first.folder / 'work_dirs/tiny/epoch_1.pth')
    args = dict(zip(('restore', 'name another', 'begin'), ('--resume', RESUME, ''), strict=True))
    then = run(*filter(None, [args[how]]), MORE, inside=first.folder)
    assert then.code == 0, then.error
    assert ('iteration 1' in then.text) == (how != 'begin')
    assert (first.folder / 'work_dirs/tiny/epoch_2.pth').exists()


@pytest.mark.follows('has checkpoints of an earlier run')
def test_an_earlier_run(run):
    folder = run().folder
    first = run(inside=folder)
    assert '--resume continues the earlier run; --work-dir sets another folder' in first.text
    then = run('--resume', MORE, inside=folder)
    assert 'resuming from' in then.text
    other = run('--work-dir other', inside=folder)
    for each in (then, other):
        assert each.code == 0, each.error
        assert 'earlier run:' not in each.text
    assert (folder / 'other/epoch_1.pth').exists()


@pytest.mark.follows('There is no earlier checkpoint; make room and start again')
@pytest.mark.follows('(a smaller default_hooks.checkpoint.max_keep_ckpts keeps fewer files)')
def test_a_full_disk(run, monkeypatch):
    def fail_at(epoch):
        def publish(source, target):
            if target.name == f'epoch_{epoch}.pth':
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(source, target)

        monkeypatch.setattr(save_hook, 'publish', publish)

    original = save_hook.publish
    fail_at(1)
    first = run(MORE)
    assert 'There is no earlier checkpoint; make room and start again' in first.error
    fail_at(2)
    second = run(MORE, inside=first.folder)
    assert 'make room (a smaller default_hooks.checkpoint.max_keep_ckpts' in second.error
    monkeypatch.setattr(save_hook, 'publish', original)
    then = run(MORE + ' default_hooks.checkpoint.max_keep_ckpts=1', '--resume', inside=first.folder)
    assert then.code == 0, then.error
    assert 'after epoch 1' in then.text
    assert [f.name for f in first.folder.glob('work_dirs/tiny/epoch_*')] == ['epoch_2.pth']


@pytest.mark.follows(
    '{} must be a number of seconds above 0', '(the limit is {} s; {} sets another)'
)
def test_the_limit_of_a_download(site, monkeypatch):  # noqa: F811
    url = f'{site.address}/{publish(site.folder, ONES)}'
    monkeypatch.setenv(TIMEOUT_VARIABLE, 'soon')
    with pytest.raises(CheckpointError, match='must be a number of seconds above 0'):
        download.load_from_http(url)
    monkeypatch.setenv(TIMEOUT_VARIABLE, '0.2')
    site.fault = 'silent'
    with pytest.raises(CheckpointError, match=f'the limit is 0.2 s; {TIMEOUT_VARIABLE} sets'):
        download.load_from_http(url)
    site.fault = ''
    monkeypatch.setenv(TIMEOUT_VARIABLE, '60')
    check_ones(download.load_from_http(url))


@pytest.mark.follows('a local file is given by its path alone')
def test_a_path_as_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(ONES, 'ones.pth')
    with pytest.raises(CheckpointError, match='file:// is not one of .*its path alone'):
        CheckpointLoader.load_checkpoint('file://ones.pth')
    check_ones(CheckpointLoader.load_checkpoint('ones.pth'))


# --- files that are no checkpoints --------------------------------------------------------------


class Thing:
    """A class that checkpoints need not have."""


@pytest.mark.follows('If you trust whoever made it, set {}=1 in the environment and run again')
def test_a_file_that_needs_code(run, monkeypatch):
    wrong = change_checkpoint(lambda checkpoint: checkpoint.update(thing=Thing()))
    first = run(wrong, LOAD)
    variable = re.search(r'set (\w+)=1 in the environment', first.error)[1]
    monkeypatch.setenv(variable, '1')
    then = run(wrong, LOAD)
    assert then.code == 0, then.error


@pytest.mark.follows('read it where that can be imported, and save the weights alone')
def test_a_file_that_needs_other_code(run, tmp_path, monkeypatch):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (elsewhere / 'far_away.py').write_text('class Thing:\n    pass\n')

    def damage(folder):
        with monkeypatch.context() as patch:
            patch.syspath_prepend(elsewhere)
            thing = importlib.import_module('far_away').Thing()
            change_checkpoint(lambda checkpoint: checkpoint.update(thing=thing))(folder)
        del sys.modules['far_away']

    def save_alone(folder):
        with monkeypatch.context() as patch:
            patch.syspath_prepend(elsewhere)
            weights = torch.load(folder / 'checkpoint.pth', weights_only=False)['state_dict']
        torch.save(dict(state_dict=weights), folder / 'new.pth')
        del sys.modules['far_away']

    monkeypatch.setenv(TRUST_VARIABLE, '1')
    first = run(damage, LOAD)
    assert "torch.save(dict(state_dict=...), 'new.pth')" in first.error
    monkeypatch.delenv(TRUST_VARIABLE)
    then = run(damage, save_alone, options('load_from=new.pth'))
    assert then.code == 0, then.error


def safetensors(name):
    def act(folder):
        weights = torch.load(folder / 'checkpoint.pth', weights_only=False)['state_dict']
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / name)

    return act


def cut(folder):
    os.truncate(folder / 'checkpoint.pth', 9999)


@pytest.mark.parametrize(
    ('part', 'wrong', 'right'),
    [
        advice('take an earlier checkpoint or fetch it again', (cut, LOAD), LOAD),
        advice(
            'Give the .pth file itself',
            options('load_from=small.py'),
            options('load_from=checkpoint.pth'),
        ),
        advice(
            '(a safetensors file must be called .safetensors)',
            (safetensors('model.bin'), options('load_from=model.bin')),
            (safetensors('model.safetensors'), options('load_from=model.safetensors')),
        ),
    ],
)
def test_files_of_other_kinds(part, wrong, right, follow):
    follow(part, wrong, right)


@pytest.mark.follows(', with tensors in {}. Choose, and save it alone')
def test_weights_under_other_names(run):
    def bury(checkpoint):
        weights = checkpoint['state_dict']
        return dict(one=dict(net=weights), two=dict(net=weights))

    first = run(change_checkpoint(bury), LOAD)
    assert 'with tensors in one.net, two.net. Choose, and save it alone' in first.error
    code = first.error.partition('alone:')[2].partition('(--debug')[0]
    code = '\n'.join(line.strip() for line in code.splitlines())
    then = run(change_checkpoint(bury), lambda _: exec(code), options('load_from=weights.pth'))
    assert then.code == 0, then.error
    assert '82 of 82 tensors of the model loaded' in then.text
