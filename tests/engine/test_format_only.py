"""Tests without ground truth, which only write what is detected."""

from io import BytesIO

import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from PIL import Image

from ghmdet.checks.classes import complete_evaluators
from ghmdet.datasets.transforms import PipelineError
from ghmdet.engine import (
    leave_out_unusable,
    report_thresholds,
    skip_evaluation,
    use_image_folder,
    write_coco_results,
)
from ghmdet.registry import DATASETS, METRICS, TRANSFORMS


@TRANSFORMS.register_module(force=True)
class Needs(BaseTransform):
    def transform(self, results):
        return results['gt_bboxes']


@METRICS.register_module(force=True)
class OwnMetric(METRICS.get('CocoMetric')):
    pass


def make_config(evaluator, **dataset):
    dataset = dict(type='CocoDataset', ann_file='val.json', data_root='data/pets', **dataset)
    loader = dict(dataset=dataset)
    return Config(dict(test_dataloader=loader, test_evaluator=evaluator, work_dir='work'))


def test_results_beside_the_measures():
    cfg = make_config([dict(type='OwnMetric'), dict(type='CocoMetric', classwise=True)])
    write_coco_results(cfg, 'x.json')
    assert cfg.test_evaluator[1] == dict(type='CocoMetric', classwise=True, outfile_prefix='x.json')
    with pytest.raises(ValueError, match='test_evaluator has none') as caught:
        write_coco_results(make_config(dict(type='OwnMetric')), 'x.json')
    assert str(caught.value) == (
        '--out x.json is written by CocoMetric, but test_evaluator has none; add --format-only, or '
        'give a name that ends in .pkl'
    )


def test_a_test_reports_thresholds():
    cfg = make_config([dict(type='OwnMetric'), dict(type='CocoMetric', metric='bbox')])
    report_thresholds(cfg, 'curves')
    told = dict(best_thresholds=True, curves_dir='curves')
    assert cfg.test_evaluator == [
        dict(type='OwnMetric'),
        dict(type='CocoMetric', metric='bbox', **told),
    ]


@pytest.mark.follows('leave out --curves, or what makes it only write')
def test_curves_need_a_metric_that_measures():
    cfg = make_config(dict(type='CocoMetric', format_only=True, outfile_prefix='x.json'))
    with pytest.raises(ValueError, match='--curves x is written by a CocoMetric that measures'):
        report_thresholds(cfg, 'x')
    report_thresholds(cfg, None)
    assert 'best_thresholds' not in cfg.test_evaluator
    del cfg.test_evaluator['format_only']
    report_thresholds(cfg, 'x')
    assert cfg.test_evaluator.curves_dir == 'x'


@pytest.mark.parametrize('kind', ['CocoDataset', 'Mine'])
def test_results_without_measures(kind):
    cfg = make_config(dict(type='CocoMetric', ann_file='old.json', classwise=True))
    cfg.test_dataloader.dataset.type = kind
    skip_evaluation(cfg, 'x.json')
    # Of a dataset that has no COCO file, the ids are those of the metric's.
    kept = {} if kind == 'CocoDataset' else dict(ann_file='old.json')
    assert cfg.test_evaluator == dict(
        type='CocoMetric', format_only=True, outfile_prefix='x.json', **kept
    )


def test_a_folder_in_place_of_the_dataset():
    steps = [dict(type='LoadImageFromFile')]
    cfg = make_config(dict(type='OwnMetric'), pipeline=steps, metainfo=dict(classes=('a', 'b')))
    use_image_folder(cfg, 'photos', 'x.json')
    complete_evaluators(cfg)
    assert cfg.test_dataloader.dataset == dict(
        type='ImageFolder',
        data_prefix=dict(img='photos'),
        metainfo=dict(classes=('a', 'b')),
        test_mode=True,
        pipeline=steps,
    )
    assert cfg.test_evaluator == dict(type='CocoMetric', format_only=True, outfile_prefix='x.json')


def make_images(folder, **bad):
    """Write a.jpg, b.jpg and c.jpg, some of them with other content."""
    folder.mkdir()
    for name in 'abc':
        Image.new('RGB', (40, 30)).save(folder / f'{name}.jpg')
    for name, content in bad.items():
        (folder / f'{name}.jpg').write_bytes(content)


def damage(image):
    """The content of a file of the image, damaged in the middle."""
    buffer = BytesIO()
    image.save(buffer, 'PNG')
    content = buffer.getvalue()
    half = len(content) // 2
    return content[:half] + bytes(50) + content[half + 50 :]


@pytest.mark.parametrize('workers', [0, 2])
def test_images_that_cannot_be_used_are_left_out(tmp_path, workers):
    folder = tmp_path / 'photos'
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 255, (80, 90, 3), np.uint8))
    make_images(folder, b=damage(noise), d=b'', f=b'<html>')
    Image.new('RGB', (3000, 1)).save(folder / 'e.png')
    Image.new('RGB', (100, 80)).save(folder / 'g.png')
    steps = [
        dict(type='LoadImageFromFile', max_pixels=7999),
        dict(type='Resize', scale=(32, 32), keep_ratio=True),
        dict(type='PackDetInputs'),
    ]
    cfg = make_config(dict(type='CocoMetric'), pipeline=steps)
    use_image_folder(cfg, folder, 'x.json')
    reasons = leave_out_unusable(cfg, workers)
    assert cfg.test_dataloader.dataset.left_out == ['b.jpg', 'd.jpg', 'e.png', 'f.jpg', 'g.png']
    words = ['is damaged', 'is empty', 'too thin', 'cannot be read as', 'more than 7999 pixels']
    assert list(reasons) == cfg.test_dataloader.dataset.left_out
    for (name, reason), word in zip(reasons.items(), words, strict=True):
        assert reason.startswith(f'image {folder}/{name} ')
        assert word in reason
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    assert [dataset[i]['data_samples'].img_id for i in range(len(dataset))] == ['a.jpg', 'c.jpg']


def test_a_step_that_fails_leaves_nothing_out(tmp_path):
    make_images(tmp_path / 'photos')
    cfg = make_config({}, pipeline=[dict(type='LoadImageFromFile'), dict(type='Needs')])
    use_image_folder(cfg, tmp_path / 'photos', 'x.json')
    assert leave_out_unusable(cfg, 0) == {}
    assert 'left_out' not in cfg.test_dataloader.dataset
    with pytest.raises(PipelineError, match=r'a.jpg .* step 1 .Needs.* KeyError: .gt_bboxes'):
        DATASETS.build(cfg.test_dataloader.dataset)[0]


def test_no_image_is_left(tmp_path):
    folder = tmp_path / 'photos'
    make_images(folder, a=b'', b=b'<html>', c=b'')
    cfg = make_config({}, pipeline=[dict(type='LoadImageFromFile')])
    use_image_folder(cfg, folder, 'x.json')
    with pytest.raises(
        ValueError, match=rf'^{folder}: no image can be used: image .*a.jpg .* is e'
    ):
        leave_out_unusable(cfg, 0)
