"""The command line as users run it: a tiny detector on a dozen drawn images."""

import json
import pickle
import shutil

import cv2
import pytest
import torch

from tests.e2e.conftest import check_equal, run, scalars, weights, write_config


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


def results_of(work_dir):
    """The metrics that a test has written."""
    return json.loads(next(work_dir.glob('*/*.json')).read_text())


def test_testing_repeats_validation_and_draws(trained, tmp_path):
    config, work_dir = trained
    out = tmp_path / 'found.pkl'
    args = ('--work-dir', tmp_path, '--out', out, '--show-dir', 'drawn')
    done = run('test.py', config, work_dir / 'epoch_2.pth', *args)
    results = results_of(tmp_path)
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
    expected = scalars(work_dir, 'coco/bbox_mAP')[-1]
    assert results_of(tmp_path)['coco/bbox_mAP'] == pytest.approx(expected, abs=1e-9)


def test_the_default_views_are_the_image_and_its_mirror_image(trained, tmp_path):
    config, work_dir = trained
    flipless = tmp_path / 'flipless.py'
    flipless.write_text(f'_base_ = {str(config)!r}\ntta_pipeline = None\ntta_model = None\n')
    out = tmp_path / 'found.pkl'
    args = ('--work-dir', tmp_path, '--tta', '--out', out)
    done = run('test.py', flipless, work_dir / 'epoch_2.pth', *args)
    assert 'merging the image and its mirror image' in done.stderr
    assert 'merging by NMS at 0.5' in done.stderr
    # Boxes of both views, back in the frame of the image.
    for sample in pickle.loads(out.read_bytes()):
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
    assert 'Training begins, resumed after iteration 3:' in done.stdout
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


def test_low_precision_is_on_and_near(trained, shapes, tmp_path):
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
    tested = {}
    for name, options in (('float32', ()), ('bfloat16', ('--amp',))):
        run('test.py', config, work_dir / 'epoch_2.pth', '--work-dir', tmp_path / name, *options)
        tested[name] = results_of(tmp_path / name)['coco/bbox_mAP_50']
    assert tested['bfloat16'] == pytest.approx(tested['float32'], abs=0.05)


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
    text = (
        f'3 classes (circle, square, triangle) taken from {shapes}/annotations/train.json, since '
        'the config names none; model.bbox_head.num_classes = 3'
    )
    assert text in done.stdout + done.stderr
    work_dir, named = tmp_path / 'work_dirs' / 'bare', trained[1]
    assert scalars(work_dir, 'loss') == scalars(named, 'loss')
    assert scalars(work_dir, 'coco/bbox_mAP') == scalars(named, 'coco/bbox_mAP')
    done = run('test.py', config, work_dir / 'epoch_2.pth', '--work-dir', tmp_path / 'tested')
    text = f'3 classes (circle, square, triangle) taken from {work_dir}/epoch_2.pth'
    assert text in done.stdout + done.stderr
    expected = scalars(named, 'coco/bbox_mAP')[-1]
    assert results_of(tmp_path / 'tested')['coco/bbox_mAP'] == pytest.approx(expected, abs=1e-9)


def test_results_with_and_without_annotations(trained, shapes, tmp_path):
    config, work_dir = trained
    checkpoint = work_dir / 'epoch_2.pth'
    run('test.py', config, checkpoint, '--work-dir', tmp_path, '--out', tmp_path / 'x.json')
    measured = json.loads((tmp_path / 'x.json').read_text())
    assert 50 < len(measured) <= 500
    assert list(measured[0]) == ['image_id', 'category_id', 'bbox', 'score']
    assert 'coco/bbox_mAP' in results_of(tmp_path)

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

    photos = shutil.copytree(shapes / 'val', tmp_path / 'photos')
    (photos / 'cut.jpg').write_bytes((photos / '00001.jpg').read_bytes()[:-50])
    args = ('test.py', *args[:4], '--images', photos, '--out', tmp_path / 'z.json')
    done = run(*args, check=False)
    assert done.returncode == 1
    fault = f'image {photos}/cut.jpg is truncated: its end marker is missing'
    assert f'error: 1 images of {photos} cannot be used and were left out: {fault}' in done.stderr
    (tmp_path / 'z.json').rename(tmp_path / 'partial.json')
    assert f'were left out:\n{fault}\n' in run(*args, '--allow-skipped').stdout
    assert (tmp_path / 'z.json').read_bytes() == (tmp_path / 'partial.json').read_bytes()
    found = json.loads((tmp_path / 'z.json').read_text())
    assert [row['image_id'] for row in found] == [file_names[r['image_id']] for r in measured]
    assert [row['bbox'] for row in found] == [row['bbox'] for row in measured]
    assert [row['category_name'] for row in found] == [names[r['category_id']] for r in measured]
