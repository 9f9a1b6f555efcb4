"""Advice of `engine`, `evaluation` and `visualization`: while a run is going on."""

import copy
import json
import os
import re
import signal
import time
import warnings

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from PIL import Image

import ghmdet.test
from ghmdet import utils
from ghmdet.datasets import CocoDataset
from ghmdet.engine import build_runner, get_model, inference_detector, init_detector
from ghmdet.engine.launcher import _export_ranks
from ghmdet.engine.val_loop import _scale_to_input
from ghmdet.evaluation import CocoMetric
from ghmdet.evaluation.image_results import index_images
from ghmdet.models import RetinaNet
from ghmdet.models.retina_head import scale_factor_of
from ghmdet.models.speedup import compile_network, low_precision
from ghmdet.registry import DATA_SAMPLERS, DATASETS, HOOKS, MODELS
from ghmdet.structures import DetDataSample
from tests.advice import advice
from tests.advice.conftest import STEPS, change_checkpoint, edit, options, pipeline
from tests.detectors import detector_cfg

LOSSES = (
    "loss_cls=dict(_delete_=True, type='FocalLoss'), loss_bbox=dict(_delete_=True, type='L1Loss')"
)
WITH_LOSS = 'val_cfg = dict(compute_loss=True)'
NOTHING = edit(lambda data: data['annotations'].clear(), 'val')


def spoil(checkpoint):
    checkpoint['state_dict']['neck.lateral_convs.0.conv.weight'][:] = torch.nan


@DATASETS.register_module(force=True)
class OtherCoco(CocoDataset):
    """A dataset whose evaluator gets no file."""


@DATA_SAMPLERS.register_module(force=True)
class FirstSampler(DefaultSampler):
    """Returns the first index only."""

    def __iter__(self):
        return iter([0])


@HOOKS.register_module(force=True)
class StopTestHook(Hook):
    """Sends the signal to stop in the first iteration."""

    def before_train_iter(self, runner, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)


@MODELS.register_module(force=True)
class NoLoss(RetinaNet):
    """Returns no losses in validation."""

    def loss(self, inputs, data_samples):
        return super().loss(inputs, data_samples) if self.training else None


@HOOKS.register_module(force=True)
class BusyMachineHook(Hook):
    """Lets steps wait, from step 24 on, as if other programs used the cores; then it stops."""

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter >= 24:
            time.sleep(max(0.1, 5 * self.normal))
        elif runner.iter:
            self.normal = runner.message_hub.get_scalar('train/time').mean(20)
        if runner.iter == 32:
            os.kill(os.getpid(), signal.SIGTERM)


OTHER = options('val_dataloader.dataset.type=OtherCoco', 'val_evaluator.ann_file=None')
PACK = "dict(type='PackDetInputs')"
OUT = '--out found.json'
VAL = 'val_dataloader.dataset'
VAL_FILE = f'{VAL}.ann_file'
TWO = (
    *(f'{VAL_FILE}=annotations/train.json', f'{VAL}.data_prefix.img=train/'),
    'val_evaluator.ann_file=data/annotations/train.json',
)
SHAPES = 'circle', 'square', 'triangle'
VISUALIZER = "visualizer = dict(_delete_=True, type='{}')"
IDS = "dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))"


@pytest.mark.parametrize(
    ('part', 'wrong', 'right'),
    [
        advice(
            'remove it from custom_hooks',
            (
                f'model = dict(bbox_head=dict({LOSSES}))',
                "custom_hooks = [dict(type='GHMStatsHook')]",
            ),
            (f'model = dict(bbox_head=dict({LOSSES}))', 'custom_hooks = []'),
        ),
        # --- the loss of validation
        advice(
            '{} val_dataloader.dataset.pipeline has no LoadAnnotations; add ',
            (WITH_LOSS, pipeline('load', 'resize', 'pack', split='val')),
            (
                WITH_LOSS,
                pipeline(
                    *('load', 'resize', "dict(type='LoadAnnotations', with_bbox=True)", 'pack'),
                    split='val',
                ),
            ),
        ),
        advice(
            'needs a detector with a loss: ',
            (WITH_LOSS, "model = dict(type='NoLoss')"),
            (WITH_LOSS, "model = dict(type='RetinaNet')"),
        ),
        advice(
            'put LoadAnnotations right after LoadImageFromFile',
            (WITH_LOSS, pipeline('load', 'resize', 'flip', 'boxes', PACK, split='val')),
            (WITH_LOSS, pipeline('load', 'boxes', 'resize', 'flip', PACK, split='val')),
        ),
        # --- evaluation
        advice(
            'CocoMetric: ann_file {} does not exist{}; correct val_evaluator.ann_file',
            options('val_evaluator.ann_file=val.json'),
            options('val_evaluator.ann_file=data/annotations/val.json'),
        ),
        advice(
            'or leave it out to use the file of the dataset',
            "val_evaluator = dict(ann_file='val.json')",
            "val_evaluator = dict(_delete_=True, type='CocoMetric')",
        ),
        # --- drawing
        advice(
            "draw=True needs visualizer=dict(type='DetLocalVisualizer'",
            (options('default_hooks.visualization.draw=True'), VISUALIZER.format('Visualizer')),
            (
                options('default_hooks.visualization.draw=True'),
                VISUALIZER.format('DetLocalVisualizer'),
            ),
        ),
        advice(
            'add it to PackDetInputs.meta_keys',
            (
                options('default_hooks.visualization.draw=True'),
                pipeline('load', 'resize', 'boxes', IDS, split='val'),
            ),
            (
                options('default_hooks.visualization.draw=True'),
                pipeline(
                    *('load', 'resize', 'boxes', IDS.replace("'img_id'", "'img_id', 'img_path'")),
                    split='val',
                ),
            ),
        ),
        # --- the start of the processes
        advice(
            'or use --launcher none for one process',
            '--launcher pytorch',
            '--launcher none',
        ),
        advice(
            'use another checkpoint',
            (change_checkpoint(spoil), options('load_from=checkpoint.pth')),
            options('load_from=checkpoint.pth'),
        ),
    ],
)
def test_what_is_to_be_set(part, wrong, right, follow):
    follow(part, wrong, right)


@pytest.mark.follows('{} no image of val_dataloader.dataset has any', 'needs annotations, but')
def test_no_annotations_for_the_loss(run):
    empty = NOTHING, WITH_LOSS
    assert 'take another ann_file, or remove compute_loss' in run(*empty).error
    then = run(*empty, options(*TWO))
    assert then.code == 0, then.error
    assert 'val/loss: ' in then.text
    assert run(NOTHING).code == 0


@pytest.mark.follows('LoadAnnotations must come before Resize in the pipelines of all datasets')
def test_the_order_of_several_datasets(run):
    first, second = ('load', 'resize', 'boxes', 'pack'), ('load', 'boxes', 'resize', 'pack')
    several = """
val_dataloader = dict(
    dataset=dict(_delete_=True, type='ConcatDataset', datasets=[{}, {}])
)
val_evaluator = dict(_delete_=True, type='DumpDetResults', out_file_path='found.pkl')
val_cfg = dict(compute_loss=True)
default_hooks = dict(checkpoint=dict(save_best=None))"""
    wrong = several.format(val_set(first), val_set(second))
    assert 'LoadAnnotations must come before Resize' in run(wrong).error
    for steps in (first, second):
        then = run(several.format(val_set(steps), val_set(steps)))
        assert then.code == 0, then.error
        assert 'val/loss: ' in then.text


def val_set(steps):
    steps = ', '.join(str(STEPS[step]) for step in steps)
    return (
        "dict(type='CocoDataset', data_root='data/', ann_file='annotations/val.json', "
        "data_prefix=dict(img='val/'), test_mode=True, metainfo=dict(classes=('circle', 'square', "
        f"'triangle')), pipeline=[{steps}])"
    )


@pytest.mark.follows(
    'needs {} among the meta_keys of PackDetInputs in the pipeline of val_dataloader'
)
@pytest.mark.follows('scale_factor is missing in an image resized from')
def test_meta_keys():
    def sample(**metainfo):
        found = DetDataSample(metainfo=dict(img_shape=(32, 32), ori_shape=(64, 64), **metainfo))
        found.gt_instances = InstanceData(bboxes=torch.tensor([[2.0, 4, 6, 8]]))
        found.ignored_instances = InstanceData()
        return found

    full = sample(scale_factor=(0.5, 0.5))
    for function in (_scale_to_input, scale_factor_of):
        with pytest.raises(ValueError, match=r'scale_factor .*meta_keys of PackDetInputs'):
            function(sample())
        function(full)
    assert full.gt_instances.bboxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.follows('mode {} needs data_samples, one per image')
def test_data_samples():
    model = MODELS.build(detector_cfg()).eval()
    images = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match='needs data_samples, one per image'):
        model(images, mode='predict')
    found = model(images, [DetDataSample(metainfo=dict(img_shape=(64, 64)))], mode='predict')
    assert found[0].pred_instances.bboxes.shape == (10, 4)


# --- evaluation ---------------------------------------------------------------------------------


@pytest.fixture
def measure(small):
    """Evaluate one detection, the only object of the image, with these settings."""

    def measure(file='val.json', classes=SHAPES, label=0, size=1, **sample):
        metric = CocoMetric(None if file is None else str(small / 'data/annotations' / file))
        metric.dataset_meta = dict(classes=classes)
        found = dict(bboxes=[[10, 10, 40, 40]], scores=[0.9], labels=[label])
        metric.process({}, [dict(dict(img_id=1, pred_instances=found), **sample)])
        return metric.evaluate(size)

    return measure


@pytest.mark.follows('no ground truth for image {}: without ann_file the samples must contain it')
def test_ground_truth_of_samples(measure):
    with pytest.raises(ValueError, match='LoadAnnotations after Resize into the pipeline'):
        measure(None)
    assert 'coco/bbox_mAP' in measure('val.json')
    boxes = dict(bboxes=torch.tensor([[10.0, 10, 40, 40]]), labels=torch.tensor([0]))
    assert measure(None, gt_instances=boxes)['coco/bbox_mAP'] == 1


@pytest.mark.follows("set the head's num_classes to their number")
@pytest.mark.follows('dataloader and evaluator must name the same file')
def test_images_and_labels_of_the_file(measure):
    with pytest.raises(ValueError, match='label 2, but `classes` of dataset_meta has 2 names'):
        measure(classes=('circle', 'square'), label=2)
    assert 'coco/bbox_mAP' in measure(label=2)
    with pytest.raises(ValueError, match='image 2 is not in .*val.json'):
        measure(img_id=2)
    assert 'coco/bbox_mAP' in measure('train.json', img_id=2, size=1)


@pytest.mark.follows('CocoMetric: two images have the id')
def test_two_images_of_one_id():
    def evaluate(*images):
        metric = CocoMetric()
        metric.dataset_meta = dict(classes=('cat',))
        boxes = dict(bboxes=torch.tensor([[10.0, 10, 40, 40]]), labels=torch.tensor([0]))
        found = dict(gt_instances=boxes, pred_instances=dict(boxes, scores=torch.tensor([0.5])))
        metric.process({}, [dict(img_id=id_, img_path=path, **found) for id_, path in images])
        return metric.evaluate(len(images))['coco/bbox_mAP']

    with pytest.raises(ValueError, match='evaluate one dataset at a time, or give their images'):
        index_images([dict(img_id=1, img_path='a'), dict(img_id=1, img_path='b')])
    assert len(index_images([dict(img_id=1, img_path='a'), dict(img_id=2, img_path='b')])) == 2
    assert evaluate((1, 'a')) == evaluate((1, 'a'), (2, 'b')) == 1


@pytest.mark.follows('Remove drop_last of the dataloader, and let its sampler return every index')
def test_images_that_were_not_predicted(run):
    first = run(options(*TWO, 'val_dataloader.sampler.type=FirstSampler'))
    assert 'only 1 of the 2 images of the dataset were predicted' in first.error
    then = run(options(*TWO))
    assert then.code == 0, then.error
    then = run(options(*TWO, 'val_dataloader.sampler.type=FirstSampler', f'{VAL}.indices=1'))
    assert then.code == 0, then.error


def test_names_of_the_evaluator(measure):
    with pytest.raises(ValueError, match="CocoMetric: .*did you mean 'circle'") as caught:
        measure(classes=('Circle', 'square', 'triangle'))
    near = re.search(r"did you mean '(\w+)'", str(caught.value))[1]
    assert 'coco/bbox_mAP' in measure(classes=(near, 'square', 'triangle'))


@pytest.mark.follows('has no list {}, so there is nothing to compare detections with')
def test_a_file_without_annotations(run):
    wrong = edit(lambda data: data.pop('annotations'), 'val')
    first = run(wrong, program=ghmdet.test)
    assert 'tools/test.py --format-only, or format_only=True of the evaluator' in first.error
    then = run(wrong, '--format-only', program=ghmdet.test)
    assert then.code == 0, then.error
    assert json.loads((then.folder / 'work_dirs/tiny/results.bbox.json').read_text())
    option = 'test_evaluator.format_only=True', 'test_evaluator.outfile_prefix=found'
    then = run(wrong, options(*option), program=ghmdet.test)
    assert then.code == 0, then.error
    assert json.loads((then.folder / 'found.bbox.json').read_text())


def test_two_categories_of_one_name(measure, small, tmp_path):
    content = json.loads((small / 'data/annotations/val.json').read_text())
    for each in content['categories']:
        each['name'] = 'circle'
    box = dict(content['annotations'][0], category_id=1)
    content['annotations'] = [box, dict(box, id=99, category_id=2)]

    def measured():
        (tmp_path / 'val.json').write_text(json.dumps(content))
        return measure(tmp_path / 'val.json', classes=('circle',))

    with pytest.raises(
        ValueError, match='give these annotations the same category_id; if not, rename'
    ):
        measured()
    content['annotations'][-1]['category_id'] = 1
    assert 'coco/bbox_mAP' in measured()
    content['annotations'][-1]['category_id'] = 2
    content['categories'][1]['name'] = 'other'
    assert 'coco/bbox_mAP' in measured()


@pytest.mark.follows('The results of the others are written; --allow-skipped accepts this')
def test_images_that_cannot_be_used(run):
    wrong = lambda folder: (folder / 'data/train/00001.jpg').write_bytes(b'')  # noqa: E731
    first = run(wrong, '--images data/train', program=ghmdet.test)
    assert '--allow-skipped accepts this' in first.error
    then = run(wrong, '--images data/train --allow-skipped', program=ghmdet.test)
    assert then.code == 0, then.error


# --- programs -----------------------------------------------------------------------------------


@pytest.mark.follows(' is written by CocoMetric, but test_evaluator has none', '--out must end in')
@pytest.mark.parametrize(
    ('wrong', 'message', 'right'),
    [
        (OUT, 'add --format-only', f'{OUT} --format-only'),
        (OUT, 'or give a name that ends in .pkl', '--out found.pkl'),
        ('--out found.txt', '--out must end in .json, .pkl or .pickle', '--out found.pickle'),
    ],
)
def test_files_of_detections(wrong, message, right, run):
    evaluator = "test_evaluator = dict(_delete_=True, type='DumpDetResults', out_file_path='a.pkl')"
    first = run(evaluator, wrong, program=ghmdet.test)
    assert message in first.error
    then = run(evaluator, right, program=ghmdet.test)
    assert then.code == 0, then.error
    assert (then.folder / right.split()[1]).stat().st_size > 50


@pytest.mark.follows('need default_hooks.visualization in the config, e.g.')
def test_drawing_without_a_hook(run):
    first = run('default_hooks = dict(visualization=None)', '--show-dir x', program=ghmdet.test)
    advised = re.search(r'e.g. (dict\(.*\))', first.error)[1]
    then = run(
        f'default_hooks = dict(visualization={advised})', '--show-dir x', program=ghmdet.test
    )
    assert then.code == 0, then.error
    assert [file.name for file in then.folder.rglob('x/*')] == ['00001.jpg']


@pytest.mark.follows('the default scope was {} and is now ghmdet')
def test_the_default_scope():
    DefaultScope.get_instance('of others', scope_name='mmengine')
    with pytest.warns(UserWarning, match=r'call register_all_modules\(init_default_scope=False\)'):
        utils.register_all_modules()
    DefaultScope.get_instance('of others again', scope_name='mmengine')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        utils.register_all_modules(init_default_scope=False)
    assert DefaultScope.get_current_instance().scope_name == 'mmengine'


@pytest.mark.follows('--compile needs a C++ compiler, but there is no')
def test_a_compiler(monkeypatch, tmp_path):
    model = MODELS.build(detector_cfg())
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.warns(UserWarning, match='Install one .*, set the environment variable CXX'):
        compile_network(model)
    assert model.backbone._compiled_call_impl is None
    compiler = tmp_path / 'c++'
    compiler.touch(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        compile_network(model)
    assert model.backbone._compiled_call_impl is not None


@pytest.mark.follows('give checkpoint or pretrained=True, not both', 'use your own checkpoint')
def test_weights_of_a_model(small, monkeypatch):
    monkeypatch.chdir(small)
    with pytest.raises(ValueError, match='give checkpoint or pretrained=True, not both'):
        get_model('small.py', 'checkpoint.pth', pretrained=True)
    with pytest.raises(LookupError, match='use your own checkpoint'):
        get_model('small.py', pretrained=True)
    model = get_model('small.py', 'checkpoint.pth')
    expected = torch.load('checkpoint.pth', weights_only=False)['state_dict']
    name = 'bbox_head.retina_cls.weight'
    assert torch.equal(model.state_dict()[name], expected[name])


@pytest.mark.follows('scale them to 0 to 255 and convert it to mode')
def test_a_pillow_image_of_numbers(small, monkeypatch):
    monkeypatch.chdir(small)
    model = init_detector('small.py', 'checkpoint.pth')
    numbers = Image.fromarray(np.float32([[0, 0.5], [0.5, 1]]))
    with pytest.raises(ValueError, match="scale them to 0 to 255 and convert it to mode 'L'"):
        inference_detector(model, numbers)
    found = inference_detector(model, numbers.point(lambda value: value * 255).convert('L'))
    assert found.ori_shape == (2, 2)


@pytest.mark.follows('later see whether the loss is finite and test_cfg.score_thr low enough')
def test_nothing_detected(run):
    first = run(options('model.test_cfg.score_thr=0.99'))
    assert 'later see whether the loss is finite and test_cfg.score_thr low enough' in first.text
    then = run(options('model.test_cfg.score_thr=0.001'))
    assert 'nothing was detected' not in then.text
    assert float(then.ap) > 0


@pytest.mark.follows('expects MASTER_ADDR in the environment: the address of the host')
def test_the_address_of_the_first_process(monkeypatch):
    for name in ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'):
        monkeypatch.setenv(name, '0')
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_PORT'):
        monkeypatch.setenv(name, '0')  # put back after the test
    for name in ('MASTER_ADDR', 'SLURM_NNODES', 'SLURM_NODELIST'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match='expects MASTER_ADDR in the environment'):
        _export_ranks('slurm', 1234)
    monkeypatch.setenv('MASTER_ADDR', 'node7')
    _export_ranks('slurm', 1234)
    assert (os.environ['MASTER_ADDR'], os.environ['MASTER_PORT']) == ('node7', '1234')


@pytest.mark.follows('is not available on mps; remove it, or run on the CPU or on CUDA')
def test_mixed_precision_on_mps():
    with pytest.raises(ValueError, match='remove it, or run on the CPU'):
        low_precision('mps')
    assert low_precision('cpu') == torch.bfloat16


@pytest.mark.follows('set it with --launcher or `launcher` in the config')
def test_the_launcher(small, tmp_path, monkeypatch):
    monkeypatch.chdir(small)
    cfg = Config.fromfile('small.py')
    cfg.update(launcher='torchrun', work_dir=str(tmp_path))
    with pytest.raises(ValueError, match='launcher must be one of none, pytorch, slurm, mpi'):
        build_runner(copy.deepcopy(cfg))
    cfg.launcher = 'none'
    assert build_runner(cfg).world_size == 1


# --- training that diverges ---------------------------------------------------------------------

EPOCHS = 'train_cfg.max_epochs=4', 'default_hooks.finite_steps.max_in_a_row=2'
SGD = (
    "optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr={}))\nparam_scheduler = None"
)
CLIP = 'optim_wrapper.clip_grad.max_norm=35'
NO_CLIP = 'optim_wrapper.clip_grad=None'
LARGE = 'model.bbox_head.loss_cls.loss_weight=1e30'


@pytest.mark.follows('What helps: a lower learning rate')
@pytest.mark.parametrize(
    ('wrong', 'right'),
    [
        (
            (SGD.format(1e9), options(*EPOCHS, NO_CLIP)),
            (SGD.format(1e-3), options(*EPOCHS, NO_CLIP)),
        ),
        (
            (SGD.format(1e9), options(*EPOCHS, NO_CLIP, 'auto_scale_lr.base_batch_size=2e12')),
            (
                *(SGD.format(1e9), '--auto-scale-lr'),
                options(*EPOCHS, NO_CLIP, 'auto_scale_lr.base_batch_size=2e12'),
            ),
        ),
        (
            (SGD.format(1e-3), options(*EPOCHS, NO_CLIP, LARGE)),
            (SGD.format(1e-3), options(*EPOCHS, CLIP, LARGE)),
        ),
        (
            (SGD.format(1e9), options(*EPOCHS, NO_CLIP)),
            (
                SGD.format(1e9),
                "param_scheduler = [dict(type='LinearLR', start_factor=1e-12, by_epoch=False, "
                'begin=0, end=10**12)]',
                options(*EPOCHS, NO_CLIP),
            ),
        ),
    ],
    ids=['lr', '--auto-scale-lr', 'clip_grad', 'warm-up'],
)
def test_steps_that_are_not_finite(wrong, right, run):
    first = run(*wrong)
    assert 'training stops at iteration' in first.error
    assert 'What helps: ' in first.error
    then = run(*right)
    assert then.code == 0, then.error
    assert 'not finite' not in then.text


@pytest.mark.follows(', training without --amp')
def test_steps_that_are_not_finite_in_float16(run):
    half = (
        "optim_wrapper = dict(type='AmpOptimWrapper', dtype='float16', "
        'loss_scale=dict(init_scale=1.0))'
    )
    small = pipeline('load', 'boxes', "dict(type='Resize', scale=(32, 32))", 'pack')
    once = 'default_hooks.finite_steps.max_in_a_row=1', 'train_cfg.val_interval=9'
    settings = options(*once, LARGE, 'train_cfg.max_epochs=2')
    first = run(half, small, settings)
    assert 'training without --amp' in first.error
    then = run(small, settings)
    assert then.code == 0, then.error


@pytest.mark.follows('the weights are not finite at iteration {}, so they are not saved')
def test_weights_that_are_not_finite(run):
    steep = (
        SGD.format(1e-3).replace('None', "[dict(type='MultiStepLR', milestones=[1], gamma=1e39)]"),
        'train_cfg = dict(max_epochs=2)\n',
    )
    options_ = 'model.bbox_head.loss_cls.loss_weight=1e6', NO_CLIP
    first = run(*steep, options(*options_))

    good = re.search(r'The last good checkpoint is (\S+?);', first.error)[1]
    assert good.endswith('epoch_1.pth')
    assert 'What ' not in first.error
    then = run(*steep, options(options_[0], CLIP), f'--resume {good}')
    assert then.code == 0, then.error
    assert (then.folder / 'work_dirs/tiny/epoch_2.pth').exists()
    lower = options(*options_, f'load_from={good}', 'optim_wrapper.optimizer.lr=1e-39')
    then = run(*steep, lower)
    assert then.code == 0, then.error
    assert (then.folder / 'work_dirs/tiny/epoch_2.pth').exists()


@pytest.mark.follows('{} is saved, resume with --resume')
def test_a_run_that_was_stopped(run):
    stop = "custom_hooks = [dict(type='StopTestHook')]", options('train_cfg.max_epochs=2')
    first = run(*stop)
    assert 'epoch_1.pth is saved, resume with --resume' in first.text
    then = run(stop[1], '--resume', inside=first.folder)
    assert then.code == 0, then.error
    assert 'after epoch 1, iteration 1' in then.text
    assert (then.folder / 'work_dirs/tiny/epoch_2.pth').exists()


@pytest.mark.follows(
    'a step takes {} s, and took {} s before the last 10',
    'gives equal ones',
    'resumed with {} threads',
)
def test_steps_that_become_slow(run):
    settings = options(
        *('train_cfg.max_epochs=34', 'train_cfg.val_interval=99', 'default_hooks.logger=None'),
        'default_hooks.checkpoint.interval=99',
    )
    busy = "custom_hooks = [dict(type='BusyMachineHook')]"
    before = torch.get_num_threads()
    try:
        first = run(busy, settings, '--threads 2')
        assert 's before the last 10. Other programs may use the cores' in first.text
        assert torch.get_num_threads() == 2
        then = run(settings, '--resume --threads 1', inside=first.folder)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert then.code == 0, then.error
    assert 'before the last 10' not in then.text
