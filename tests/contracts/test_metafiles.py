"""model-index.yml and metafiles: the published figures, where mim and mmengine look for them."""

import re
from pathlib import Path

import pytest
from mmengine.fileio import load

import ghmdet
from ghmdet.config.shipped import MIM_ROOT

INDEX = load(MIM_ROOT / 'model-index.yml')
METAFILES = [load(MIM_ROOT / path) for path in INDEX['Import']]
MODELS = {model['Name']: model for metafile in METAFILES for model in metafile['Models']}
GHM = 'retinanet_ghm_{}_fpn_1x_coco'
BASELINE = 'retinanet_r50_fpn_1x_coco'
BASE = 'https://download.openmmlab.com/mmdetection/v2.0/'


@pytest.mark.parametrize(
    ('name', 'box_ap', 'memory', 'milliseconds', 'file'),
    [
        (GHM.format('r50'), 37.0, 4.0, 303.03, 'ghm/{0}/{0}_20200130-a437fda3.pth'),
        (GHM.format('r101'), 39.1, 6.0, 227.27, 'ghm/{0}/{0}_20200130-c148ee8f.pth'),
        (GHM.format('x101_32x4d'), 40.7, 7.2, 196.08, 'ghm/{0}/{0}_20200131-e4333bd0.pth'),
        (GHM.format('x101_64x4d'), 41.4, 10.3, 192.31, 'ghm/{0}/{0}_20200131-dd381cef.pth'),
        (BASELINE, 36.5, 3.8, 52.63, 'retinanet/{0}/{0}_20200130-c2398f9e.pth'),
    ],
)
def test_published_figures(name, box_ap, memory, milliseconds, file):
    model = MODELS[name]
    (result,) = model['Results']
    metrics = {'box AP': box_ap}
    assert result == {'Task': 'Object Detection', 'Dataset': 'COCO', 'Metrics': metrics}
    metadata = model['Metadata']
    assert (metadata['Training Memory (GB)'], metadata['Epochs']) == (memory, 12)
    assert [time['value'] for time in metadata['inference time (ms/im)']] == [milliseconds]
    assert model['Weights'] == BASE + file.format(name)
    header = Path(ghmdet.config_path(name)).read_text().splitlines()[0]
    assert f'box AP {box_ap}' in header


def test_every_entry_names_a_config_and_a_collection_that_exist():
    assert len(MODELS) == 5
    collections = [c['Name'] for metafile in METAFILES for c in metafile['Collections']]
    for name, model in MODELS.items():
        assert model['In Collection'] in collections
        assert (MIM_ROOT / model['Config']).is_file()
        assert Path(model['Config']).stem == name
        # mmengine wants a folder below configs/; it takes a string of aliases for letters
        assert re.fullmatch(r'configs/\w+/\w+\.py', model['Config'])
        assert isinstance(model.get('Alias', []), list)
    for metafile in METAFILES:
        for collection in metafile['Collections']:
            assert (MIM_ROOT / collection['README']).is_file()


def test_aliases_are_the_names_that_mmdetection_uses():
    aliases = [alias for model in MODELS.values() for alias in model.get('Alias', [])]
    backbones = ('r50', 'r101', 'x101-32x4d', 'x101-64x4d')
    assert aliases == [f'retinanet_{backbone}_fpn_ghm-1x_coco' for backbone in backbones]
