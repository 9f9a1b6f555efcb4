"""Detections in Python equal those of the pipeline that tools/test.py runs."""

import copy
from io import BytesIO

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from PIL import Image

from ghmdet import config_path
from ghmdet.datasets import CocoDataset, draw_shapes
from ghmdet.datasets.coco import COCO_CLASSES
from ghmdet.engine import CheckpointError, get_model, inference_detector, init_detector


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    draw_shapes(root, dict(val=2), seed=3)
    cfg = Config.fromfile(config_path('retinanet_ghm_r18_fpn_shapes'))
    cfg.model.test_cfg.score_thr = 0.001
    torch.manual_seed(0)
    model = init_detector(cfg)
    model.init_weights()
    checkpoint = root / 'model.pth'
    meta = dict(dataset_meta=dict(classes=('a', 'b', 'c')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    return root, cfg, checkpoint


def test_paths_and_arrays_give_what_the_test_pipeline_gives(setting):
    root, cfg, checkpoint = setting
    model = init_detector(cfg, str(checkpoint))
    assert not model.training
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    dataset = CocoDataset(
        str(root / 'annotations/val.json'),
        data_prefix=dict(img=str(root / 'val')),
        metainfo=dict(classes=cfg.classes),
        test_mode=True,
        pipeline=cfg.test_dataloader.dataset.pipeline,
    )
    paths = [dataset.get_data_info(i)['img_path'] for i in range(2)]
    by_path = inference_detector(model, paths)
    for i, path in enumerate(paths):
        data = dataset[i]
        with torch.no_grad():
            expected = model.test_step({key: [value] for key, value in data.items()})[0]
        for found in (by_path[i], inference_detector(model, mmcv.imread(path))):
            assert len(found.pred_instances) == len(expected.pred_instances) > 0
            for key in ('bboxes', 'scores', 'labels'):
                assert torch.equal(found.pred_instances[key], expected.pred_instances[key])


def test_other_names_in_the_config_get_a_warning(setting, monkeypatch):
    _, cfg, checkpoint = setting
    lines = []
    monkeypatch.setattr('ghmdet.checkpoint.weights.print_log', lambda text, *_: lines.append(text))
    assert init_detector(cfg, checkpoint).dataset_meta['classes'] == ('a', 'b', 'c')
    assert lines[0].endswith(
        'WARNING: the config names other classes for test_dataloader.dataset (circle, square, '
        'triangle) than this file (a, b, c); the labels are those of the file'
    )


def test_a_config_without_classes_takes_those_of_the_checkpoint(setting):
    _, cfg, checkpoint = setting
    cfg = copy.deepcopy(cfg)
    for split in ('train', 'val', 'test'):
        del cfg[f'{split}_dataloader'].dataset.metainfo
    cfg.model.bbox_head.num_classes = 80
    model = init_detector(cfg, checkpoint)
    assert model.bbox_head.num_classes == 3
    assert model.dataset_meta['classes'] == ('a', 'b', 'c')
    assert cfg.model.bbox_head.num_classes == 80  # the caller's stays as it is


@pytest.mark.parametrize(
    ('meta', 'classes'),
    [
        (dict(CLASSES=('x', 'y', 'z')), 'xyz'),
        (dict(dataset_meta=dict(CLASSES=('x', 'y', 'z'), PALETTE=[(1, 2, 3)] * 3)), 'xyz'),
        (dict(dataset_meta=dict(classes=['x', 'y', 'z'])), 'xyz'),
        (dict(CLASSES=('x', 'y')), ('circle', 'square', 'triangle')),  # the head has three
    ],
)
def test_class_names_of_files_of_all_versions(setting, tmp_path, meta, classes):
    _, cfg, checkpoint = setting
    weights = {f'module.{k}': v for k, v in torch.load(checkpoint)['state_dict'].items()}
    torch.save(dict(state_dict=weights, meta=meta), tmp_path / 'old.pth')
    model = init_detector(cfg, tmp_path / 'old.pth', fold=False)
    assert model.dataset_meta['classes'] == tuple(classes)
    assert torch.equal(model.backbone.conv1.weight, weights['module.backbone.conv1.weight'])


def test_a_checkpoint_with_gaps_is_refused(setting, tmp_path):
    _, cfg, checkpoint = setting
    weights = torch.load(checkpoint)['state_dict']
    weights['bbox_head.retina_cls.weight'] = torch.zeros(720, 64, 3, 3)
    weights['bbox_head.retina_cls.bias'] = torch.zeros(720)
    torch.save(weights, tmp_path / 'coco.pth')
    with pytest.raises(CheckpointError, match="file's head has 80 classes, the config's 3"):
        init_detector(cfg, str(tmp_path / 'coco.pth'))


def test_get_model(setting):
    checkpoint = setting[2]
    saved = torch.load(checkpoint)['state_dict']
    model = get_model('retinanet_ghm_r18_fpn_shapes', checkpoint)
    assert not model.training
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert list(model.state_dict()) == list(saved)  # not folded
    assert model.dataset_meta['classes'] == ('a', 'b', 'c')
    model = get_model('retinanet_ghm_r50_fpn_1x_coco')
    assert model.dataset_meta['classes'] == COCO_CLASSES
    assert model.cfg.model.backbone.depth == 50


def test_get_model_with_published_weights(monkeypatch, setting):
    checkpoint = setting[2]
    asked = []

    def load(path, *_):
        asked.append(path)
        return dict(state_dict=get_model('retinanet_ghm_r50_fpn_1x_coco').state_dict())

    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', load)
    get_model('retinanet_ghm_r50_fpn_1x_coco', pretrained=True)
    assert [url.rpartition('/')[2] for url in asked] == [
        'retinanet_ghm_r50_fpn_1x_coco_20200130-a437fda3.pth'
    ]
    with pytest.raises(ValueError, match='give checkpoint or pretrained=True, not both'):
        get_model('retinanet_ghm_r50_fpn_1x_coco', checkpoint, pretrained=True)
    with pytest.raises(LookupError, match='no weights are published for .*ghm_r18_fpn_shapes'):
        get_model('retinanet_ghm_r18_fpn_shapes', pretrained=True)


EXPECTED = (
    r'expected a path, a Pillow image, an array uint8 \(h, w, 3\) in BGR or a tensor uint8 '
    r'\(3, h, w\) in BGR \(the model normalises it\), or a list of these; got'
)


def test_images_that_cannot_be_used(setting, tmp_path):
    model = init_detector(setting[1])
    (tmp_path / 'a.jpg').write_text('<html>')
    Image.new('RGB', (3000, 1)).save(tmp_path / 'thin.png')
    Image.new('RGB', (40, 30)).save(tmp_path / 'b.png')
    content = (tmp_path / 'b.png').read_bytes()
    (tmp_path / 'cut.png').write_bytes(content[:-30])
    for img, message in [
        ('nowhere.jpg', 'image nowhere.jpg does not exist$'),
        (tmp_path / 'a.jpg', r'image .*a.jpg cannot be read as an image \(cannot iden'),
        (tmp_path / 'thin.png', r'image .*thin.png is 3000x1 .* of which step . \(Resize\) of'),
        (np.zeros((1, 3000, 3), np.uint8), r'the image is 3000x1 .* step . \(Resize\) of the'),
        (
            np.zeros((8, 9), np.uint8),
            rf'{EXPECTED} an array uint8 \(8, 9\); give a grey image as PIL',
        ),
        (np.zeros((8, 9, 4), np.uint8), rf'{EXPECTED} an array uint8 \(8, 9, 4\)$'),
        (np.zeros((1, 8, 9, 3), np.uint8), rf'{EXPECTED} an array uint8 \(1, 8, 9, 3\)$'),
        (np.zeros((0, 9, 3), np.uint8), rf'{EXPECTED} an array uint8 \(0, 9, 3\)$'),
        (np.zeros((8, 9, 3), np.uint16), rf'{EXPECTED} an array uint16 \(8, 9, 3\)$'),
        (np.zeros((8, 9, 3), np.float32), rf'{EXPECTED} an array float32 \(8, 9, 3\)$'),
        (torch.zeros(3, 8, 9), rf'{EXPECTED} a tensor torch.float32 \(3, 8, 9\)$'),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), rf'{EXPECTED} a tensor torch.uint8 \(8, 9, 3\)'),
        (torch.zeros(1, 3, 8, 9, dtype=torch.uint8), rf'{EXPECTED} a tensor torch.uint8 \(1, 3,'),
        (content, f'{EXPECTED} bytes$'),
        (None, f'{EXPECTED} NoneType$'),
        (dict(img='b.png'), f'{EXPECTED} dict$'),
        ([[tmp_path / 'b.png']], f'{EXPECTED} list$'),
        (Image.open(tmp_path / 'cut.png'), 'the Pillow image .*cut.png cannot be used: '),
        (Image.new('F', (9, 8)), 'the Pillow image .* its pixels .mode F. have no known range'),
        (Image.new('I', (9, 8)), 'the Pillow image .* its pixels .mode I. have no known range'),
    ]:
        with pytest.raises((FileNotFoundError, ValueError, TypeError), match=f'^{message}'):
            inference_detector(model, img)


def assert_equal_detections(found, expected):
    assert len(found.pred_instances) == len(expected.pred_instances) > 0
    assert found.ori_shape == expected.ori_shape
    for key in ('bboxes', 'scores', 'labels'):
        assert torch.equal(found.pred_instances[key], expected.pred_instances[key])


@pytest.mark.parametrize(
    ('suffix', 'color_type'),
    [
        *((suffix, 'color') for suffix in ('jpg', 'png', 'tiff', 'webp')),
        # Pillow itself turns a TIFF.
        *((suffix, 'color_ignore_orientation') for suffix in ('jpg', 'png', 'webp')),
    ],
)
@pytest.mark.parametrize('orientation', [1, 6, 7])
def test_a_pillow_image_gives_what_its_file_gives(
    setting, tmp_path, suffix, orientation, color_type
):
    root, cfg, checkpoint = setting
    cfg = copy.deepcopy(cfg)
    cfg.test_dataloader.dataset.pipeline[0].color_type = color_type
    model, exif = init_detector(cfg, checkpoint), Image.Exif()
    exif[0x0112] = orientation
    options = dict(lossless=True) if suffix == 'webp' else {}
    with Image.open(next((root / 'val').iterdir())) as image:
        image.resize((160, 120)).save(tmp_path / f'a.{suffix}', exif=exif, **options)
    expected = inference_detector(model, tmp_path / f'a.{suffix}')
    turned = orientation != 1 and color_type == 'color'
    assert expected.ori_shape == ((160, 120) if turned else (120, 160))
    with Image.open(tmp_path / f'a.{suffix}') as image:
        assert_equal_detections(inference_detector(model, image), expected)
        assert_equal_detections(inference_detector(model, [image, image])[1], expected)
    # What the message of bytes says.
    content = BytesIO((tmp_path / f'a.{suffix}').read_bytes())
    assert_equal_detections(inference_detector(model, Image.open(content)), expected)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'I;16', 'CMYK'])
def test_a_pillow_image_of_any_mode(setting, tmp_path, mode):
    model = init_detector(setting[1], setting[2])
    with Image.open(next((setting[0] / 'val').iterdir())) as image:
        image = image.convert('L' if mode == 'I;16' else mode)
    if mode == 'I;16':
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 256 + 200)
        assert image.mode == mode
    if mode in ('LA', 'RGBA'):
        image.putalpha(0)
    file = tmp_path / ('a.tiff' if mode in ('CMYK', 'PA') else 'a.png')
    if mode == 'PA':  # no file has this mode
        image.convert('RGB').save(file)
    else:
        image.save(file)
    assert_equal_detections(inference_detector(model, image), inference_detector(model, file))


def test_a_tensor_gives_what_its_array_gives(setting):
    model = init_detector(setting[1], setting[2])
    array = mmcv.imread(next((setting[0] / 'val').iterdir()))
    expected = inference_detector(model, array)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for given in (tensor, tensor.contiguous(), (tensor,), iter([tensor])):
        found = inference_detector(model, given)
        assert_equal_detections(found[0] if isinstance(found, list) else found, expected)


def test_any_kind_of_png(setting, tmp_path):
    model, image = init_detector(setting[1]), Image.new('L', (40, 30), 200)
    images = [image.convert(mode) for mode in ('L', 'LA', 'RGBA', 'P', '1')]
    images.append(Image.fromarray(np.full((30, 40), 51400, np.uint16)))
    for image in images:
        image.save(tmp_path / 'a.png')
        assert inference_detector(model, tmp_path / 'a.png').ori_shape == (30, 40), image.mode
