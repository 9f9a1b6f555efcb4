"""What the metadata say, whatever the config looks like."""

from mmcv.transforms import LoadImageFromFile, Resize
from mmengine.config import Config

from ghmdet import get_model
from ghmdet.datasets.transforms import PackDetInputs
from ghmdet.export.graph import describe


def test_classes_in_place_of_names(exported):
    cfg = Config.fromfile(exported / 'config.py')
    cfg.test_dataloader.dataset.pipeline = [
        dict(type=LoadImageFromFile),
        dict(type=Resize, scale=32, keep_ratio=True),
        dict(type=PackDetInputs),
    ]
    metadata = describe(get_model(cfg))
    assert metadata['pipeline'] == [
        {'type': 'mmcv.transforms.loading.LoadImageFromFile'},
        {'type': 'mmcv.transforms.processing.Resize', 'scale': 32, 'keep_ratio': True},
        {'type': 'ghmdet.datasets.transforms.formatting.PackDetInputs'},
    ]
    assert (metadata['scale'], metadata['keep_ratio']) == ([32, 32], True)


def test_a_model_without_class_names(exported):
    model = get_model(Config.fromfile(exported / 'config.py'))
    model.dataset_meta = {}
    count = model.bbox_head.num_classes
    assert describe(model)['classes'] == tuple(f'class {label}' for label in range(count))
