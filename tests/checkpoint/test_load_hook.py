"""Checkpoints as the Runner loads, resumes and tests them."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader
from torch.utils.data import Dataset

from ghmdet.engine import CheckpointError, build_runner
from ghmdet.registry import DATASETS, HOOKS, METRICS, MODELS
from ghmdet.structures import DetDataSample, InstanceData
from tests.detectors import FOCAL, GHM, detector, detector_cfg

CLASSES = ('cat', 'dog', 'owl')


@DATASETS.register_module(force=True)
class TwoImages(Dataset):
    def __init__(self, classes=CLASSES):
        self.metainfo = dict(classes=tuple(classes))

    def __len__(self):
        return 2

    def __getitem__(self, index):
        shape = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0))
        box, label = torch.tensor([[8.0, 8, 40 + 8 * index, 48]]), torch.tensor([index])
        sample = DetDataSample(metainfo=shape)
        sample.gt_instances = InstanceData(bboxes=box, labels=label)
        image = torch.arange(3 * 64 * 64).reshape(3, 64, 64) * (index + 3) % 251
        return dict(inputs=image.to(torch.uint8), data_samples=sample)


@METRICS.register_module(force=True)
class CountImages(BaseMetric):
    default_prefix = 'count'

    def process(self, data_batch, data_samples):
        self.results += [1] * len(data_samples)

    def compute_metrics(self, results):
        return {'images': len(results)}


@HOOKS.register_module(force=True)
class Snapshot(Hook):
    """Keeps the weights at the start of the training."""

    def before_train(self, runner):
        state = runner.model.state_dict()
        self.weights = {name: value.clone() for name, value in state.items()}


def make_runner(work_dir, classes=CLASSES, hooks=(), model=None, epochs=1, **settings):
    loader = dict(
        dataset=dict(type='TwoImages', classes=classes),
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    cfg = Config(
        dict(
            default_scope='ghmdet',
            model=model or detector_cfg(len(classes)),
            work_dir=str(work_dir),
            experiment_name=uuid4().hex,  # the log of its own
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)),
            test_dataloader=loader,
            test_cfg=dict(),
            test_evaluator=dict(type='CountImages'),
            param_scheduler=[dict(type='ConstantLR', factor=1.0)],
            custom_hooks=[dict(type='Snapshot'), *hooks],
            randomness=dict(seed=1),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        )
    )
    cfg.merge_from_dict(settings)
    return build_runner(cfg)


def log_of(work_dir):
    return ''.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


def train(work_dir, **settings):
    """The weights at the start of a training, and its log."""
    runner = make_runner(work_dir, **settings)
    runner.train()
    text = log_of(work_dir)
    assert 'do not match' not in text  # as mmengine writes
    return next(hook.weights for hook in runner.hooks if isinstance(hook, Snapshot)), text


def assert_same(found, expected, names=None):
    for name in names or expected:
        assert torch.equal(found[name], expected[name]), name


def save(path, weights, **meta):
    torch.save(dict(state_dict=weights, meta=meta), path)
    return str(path)


# --- load_from ----------------------------------------------------------------------------------


@pytest.mark.parametrize(('bare', 'average'), [(True, True), (False, False)])
def test_training_from_a_checkpoint(tmp_path, bare, average):
    source = detector(seed=1, losses=FOCAL).state_dict()
    path = str(tmp_path / 'focal.pth')
    torch.save(source if bare else dict(state_dict=source, meta={}), path)
    hooks = [dict(type='EMAHook', begin_epoch=1)] if average else []
    weights, text = train(tmp_path, load_from=path, hooks=hooks)
    assert_same(weights, source)
    assert (
        f'{path}: 144 of 144 tensors of the model loaded, none missing, unexpected or of another '
        'shape\n  counts of another loss setting: 4 tensors not loaded'
    ) in text
    assert text.count('tensors of the model loaded') == 1
    assert 'WARNING - ' not in text


def test_a_head_for_other_classes_is_randomly_initialised(tmp_path):
    source = detector(5, seed=1).state_dict()
    weights, text = train(tmp_path, load_from=save(tmp_path / 'five.pth', source))
    assert_same(weights, source, [name for name in source if 'retina_cls' not in name])
    assert (weights['bbox_head.retina_cls.bias'] == -4.59511985013459).all()
    assert re.search(r'WARNING - .*five\.pth: 146 of 148 tensors of the model loaded', text)
    assert (
        "WARNING: the file's head has 5 classes, the config's 3: bbox_head.retina_cls is randomly "
        'initialised. To copy the rows of classes with the same name: --cfg-options '
        'default_hooks.load_weights.type=LoadWeightsHook '
        'default_hooks.load_weights.match_classes=True\n'
    ) in text


MATCH = dict(type='LoadWeightsHook', match_classes=True)


@pytest.mark.parametrize(
    ('theirs', 'default', 'hooks'),
    [
        (('owl', 'cat', 'bus', 'dog'), MATCH, []),
        (('owl', 'cat', 'dog'), dict(type='LoadWeightsHook'), [MATCH]),  # the last hook counts
    ],
)
def test_classes_matched_by_name(tmp_path, theirs, default, hooks):
    source = detector(len(theirs), seed=1).state_dict()
    path = save(tmp_path / 'other.pth', source, CLASSES=theirs)
    settings = {'default_hooks.load_weights': default}
    weights, text = train(tmp_path, load_from=path, hooks=hooks, **settings)
    bias, given = (w['bbox_head.retina_cls.bias'] for w in (weights, source))
    for anchor in range(9):
        for i, name in enumerate(CLASSES):
            row = anchor * len(theirs) + theirs.index(name)
            assert bias[anchor * 3 + i] == given[row]
    assert 'match_classes: 3 of 3 classes copied from the file (cat, dog, owl)' in text
    assert text.count('tensors of the model loaded') == 1
    assert 'WARNING - ' not in text


def test_another_order_of_the_classes_is_logged(tmp_path):
    path = save(tmp_path / 'x.pth', detector(seed=1).state_dict(), CLASSES=('cat', 'owl', 'dog'))
    assert (
        "WARNING: 2 of 3 classes differ: number 1 is 'owl' in the file, 'dog' in the dataset. To "
        'copy the rows of classes with the same name: --cfg-options'
    ) in train(tmp_path, load_from=path)[1]


# --- resume -------------------------------------------------------------------------------------


EMA = dict(type='EMAHook', momentum=0.5)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The checkpoint of a run of one epoch with averaged weights."""
    folder = tmp_path_factory.mktemp('trained')
    make_runner(folder, hooks=[EMA]).train()
    return str(folder / 'epoch_1.pth')


def resume(tmp_path, path, **settings):
    return train(tmp_path, resume=True, load_from=str(path), epochs=2, **settings)


@pytest.mark.parametrize('average', [True, False])
def test_resume(trained, tmp_path, average):
    weights, text = resume(tmp_path, trained, hooks=[EMA] * average)
    saved = torch.load(trained, weights_only=False)
    for name, value in weights.items():
        source = saved['ema_state_dict'][f'module.{name}'] if average else saved['state_dict'][name]
        assert torch.equal(value, source), name
    assert f'{trained}: 148 of 148 tensors of the model loaded, none missing' in text
    assert 'resumed epoch: 1, iter: 2' in text


def refuse_resume(tmp_path, path, match, **settings):
    with pytest.raises(CheckpointError, match=f'(?s){match}.*leave --resume .*load_from='):
        resume(tmp_path, path, **settings)


def test_only_the_same_model_is_resumed(trained, tmp_path):
    deeper, message = detector_cfg(), r'epoch_1\.pth cannot be resumed: it is of another model'
    deeper['bbox_head']['stacked_convs'] = 2
    refuse_resume(tmp_path, trained, message, classes='abcd')
    refuse_resume(tmp_path, trained, message, model=deeper)


def test_another_loss_is_the_same_model(trained, tmp_path):
    model = detector_cfg(losses=dict(GHM, loss_cls=dict(type='FocalLoss', use_sigmoid=True)))
    weights, text = resume(tmp_path, trained, model=model, hooks=[EMA])
    assert 'counts of another loss setting: 2 tensors not loaded' in text
    saved = torch.load(trained, weights_only=False)['ema_state_dict']
    name = 'bbox_head.retina_cls.weight'
    assert torch.equal(weights[name], saved[f'module.{name}'])


def test_weights_alone_are_not_resumed(trained, tmp_path):
    saved, path = torch.load(trained, weights_only=False), tmp_path / 'x.pth'
    save(path, saved['state_dict'], CLASSES=CLASSES, epoch=12, iter=9)
    refuse_resume(tmp_path, path, r'x\.pth cannot be resumed: it has no message_hub, as')
    torch.save(saved['state_dict'], path)
    refuse_resume(tmp_path, path, r'it has no message_hub, meta\.epoch, meta\.iter')
    del saved['meta']['iter']
    torch.save(saved, path)
    refuse_resume(tmp_path, path, r'it has no meta\.iter, as')


def test_a_config_in_a_checkpoint_is_not_executed(trained, tmp_path):
    """mmengine runs `meta.config` as Python when it resumes."""
    saved, marker = torch.load(trained, weights_only=False), tmp_path / 'executed'
    saved['meta']['config'] = f'import pathlib\npathlib.Path({str(marker)!r}).touch()\n'
    torch.save(saved, tmp_path / 'hostile.pth')
    resume(tmp_path, tmp_path / 'hostile.pth')
    assert not marker.exists()


def test_a_run_is_not_resumed_on_other_names(trained, tmp_path):
    with pytest.raises(CheckpointError, match='was trained on other classes than the dataset has'):
        resume(tmp_path, trained, classes=('dog', 'cat', 'owl'))


# --- tests --------------------------------------------------------------------------------------


def test_a_test_needs_all_weights(tmp_path):
    path = save(tmp_path / 'coco.pth', detector(80).state_dict())
    with pytest.raises(CheckpointError, match="file's head has 80 classes, the config's 3"):
        make_runner(tmp_path, load_from=path).test()


@pytest.mark.parametrize('tta', [True, False])
def test_a_test_without_the_counts_of_the_loss(tmp_path, tta):
    source = detector(losses=FOCAL).state_dict()
    path = save(tmp_path / 'focal.pth', {f'module.{k}': v for k, v in source.items()})
    model = detector_cfg()
    model = dict(type='DetTTAModel', tta_cfg={}, module=model) if tta else model
    runner = make_runner(tmp_path, load_from=path, model=model)
    if tta:
        runner.model.test_step = lambda data: [DetDataSample() for _ in data['inputs']]
    assert runner.test() == {'count/images': 2}
    assert_same(getattr(runner.model, 'module', runner.model).state_dict(), source)
    assert 'WARNING - ' not in log_of(tmp_path)


def test_other_names_in_a_test_are_refused_unless_allowed(tmp_path):
    theirs = ('dog', 'elk', 'owl')
    path = save(tmp_path / 'x.pth', detector().state_dict(), CLASSES=theirs)
    with pytest.raises(CheckpointError) as caught:
        make_runner(tmp_path, load_from=path).test()
    assert str(caught.value) == (
        f'{path} was trained on other classes than the dataset has: 2 of 3 classes differ: '
        "number 0 is 'dog' in the file, 'cat' in the dataset. Set the file's classes in its order "
        f'for each dataset: metainfo=dict(classes={theirs}), or leave them out for a test; if '
        'these are other names of the same classes, set '
        "default_hooks.load_weights=dict(type='LoadWeightsHook', check_classes=False)"
    )
    hooks = [dict(type='LoadWeightsHook', check_classes=False)]
    make_runner(tmp_path, hooks=hooks, load_from=path).test()
    assert "2 of 3 classes differ: number 0 is 'dog' in the file" in log_of(tmp_path)


def test_case_and_underscores_are_no_other_names(tmp_path):
    path = save(tmp_path / 'x.pth', detector().state_dict(), CLASSES=('Cat', 'DOG', 'owl'))
    make_runner(tmp_path, load_from=path).test()
    assert 'WARNING - ' not in log_of(tmp_path)


# --- no needless downloads, no file read twice ---------------------------------------------------


@pytest.fixture
def fetched(monkeypatch):
    """What was read, by torch.load and with the scheme `far://`, which gives an R-18."""
    names, original = [], torch.load
    weights = MODELS.build(dict(type='ResNet', depth=18)).state_dict()

    def fetch(filename, map_location=None):
        names.append(filename)
        return weights

    def load(file, **options):
        names.append(str(file))
        return original(file, **options)

    monkeypatch.setattr(torch, 'load', load)
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    CheckpointLoader.register_scheme('far://', fetch, force=True)
    return names


FAR = dict(type='Pretrained', checkpoint='far://r18')
MODEL = detector_cfg(init_cfg=FAR)


def test_a_resumed_run_reads_its_checkpoint_twice_and_no_backbone(tmp_path, fetched):
    train(tmp_path, model=MODEL, resume=True)  # nothing to resume
    assert fetched == ['far://r18']
    fetched.clear()
    _, log = train(tmp_path, model=MODEL, resume=True, epochs=2)
    assert fetched == [f'{tmp_path}/epoch_1.pth'] * 2  # to choose, and to load
    text = f'backbone: {tmp_path}/epoch_1.pth contains all its weights, far://r18 is not read'
    assert text in log


@pytest.mark.parametrize('complete', [True, False])
def test_a_checkpoint_is_read_once_and_a_backbone_if_needed(tmp_path, fetched, complete):
    weights = detector(5, losses=FOCAL).state_dict()
    if not complete:
        del weights['backbone.layer4.1.bn2.running_mean']
    path = save(tmp_path / 'a+b.pth', weights)
    runner = make_runner(tmp_path, model=detector_cfg(init_cfg=[FAR]), load_from=path)
    runner.train()
    assert fetched == [path] + ['far://r18'] * (not complete)
    loaded = next(hook.weights for hook in runner.hooks if isinstance(hook, Snapshot))
    assert_same(loaded, weights, [name for name in weights if 'backbone' in name])
    runner.load_checkpoint(path)  # is read again, not kept
    assert fetched.count(path) == 2


def test_a_test_reads_its_checkpoint_only(tmp_path, fetched):
    path = save(tmp_path / 'x.pth', detector().state_dict())
    make_runner(tmp_path, model=MODEL, load_from=path).test()
    assert fetched == [path]


def test_the_other_initial_values_stay_the_same(tmp_path, fetched):
    weights = detector(5).state_dict()
    backbone = {name: value for name, value in weights.items() if name.startswith('backbone')}
    path = save(tmp_path / 'b.pth', backbone)
    scratch, _ = train(tmp_path / 'scratch', model=MODEL)
    spared, _ = train(tmp_path / 'full', model=MODEL, load_from=path)
    assert fetched.count('far://r18') == 1
    assert scratch['neck.fpn_convs.0.conv.weight'].std() > 0
    assert_same(spared, scratch, [name for name in scratch if not name.startswith('backbone')])
    assert_same(spared, backbone)
