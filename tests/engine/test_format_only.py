"""Tests without ground truth, which only write what is detected."""

import pytest
from mmengine.config import Config

from ghmdet.checks.classes import complete_evaluators
from ghmdet.engine import skip_evaluation, use_image_folder, write_coco_results
from ghmdet.registry import METRICS


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
