"""DetInferencer: MMDetection 3.3.0's signature, predictions and files, and what differs."""

import inspect
import json
import os
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from mmengine.config import Config

import ghmdet
from ghmdet import DetInferencer
from tests import golden

NAMES = 'retinanet_r50_fpn_ghm-1x_coco', 'retinanet_ghm_r50_fpn_1x_coco'  # theirs, ours
INIT = "(self, model=None, weights=None, device=None, scope='mmdet', palette='none', "
INIT += 'show_progress=True)'
CALL = (
    '(self, inputs, batch_size=1, return_vis=False, show=False, wait_time=0, no_save_vis=False, '
    'draw_pred=True, pred_score_thr=0.3, return_datasamples=False, print_result=False, '
    "no_save_pred=True, out_dir='', texts=None, stuff_texts=None, custom_entities=False, "
    'tokens_positive=None, **kwargs)'
)


@pytest.fixture(scope='module')
def inferencer(shapes):
    weights = shapes / 'model.pth'
    return DetInferencer(shapes / 'config.py', weights, 'cpu', show_progress=False)


@pytest.fixture
def images(shapes):
    return [cv2.imread(str(path)) for path in sorted(shapes.glob('photos/*/*.png'))]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.*'))


@pytest.mark.parametrize(('method', 'expected'), [('__init__', INIT), ('__call__', CALL)])
def test_signature_is_that_of_mmdetection(method, expected):
    signature = inspect.signature(getattr(DetInferencer, method))
    bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == expected


def test_predictions_are_those_of_mmdetection(tmp_path):
    """The figures of tests/models/test_golden_models.py, by files and by MMDetection's name."""
    figures, cfg = golden.load('model_r50'), Config.fromfile(ghmdet.config_path(NAMES[0]))
    steps = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader.dataset.pipeline = [steps[0], steps[-1]]  # images as they are
    cfg.dump(tmp_path / 'config.py')
    state_dict = golden.seeded_state_dict(ghmdet.get_model(cfg).state_dict(), golden.SEED)
    torch.save(dict(state_dict=state_dict, meta=dict(cfg=cfg.pretty_text)), tmp_path / 'model.pth')
    for i, image in enumerate(golden.model_batch(SimpleNamespace, dict)['inputs']):
        cv2.imwrite(str(tmp_path / f'{i}.png'), image.permute(1, 2, 0).numpy())
    for model in (tmp_path / 'config.py', cfg, cfg.to_dict(), None):
        found = DetInferencer(model, str(tmp_path / 'model.pth'), 'cpu')(tmp_path, batch_size=2)
        assert [*found] == ['predictions', 'visualization']
        assert found['visualization'] == []
        assert len(found['predictions']) == 2
        for i, each in enumerate(found['predictions']):
            assert [*each] == ['labels', 'scores', 'bboxes']
            assert {type(x) for x in each['labels'] + each['scores']} == {int, float}
            prefix = f'pred{i}_rescale0'
            np.testing.assert_array_equal(each['labels'], figures[f'{prefix}_labels'])
            np.testing.assert_allclose(each['scores'], figures[f'{prefix}_scores'], atol=2e-4)
            np.testing.assert_allclose(each['bboxes'], figures[f'{prefix}_boxes'], atol=0.05)


@pytest.mark.follows('; use your own checkpoint')
def test_names(monkeypatch, shapes):
    """Weights of a name are the published ones; without any it is an error, not random ones."""
    wanted, built = [], ghmdet.inference.detector.init_detector
    model = built(shapes / 'config.py', shapes / 'model.pth')
    monkeypatch.setattr(
        'ghmdet.inference.detector.init_detector', lambda *args: wanted.append(args) or model
    )
    for name in NAMES:
        DetInferencer(name)
    assert wanted[0][1] == wanted[1][1]
    assert re.fullmatch(r'https://.*ghm.*r50.*\.pth', wanted[0][1])
    monkeypatch.undo()
    with pytest.raises(LookupError, match='use your own checkpoint'):
        DetInferencer(shapes / 'config.py')
    assert DetInferencer(shapes / 'config.py', shapes / 'model.pth').cfg.classes


def test_batches_inputs_and_samples(inferencer, detector, shapes, images):
    paths = sorted(map(str, shapes.glob('photos/*/*.png')))
    expected = [dict(labels=x.labels.tolist(), bboxes=x.boxes.tolist()) for x in detector(paths)]
    for inputs in (paths, images, tuple(map(os.path.relpath, paths))):
        found = inferencer(inputs, batch_size=3)['predictions']
        assert [{key: each[key] for key in ('labels', 'bboxes')} for each in found] == expected
    assert inferencer(images[0])['predictions'] == inferencer(paths[0])['predictions']
    (sample,) = inferencer(paths[0], return_datasamples=True)['predictions']
    assert sample.pred_instances.bboxes.tolist() == expected[0]['bboxes']
    assert sample.img_path == paths[0]
    folder = shapes / 'photos'
    assert inferencer(folder) == dict(predictions=[], visualization=[])  # images are below it
    assert len(inferencer(f'{folder}/a')['predictions']) == 4
    assert len(inferencer(f'{folder}/**/*.png')['predictions']) == 7


def test_files(inferencer, shapes, images, tmp_path):
    a, b = shapes / 'photos/a/0.png', shapes / 'photos/b/0.png'
    found = inferencer([a, b, images[0]], out_dir=tmp_path, no_save_pred=False)
    assert found['visualization'] == []
    stems = ['00000002', '0', 'b/0']
    names = [f'preds/{stem}.json' for stem in stems]
    names += ['vis/0.png', 'vis/00000002.jpg', 'vis/b/0.png']
    assert files(tmp_path) == sorted(names)
    for stem, result in zip(['0', 'b/0', '00000002'], found['predictions']):
        assert json.loads((tmp_path / f'preds/{stem}.json').read_text()) == result
    # Another call: the same image replaces its files, others do not.
    inferencer(a, out_dir=str(tmp_path))
    (tmp_path / '0.jpg').write_bytes(cv2.imencode('.jpg', images[0])[1])
    inferencer([tmp_path / '0.jpg', images[1]], out_dir=tmp_path)
    assert files(tmp_path / 'vis') == [
        '0.png',
        '00000002.jpg',
        '00000005.jpg',
        '0_2.jpg',
        'b/0.png',
    ]
    (tmp_path / 'odd').mkdir()
    inferencer(a, out_dir=tmp_path / 'odd', no_save_vis=True)
    assert files(tmp_path / 'odd') == []


@pytest.mark.follows('samples are not written')
def test_samples_are_not_written(inferencer, images, tmp_path):
    options = dict(no_save_pred=False, no_save_vis=True, out_dir=tmp_path)
    with pytest.warns(UserWarning, match='use return_datasamples=False'):
        inferencer(images[0], return_datasamples=True, **options)
    assert files(tmp_path) == []
    inferencer(images[0], return_datasamples=False, **options)
    assert len(files(tmp_path)) == 1


def test_drawings_are_rgb_of_files_and_arrays(shapes, tmp_path):
    """A blue image and red boxes stay blue and red; the threshold only draws."""
    blue = np.zeros((160, 160, 3), np.uint8)
    blue[..., 0] = 255
    cv2.imwrite(str(tmp_path / 'blue.png'), blue)
    options = dict(device='cpu', palette=(255, 0, 0), show_progress=False)
    inferencer = DetInferencer(shapes / 'config.py', shapes / 'model.pth', **options)
    source = str(tmp_path / 'blue.png')
    found = inferencer([source, blue], return_vis=True, pred_score_thr=0, out_dir=tmp_path)
    first, second = found['visualization']
    assert np.array_equal(first, second)
    assert set(map(tuple, first.reshape(-1, 3))) >= {(0, 0, 255), (204, 0, 51)}  # alpha is 0.8
    assert np.array_equal(cv2.imread(str(tmp_path / 'vis/blue.png'))[..., ::-1], first)
    assert len(found['predictions'][0]['scores']) > 0
    for options in (dict(pred_score_thr=1), dict(draw_pred=False)):
        again = inferencer(blue, return_vis=True, **options)
        assert again['predictions'] == [found['predictions'][1]]
        assert np.array_equal(again['visualization'][0], blue[..., ::-1])


@pytest.mark.follows('palette must be')
def test_palettes(shapes):
    model = ghmdet.inference.model.init_detector(shapes / 'config.py', shapes / 'model.pth')
    model.dataset_meta['palette'] = [(1, 2, 3)] * 3
    drawn = {}
    for palette in ('none', 'random', [(4, 5, 6), (7, 8, 9), (1, 1, 1)]):
        visualizer = DetInferencer(model, palette=palette).visualizer
        assert visualizer.dataset_meta['classes'] == ('circle', 'square', 'triangle')
        drawn[str(palette)] = visualizer._class_colors()[:3]
    none, random, listed = drawn.values()
    assert none == [(1, 2, 3)] * 3
    assert len({*none, *random}) == 4
    assert listed == [(4, 5, 6), (7, 8, 9), (1, 1, 1)]
    with pytest.raises(ValueError, match=r"must be \(r, g, b\), .* got 'coco'"):
        DetInferencer(model, palette='coco')


def test_print_and_progress(shapes, images, capsys):
    inferencer = DetInferencer(shapes / 'config.py', shapes / 'model.pth', 'cpu')
    found = inferencer(images[:2], print_result=True)['predictions']
    out, err = capsys.readouterr()
    assert out == ''.join(f'{ {"predictions": [each]} }\n' for each in found)
    assert 'Inference' in err
    assert '100%' in err


@pytest.mark.follows('there is no display for a window')
def test_a_window_needs_a_display(inferencer, images, monkeypatch):
    monkeypatch.setattr(inferencer._detector, 'predict', None)
    with pytest.raises(RuntimeError, match='return_vis=True, or out_dir'):
        inferencer(images[0], show=True)
    monkeypatch.undo()
    assert inferencer(images[0], return_vis=True)['visualization'][0].shape == images[0].shape
    shown = []
    monkeypatch.setattr(pyplot, 'get_backend', lambda: 'TkAgg')
    monkeypatch.setattr(inferencer.visualizer, 'show', lambda *args, **more: shown.append(more))
    inferencer(images[0], show=True, wait_time=2)
    assert shown == [dict(win_name='000000.jpg', wait_time=2)]


@pytest.mark.follows('leave out {}: no model of ghmdet has text prompts')
def test_text_prompts_and_unknown_arguments(inferencer, images):
    wrong = dict(texts='a cat', custom_entities=True, tokens_positive=-1, score_thr=0.5)
    for key, value in wrong.items():
        with pytest.raises(ValueError, match=f'leave out {key}: no model of ghmdet has text'):
            inferencer(images[0], **{key: value})
    assert len(inferencer(images[0])['predictions']) == 1


@pytest.mark.follows('give model, since')
def test_the_config_in_the_weights_is_not_run(shapes, tmp_path, images):
    with pytest.raises(ValueError, match='give model, since weights=None have no config'):
        DetInferencer()
    state_dict, file = torch.load(shapes / 'model.pth')['state_dict'], tmp_path / 'saved.pth'
    good = Config.fromfile(shapes / 'config.py').pretty_text
    bad = f'import os\nos.mkdir({str(tmp_path / "run")!r})\n'
    for text in (None, bad + good, good + f'\nx = print({str(tmp_path)!r})', 'a = [', '1'):
        torch.save(dict(state_dict=state_dict, meta=dict(cfg=text)), file)
        with pytest.raises(
            ValueError, match=f'give model, since weights=.*{file.name}.* have no config'
        ):
            DetInferencer(weights=file)
    assert files(tmp_path) == ['saved.pth']
    found = DetInferencer(shapes / 'config.py', file, 'cpu')(images[0])
    torch.save(dict(state_dict=state_dict, meta=dict(cfg=good)), file)
    assert DetInferencer(weights=file, device='cpu')(images[0]) == found
