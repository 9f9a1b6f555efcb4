"""Drawing: pixels, files, and which samples the hook draws."""

import json
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.visualization import Visualizer

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


def truth(boxes=(BOX,), labels=(0,)):
    return DetDataSample(gt_instances=instances(boxes, labels))


def test_alpha_blends_the_edges_only():
    image = background()
    drawn = visualizer(alpha=0.8).add_datasample('x', image, truth())
    expected = 0.8 * np.array(RED) + 0.2 * image[90, 55]
    np.testing.assert_allclose(drawn[90, 55], expected, atol=0.51)
    np.testing.assert_array_equal(drawn[91:], image[91:])


def test_line_width_in_pixels():
    image = np.zeros((120, 200, 3), np.uint8)
    drawn = visualizer(line_width=3).add_datasample('x', image, truth())
    rows = [row for row in range(70, 120) if drawn[row, 55].any()]
    assert rows in ([89, 90, 91], [88, 89, 90, 91, 92])  # OpenCV 4, OpenCV 5


def test_ground_truth_left_detections_right():
    image = background()
    sample = DetDataSample(
        gt_instances=instances([BOX], [0]), pred_instances=instances([OTHER], [1], [0.9])
    )
    drawn = visualizer().add_datasample('x', image, sample)
    assert drawn.shape == (120, 400, 3)
    assert edge_colors(drawn, BOX) == [RED, RED]
    assert edge_colors(drawn, OTHER, offset=200) == [BLUE, BLUE]
    np.testing.assert_array_equal(drawn[:, 90:200], image[:, 90:])  # no detection at the left
    np.testing.assert_array_equal(drawn[:, 200:290], image[:, :90])  # no truth at the right


@pytest.mark.parametrize(
    ('draw', 'color'), [({'draw_gt': False}, BLUE), ({'draw_pred': False}, RED)]
)
def test_one_panel_may_be_left_out(draw, color):
    sample = DetDataSample(
        gt_instances=instances([BOX], [0]), pred_instances=instances([BOX], [1], [0.9])
    )
    drawn = visualizer().add_datasample('x', background(), sample, **draw)
    assert drawn.shape == (120, 200, 3)
    assert edge_colors(drawn, BOX) == [color, color]


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


def test_the_better_detection_lies_on_top():
    sample = DetDataSample(pred_instances=instances([BOX, BOX], [1, 0], [0.9, 0.8]))
    drawn = visualizer().add_datasample('x', background(), sample)
    assert edge_colors(drawn, BOX) == [BLUE, BLUE]


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


def test_captions_without_dataset_meta(monkeypatch):
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


def test_caption_stays_in_the_image(monkeypatch):
    [(_, (left, baseline))], _ = captions(monkeypatch, truth([[195.0, 1.0, 199.0, 100.0]]))
    assert 150 < left < 195
    assert 1 < baseline < 30


@pytest.mark.parametrize(
    ('bbox_color', 'expected'),
    [
        ((1, 2, 3), [[1, 2, 3], [1, 2, 3]]),
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
    drawn, again = (
        made.add_datasample('x', image, truth(boxes, list(range(10)))) for _ in range(2)
    )
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


@pytest.mark.parametrize(
    ('box', 'corner'),
    [
        ([150.0, 60.0, 900.0, 90.0], [90, 199]),
        ([150.0, 60.0, float('inf'), 90.0], [90, 199]),
        ([150.0, 60.0, float('nan'), 90.0], [90, 0]),
    ],
)
def test_boxes_beyond_the_image_are_clipped(box, corner):
    drawn = visualizer().add_datasample('x', background(), truth([box]))
    assert drawn[tuple(corner)].tolist() == RED


@pytest.mark.parametrize('out_file', ['new/x.png', None])
def test_an_image_is_written_to_the_out_file_or_to_the_backends(tmp_path, out_file):
    made = visualizer(vis_backends=[{'type': 'LocalVisBackend'}], save_dir=str(tmp_path))
    out_file = out_file and str(tmp_path / out_file)
    drawn = made.add_datasample('val', background(), truth(), step=3, out_file=out_file)
    (file,) = tmp_path.rglob('*.png')
    assert file.name == ('x.png' if out_file else 'val_3.png')
    np.testing.assert_array_equal(mmcv.imread(str(file), channel_order='rgb'), drawn)


def test_a_window_only_for_show(monkeypatch):
    shown, stored = [], []
    monkeypatch.setattr(Visualizer, 'show', lambda self, image, **kwargs: shown.append(kwargs))
    monkeypatch.setattr(Visualizer, 'add_image', lambda self, *args: stored.append(args[0]))
    made = visualizer()
    made.add_datasample('a', background())
    assert (shown, stored) == ([], ['a'])
    made.add_datasample('b', background(), show=True, wait_time=2)
    assert (shown, stored) == ([{'win_name': 'b', 'wait_time': 2}], ['a'])


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
    assert [call['name'] for call in calls] == ['val_img'] * 3
    assert [call['step'] for call in calls] == [1000, 1002, 1004]
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
    shown = []
    monkeypatch.setattr(Visualizer, 'show', lambda self, image, **kwargs: shown.append(kwargs))
    outputs = [stored_sample(tmp_path, 'a.png')]
    DetVisualizationHook(draw=True).after_test_iter(runner, 0, outputs=outputs)
    (call,) = runner.visualizer.calls
    assert (call['name'], call['out_file'], call['step']) == ('test_img', None, 1)
    assert shown == []
    hook = DetVisualizationHook(draw=True, show=True, wait_time=1.5)
    hook.after_test_iter(runner, 0, outputs=outputs)
    assert shown == [{'win_name': 'a.png', 'wait_time': 1.5}]


def test_off_by_default(runner, tmp_path):
    hook = DetVisualizationHook()
    runner.visualizer = Visualizer()  # cannot draw boxes, and need not
    hook.before_run(runner)
    hook.after_val_iter(runner, 0, outputs=[DetDataSample()])
    hook.after_test_iter(runner, 0, outputs=[DetDataSample()])
    assert list(tmp_path.iterdir()) == []


def test_hook_errors_say_what_to_do(runner):
    with pytest.raises(ValueError, match='interval must be at least 1, got 0'):
        DetVisualizationHook(interval=0)
    hook = DetVisualizationHook(draw=True)
    hook.before_run(runner)
    with pytest.raises(ValueError, match=r"lacks 'img_path'; add it to PackDetInputs\.meta_keys"):
        hook.after_test_iter(runner, 0, outputs=[DetDataSample()])
    runner.visualizer = Visualizer()
    with pytest.raises(ValueError, match=r"visualizer=dict\(type='DetLocalVisualizer'.*got Visual"):
        hook.before_run(runner)


def test_built_by_the_names_of_configs():
    made = VISUALIZERS.build({'type': 'DetLocalVisualizer', 'name': 'by_config'})
    assert type(made) is DetLocalVisualizer
    assert DetLocalVisualizer.get_instance('by_config') is made


def test_a_second_run_in_the_process_writes_to_its_own_folder(tmp_path):
    for run in ('one', 'two'):
        made = VISUALIZERS.build(
            dict(
                type='DetLocalVisualizer',
                name='of_runs',
                vis_backends=[dict(type='LocalVisBackend')],
                save_dir=str(tmp_path / run),
            )
        )
        made.add_scalar(run, 1.0, step=1)
    for run in ('one', 'two'):
        written = (tmp_path / run / 'vis_data/scalars.json').read_text()
        assert json.loads(written) == {run: 1.0, 'step': 1}
