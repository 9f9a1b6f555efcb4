"""What is handed on: the weights and what inference needs, and no more."""

import importlib.util
import pickle
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from ghmdet import __version__, config_path
from ghmdet.engine import CheckpointError, inference_detector, init_detector, load_checkpoint_file

TOOL = Path(__file__).parents[2] / 'tools' / 'model_converters' / 'publish_model.py'

spec = importlib.util.spec_from_file_location('publish_model_tool', TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def weights_of_all_kinds():
    large = torch.arange(100_000.0)
    return {
        'slice': large[10:14],
        'transposed': torch.arange(6.0).reshape(2, 3).t(),
        'parameter': torch.nn.Parameter(torch.ones(2)),
        'count': torch.tensor(7),
    }


META = dict(
    epoch=12,
    iter=7330,
    mmengine_version='0.10.7',
    ghmdet_version=__version__,
    cfg='model = dict()\n',
    dataset_meta=dict(classes=('cat', 'dög'), palette=[[1, 2, 3], [4, 5, 6]]),
)


def checkpoint_of_mmengine():
    dataset_meta = dict(classes=['cat', 'dög'], palette=[(1, 2, 3), (4, 5, 6)], other=1)
    others = dict(seed=0, experiment_name='mine', time='20261122_090200', iter=np.int64(7330))
    return dict(
        meta={**META, **others, 'dataset_meta': dataset_meta},
        state_dict=weights_of_all_kinds(),
        message_hub=dict(log_scalars={'train/loss': HistoryBuffer([1.0], [1])}),
        optimizer=dict(state={0: dict(momentum_buffer=torch.ones(100_000))}, param_groups=[]),
        param_schedulers=[dict(last_step=3)],
        ema_state_dict=dict(steps=torch.tensor(1)),
    )


def publish(content, tmp_path, name='out.pth', *options):
    source = tmp_path / 'in.pth'
    torch.save(content, source)
    before = set(tmp_path.rglob('*'))
    tool.main([str(source), str(tmp_path / name), *options])
    (file,) = set(tmp_path.rglob('*')) - before
    return file


def refuse(*args):
    with pytest.raises((ValueError, OSError, CheckpointError)) as caught:
        tool.main([str(arg) for arg in args])
    return str(caught.value)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_published_file(tmp_path, capsys, suffix):
    file = publish(checkpoint_of_mmengine(), tmp_path, f'out{suffix}')
    digits = sha256(file.read_bytes()).hexdigest()[:8]
    assert file == tmp_path / f'out-{digits}{suffix}'
    assert file.stat().st_mode & 0o444 == (tmp_path / 'in.pth').stat().st_mode & 0o444
    assert file.stat().st_size < 4000  # of 800 kB
    loaded = load_checkpoint_file(file)
    assert list(loaded) == ['state_dict', 'meta']
    for name, value in weights_of_all_kinds().items():
        assert torch.equal(loaded['state_dict'][name], value)
        assert loaded['state_dict'][name].is_contiguous()
    assert {**loaded['meta'], 'format': 'pt'} == {**META, 'format': 'pt'}
    told = capsys.readouterr().out
    assert f'wrote {file}: 0.0 MB ({tmp_path}/in.pth: 0.8 MB); 4 tensors, 2 class names' in told
    assert 'left out: message_hub, optimizer, param_schedulers, ema_state_dict' in told


def test_pth_loads_with_the_plain_reader_and_holds_small_storages(tmp_path):
    file = publish(checkpoint_of_mmengine(), tmp_path)
    assert torch.serialization.get_unsafe_globals_in_checkpoint(file) == []
    loaded = torch.load(file, weights_only=True)
    assert loaded['meta'] == META
    sizes = {name: v.untyped_storage().nbytes() for name, v in loaded['state_dict'].items()}
    assert sizes == dict(slice=16, transposed=24, parameter=8, count=8)
    assert not loaded['state_dict']['parameter'].requires_grad


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_the_same_file_again_also_from_a_published_one(tmp_path, suffix):
    first = publish(checkpoint_of_mmengine(), tmp_path, f'out{suffix}')
    content = first.read_bytes()
    second = publish(checkpoint_of_mmengine(), tmp_path, f'again{suffix}')
    assert second.name.removeprefix('again') == first.name.removeprefix('out')
    assert second.read_bytes() == content
    tool.main([str(first), str(tmp_path / f'out{suffix}')])
    if suffix == '.safetensors':  # to the other format and back
        tool.main([str(first), str(tmp_path / 'b.pth')])
        (other,) = tmp_path.glob('b-*.pth')
        assert torch.load(other)['meta'] == META
        tool.main([str(other), str(tmp_path / f'out{suffix}')])
    assert list(tmp_path.glob('out*')) == [first]
    assert first.read_bytes() == content


def test_checkpoint_of_mmdetection_2(tmp_path):
    kept = dict(epoch=1, mmdet_version='2.28.2')
    meta = dict(kept, config='model = dict()', CLASSES=('cat', 'dog'), PALETTE=None)
    meta |= dict(env_info='GPU 0: x', hook_msgs=dict(best_score=0.5))
    weights = {'a.w': torch.ones(1), 'ema_a_w': torch.zeros(1), 'ema_other': torch.zeros(2)}
    loaded = torch.load(publish(dict(meta=meta, state_dict=weights, optimizer={}), tmp_path))
    kept |= dict(cfg='model = dict()', dataset_meta=dict(classes=('cat', 'dog')))
    assert loaded['meta'] == dict(kept, ghmdet_version=__version__)
    assert list(loaded['state_dict']) == ['a.w', 'ema_other']


@pytest.mark.parametrize(
    ('content', 'meta'),
    [
        (dict(w=torch.ones(1)), {}),
        (dict(state_dict=dict(w=torch.ones(1))), {}),
        (dict(CLASSES='cat'), dict(classes=('cat',))),
        (dict(dataset_meta=dict(CLASSES=['cat'])), dict(classes=('cat',))),
        (dict(dataset_meta=dict(classes=np.array([1]))), dict(classes=(1,))),
    ],
)
def test_class_names_of_all_forms_or_none(tmp_path, capsys, content, meta):
    content = dict(state_dict=dict(w=torch.ones(1)), meta=content) if meta else content
    loaded = torch.load(publish(content, tmp_path))
    expected = dict(dataset_meta=meta) if meta else {}
    assert loaded['meta'] == dict(expected, ghmdet_version=__version__)
    assert loaded['state_dict']['w'].tolist() == [1]
    names = '1 class names' if meta else 'no class names, as IN has none'
    assert f'{names}; left out: nothing' in capsys.readouterr().out


def test_save_keys(tmp_path, capsys):
    checkpoint = checkpoint_of_mmengine()
    loaded = torch.load(publish(checkpoint, tmp_path, 'a.pth', '--save-keys', 'param_schedulers'))
    assert list(loaded) == ['state_dict', 'param_schedulers']
    assert loaded['param_schedulers'] == [dict(last_step=3)]
    assert 'no meta; left out: meta, message_hub, optimizer' in capsys.readouterr().out
    loaded = torch.load(publish(checkpoint, tmp_path, 'b.pth', '--save-keys', 'state_dict'))
    assert list(loaded) == ['state_dict']
    for name, key, message in (
        ('c.pth', 'optimiser', 'no optimiser to keep; it has meta, state_dict, message_hub'),
        ('c.pth', 'message_hub', 'torch.load(weights_only=True) cannot read the keys in --save-k'),
        ('c.safetensors', 'optimizer', 'cannot contain optimizer; use .pth'),
    ):
        told = refuse(tmp_path / 'in.pth', tmp_path / name, '--save-keys', 'meta', key)
        assert message in told
    assert not list(tmp_path.glob('c*'))


def test_what_is_refused(tmp_path):
    source, out = tmp_path / 'in.pth', tmp_path / 'out.pth'
    assert 'no checkpoint' in refuse(source, out)
    source.write_text('hello')
    assert 'is not a checkpoint' in refuse(source, out)
    torch.save({'epoch': 3}, source)
    assert "it contains the keys ['epoch']" in refuse(source, out)
    source.write_bytes(pickle.dumps({'state_dict': {}, 'x': HistoryBuffer.register_statistics}, 2))
    assert 'was refused' in refuse(source, out)
    torch.save({'state_dict': {}}, source)
    for name in ('out', 'out.onnx', 'out.pt'):
        told = refuse(source, tmp_path / name)
        assert f'expected OUT to end in .pth or .safetensors, got {tmp_path / name}' in told
    told = refuse(source, source / 'out.pth')
    assert 'cannot write there' in told
    assert sorted(tmp_path.iterdir()) == [source]


def test_another_file_is_not_overwritten(tmp_path):
    file = publish({'state_dict': {}}, tmp_path)
    file.write_text('mine')
    told = refuse(tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert f'{file} exists and has another content' in told
    assert file.read_text() == 'mine'
    assert sorted(tmp_path.iterdir()) == [tmp_path / 'in.pth', file]


def test_published_detector_finds_the_same(tmp_path):
    cfg = Config.fromfile(config_path('retinanet_ghm_r18_fpn_shapes'))
    cfg.model.test_cfg.score_thr = 0.001
    torch.manual_seed(0)
    model = init_detector(cfg)
    model.init_weights()
    meta = dict(dataset_meta=dict(classes=('a', 'b', 'c')), cfg=cfg.pretty_text)
    source = tmp_path / 'epoch_1.pth'
    momentum = [value.clone() for value in model.parameters()]
    torch.save(dict(meta=meta, state_dict=model.state_dict(), optimizer=momentum), source)
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    expected = inference_detector(init_detector(cfg, str(source)), image).pred_instances
    assert len(expected) > 10
    for suffix in ('.pth', '.safetensors'):
        tool.main([str(source), str(tmp_path / f'model{suffix}')])
        (file,) = tmp_path.glob(f'model-*{suffix}')
        assert file.stat().st_size < 0.6 * source.stat().st_size
        published = init_detector(cfg, str(file))
        assert published.dataset_meta['classes'] == ('a', 'b', 'c')
        found = inference_detector(published, image).pred_instances
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(found[key], expected[key])
        assert load_checkpoint_file(file)['meta']['cfg'] == cfg.pretty_text
