"""test.py and predict.py with an exported file."""

import json
import pickle
import signal
import sys

import cv2
import numpy as np
import pytest
from mmengine.config import Config

import ghmdet.predict
from ghmdet import Detector
from tests.e2e.conftest import run
from tests.fork_server import shared_server

RUNTIMES = [('model.onnx', ()), ('model.onnx', ('--backend', 'openvino')), ('model.pt2', ())]


@pytest.fixture(autouse=True)
def needs_runtimes():
    pytest.importorskip('onnxruntime')
    pytest.importorskip('openvino')


def evaluate(exported, out, name, *args, config='config.py', **options):
    """Run test.py; return its metrics, its detections by image, and how it ended."""
    words = (exported / config, exported / name, '--work-dir', out, '--out', out / 'found.json')
    done = run('test.py', *words, *args, **options)
    results = list(out.glob('*/*.json'))
    metrics = json.loads(results[0].read_text()) if results else {}
    rows = json.loads((out / 'found.json').read_text()) if done.returncode == 0 else []
    return metrics, sorted(rows, key=lambda row: (row['image_id'], *row['bbox'])), done


def same(found, expected):
    assert len(found) == len(expected) > 50
    for one, two in zip(found, expected):
        assert (one['image_id'], one['category_id']) == (two['image_id'], two['category_id'])
        assert one['bbox'] == pytest.approx(two['bbox'], abs=1e-3)
        assert one['score'] == pytest.approx(two['score'], abs=1e-5)


@pytest.fixture(scope='module')
def expected(exported, tmp_path_factory):
    metrics, rows, _ = evaluate(exported, tmp_path_factory.mktemp('expected'), 'model.pth')
    assert metrics['coco/bbox_mAP'] > 0.1
    return metrics, rows


@pytest.mark.parametrize(('name', 'backend'), RUNTIMES)
def test_ap_is_that_of_the_checkpoint(exported, expected, tmp_path, name, backend):
    metrics, rows, _ = evaluate(exported, tmp_path, name, *backend)
    same(rows, expected[1])
    for key, value in expected[0].items():
        if key.startswith('coco/'):
            assert metrics[key] == pytest.approx(value, abs=5e-5, nan_ok=True)


def test_other_outputs_of_a_test(exported, expected, tmp_path):
    drawn = ('--show-dir', 'drawn', '--curves', tmp_path / 'curves')
    average = "custom_hooks=[{'type': 'EMAHook'}]"  # copies the model
    evaluate(exported, tmp_path / 'a', 'model.onnx', *drawn, '--cfg-options', average)
    assert len(list(tmp_path.glob('a/*/drawn/*.jpg'))) == 6
    assert list((tmp_path / 'curves').glob('*.csv'))
    same(evaluate(exported, tmp_path / 'b', 'model.onnx', '--format-only')[1], expected[1])
    photos = ('--images', exported / 'data/val')
    of_images = [
        evaluate(exported, tmp_path / name, name, *photos)[1]
        for name in ('model.onnx', 'model.pth')
    ]
    same(*of_images)
    words = (exported / 'config.py', exported / 'model.onnx', '--work-dir', tmp_path)
    run('test.py', *words, '--out', tmp_path / 'found.pkl')
    found = pickle.loads((tmp_path / 'found.pkl').read_bytes())
    assert sum(len(each['pred_instances']['scores']) for each in found) == len(expected[1])


def test_two_processes(exported, expected, tmp_path):
    words = [exported / 'config.py', exported / 'model.onnx', '--work-dir', tmp_path]
    words += ['--out', tmp_path / 'found.json']
    for answer in shared_server().run_ranks(2, 'test.py', [str(word) for word in words], tmp_path):
        assert answer['code'] == 0, answer['stderr'][-2000:]
    rows = json.loads((tmp_path / 'found.json').read_text())
    same(sorted(rows, key=lambda row: (row['image_id'], *row['bbox'])), expected[1])


def write_config(exported, tmp_path, change):
    cfg = Config.fromfile(exported / 'config.py')
    change(cfg)
    cfg.dump(tmp_path / 'changed.py')
    return tmp_path / 'changed.py'


@pytest.mark.follows('give the config of the export for')
def test_classes_and_resize_of_the_config(exported, expected, tmp_path):
    """Names are compared as those of a checkpoint are, and missing ones taken from the file."""
    names = ('circle', 'square', 'triangle')
    for number, (classes, message) in enumerate(
        [
            (('circle', 'triangle', 'square'), "number 1 is 'square' in the file, 'triangle' in"),
            (('circle', 'square'), "number 2 is 'triangle' in the file, missing in the dataset"),
            (('circle', 'square'), 'was trained on other classes'),  # whatever check_classes says
            (('circle', 'triangle', 'square'), ''),
            (None, ''),
        ]
    ):

        def change(cfg, classes=classes, number=number):
            cfg.test_dataloader.dataset.metainfo = dict(classes=classes) if classes else None
            cfg.test_dataloader.dataset.pipeline[1].scale = (150, 120)
            cfg.default_hooks.load_weights = dict(type='LoadWeightsHook', check_classes=number < 2)

        folder = tmp_path / str(number)
        folder.mkdir()
        config = write_config(exported, folder, change)
        _, rows, done = evaluate(exported, folder, 'model.onnx', config=config, check=False)
        text = done.stdout + done.stderr
        if message:
            assert done.returncode == 1
            assert 'was trained on other classes than the dataset has: ' in text
            assert message in text
            advice = "Set the file's classes in its order for each dataset: metainfo=dict(classes="
            assert f'{advice}{names})' in text
        else:
            assert done.returncode == 0, text
            taken = f'3 classes ({", ".join(names)}) taken from {exported}/model.onnx'
            assert (taken in text) == (classes is None)
        assert 'the config resizes with [{"scale": [150, 120], "scale_factor": null, ' in text
    assert len(rows) > 50
    done = evaluate(exported, tmp_path, 'model.onnx')[2]  # the config of the export
    assert 'config resizes' not in done.stdout + done.stderr


@pytest.mark.follows('is run as it was exported: leave', 'is no exported file, .onnx')
def test_arguments_that_change_nothing_in_a_file(exported, tmp_path):
    args = ('--amp', '--compile', '--tta', '--cfg-options', 'model.test_cfg.score_thr=0.9')
    done = evaluate(exported, tmp_path, 'model.onnx', *args, check=False)[2]
    listed = 'leave --amp, --compile, --tta, model.test_cfg.score_thr out'
    assert f'model.onnx is run as it was exported: {listed}' in done.stderr
    done = evaluate(exported, tmp_path, 'model.pth', '--backend', 'openvino', check=False)[2]
    assert 'model.pth is no exported file, .onnx' in done.stderr
    assert evaluate(exported, tmp_path, 'model.onnx', '--backend', 'openvino')[1]


def predict(exported, out, *words, check=True):
    """Run predict.py; return its detections and how it ended."""
    words = [exported / word if word in ('config.py', 'model.pth') else word for word in words]
    done = run('predict.py', *words, '--json', out / 'found.json', '--exist-ok', check=check)
    return json.loads((out / 'found.json').read_text()) if check else None, done


@pytest.mark.follows('a file keeps its settings: leave', ', or --list FILE in')
def test_predict(exported, tmp_path):
    file, photos = exported / 'model.onnx', exported / 'data/val'
    expected, _ = predict(exported, tmp_path, 'config.py', 'model.pth', photos)
    listed = tmp_path / 'list.txt'
    listed.write_text('\n'.join(map(str, sorted(photos.iterdir()))))
    for words in (
        (file, photos),
        (file, *sorted(photos.iterdir()), '--backend', 'openvino', '--batch-size', 4),
        (file, '--list', listed, '--threads', 1, '--device', 'cpu'),
        (exported / 'model.pt2', listed),
        ('config.py', file, photos),
    ):
        same(predict(exported, tmp_path, *words)[0], expected)
    for extra in (('--cfg-options', 'model.test_cfg.score_thr=0.9'), ('--strict',)):
        _, done = predict(exported, tmp_path, file, photos, *extra, check=False)
        assert 'keeps its settings: leave --cfg-options and --strict out' in done.stderr
    _, done = predict(exported, tmp_path, file, photos, '--amp', check=False)
    assert 'a file runs as it is: leave' in done.stderr
    for words in ((file,), ('config.py',), ('config.py', '--list', listed)):
        _, done = predict(exported, tmp_path, *words, check=False)
        assert 'error: expected CONFIG CHECKPOINT SOURCE..., or' in done.stderr


@pytest.mark.follows('without a config import it yourself')
def test_a_step_of_ones_own(exported, tmp_path, monkeypatch):
    """A config gives a file the modules of its `custom_imports`."""
    onnx = pytest.importorskip('onnx')
    model = onnx.load(exported / 'model.onnx')
    (entry,) = [each for each in model.metadata_props if each.key == 'pipeline']
    steps = json.loads(entry.value)
    entry.value = json.dumps([steps[0], dict(type='UpsideDown'), *steps[1:]])
    onnx.save(model, tmp_path / 'mine.onnx')
    (tmp_path / 'tests_upside_down.py').write_text(
        'from ghmdet.registry import TRANSFORMS\n@TRANSFORMS.register_module()\nclass UpsideDown:\n'
        "    def __call__(self, results):\n        results['img'] = results['img'][::-1].copy()\n"
        '        return results\n'
    )
    photo = sorted((exported / 'data/val').iterdir())[0]
    with pytest.raises(
        KeyError, match='UpsideDown is not in .* custom_imports=dict.* without a con'
    ):
        Detector(tmp_path / 'mine.onnx')
    custom = dict(imports=['tests_upside_down'])
    config = write_config(exported, tmp_path, lambda cfg: cfg.update(custom_imports=custom))
    monkeypatch.syspath_prepend(tmp_path)
    words = [config, tmp_path / 'mine.onnx', photo, '--json', tmp_path / 'found.json']
    monkeypatch.setattr(sys, 'argv', ['predict.py', *map(str, words)])
    handler = signal.getsignal(signal.SIGTERM)
    ghmdet.predict.main()
    signal.signal(signal.SIGTERM, handler)
    found = [row['bbox'] for row in json.loads((tmp_path / 'found.json').read_text())]
    expected = Detector(exported / 'model.onnx')(cv2.imread(str(photo))[::-1].copy()).to_coco(1)
    assert np.array(found) == pytest.approx(np.array([row['bbox'] for row in expected]), abs=1e-3)
    assert len(Detector(tmp_path / 'mine.onnx')(photo)) == len(found)  # is imported
