"""A file that differs from the original is found, whatever differs; images to compare on."""

import json
import shutil

import pytest
import torch

from ghmdet import Detector
from ghmdet.datasets.image_file import ImageError
from ghmdet.evaluation import CocoMetric
from ghmdet.export import check
from ghmdet.inference import iterate
from ghmdet.inference.model import init_detector


def build(exported):
    return init_detector(str(exported / 'config.py'), exported / 'model.pth')


def compare(exported, change=lambda head: None, exact=True):
    """Compare the file with the model after a change; three images, 56 detections."""
    model = build(exported)
    with torch.no_grad():
        change(model.bbox_head)
    images = check.Images([*iterate(exported / 'data/val')][:3], 'val')
    return check.compare(Detector(model), Detector(exported / 'model.onnx'), images, exact)


def test_an_equal_file(exported):
    result = compare(exported)
    assert (result.detections, result.pairs, result.alone, result.wrong) == (56, 56, [], 0)
    assert result.worst_box <= 1e-3
    assert result.worst_score <= 1e-6
    assert result.is_equal
    assert min(result.seconds) > 0


def test_moved_boxes(exported):
    """The widest anchor is 3 * 2 ** (2 / 3) * 16 * sqrt(2) pixels before the image is resized."""

    def move(head):
        head.retina_reg.bias[0::4] += 0.001  # of the width, to the right

    result = compare(exported, move)
    assert result.wrong > 0
    assert 1e-3 < result.worst_box < 0.001 * 3 * 2 ** (2 / 3) * 16 * 2**0.5 * 2
    assert not result.is_equal


def test_other_scores(exported):
    def raise_scores(head):
        head.retina_cls.bias += 0.001

    result = compare(exported, raise_scores)
    # The derivative of the sigmoid is at most 1 / 4, and 0.235 at 0.62.
    assert 0.0001 < result.worst_score < 0.001 / 4
    assert not result.is_equal


def test_lost_detections(exported):
    """The original may have 25 of each image, so that no result is full."""

    def allow(head):
        head.test_cfg = {**head.test_cfg, 'max_per_img': 25}

    result = compare(exported, allow)
    assert (result.detections, result.pairs, result.wrong, len(result.alone)) == (66, 56, 0, 10)
    assert result.alone[0].startswith('00001.jpg (score 0.')
    assert not result.is_equal


def test_exceptions_must_be_few():
    assert check.Comparison(detections=100, pairs=96, excepted=4).is_equal
    assert not check.Comparison(detections=100, pairs=95, excepted=5).is_equal


def test_average_precision_is_that_of_the_metric(exported):
    file = exported / 'data/annotations/val.json'
    original, other = Detector(build(exported)), Detector(exported / 'model.pt2')
    images = check.find_check_images(original, [str(file)], '')
    result = check.compare(original, other, images)
    metric = CocoMetric(str(file))
    metric.dataset_meta = dict(classes=original.classes)
    for image in json.loads(file.read_text())['images']:
        found = original(exported / 'data/val' / image['file_name'])
        sample = dict(img_id=image['id'], pred_instances=found.pred_instances)
        metric.process(None, [sample])
    expected = metric.compute_metrics(metric.results)['bbox_mAP']
    assert result.ap == [expected] * 2
    assert expected > 0.1


# --- images ---------------------------------------------------------------------------------------


@pytest.fixture
def detector(exported):
    return Detector(build(exported))


def test_the_test_data_are_the_default(exported, detector, tmp_path):
    images = check.find_check_images(detector, [], tmp_path)
    assert [source.path for source in images.sources] == [
        str(exported / f'data/val/0000{i}.jpg') for i in range(1, 7)
    ]
    assert images.metric is not None
    spread = check.find_images(detector, 'test', [], 3)
    assert [source.path[-9:] for source in spread.sources] == [
        '00001.jpg',
        '00003.jpg',
        '00006.jpg',
    ]
    assert spread.ids == [images.ids[0], images.ids[2], images.ids[5]]


def test_a_config_without_classes_has_those_of_the_checkpoint(exported, detector, tmp_path):
    detector.model.cfg.test_dataloader.dataset.pop('metainfo')
    images = check.find_check_images(detector, [], tmp_path)
    assert images.about == str(exported / 'data/annotations/val.json')
    assert images.metric is not None


def test_drawn_images_where_there_are_no_data(exported, detector, tmp_path):
    detector.model.cfg.test_dataloader.dataset.ann_file = 'missing.json'
    images = check.find_check_images(detector, [], tmp_path)
    assert (len(images.sources), images.metric) == (16, None)
    assert images.about.startswith('drawn shapes (')
    assert 'missing.json' in images.about


def test_annotations_of_other_classes_give_no_ap(exported, detector, tmp_path):
    content = json.loads((exported / 'data/annotations/val.json').read_text())
    del content['annotations']
    (tmp_path / 'val.json').write_text(json.dumps(content))
    images = check.find_check_images(detector, [str(tmp_path / 'val.json')], tmp_path)
    assert (len(images.sources), images.metric) == (6, None)
    assert 'without AP' in images.about


def test_what_cannot_be_used(exported, detector, tmp_path):
    with pytest.raises(FileNotFoundError, match="'nowhere' does not exist"):
        check.find_check_images(detector, ['nowhere'], tmp_path)
    (tmp_path / 'empty.txt').touch()
    images = check.find_check_images(detector, [str(tmp_path / 'empty.txt')], tmp_path)
    with pytest.raises(ValueError, match=r'there is no image in .*empty\.txt'):
        check.check_images(detector, images, None)
    with pytest.raises(FileNotFoundError, match='nowhere.json'):
        check.find_check_images(detector, ['nowhere.json'], tmp_path)
    shutil.copy(exported / 'model.pth', tmp_path / 'broken.jpg')
    images = check.find_check_images(detector, [str(tmp_path)], tmp_path)
    with pytest.raises(ImageError, match=r'broken\.jpg cannot be read as an image'):
        check.check_images(detector, images, None)


def test_images_for_a_calibration(exported, detector):
    detector.model.cfg.train_dataloader = detector.model.cfg.test_dataloader
    assert len(check.find_calibration_images(detector, '4').sources) == 4
    assert len(check.find_calibration_images(detector, str(exported / 'data')).sources) == 6
    with pytest.raises(
        ValueError, match=r'--int8, images of .*val\.json, must be .* 1 to 6, got 7'
    ):
        check.find_calibration_images(detector, '7')


def test_larger_images_than_a_static_size(exported, detector):
    images = check.find_images(detector, 'test', [], 9)
    check.check_images(detector, images, (160, 160))
    message = r'--static \(64, 160\): after the resize .*00001\.jpg has .* \(120, 160\)'
    with pytest.raises(ValueError, match=message):
        check.check_images(detector, images, (64, 160))
