"""The command line as users run it: a tiny detector on a dozen drawn images."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.e2e.conftest import scalars, write_config

ROOT = Path(__file__).parents[2]
ENV = {
    **os.environ,
    'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
}


def run(tool, *args, check=True):
    command = [ROOT / 'tools' / tool, *args]
    if tool.endswith('.py'):
        command.insert(0, sys.executable)
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=ENV, cwd=args[0].parent
    )
    if check:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope='module')
def trained(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder / 'tiny.py', shapes)
    run('train.py', config)
    return config, folder / 'work_dirs' / 'tiny'


def weights(path):
    return torch.load(path, weights_only=False)['state_dict']


def check_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_training_lowers_the_loss_and_leaves_its_files(trained):
    _, work_dir = trained
    losses = scalars(work_dir, 'loss')
    assert len(losses) == 6
    assert losses[-1] < 0.8 * losses[0]
    assert len(scalars(work_dir, 'coco/bbox_mAP')) == 2
    assert (work_dir / 'last_checkpoint').read_text().strip().endswith('epoch_2.pth')
    assert len(list(work_dir.glob('best_coco_bbox_mAP_*.pth'))) == 1
    checkpoint = torch.load(work_dir / 'epoch_2.pth', weights_only=False)
    assert checkpoint['meta']['dataset_meta']['classes'] == ('circle', 'square', 'triangle')
    assert checkpoint['state_dict']['bbox_head.loss_cls.acc_sum'].sum() > 0


def test_testing_repeats_validation_and_draws(trained, tmp_path):
    config, work_dir = trained
    out = tmp_path / 'found.pkl'
    args = ('--work-dir', tmp_path, '--out', out, '--show-dir', 'drawn')
    done = run('test.py', config, work_dir / 'epoch_2.pth', *args)
    results = json.loads(next(tmp_path.glob('*/*.json')).read_text())
    for key in ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/circle_precision'):
        assert results[key] == pytest.approx(scalars(work_dir, key)[-1], abs=1e-9, nan_ok=True)
    assert 'triangle' in done.stdout + done.stderr
    found = pickle.loads(out.read_bytes())
    assert [sample['img_id'] for sample in found] == [1, 2, 3, 4, 5]
    assert all(len(sample['pred_instances']['scores']) > 0 for sample in found)
    pictures = sorted(tmp_path.glob('*/drawn/*.jpg'))
    assert len(pictures) == 5
    # Ground truth and detections side by side.
    height, width = found[0]['ori_shape']
    assert cv2.imread(str(pictures[0])).shape == (height, 2 * width, 3)


def test_two_views_that_are_the_same_change_nothing(trained, tmp_path):
    config, work_dir = trained
    run('test.py', config, work_dir / 'epoch_2.pth', '--work-dir', tmp_path, '--tta')
    results = json.loads(next(tmp_path.glob('*/*.json')).read_text())
    expected = scalars(work_dir, 'coco/bbox_mAP')[-1]
    assert results['coco/bbox_mAP'] == pytest.approx(expected, abs=1e-9)


def test_the_default_views_are_the_image_and_its_mirror_image(trained, tmp_path):
    config, work_dir = trained
    flipless = tmp_path / 'flipless.py'
    flipless.write_text(f'_base_ = {str(config)!r}\ntta_pipeline = None\ntta_model = None\n')
    out = tmp_path / 'found.pkl'
    args = ('--work-dir', tmp_path, '--tta', '--out', out)
    done = run('test.py', flipless, work_dir / 'epoch_2.pth', *args)
    assert 'merging the image and its mirror image' in done.stderr
    assert 'merging by NMS at 0.5' in done.stderr
    found = pickle.loads(out.read_bytes())
    # Boxes of both views, back in the frame of the image.
    for sample in found:
        height, width = sample['ori_shape']
        boxes = sample['pred_instances']['bboxes']
        assert 50 < len(boxes) <= 100
        assert boxes.min() >= 0
        assert (boxes.amax(0) <= torch.tensor([width, height, width, height]) + 1e-3).all()


def test_resumed_run_equals_the_uninterrupted_one(trained, tmp_path):
    config, work_dir = trained
    args = ('--work-dir', tmp_path, '--cfg-options')
    run('train.py', config, *args, 'train_cfg.max_epochs=1')
    done = run('train.py', config, '--resume', *args, 'train_cfg.max_epochs=2')
    assert 'resumed epoch: 1, iter: 3' in done.stdout + done.stderr
    check_equal(weights(tmp_path / 'epoch_2.pth'), weights(work_dir / 'epoch_2.pth'))


def test_load_from_starts_at_the_weights_given(trained, tmp_path):
    config, work_dir = trained
    checkpoint = work_dir / 'epoch_2.pth'
    options = (f'load_from={checkpoint}', 'optim_wrapper.optimizer.lr=0', 'train_cfg.max_epochs=1')
    freeze = 'model.backbone.norm_eval=True'
    run('train.py', config, '--work-dir', tmp_path, '--cfg-options', *options, freeze)
    before, after = weights(checkpoint), weights(tmp_path / 'epoch_1.pth')
    moved = {name.split('.')[-1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {'acc_sum'}


def test_two_processes_evaluate_as_one(trained, tmp_path):
    config, work_dir = trained
    run('dist_test.sh', config, work_dir / 'epoch_2.pth', 2, '--work-dir', tmp_path)
    results = json.loads(next(tmp_path.glob('*/*.json')).read_text())
    for key in ('coco/bbox_mAP', 'coco/bbox_mAP_50'):
        assert results[key] == pytest.approx(scalars(work_dir, key)[-1], abs=1e-9)


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_arguments_are_read_before_torch_is_imported(tool):
    script = (
        'import runpy, sys\n'
        'sys.argv[1:] = ["--help"]\n'
        'try:\n'
        f'    runpy.run_path({str(ROOT / "tools" / tool)!r}, run_name="__main__")\n'
        'finally:\n'
        '    print("heavy:", [m for m in ("torch", "mmcv", "cv2") if m in sys.modules])\n'
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, env=ENV)
    assert done.returncode == 0, done.stderr
    assert '--compile' in done.stdout
    assert done.stdout.endswith('heavy: []\n')


def test_low_precision_is_on_and_near_and_resumes(trained, shapes, tmp_path):
    _, float_dir = trained
    config = write_config(tmp_path / 'tiny.py', shapes)
    run('train.py', config, '--amp')
    work_dir = tmp_path / 'work_dirs' / 'tiny'
    for found, expected in zip(scalars(work_dir, 'loss'), scalars(float_dir, 'loss'), strict=True):
        assert found == pytest.approx(expected, rel=0.05)
    assert scalars(work_dir, 'loss') != scalars(float_dir, 'loss')
    assert all(peak > 50 for peak in scalars(work_dir, 'peak_memory'))
    saved = weights(work_dir / 'epoch_2.pth')
    assert {value.dtype for value in saved.values() if value.is_floating_point()} == {torch.float32}
    # A float32 run goes on from it, and an --amp run from a float32 checkpoint.
    for source, options in ((work_dir, ()), (float_dir, ('--amp',))):
        resume = ('--resume', source / 'epoch_1.pth', '--work-dir', tmp_path / f'on{len(options)}')
        run('train.py', config, *resume, *options)
        assert len(scalars(tmp_path / f'on{len(options)}', 'loss')) == 3
    tested = {}
    for name, options in (('float32', ()), ('bfloat16', ('--amp',))):
        run('test.py', config, work_dir / 'epoch_2.pth', '--work-dir', tmp_path / name, *options)
        tested[name] = json.loads(next((tmp_path / name).glob('*/*.json')).read_text())
    key = 'coco/bbox_mAP_50'
    assert tested['bfloat16'][key] == pytest.approx(tested['float32'][key], abs=0.05)


def double_images(data, split):
    """Every image twice in a row, so that two processes meet the same images."""
    if split == 'val':
        return
    twins = [{**image, 'id': image['id'] + 1000} for image in data['images']]
    data['images'] = [image for pair in zip(data['images'], twins, strict=True) for image in pair]
    data['annotations'] += [
        {**ann, 'id': ann['id'] + 1000, 'image_id': ann['image_id'] + 1000}
        for ann in data['annotations']
    ]


def test_two_processes_train_as_one(shapes, tmp_path):
    unshuffled = (
        'train_dataloader.update(batch_size=2, sampler=dict(shuffle=False))\n'
        'train_cfg.update(max_epochs=1, val_interval=10)\n'
    )
    doubled = edit_json(shapes, tmp_path, double_images)
    one = write_config(tmp_path / 'one.py', shapes, unshuffled)
    two = write_config(tmp_path / 'two.py', doubled, unshuffled)
    run('train.py', one)
    run('dist_train.sh', two, 2)
    expected = weights(tmp_path / 'work_dirs/one/epoch_1.pth')
    found = weights(tmp_path / 'work_dirs/two/epoch_1.pth')
    assert len(scalars(tmp_path / 'work_dirs/two', 'loss')) == 6
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_an_unknown_config_lists_those_there_are(shapes, tmp_path):
    config = tmp_path / 'nowhere.py'
    done = run('train.py', config, check=False)
    assert done.returncode != 0
    assert 'retinanet_ghm_r50_fpn_1x_coco' in done.stderr


def edit_json(shapes, tmp_path, change):
    """A copy of the data whose annotation file was changed."""
    root = tmp_path / 'data'
    for split in ('train', 'val'):
        (root / 'annotations').mkdir(parents=True, exist_ok=True)
        (root / split).symlink_to(shapes / split)
        data = json.loads((shapes / 'annotations' / f'{split}.json').read_text())
        change(data, split)
        (root / 'annotations' / f'{split}.json').write_text(json.dumps(data))
    return root


def rename_square(data, split):
    for category in data['categories']:
        if category['name'] == 'square':
            category['name'] = 'squares'


BAD_OPTIONS = [
    ('train_dataloader.dataset.ann_file=annotations/trian.json', ['trian.json', 'ann_file']),
    ('train_dataloader.dataset.data_prefix.img=trian/', ['trian', 'data_prefix.img']),
    (
        'model.bbox_head.loss_cls.type=GHMCC',
        ['model.bbox_head.loss_cls.type: GHMCC is not in the ghmdet::model registry'],
    ),
    (
        'model.bbox_head.loss_cls.binz=3',
        ["model.bbox_head.loss_cls (GHMC): unexpected keyword argument 'binz'; did you mean bins?"],
    ),
    ('model.bbox_head.loss_cls.momentum=1.0', ['model.bbox_head.loss_cls (GHMC): ', 'got 1.0']),
    ('model.bbox_head.num_classes=80', ['num_classes is 80', '3 classes', 'circle']),
    ('train_dataloader.dataset.metainfo.classes=circle', ['got the str', 'comma']),
    ('load_from=nowhere.pth', ['nowhere.pth']),
    ('load_from=tiny.py', ['tiny.py', 'is not a checkpoint']),
]


@pytest.mark.parametrize(('option', 'told'), BAD_OPTIONS, ids=[o for o, _ in BAD_OPTIONS])
def test_bad_settings_stop_before_training(config, tmp_path, option, told):
    work_dir = tmp_path / 'work'
    done = run('train.py', config, '--work-dir', work_dir, '--cfg-options', option, check=False)
    check_refused(done, work_dir, told)


def error_of(done):
    return f'\n{done.stderr}'.rpartition('\nerror: ')[2]


def check_refused(done, work_dir, told):
    assert done.returncode == 1
    last_words = error_of(done)
    for text in told:
        assert text in last_words
    assert scalars(work_dir, 'loss') == []
    assert not list(work_dir.glob('*.pth'))


def test_broken_json(shapes, tmp_path):
    root = edit_json(shapes, tmp_path, lambda data, split: None)
    file = root / 'annotations' / 'train.json'
    file.write_text(file.read_text()[:200])
    config = write_config(tmp_path / 'tiny.py', root)
    done = run('train.py', config, '--work-dir', tmp_path / 'work', check=False)
    check_refused(done, tmp_path / 'work', ['train.json: broken JSON at line 1'])


def test_class_that_the_json_lacks(shapes, tmp_path):
    config = write_config(tmp_path / 'tiny.py', edit_json(shapes, tmp_path, rename_square))
    done = run('train.py', config, '--work-dir', tmp_path / 'work', check=False)
    check_refused(done, tmp_path / 'work', ["'square' (did you mean 'squares'?)", 'train.json'])


def test_corrupt_image(shapes, tmp_path):
    root = edit_json(shapes, tmp_path, lambda data, split: None)
    (root / 'train').unlink()
    (root / 'train').mkdir()
    for image in (shapes / 'train').iterdir():
        content = image.read_bytes()
        (root / 'train' / image.name).write_bytes(
            content[: len(content) // 2] if image.name == '00007.jpg' else content
        )
    config = write_config(tmp_path / 'tiny.py', root)
    done = run('train.py', config, '--work-dir', tmp_path / 'work', check=False)
    check_refused(done, tmp_path / 'work', ['train/00007.jpg', 'truncated'])


def test_checkpoint_that_is_none_in_test(config, tmp_path):
    picture = tmp_path / 'picture.pth'
    picture.write_bytes(cv2.imencode('.jpg', np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    done = run('test.py', config, picture, check=False)
    assert done.returncode != 0
    assert 'picture.pth is not a checkpoint' in error_of(done)


# --- classes and results --------------------------------------------------------------------------

NO_CLASSES = """
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader['dataset']['metainfo'] = dict(classes=None)
model['bbox_head']['num_classes'] = 80
val_evaluator = test_evaluator = dict(ann_file=None)
"""


def test_classes_come_from_the_file_and_then_from_the_checkpoint(shapes, trained, tmp_path):
    config = write_config(tmp_path / 'bare.py', shapes, NO_CLASSES)
    done = run('train.py', config)
    told = (
        f'3 classes (circle, square, triangle) taken from {shapes}/annotations/train.json, since '
        'the config names none; model.bbox_head.num_classes = 3'
    )
    assert told in done.stdout + done.stderr
    work_dir, named = tmp_path / 'work_dirs' / 'bare', trained[1]
    assert scalars(work_dir, 'loss') == scalars(named, 'loss')
    assert scalars(work_dir, 'coco/bbox_mAP') == scalars(named, 'coco/bbox_mAP')
    done = run('test.py', config, work_dir / 'epoch_2.pth', '--work-dir', tmp_path / 'tested')
    told = f'3 classes (circle, square, triangle) taken from {work_dir}/epoch_2.pth'
    assert told in done.stdout + done.stderr
    results = json.loads(next((tmp_path / 'tested').glob('*/*.json')).read_text())
    assert results['coco/bbox_mAP'] == pytest.approx(scalars(named, 'coco/bbox_mAP')[-1], abs=1e-9)


def test_a_test_with_the_classes_in_another_order(trained):
    config, work_dir = trained
    order = "test_dataloader.dataset.metainfo.classes=('square','circle','triangle')"
    args = (config, work_dir / 'epoch_2.pth', '--cfg-options', order)
    done = run('test.py', *args, check=False)
    assert done.returncode == 1
    assert "2 of 3 classes differ: number 0 is 'circle' in the file, 'square' in" in done.stderr
    way_out = 'default_hooks.load_weights.check_classes=False'
    assert run('test.py', *args, way_out).returncode == 0


def test_an_evaluator_of_another_file(trained, shapes):
    config, work_dir = trained
    other = f'{shapes}/annotations/train.json'
    args = (config, work_dir / 'epoch_2.pth', '--cfg-options', f'test_evaluator.ann_file={other}')
    done = run('test.py', *args, check=False)
    assert done.returncode == 1
    assert f'test_evaluator (CocoMetric) has ann_file={other}, but test_dataloader' in done.stderr
    # The dataset's file alone is enough.
    options = ('test_evaluator.ann_file=None', f'test_dataloader.dataset.ann_file={other}')
    options += ('test_dataloader.dataset.data_prefix.img=train/',)
    assert 'CocoMetric: 12 images' in run('test.py', *args[:3], *options).stdout


def test_results_with_and_without_annotations(trained, shapes, tmp_path):
    config, work_dir = trained
    checkpoint = work_dir / 'epoch_2.pth'
    run('test.py', config, checkpoint, '--work-dir', tmp_path, '--out', tmp_path / 'x.json')
    measured = json.loads((tmp_path / 'x.json').read_text())
    assert 50 < len(measured) <= 500
    assert list(measured[0]) == ['image_id', 'category_id', 'bbox', 'score']
    assert 'coco/bbox_mAP' in next(tmp_path.glob('*/*.json')).read_text()

    content = json.loads((shapes / 'annotations' / 'val.json').read_text())
    file_names = {image['id']: image['file_name'] for image in content['images']}
    names = {category['id']: category['name'] for category in content['categories']}
    del content['annotations']
    (tmp_path / 'bare.json').write_text(json.dumps(content))
    bare = f'test_dataloader.dataset.ann_file={tmp_path}/bare.json'
    args = (config, checkpoint, '--work-dir', tmp_path, '--cfg-options', bare)
    run('test.py', *args, '--format-only')
    assert json.loads((tmp_path / 'results.bbox.json').read_text()) == measured
    done = run('test.py', *args, 'test_evaluator.ann_file=None', check=False)
    assert done.returncode == 1
    assert "bare.json' has no list 'annotations', so there is nothing to compare" in done.stderr
    assert '--format-only' in done.stderr

    del content['categories']
    (tmp_path / 'bare.json').write_text(json.dumps(content))
    run('test.py', *args, '--format-only', '--out', tmp_path / 'bare' / 'y.json')
    found = json.loads((tmp_path / 'bare' / 'y.json').read_text())
    assert [row['image_id'] for row in found] == [row['image_id'] for row in measured]
    assert [row['category_name'] for row in found] == [names[r['category_id']] for r in measured]
    assert {row['category_id'] for row in found} <= {1, 2, 3}

    run('test.py', *args[:4], '--images', shapes / 'val', '--out', tmp_path / 'z.json')
    found = json.loads((tmp_path / 'z.json').read_text())
    assert [row['image_id'] for row in found] == [file_names[r['image_id']] for r in measured]
    assert [row['bbox'] for row in found] == [row['bbox'] for row in measured]
    assert [row['category_name'] for row in found] == [names[r['category_id']] for r in measured]


@pytest.mark.parametrize(
    ('args', 'code', 'told'),
    [
        (('--out', 'x.txt'), 2, '--out must end in .json, .pkl or .pickle, got x.txt'),
        (('--images', 'nowhere'), 1, "expected a folder of images, but 'nowhere' is none"),
    ],
)
def test_results_that_cannot_be(trained, args, code, told):
    config, work_dir = trained
    done = run('test.py', config, work_dir / 'epoch_2.pth', *args, check=False)
    assert (done.returncode, told in done.stderr) == (code, True)
