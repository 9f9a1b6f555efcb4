"""What the tools fill into evaluators, and tests without ground truth."""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from ghmdet.checks.classes import complete_evaluators
from ghmdet.datasets import ImageFolder
from ghmdet.datasets.image_file import ImageError
from ghmdet.engine import skip_evaluation, use_image_folder, write_coco_results
from ghmdet.registry import DATASETS, METRICS


def make_config(evaluator, **dataset):
    dataset = dict(type='CocoDataset', ann_file='val.json', data_root='data/pets', **dataset)
    loader = dict(dataset=dataset)
    return Config(
        dict(
            val_dataloader=loader,
            test_dataloader=loader,
            val_evaluator=evaluator,
            test_evaluator=evaluator,
            work_dir='work',
        )
    )


def test_the_file_of_the_dataset_is_filled_in():
    cfg = make_config(dict(type='CocoMetric'), backend_args=dict(backend='petrel'))
    cfg.test_dataloader.dataset.ann_file = '/else/where.json'
    complete_evaluators(cfg)
    assert cfg.val_evaluator.ann_file == 'data/pets/val.json'
    assert cfg.val_evaluator.backend_args == dict(backend='petrel')
    assert cfg.test_evaluator.ann_file == '/else/where.json'


def test_it_is_filled_in_where_several_metrics_and_datasets_inside_of_others_are():
    cfg = make_config([dict(type='DumpDetResults'), dict(type='ghmdet.CocoMetric', prefix='x')])
    inner = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=inner)
    complete_evaluators(cfg)
    assert cfg.val_evaluator[1].ann_file == 'data/pets/val.json'
    assert 'ann_file' not in cfg.val_evaluator[0]


@METRICS.register_module(force=True)
class OwnMetric(METRICS.get('CocoMetric')):
    pass


def test_what_the_config_says_stays():
    cfg = make_config(dict(type='CocoMetric', ann_file='mine.json'))
    cfg.test_evaluator = dict(type='OwnMetric')
    complete_evaluators(cfg)
    assert cfg.val_evaluator.ann_file == 'mine.json'
    assert cfg.test_evaluator == dict(type='OwnMetric')
    cfg = make_config(dict(type='CocoMetric'))
    dataset = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset, dataset])
    cfg.default_scope = 'mmdet'
    complete_evaluators(cfg)
    assert cfg.test_evaluator == dict(type='CocoMetric')
    cfg.default_scope = 'ghmdet'
    complete_evaluators(cfg)
    assert cfg.val_evaluator == dict(type='CocoMetric')
    assert cfg.test_evaluator.ann_file == 'data/pets/val.json'


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


def test_images_of_a_folder(tmp_path):
    (tmp_path / 'b' / 'c').mkdir(parents=True)
    image = np.zeros((6, 8, 3), np.uint8)
    for name in ('z.PNG', 'b/c/1.jpeg', 'b/2.jpg'):
        assert cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / '._z.png').write_text('what macOS leaves behind')
    (tmp_path / 'b' / 'notes.json').write_text(json.dumps({}))
    cfg = dict(type='ImageFolder', data_prefix=dict(img=str(tmp_path)), test_mode=True)
    dataset = DATASETS.build(cfg)
    assert type(dataset) is ImageFolder
    assert [dataset.get_data_info(i) for i in range(len(dataset))] == [
        dict(
            img_id=name,
            img_path=f'{tmp_path}/{name}',
            width=8,
            height=6,
            instances=[],
            sample_idx=i,
        )
        for i, name in enumerate(('b/2.jpg', 'b/c/1.jpeg', 'z.PNG'))
    ]
    (tmp_path / 'broken.jpg').write_bytes(b'\xff\xd8 no more')
    with pytest.raises(ImageError, match=r'broken\.jpg cannot be read as an image'):
        DATASETS.build(cfg)


def test_folders_without_images(tmp_path):
    cfg = dict(type='ImageFolder', data_prefix=dict(img=str(tmp_path)), test_mode=True)
    with pytest.raises(ValueError, match='no image in this folder') as caught:
        DATASETS.build(cfg)
    assert str(caught.value) == (
        f'{tmp_path}: no image in this folder; looked for .bmp, .jpeg, .jpg, .png, .tif, .tiff, '
        '.webp there and in its subfolders'
    )
    cfg['data_prefix'] = dict(img='nowhere')
    with pytest.raises(NotADirectoryError, match="expected a folder of images, but 'nowhere' is"):
        DATASETS.build(cfg)
