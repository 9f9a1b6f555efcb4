"""Drawing: pixels, files, and which samples the hook draws."""

import json
import math
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset
from mmengine.visualization import Visualizer
from PIL import Image

from ghmdet.datasets import ImageFolder
from ghmdet.datasets.image_file import ImageError
from ghmdet.registry import HOOKS, VISUALIZERS
from ghmdet.structures import DetDataSample, InstanceData
from ghmdet.visualization import DetLocalVisualizer, DetVisualizationHook

RED, BLUE, GREY = [255, 0, 0], [0, 0, 255], [128, 128, 128]
BOX, OTHER = [30.0, 60.0, 80.0, 90.0], [100.0, 60.0, 140.0, 90.0]
META = {'classes': ('cat', 'dog'), 'palette': [(255, 0, 0), (0, 0, 255)]}


def background(height=120, width=200):
    """Every value of a byte occurs, so that blending which is not exact shows."""
    values = np.arange(height * width * 3) % 256
    return values.astype(np.uint8).reshape(height, width, 3)


def instances(boxes=(), labels=(), scores=None):
    data = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.int64)
    )
    if scores is not None:
        data.scores = torch.tensor(scores)
    return data


def visualizer(**kwargs):
    made = DetLocalVisualizer(**{'line_width': 1, 'alpha': 1.0} | kwargs)
    made.dataset_meta = META
    return made


def edge_colors(drawn, box, offset=0):
    """The colours at the middle of the lower edge and at the lower right corner."""
    x1, _, x2, y2 = map(int, box)
    return [drawn[y2, offset + (x1 + x2) // 2].tolist(), drawn[y2, offset + x2].tolist()]


def test_edges_have_the_palette_and_the_rest_is_untouched():
    image = background()
    drawn = visualizer().add_datasample('x', image, truth([BOX, OTHER], [0, 1]))
    assert edge_colors(drawn, BOX) == [RED, RED]
    assert edge_colors(drawn, OTHER) == [BLUE, BLUE]
    np.testing.assert_array_equal(drawn[62:90, 31:80], image[62:90, 31:80])  # inside
    np.testing.assert_array_equal(drawn[91:], image[91:])
    np.testing.assert_array_equal(drawn[:30], image[:30])
    np.testing.assert_array_equal(image, background())
    blended = visualizer(alpha=0.8).add_datasample('x', image, truth())
    np.testing.assert_allclose(
        blended[90, 55], 0.8 * np.array(RED) + 0.2 * image[90, 55], atol=0.51
    )
    np.testing.assert_array_equal(blended[91:], image[91:])


def truth(boxes=(BOX,), labels=(0,)):
    return DetDataSample(gt_instances=instances(boxes, labels))


def test_line_width_in_pixels():
    image = np.zeros((120, 200, 3), np.uint8)
    drawn = visualizer(line_width=3).add_datasample('x', image, truth())
    rows = [row for row in range(70, 120) if drawn[row, 55].any()]
    assert rows in ([89, 90, 91], [88, 89, 90, 91, 92])  # OpenCV 4, OpenCV 5


def test_ground_truth_left_detections_right():
    image = background()
    sample = DetDataSample(
        gt_instances=instances([BOX], [0]),
        pred_instances=instances([OTHER, OTHER], [1, 0], [0.9, 0.8]),
    )
    drawn = visualizer().add_datasample('x', image, sample)
    assert drawn.shape == (120, 400, 3)
    assert edge_colors(drawn, BOX) == [RED, RED]
    assert edge_colors(drawn, OTHER, offset=200) == [BLUE, BLUE]  # the better one is on top
    np.testing.assert_array_equal(drawn[:, 90:200], image[:, 90:])  # no detection at the left
    np.testing.assert_array_equal(drawn[:, 200:290], image[:, :90])  # no truth at the right
    for setting, half in (
        ({'draw_gt': False}, drawn[:, 200:]),
        ({'draw_pred': False}, drawn[:, :200]),
    ):
        one = visualizer().add_datasample('x', image, sample, **setting)
        np.testing.assert_array_equal(one, half)


@pytest.mark.parametrize(
    'sample',
    [
        None,
        DetDataSample(),
        DetDataSample(gt_instances=instances()),
        DetDataSample(gt_instances=InstanceData(), ignored_instances=InstanceData()),
        DetDataSample(pred_instances=instances([BOX], [0], [0.3])),
    ],
    ids=['no sample', 'empty sample', 'no truth', 'truth not loaded', 'score at the threshold'],
)
def test_nothing_to_draw_gives_the_image(sample):
    image = background()
    drawn = visualizer().add_datasample('x', image, sample)
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_ignored_boxes_are_grey_without_caption():
    image = background()
    sample = DetDataSample(gt_instances=instances(), ignored_instances=instances([BOX], [0]))
    drawn = visualizer().add_datasample('x', image, sample)
    assert edge_colors(drawn, BOX) == [GREY, GREY]
    changed = np.argwhere((drawn != image).any(axis=2))
    assert changed.min(axis=0).tolist() == [60, 30]
    assert changed.max(axis=0).tolist() == [90, 80]


def captions(monkeypatch, sample, meta=META, **kwargs):
    texts = []
    put = cv2.putText

    def record(image, text, origin, *args):
        texts.append((text, origin))
        return put(image, text, origin, *args)

    monkeypatch.setattr(cv2, 'putText', record)
    made = visualizer(**kwargs)
    made.dataset_meta = meta
    return texts, made.add_datasample('x', np.full((120, 200, 3), 90, np.uint8), sample)


def test_captions_name_class_and_score(monkeypatch):
    sample = truth(labels=[1])
    sample.pred_instances = instances([BOX, OTHER], [0, 7], [0.876, 0.5])
    texts, _ = captions(monkeypatch, sample)
    assert [text for text, _ in texts] == ['dog', 'class 7 0.50', 'cat 0.88']
    texts, drawn = captions(monkeypatch, truth(labels=[1]), meta=None)
    assert [text for text, _ in texts] == ['class 1']
    assert max(drawn[90, 55]) - min(drawn[90, 55]) > 150  # a saturated colour


def test_caption_is_above_the_box_in_its_colour_on_black(monkeypatch):
    [(_, (left, baseline))], drawn = captions(monkeypatch, truth(), text_color=(10, 250, 20))
    assert left == 30
    assert baseline < 60
    area = drawn[40:59, 30:60].reshape(-1, 3)
    assert (area == 0).all(axis=1).sum() > 50
    distance = np.abs(area.astype(int) - [10, 250, 20]).sum(axis=1)
    assert (distance < 40).sum() > 5
    # Inside the box if there is no room above, and always inside the image.
    [(_, (left, baseline))], _ = captions(monkeypatch, truth([[195.0, 1.0, 199.0, 100.0]]))
    assert 150 < left < 195
    assert 1 < baseline < 30


@pytest.mark.parametrize(
    ('bbox_color', 'expected'),
    [
        ([1, 2, 3], [[1, 2, 3], [1, 2, 3]]),
        ([(1, 2, 3), (4, 5, 6)], [[1, 2, 3], [4, 5, 6]]),
        (None, [RED, BLUE]),
    ],
)
def test_box_colors(bbox_color, expected):
    sample = truth([BOX, OTHER], [0, 1])
    drawn = visualizer(bbox_color=bbox_color).add_datasample('x', background(), sample)
    assert [edge_colors(drawn, BOX)[0], edge_colors(drawn, OTHER)[0]] == expected


def test_fallback_colors_are_distinct_and_repeatable():
    image = np.zeros((120, 1000, 3), np.uint8)
    boxes = [[100.0 * i, 60, 100 * i + 50, 90] for i in range(10)]
    made = visualizer()
    made.dataset_meta = {'classes': tuple('abcdefghij')}
    sample = truth(boxes, list(range(10)))
    drawn, again = (made.add_datasample('x', image, sample) for _ in range(2))
    np.testing.assert_array_equal(drawn, again)
    colors = [drawn[90, int(box[2])].astype(int) for box in boxes]
    gaps = [np.abs(a - b).sum() for i, a in enumerate(colors) for b in colors[:i]]
    assert min(gaps) > 60


@pytest.mark.parametrize(
    ('kwargs', 'text'),
    [
        ({'bbox_color': 'coco'}, r"bbox_color must be \(r, g, b\) or a list of them, got 'coco'"),
        ({'bbox_color': (1, 2)}, r'bbox_color must be .*got \(1, 2\)'),
        ({'text_color': (0.1, 0.2, 0.3)}, 'text_color must be'),
        ({'alpha': 80}, r'alpha must be within \[0, 1\], got 80'),
    ],
)
def test_bad_settings_are_refused(kwargs, text):
    with pytest.raises(ValueError, match=text):
        DetLocalVisualizer(**kwargs)


@pytest.mark.parametrize(('x2', 'drawn_x2'), [(900.0, 199), (math.inf, 199), (math.nan, 0)])
def test_boxes_beyond_the_image_are_clipped(x2, drawn_x2):
    drawn = visualizer().add_datasample('x', background(), truth([[150.0, 60.0, x2, 90.0]]))
    assert drawn[90, drawn_x2].tolist() == RED


@pytest.mark.parametrize('out_file', ['new/x.png', None])
def test_an_image_is_written_to_the_out_file_or_to_the_backends(tmp_path, out_file):
    made = visualizer(vis_backends=[{'type': 'LocalVisBackend'}], save_dir=str(tmp_path))
    out_file = out_file and str(tmp_path / out_file)
    drawn = made.add_datasample('val', background(), truth(), step=3, out_file=out_file)
    (file,) = tmp_path.rglob('*.png')
    assert file.name == ('x.png' if out_file else 'val_3.png')
    np.testing.assert_array_equal(mmcv.imread(str(file), channel_order='rgb'), drawn)


# --- the hook


class Recorder(DetLocalVisualizer):
    """Keeps what the hook asked for, and draws as well."""

    def add_datasample(self, name, image, **kwargs):
        self.calls = [*getattr(self, 'calls', []), {'name': name, 'image': image, **kwargs}]
        return super().add_datasample(name, image, **kwargs)


@pytest.fixture
def runner(tmp_path):
    return SimpleNamespace(
        visualizer=Recorder(line_width=1, alpha=1.0),
        work_dir=str(tmp_path / 'work'),
        timestamp='20260101',
        iter=1000,
        val_dataloader=SimpleNamespace(dataset=[]),
        test_dataloader=SimpleNamespace(dataset=[]),
    )


def stored_sample(folder, name, color=RED):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    mmcv.imwrite(np.full((40, 50, 3), color[::-1], np.uint8), str(path))
    return DetDataSample(
        metainfo={'img_path': str(path)}, pred_instances=instances([BOX], [0], [0.9])
    )


def test_validation_draws_the_first_image_of_every_interval(runner, tmp_path):
    hook = HOOKS.build({'type': 'DetVisualizationHook', 'draw': True, 'interval': 2})
    batch = [stored_sample(tmp_path, 'a.png', RED), stored_sample(tmp_path, 'b.png', BLUE)]
    for index in range(5):
        hook.after_val_iter(runner, index, outputs=batch)
    calls = runner.visualizer.calls
    named = [(call['name'], call['step']) for call in calls]
    assert named == [('val_img', 1000), ('val_img', 1002), ('val_img', 1004)]
    assert calls[0]['image'][0, 0].tolist() == RED  # RGB, and the first of the batch
    assert calls[0]['data_sample'] is batch[0]
    assert (calls[0]['out_file'], calls[0]['show']) == (None, False)
    assert calls[0]['pred_score_thr'] == 0.3


def test_all_test_images_are_drawn_to_files_of_different_names(runner, tmp_path):
    hook = DetVisualizationHook(draw=True, test_out_dir='vis', score_thr=0.5)
    samples = [
        stored_sample(tmp_path / 'day', 'a.png', RED),
        stored_sample(tmp_path / 'night', 'a.png', BLUE),
        stored_sample(tmp_path / 'other' / 'night', 'a.png', GREY),
    ]
    hook.after_test_iter(runner, 0, outputs=samples)
    hook.after_test_iter(runner, 1, outputs=samples)  # again: the same files
    calls = runner.visualizer.calls
    assert [call['step'] for call in calls] == [1, 2, 3, 4, 5, 6]
    assert calls[0]['pred_score_thr'] == 0.5
    folder = tmp_path / 'work' / '20260101' / 'vis'
    colors = {
        file.name: mmcv.imread(str(file), channel_order='rgb')[0, 0].tolist()
        for file in folder.iterdir()
    }
    assert colors == {'a.png': RED, 'night_a.png': BLUE, 'other_night_a.png': GREY}


def test_without_a_folder_test_images_go_to_the_backends_or_a_window(runner, tmp_path, monkeypatch):
    shown, stored = [], []
    monkeypatch.setattr(Visualizer, 'show', lambda self, image, **kwargs: shown.append(kwargs))
    monkeypatch.setattr(Visualizer, 'add_image', lambda self, *args: stored.append(args[0]))
    outputs = [stored_sample(tmp_path, 'a.png')]
    DetVisualizationHook(draw=True).after_test_iter(runner, 0, outputs=outputs)
    (call,) = runner.visualizer.calls
    assert (call['name'], call['out_file'], call['step']) == ('test_img', None, 1)
    assert (shown, stored) == ([], ['test_img'])
    hook = DetVisualizationHook(draw=True, show=True, wait_time=1.5)
    hook.after_test_iter(runner, 0, outputs=outputs)
    assert (shown, stored) == ([{'win_name': 'a.png', 'wait_time': 1.5}], ['test_img'])


def store_rotated(folder, name):
    """An image, 50 wide and 40 high with a red half at the left, whose EXIF turns it clockwise."""
    folder.mkdir()
    stored = np.zeros((40, 50, 3), np.uint8)
    stored[:, :25] = RED
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(folder / name, exif=exif)
    return stored, np.rot90(stored, -1)


def make_dataset(folder, **settings):
    """An `ImageFolder`, whose first step has these settings."""
    steps = [dict(type='LoadImageFromFile', **settings), dict(type='PackDetInputs')]
    return ImageFolder(data_prefix=dict(img=str(folder)), pipeline=steps, test_mode=True)


@pytest.mark.parametrize(
    ('color_type', 'turned'),
    [
        ('color', True),
        ('grayscale', True),
        ('color_ignore_orientation', False),
        ('grayscale_ignore_orientation', False),
        ('unchanged', False),
    ],
)
def test_the_image_is_read_as_its_dataset_reads_it_but_in_colour(
    runner, tmp_path, color_type, turned
):
    expected = store_rotated(tmp_path / 'a', '1.png')[turned]
    dataset = make_dataset(tmp_path / 'a', color_type=color_type)
    runner.test_dataloader.dataset = dataset
    sample = dataset[0]['data_samples']
    assert sample.ori_shape == expected.shape[:2]
    DetVisualizationHook(draw=True).after_test_iter(runner, 0, outputs=[sample])
    np.testing.assert_array_equal(runner.visualizer.calls[0]['image'], expected)


def test_each_part_of_a_dataset_has_its_own_settings(runner, tmp_path):
    stored, turned = store_rotated(tmp_path / 'a', '1.png')
    store_rotated(tmp_path / 'b', '1.png')
    runner.val_dataloader.dataset = ConcatDataset(
        [
            make_dataset(tmp_path / 'a'),
            make_dataset(tmp_path / 'b', color_type='color_ignore_orientation', max_pixels=2000),
        ]
    )
    hook = DetVisualizationHook(draw=True, interval=1)
    for index in range(2):
        sample = runner.val_dataloader.dataset[index]['data_samples']
        hook.after_val_iter(runner, index, outputs=[sample])
    first, second = (call['image'] for call in runner.visualizer.calls)
    np.testing.assert_array_equal(first, turned)
    np.testing.assert_array_equal(second, stored)
    Image.new('RGB', (100, 80)).save(tmp_path / 'b' / '1.png')
    with pytest.raises(ImageError, match='b/1.png has more than 2000 pixels'):
        hook.after_val_iter(runner, 1, outputs=[sample])


def test_hook_errors_say_what_to_do(runner):
    with pytest.raises(ValueError, match='interval must be an integer of at least 1, got 0'):
        DetVisualizationHook(interval=0)
    hook = DetVisualizationHook(draw=True)
    hook.before_run(runner)
    with pytest.raises(ValueError, match=r"lacks 'img_path'; add it to PackDetInputs\.meta_keys"):
        hook.after_test_iter(runner, 0, outputs=[DetDataSample()])
    runner.visualizer = Visualizer()
    off = DetVisualizationHook()  # by default
    off.before_run(runner)
    off.after_val_iter(runner, 0, outputs=[DetDataSample()])
    off.after_test_iter(runner, 0, outputs=[DetDataSample()])
    with pytest.raises(ValueError, match=r"visualizer=dict\(type='DetLocalVisualizer'.*got Visual"):
        hook.before_run(runner)


def test_a_second_run_in_the_process_writes_to_its_own_folder(tmp_path):
    for run in ('one', 'two'):
        backends = [dict(type='LocalVisBackend')]
        cfg = dict(type='DetLocalVisualizer', name='of_runs', vis_backends=backends)
        made = VISUALIZERS.build(cfg | dict(save_dir=str(tmp_path / run)))
        assert type(made) is DetLocalVisualizer
        assert DetLocalVisualizer.get_instance('of_runs') is made
        made.add_scalar(run, 1.0, step=1)
    for run in ('one', 'two'):
        written = (tmp_path / run / 'vis_data/scalars.json').read_text()
        assert json.loads(written) == {run: 1.0, 'step': 1}
