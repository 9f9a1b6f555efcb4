"""One detector, however it is built and whatever it reads, gives the detections of the test."""

import copy
import pickle
import re
import shutil
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from PIL import Image

import ghmdet
from ghmdet import Detector
from ghmdet.datasets.image_file import ImageError
from ghmdet.datasets.transforms import PipelineError
from ghmdet.engine import get_model, inference_detector, init_detector
from ghmdet.inference import SourceImage, iterate
from ghmdet.inference import detector as detector_module
from ghmdet.registry import DATASETS, MODELS, TRANSFORMS


def assert_equal(found, expected, tolerance=0.0):
    assert len(found) == len(expected) > 0
    assert found.labels.tolist() == expected.labels.tolist()
    assert np.abs(found.boxes - expected.boxes).max() <= tolerance
    assert np.abs(found.scores - expected.scores).max() <= tolerance


def test_images_one_by_one_are_those_of_the_test(shapes, detector):
    cfg = Config.fromfile(shapes / 'config.py')
    images = DATASETS.build(
        dict(
            type='ImageFolder',
            data_prefix=dict(img=str(shapes / 'photos')),
            metainfo=dict(classes=cfg.classes),
            test_mode=True,
            pipeline=cfg.test_dataloader.dataset.pipeline,
        )
    )
    model = init_detector(cfg, shapes / 'model.pth')
    streamed = list(detector.stream(shapes / 'photos'))
    assert len(streamed) == len(images) == 7
    for number, found in enumerate(streamed):
        with torch.no_grad():
            (sample,) = model.test_step(pseudo_collate([images[number]]))
        expected = sample.pred_instances.numpy()
        assert found.name == sample.img_id
        assert found.shape == sample.ori_shape
        assert np.abs(found.boxes - expected.bboxes).max() < 1e-4
        assert np.abs(found.scores - expected.scores).max() < 1e-6
        assert found.labels.tolist() == expected.labels.tolist()
        assert_equal(detector(found.path), found)
        other = inference_detector(model, found.path).pred_instances.numpy()
        assert np.array_equal(other.bboxes, found.boxes)


def test_batches_give_the_same_in_order(shapes, detector):
    expected = list(detector.stream(shapes / 'photos'))
    assert len({each.shape for each in expected}) > 3
    for size in (3, 8):
        for found, other in zip(detector.stream(shapes / 'photos', batch_size=size), expected):
            assert found.name == other.name
            assert_equal(found, other, 1e-4)
    listed = detector([each.path for each in expected], batch_size=4)
    assert [each.name for each in listed] == [each.name for each in expected]
    assert_equal(listed[3], expected[3], 1e-4)


def test_every_form_of_an_image_gives_the_same(shapes, detector):
    path = shapes / 'photos/a/0.png'
    expected = detector(path)
    assert (expected.name, expected.path, expected.frame) == ('0.png', str(path), None)
    bgr = cv2.imread(str(path))
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    assert_equal(detector(str(path)), expected)
    assert_equal(detector(bgr), expected)
    assert_equal(detector(rgb, channel_order='rgb'), expected)
    assert_equal(detector(torch.from_numpy(bgr).permute(2, 0, 1)), expected)
    assert_equal(detector(Image.open(path)), expected)
    one, two = detector((bgr, Image.open(path)))
    assert_equal(two, expected)
    assert (one.name, one.path, two.name) == ('000000', None, '000001')
    assert detector([]) == []


def test_every_form_of_a_model(shapes, detector, monkeypatch):
    path, weights = shapes / 'photos/a/0.png', shapes / 'model.pth'
    expected = detector(path)
    cfg = Config.fromfile(shapes / 'config.py')
    assert_equal(Detector(cfg, str(weights), device=torch.device('cpu'))(path), expected, 1e-4)
    assert_equal(Detector(init_detector(cfg, weights))(path), expected)
    model = get_model(cfg, weights)  # with its norms
    state = copy.deepcopy(model.state_dict())
    assert_equal(Detector(model)(path), expected, 1e-4)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    shipped = Detector('retinanet_ghm_r18_fpn_shapes', weights)
    assert shipped.classes == ('circle', 'square', 'triangle')
    assert shipped.backend == 'torch'
    assert ghmdet.Detector is Detector


@pytest.mark.follows('a built model is used as it is: leave weights, device and')
def test_a_built_model_stays_as_it_is(shapes):
    model = init_detector(shapes / 'config.py', shapes / 'model.pth')
    for options in (dict(weights='x.pth'), dict(device='cpu'), dict(compile=True)):
        with pytest.raises(ValueError, match='a built model is used as it is: leave weights, dev'):
            Detector(model, **options)
    found = Detector(model, amp=True)(shapes / 'photos/a/0.png')
    assert len(found) > 0
    assert {value.dtype for value in model.parameters()} == {torch.float32}


@pytest.mark.follows('a built model needs cfg: build it with')
def test_a_built_model_has_its_config(shapes):
    with pytest.raises(ValueError, match='needs cfg: build it with get_model or init_detector'):
        Detector(torch.nn.Linear(2, 2))
    model = get_model(shapes / 'config.py', shapes / 'model.pth')
    assert len(Detector(model)(shapes / 'photos/a/0.png')) > 0


def test_published_weights(shapes, monkeypatch):
    asked = []
    monkeypatch.setattr(detector_module, 'init_detector', lambda *args: asked.append(args) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Detector('retinanet_ghm_r50_fpn_1x_coco', device='cpu')
    assert asked[0][1].endswith('retinanet_ghm_r50_fpn_1x_coco_20200130-a437fda3.pth')
    with pytest.raises(LookupError, match='no weights are published for .*; use your own check'):
        Detector('retinanet_ghm_r18_fpn_shapes')


def test_scores_from_the_threshold_on(shapes, detector):
    path = shapes / 'photos/a/0.png'
    found = detector(path)
    limit = float(found.scores[4])
    assert len(detector(path, score_thr=limit)) == 5
    assert [len(each) for each in detector.stream(path, score_thr=limit)] == [5]


def test_low_precision(shapes, detector):
    path = shapes / 'photos/a/0.png'
    low, found = Detector(shapes / 'config.py', shapes / 'model.pth', amp=True), detector(path)
    assert low.model.backbone.conv1.weight.dtype == torch.bfloat16
    other = low(path)
    assert other.boxes.dtype == other.scores.dtype == np.float32
    assert 0 < abs(other.scores[0] - found.scores[0]) < 0.01


def test_threads(shapes):
    before = torch.get_num_threads()
    try:
        Detector(shapes / 'config.py', shapes / 'model.pth', threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ValueError, match='threads must be an integer of at least 1, got 0'):
        Detector(shapes / 'config.py', shapes / 'model.pth', threads=0)


@pytest.mark.parametrize('device', ['gpu', 'cuda:99'])
def test_a_device_that_is_not_there(shapes, device):
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used"):
        Detector(shapes / 'config.py', 'not read yet', device=device)


@pytest.mark.follows("on_error must be 'raise', 'skip' or a function")
def test_wrong_arguments_are_errors_at_once(shapes, detector):
    path = shapes / 'photos/a/0.png'
    for options, message in [
        (dict(batch_size=0), 'batch_size must be an integer of at least 1, got 0'),
        (dict(score_thr=2), r'score_thr must be a number in \[0, 1\], got 2'),
        (dict(channel_order='grb'), "channel_order must be 'bgr' or 'rgb', got 'grb'"),
        (dict(every=0), 'every must be an integer of at least 1, got 0'),
        (dict(on_error='stop'), "on_error must be 'raise', 'skip' or a function, got 'stop'"),
    ]:
        with pytest.raises(ValueError, match=message):
            detector.stream(path, **options)
        if not {'every', 'on_error'} & options.keys():
            with pytest.raises(ValueError, match=message):
                detector(path, **options)
    assert len(list(detector.stream(path, on_error='skip'))) == 1


@pytest.mark.follows('expected an image or a list of images, got the')
def test_a_call_takes_images_only(shapes, detector, tmp_path):
    (tmp_path / 'list.txt').write_text(f'{shapes}/photos/a/0.png')
    for inputs, kind in [
        (shapes / 'photos', 'folder'),
        (f'{shapes}/photos/*/0.png', 'pattern'),
        ([tmp_path / 'list.txt'], 'list'),
        ('clip.mp4', 'video'),
        (['-'], 'stdin'),
        (iter([]), 'image'),
    ]:
        with pytest.raises(ValueError, match=rf'list of images, got the {kind} .* use detector.s'):
            detector(inputs)
    assert len(list(detector.stream(f'{shapes}/photos/*/0.png'))) == 2


def make_damaged(shapes, folder):
    shutil.copytree(shapes / 'photos/a', folder)
    (folder / '1.png').write_text('<html>')
    (folder / '9.png').write_bytes((folder / '0.png').read_bytes()[:-30])
    return folder


def test_images_that_cannot_be_used(shapes, detector, tmp_path, monkeypatch):
    folder = make_damaged(shapes, tmp_path / 'photos')
    inputs = [folder, tmp_path / 'nowhere.png']
    with pytest.raises(FileNotFoundError, match='nowhere.png. does not exist'):
        detector.stream(inputs)
    for size in (1, 3):
        found = detector.stream(folder, batch_size=size)
        assert next(found).name == '0.png'  # those before it are not lost
        with pytest.raises(ImageError, match='1.png cannot be read as an image'):
            next(found)
    errors, lines = [], []
    for size in (1, 3):
        found = list(detector.stream(inputs, on_error=errors.append, batch_size=size))
        assert [each.name for each in found] == [f'photos/{i}.png' for i in (0, 2, 3)]
    assert ['1.png' in str(errors[0]), '9.png' in str(errors[1])] == [True, True]
    assert 'nowhere.png' in str(errors[2])
    assert all(isinstance(error, ImageError) for error in errors)
    monkeypatch.setattr(detector_module, 'print_log', lambda text, *_: lines.append(text))
    assert len(list(detector.stream(inputs, on_error='skip'))) == 3
    assert lines == [f'left out: {error}' for error in errors[:3]]


@TRANSFORMS.register_module()
class FailsForTest:
    def __call__(self, results):
        raise KeyError('depth')


@pytest.mark.follows('must be PackDetInputs', 'the config needs test_dataloader')
def test_pipelines_that_cannot_be_used(shapes):
    cfg, path = Config.fromfile(shapes / 'config.py'), shapes / 'photos/a/0.png'

    def build(steps):
        changed = copy.deepcopy(cfg)
        changed.test_dataloader.dataset.pipeline = steps
        return Detector(changed, shapes / 'model.pth', device='cpu')

    steps = cfg.test_dataloader.dataset.pipeline
    with pytest.raises(PipelineError, match=r'0.png: step 1 \(FailsForTest\) .* KeyError: .depth'):
        list(build([steps[0], dict(type='FailsForTest'), *steps[1:]]).stream(path, on_error='skip'))
    with pytest.raises(ValueError, match='must be PackDetInputs'):
        build(steps[:-1])(path)
    with pytest.raises(ValueError, match='the config needs test_dataloader.dataset.pipeline'):
        build([])
    cfg._cfg_dict.pop('test_dataloader')
    with pytest.raises(ValueError, match='the config needs test_dataloader.dataset.pipeline'):
        Detector(cfg, shapes / 'model.pth')
    cfg.test_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[dict(pipeline=steps)]))
    assert len(Detector(cfg, shapes / 'model.pth')(path)) > 0


@pytest.mark.parametrize('loader', ['LoadImageFromFile', 'mmengine.LoadImageFromFile'])
def test_exif_as_the_pipeline_applies_it(shapes, tmp_path, loader):
    cfg, exif = Config.fromfile(shapes / 'config.py'), Image.Exif()
    exif[0x0112] = 6
    Image.open(shapes / 'photos/a/0.png').save(tmp_path / '1.png', exif=exif)
    for color_type, shape in [('color', (160, 120)), ('color_ignore_orientation', (120, 160))]:
        step = dict(type=loader, color_type=color_type)
        cfg.test_dataloader.dataset.pipeline[0] = step
        detector = Detector(cfg, shapes / 'model.pth', device='cpu')
        found = detector(tmp_path / '1.png')
        assert found.shape == shape
        assert found.plot().shape == (*shape, 3)
        assert_equal(detector(Image.open(tmp_path / '1.png')), found)
        assert pickle.loads(pickle.dumps(found)).plot().shape == (*shape, 3)


def test_a_head_of_other_classes(shapes):
    model = init_detector(shapes / 'config.py', shapes / 'model.pth')
    model.dataset_meta = dict(classes=('a', 'b'))
    found = Detector(model)(shapes / 'photos/a/0.png')
    assert found.classes == ('class 0', 'class 1', 'class 2')
    assert set(found.names) <= set(found.classes)


def test_a_model_without_a_head_of_ours(shapes):
    assert MODELS.get('RetinaNet') is type(init_detector(shapes / 'config.py'))
    model = init_detector(shapes / 'config.py')
    del model.bbox_head
    assert Detector(model).classes == ('circle', 'square', 'triangle')


def test_times_and_sources(shapes, detector):
    times = {}
    images = list(iterate(shapes / 'photos'))
    pairs = list(detector.run(images, batch_size=3, times=times))
    assert [source for source, _ in pairs] == images
    assert times['read'] > 0
    assert times['network'] > 0
    array = np.zeros((50, 60, 3), np.uint8)
    ((source, found),) = detector.run([SourceImage('x', 'clip.mp4', 3, array)])
    assert (found.name, found.path, found.frame, found.shape) == ('x', 'clip.mp4', 3, (50, 60))
    assert source.image is array


class Pixels(np.ndarray):
    """An array that can be watched."""


def test_no_image_is_kept(detector):
    made = []

    def images():
        for _ in range(12):
            image = np.zeros((40, 50, 3), np.uint8).view(Pixels)
            made.append(weakref.ref(image))
            yield image
            del image

    most = 0
    for _ in detector.stream(images(), batch_size=2):
        most = max(most, sum(each() is not None for each in made))
    assert len(made) == 12
    assert most <= 3


def python_blocks(page, heading):
    text = (Path(__file__).parents[2] / page).read_text()
    text = re.split(rf'^## {heading}\n', text, flags=re.MULTILINE)[1]
    return re.findall(
        r'```python\n(.*?)```', re.split('^## ', text, flags=re.MULTILINE)[0], re.DOTALL
    )


@pytest.mark.parametrize(
    ('page', 'heading'), [('README.md', 'Infer'), ('docs/use/predict.md', 'In Python')]
)
def test_the_examples_of_the_docs(shapes, tmp_path, monkeypatch, capsys, page, heading):
    monkeypatch.chdir(tmp_path)
    for folder in ('configs', 'work_dirs/demo', 'data/shapes'):
        Path(folder).mkdir(parents=True)
    cfg = Config.fromfile(shapes / 'config.py')
    cfg.model.test_cfg.score_thr = 0.0001
    cfg.dump('configs/retinanet_ghm_r18_fpn_shapes.py')
    # One class gets high scores.
    weights = torch.load(shapes / 'model.pth')
    weights['state_dict']['bbox_head.retina_cls.bias'] += torch.tensor([9.0, 0, 0] * 9)
    torch.save(weights, 'work_dirs/demo/epoch_15.pth')
    for split in ('train', 'val'):
        Path('data/shapes', split).symlink_to(shapes / 'data/val')
    space = {}
    for code in python_blocks(page, heading):
        exec(code, space)
    lines = capsys.readouterr().out.splitlines()
    if page == 'README.md':
        name, label, score, *_ = lines[0].split()
        assert (name, label) == ('00001.jpg', 'circle')
        assert 0.3 <= float(score) <= 1
        return
    assert lines[-1].split()[0] == 'train/00007.jpg'
    assert lines[0].startswith('circle ')
    assert len(space['results']) == len(space['found']) == len(space['tensors']) > 10
    assert set(space['strict'].names) == {'circle'}
    assert len(space['first']) == 10
    assert space['drawn'].shape == (*space['found'].shape, 3)
