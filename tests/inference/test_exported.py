"""An exported file gives the detections of the model that it was made from."""

import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from ghmdet import Detector
from ghmdet.engine import inference_detector, init_detector
from ghmdet.inference import exported as module
from ghmdet.inference.exported import ExportedDetector
from ghmdet.structures import DetDataSample
from tests.exported_model import export_model, write_model

RUNTIMES = [('model.onnx', 'onnxruntime'), ('model.onnx', 'openvino'), ('model.pt2', 'torch')]
NOTHING = np.tile(np.uint8([104, 116, 124]), (120, 160, 1))  # the mean, in which nothing is found


def assert_close(found, expected):
    """Detections match one by one; those of equal score may have another order."""
    assert len(found) == len(expected)
    assert found.shape == expected.shape
    left = list(expected)
    for box, score, label, name in found:
        near = min(left, key=lambda each: abs(each[0] - box).max() + 100 * (each[2] != label))
        left = [each for each in left if each is not near]
        assert abs(near[0] - box).max() < 1e-3
        assert abs(near[1] - score) < 1e-5
        assert (near[2], near[3]) == (label, name)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


@pytest.fixture(scope='module')
def eager(exported):
    return Detector(exported / 'config.py', exported / 'model.pth', device='cpu')


@pytest.fixture(scope='module', params=RUNTIMES, ids=[backend for _, backend in RUNTIMES])
def detector(exported, request):
    name, backend = request.param
    pytest.importorskip(backend)
    found = Detector(exported / name, backend=backend)
    assert (found.backend, found.classes) == (backend, ('circle', 'square', 'triangle'))
    return found


def test_detections_are_those_of_the_model(exported, eager, detector, tmp_path):
    photos = sorted((exported / 'data/val').iterdir())
    turned, exif = tmp_path / 'turned.jpg', Image.Exif()
    exif[0x0112] = 6
    Image.open(photos[0]).save(turned, exif=exif)
    grey = tmp_path / 'grey.png'
    Image.open(photos[1]).convert('L').save(grey)
    images = [*photos[:3], turned, NOTHING, noise(16, 16), grey, noise(37, 300), noise(333, 250)]
    images += [Image.open(photos[4]), torch.from_numpy(noise(64, 50)).permute(2, 0, 1)]
    expected = eager(images)
    counts = [len(each) for each in expected]
    assert counts[4] == 0
    assert min(counts[:4]) >= 10
    for size in (1, 3, 11):
        for found, other in zip(detector(images, batch_size=size), expected, strict=True):
            assert_close(found, other)
    streamed = list(detector.stream(exported / 'data/val', batch_size=4))
    for found, other in zip(streamed, eager.stream(exported / 'data/val'), strict=True):
        assert found.name == other.name
        assert_close(found, other)


@pytest.mark.parametrize(('name', 'backend'), RUNTIMES)
def test_batches_of_images_as_they_are(exported, name, backend):
    """Without a resize, sizes from 1 pixel on, and scale factors of their own."""
    pytest.importorskip(backend)
    sizes = [(16, 16), (37, 53), (96, 64), (1, 5), (64, 96), (31, 33), (130, 33), (16, 30)]

    def batch():
        samples = [
            DetDataSample(
                metainfo=dict(img_shape=size, ori_shape=(1, 1), scale_factor=(0.3, i + 1))
            )
            for i, size in enumerate(sizes)
        ]
        pixels = [torch.from_numpy(noise(*size)).permute(2, 0, 1) for size in sizes]
        return dict(inputs=pixels, data_samples=samples)

    model = init_detector(exported / 'config.py', exported / 'model.pth')
    network = ExportedDetector(exported / name, backend)
    with torch.no_grad():
        expected = [each.pred_instances for each in model.test_step(batch())]
    assert sum(len(each) > 3 for each in expected) >= 6
    for step in (network.test_step, network.val_step):
        for sample, other in zip(step(batch()), expected, strict=True):
            found = sample.pred_instances
            assert found.labels.tolist() == other.labels.tolist()
            assert torch.allclose(found.bboxes, other.bboxes, rtol=0, atol=1e-3)
            assert torch.allclose(found.scores, other.scores, rtol=0, atol=1e-5)


def test_inference_detector_takes_the_network(exported, eager):
    path = sorted((exported / 'data/val').iterdir())[0]
    pytest.importorskip('onnxruntime')
    found = inference_detector(ExportedDetector(exported / 'model.onnx'), str(path)).pred_instances
    expected = eager(path)
    assert found.labels.tolist() == expected.labels.tolist()
    assert abs(found.bboxes.numpy() - expected.boxes).max() < 1e-3


@pytest.mark.long
@pytest.mark.parametrize('count', [1, 80])
def test_one_class_and_many(exported, tmp_path, count):
    write_model(tmp_path, tuple(f'c{number}' for number in range(count)))
    export_model(tmp_path, 'model.onnx', 'model.pt2')
    expected = Detector(tmp_path / 'config.py', tmp_path / 'model.pth')
    images = [noise(100, 120), noise(37, 300), *(exported / 'data/val').iterdir()]
    for name, backend in RUNTIMES:
        found = Detector(tmp_path / name, backend=backend)
        assert len(found.classes) == count
        for image in images:
            assert len(expected(image)) > 5
            assert_close(found(image), expected(image))


# --- files that cannot be used --------------------------------------------------------------------


def with_metadata(source, target, **changes):
    """Write a copy of an .onnx with other metadata; None removes a key."""
    onnx = pytest.importorskip('onnx')
    model = onnx.load(source)
    texts = {each.key: each.value for each in model.metadata_props} | changes
    del model.metadata_props[:]
    kept = {key: text for key, text in texts.items() if text is not None}
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, target)
    return target


@pytest.mark.follows('cannot be read by {} ({}): export it again')
@pytest.mark.parametrize(('name', 'backend'), RUNTIMES)
def test_truncated_files_and_others(exported, tmp_path, name, backend):
    pytest.importorskip(backend)
    content, file = (exported / name).read_bytes(), tmp_path / name
    for damaged in (content[: len(content) // 2], content[:-100], b'', b'<html>' * 99):
        file.write_bytes(damaged)
        text = f'cannot be read by {backend} .*: export it again|damaged or changed: export the mod'
        with pytest.raises(ValueError, match=text):
            Detector(file, backend=backend)
    shutil.copy(exported / name, file)
    assert len(Detector(file, backend=backend)(noise(99, 99))) > 0


@pytest.mark.follows(': export the model again')
@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_files_of_other_programs(exported, tmp_path, backend):
    pytest.importorskip(backend)
    onnx = pytest.importorskip('onnx')
    whole = onnx.load(exported / 'model.onnx')
    for change in ('metadata', 'keys', 'text', 'names'):
        model = onnx.ModelProto.FromString(whole.SerializeToString())
        if change == 'metadata':
            del model.metadata_props[:]
        elif change == 'keys':
            kept = [each for each in model.metadata_props if each.key != 'classes']
            del model.metadata_props[:]
            model.metadata_props.extend(kept)
        elif change == 'text':
            for each in model.metadata_props:
                each.value = each.value if each.key == 'format_version' else '{'
        else:
            model.graph.output[3].name = model.graph.node[-1].output[0] = 'count'
        onnx.save(model, tmp_path / 'other.onnx')
        with pytest.raises(ValueError, match='other.onnx was not written by `python -m ghmdet.exp'):
            Detector(tmp_path / 'other.onnx', backend=backend)
    export_again = shutil.copy(exported / 'model.onnx', tmp_path / 'other.onnx')
    assert len(Detector(export_again, backend=backend)(noise(99, 99))) > 0


def test_a_pt2_of_another_program_is_not_loaded(exported, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / 'other.pt2', 'w') as archive:
        archive.writestr('other/models/model.json', '{}')
    monkeypatch.setattr(torch.export, 'load', None)
    with pytest.raises(ValueError, match='other.pt2 was not written by `python -m ghmdet.export`'):
        Detector(tmp_path / 'other.pt2')


@pytest.mark.follows('export it again, or install the former')
def test_another_format_version(exported, tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    text = 'has format 2, of ghmdet "9.1"; this ghmdet 0.1.0 reads format 1: export it again, or in'
    newer = dict(format_version='2', ghmdet_version='"9.1"')
    for backend in ('onnxruntime', 'openvino'):
        file = with_metadata(exported / 'model.onnx', tmp_path / 'new.onnx', **newer, classes=None)
        with pytest.raises(ValueError, match=text):
            Detector(file, backend=backend)
    with zipfile.ZipFile(tmp_path / 'new.pt2', 'w') as archive:
        metadata = dict(format_version=2, ghmdet_version='9.1')
        archive.writestr('new/extra/ghmdet.json', json.dumps(metadata))
    with pytest.raises(ValueError, match=text):
        Detector(tmp_path / 'new.pt2')
    monkeypatch.setattr(module, 'FORMAT_VERSION', 2)  # the version that wrote it
    file = with_metadata(exported / 'model.onnx', tmp_path / 'new.onnx', **newer)
    assert len(Detector(file)(noise(99, 99))) > 0


def test_another_ghmdet_of_the_same_format(exported, tmp_path, eager):
    pytest.importorskip('onnxruntime')
    file = with_metadata(exported / 'model.onnx', tmp_path / 'a.onnx', ghmdet_version='"0.0.9"')
    assert_close(Detector(file)(noise(99, 99)), eager(noise(99, 99)))


@pytest.mark.follows('which is not installed: pip install')
@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_a_runtime_that_is_not_installed(exported, monkeypatch, backend):
    pytest.importorskip(backend)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, backend, None)
        with pytest.raises(ModuleNotFoundError, match=f'model.onnx needs {backend}, .*: pip inst'):
            Detector(exported / 'model.onnx', backend=backend)
    assert len(Detector(exported / 'model.onnx', backend=backend)(noise(99, 99))) > 0  # installed


@pytest.mark.follows('does not run {}: choose', 'is for exported files, .onnx or .pt2')
def test_backends_and_files(exported):
    for name, backend, rest in [
        ('model.pt2', 'openvino', "choose 'torch'"),
        ('model.pt2', 'onnxruntime', "choose 'torch'"),
        ('model.onnx', 'torch', "choose 'onnxruntime' or 'openvino'"),
        ('model.onnx', 'tensorrt', "choose 'onnxruntime' or 'openvino'"),
    ]:
        with pytest.raises(ValueError, match=rf"backend='{backend}' does not run .*{name}: {rest}"):
            Detector(exported / name, backend=backend)
    with pytest.raises(ValueError, match="backend='openvino' is for exported files"):
        Detector(exported / 'config.py', exported / 'model.pth', backend='openvino')
    assert Detector(exported / 'config.py', exported / 'model.pth', backend='torch').backend
    with pytest.raises(
        FileNotFoundError, match=r"no file '.*Model.onnx', but there is .*model.onnx"
    ):
        Detector(exported / 'Model.onnx')


@pytest.mark.follows('a file runs as it is: leave')
def test_arguments_that_a_file_cannot_take(exported):
    pytest.importorskip('onnxruntime')
    for options in (
        dict(weights='x.pth'),
        dict(amp=True),
        dict(compile=True),
        dict(device='cuda'),
    ):
        with pytest.raises(ValueError, match='a file runs as it is: leave weights, device, amp'):
            Detector(exported / 'model.onnx', **options)
    for device in ('cpu', torch.device('cpu'), None):
        assert len(Detector(str(exported / 'model.onnx'), device=device)(noise(99, 99))) > 0


@pytest.mark.follows('export it with a larger --static')
def test_images_of_a_static_file(exported, tmp_path):
    for name in ('config.py', 'model.pth'):
        shutil.copy(exported / name, tmp_path)
    export_model(tmp_path, 'static.pt2', static_hw=(128, 192))
    found = Detector(tmp_path / 'static.pt2')
    other = init_detector(tmp_path / 'config.py', tmp_path / 'model.pth')
    other.data_preprocessor.padded_size = lambda image: (128, 192)
    expected = Detector(other)
    images = [noise(120, 160), noise(50, 300), noise(16, 16)]
    for one, two in zip(found(images, batch_size=3), expected(images), strict=True):
        assert_close(one, two)
    upright = noise(160, 120)
    found._steps[0].scale = expected._steps[0].scale = (120, 160)
    with pytest.raises(
        ValueError, match=r'has .* \(160, 120\) after the resize, but .* \(128, 192'
    ):
        found(upright)
    larger = Detector(exported / 'model.pt2')  # without --static
    larger._steps[0].scale = (120, 160)
    assert len(larger(upright)) > 0


def test_threads_are_those_of_torch(exported, monkeypatch):
    runtime, asked = pytest.importorskip('onnxruntime'), []
    session = runtime.InferenceSession

    def start(path, options, providers):
        spinning = options.get_session_config_entry('session.intra_op.allow_spinning')
        asked.append((options.intra_op_num_threads, spinning, providers))
        return session(path, options, providers)

    monkeypatch.setattr(runtime, 'InferenceSession', start)
    before = torch.get_num_threads()
    try:
        Detector(exported / 'model.onnx', threads=2)
    finally:
        torch.set_num_threads(before)
    assert asked == [(2, '0', ['CPUExecutionProvider'])]


def test_openvino_computes_in_float32_on_any_core(exported, monkeypatch):
    runtime, asked = pytest.importorskip('openvino'), []
    compile_model = runtime.compile_model
    monkeypatch.setattr(
        runtime, 'compile_model', lambda *args: asked.append(args[2]) or compile_model(*args)
    )
    Detector(exported / 'model.onnx', backend='openvino')
    threads = torch.get_num_threads()
    hints = dict(INFERENCE_PRECISION_HINT='f32', ENABLE_CPU_PINNING=False)
    assert asked == [hints | dict(INFERENCE_NUM_THREADS=threads)]
