"""The reader of checkpoint files: what it lets in, what it refuses, and what it then says."""

from __future__ import annotations

import argparse
import importlib
import json
import pickle
import random
import re
import sys
import zipfile
from collections import OrderedDict
from pathlib import PosixPath, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.optim.scheduler.lr_scheduler import OneCycleLR
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch.utils.data import Dataset

from ghmdet.checkpoint import reader
from ghmdet.checkpoint.reader import TRUST_VARIABLE, RefusedError
from ghmdet.checkpoint.weights import fit_state_dict
from ghmdet.engine import CheckpointError, load_checkpoint_file
from tests.hostile import HOSTILE, write


@pytest.fixture(autouse=True)
def no_trust(monkeypatch):
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)


class Points(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.full((2,), float(index + 1))


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, *inputs, mode='loss'):
        return {'loss': self.layer(torch.stack(inputs)).square().mean()}


def make_runner(work_dir, **options):
    sampler = dict(type='DefaultSampler', shuffle=False)
    settings = dict(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=dict(dataset=Points(), batch_size=1, sampler=sampler),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=dict(type='LinearLR', end=2, by_epoch=False),
        custom_hooks=[dict(type='EMAHook')],
        log_level='ERROR',
    )
    return Runner(**{**settings, **options})


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    make_runner(folder).train()
    return folder / 'epoch_1.pth'


def as_numpy_1_names_it(path, out):
    """Copy a checkpoint with the module names of numpy 1 in its pickle."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, 'w') as target:
        for name in source.namelist():
            raw = source.read(name)
            if name.endswith('data.pkl'):
                assert b'numpy._core' in raw
                raw = raw.replace(b'numpy._core', b'numpy.core')
            target.writestr(name, raw)
    return out


# --- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize('numpy', [1, 2])
def test_mmengine_checkpoint_has_the_values_that_the_full_reader_finds(trained, tmp_path, numpy):
    asked = torch.serialization.get_unsafe_globals_in_checkpoint(trained)
    assert {'builtins.getattr', 'mmengine.logging.history_buffer.HistoryBuffer'} <= {*asked}
    file = trained if numpy == 2 else as_numpy_1_names_it(trained, tmp_path / 'old.pth')
    safe, full = load_checkpoint_file(file), torch.load(trained, weights_only=False)
    assert list(safe) == list(full)
    assert torch.equal(safe['state_dict']['layer.weight'], full['state_dict']['layer.weight'])
    scalars = [found['message_hub']['log_scalars']['train/loss'] for found in (safe, full)]
    for mine, other in zip(*(each.data for each in scalars), strict=True):
        assert mine.tolist() == other.tolist()
        assert mine.dtype == other.dtype
    assert len(scalars[0].data[0]) == 2
    assert scalars[0].statistics('mean', window_size=2) == np.mean(scalars[1].data[0])
    assert safe['message_hub']['runtime_info'] == full['message_hub']['runtime_info']
    assert safe['optimizer']['param_groups'] == full['optimizer']['param_groups']


def test_mmengine_resumes_through_the_reader(trained, tmp_path):
    epochs = dict(by_epoch=True, max_epochs=2)
    runner = make_runner(tmp_path, train_cfg=epochs, load_from=str(trained), resume=True)
    runner.train()
    assert (runner.epoch, runner.iter) == (2, 4)
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 4


@pytest.mark.parametrize('legacy', [False, True])
def test_both_formats_of_torch_and_bare_state_dicts(tmp_path, monkeypatch, legacy):
    weights = OrderedDict(weight=torch.arange(3.0))
    torch.save(weights, tmp_path / 'bare.pth', _use_new_zipfile_serialization=not legacy)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert load_checkpoint_file('~/bare.pth')['weight'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('code', ['?', 'b', 'u8', 'f2', 'f4', '>f8', 'c16'])
def test_numeric_arrays_and_scalars_of_old_and_new_numpy(tmp_path, code):
    array = np.array([[1, 0], [1, 1]], code)
    content = {'state_dict': {}, 'array': array, 'scalar': array[0, 0]}
    new = pickle.dumps(content, 2)
    assert b'numpy._core' in new
    for name, raw in (('new', new), ('old', new.replace(b'numpy._core', b'numpy.core'))):
        loaded, full = load_checkpoint_file(write(tmp_path / f'{name}.pth', raw)), pickle.loads(new)
        assert loaded['array'].tolist() == array.tolist()
        assert loaded['scalar'] == array[0, 0]
        assert loaded['array'].dtype == full['array'].dtype
        assert loaded['scalar'].dtype == full['scalar'].dtype
    assert np.dtype('f8').byteorder == '='


def test_checkpoint_as_mmdetection_2_writes_it(tmp_path):
    meta = dict(
        env_info='sys.platform: linux',
        config='model = dict()',
        seed=None,
        CLASSES=('cat', 'dog'),
        PALETTE=[(220, 20, 60), (119, 11, 32)],
        epoch=12,
        iter=7330,
        mmcv_version='1.3.17',
        time='Sat Feb  1 03:11:09 2020',
        hook_msgs=dict(best_score=np.float64(0.375), best_ckpt='best.pth'),
    )
    momentum = {0: dict(momentum_buffer=torch.ones(2), step=np.int64(5), size=torch.Size([2]))}
    groups = [dict(lr=np.float32(0.5), momentum=0.9, params=[0], betas=(0.9, 0.999))]
    content = dict(
        meta=meta,
        state_dict=OrderedDict({'bbox_head.loss_cls.edges': torch.arange(31) / 30}),
        optimizer=dict(state=momentum, param_groups=groups),
    )
    torch.save(content, tmp_path / 'new.pth')
    for file in (tmp_path / 'new.pth', as_numpy_1_names_it(tmp_path / 'new.pth', tmp_path / 'o')):
        loaded = load_checkpoint_file(file)
        assert loaded['meta'] == meta
        assert loaded['optimizer']['param_groups'] == groups
        assert loaded['optimizer']['state'][0]['step'] == 5
        assert loaded['optimizer']['state'][0]['size'] == (2,)


@pytest.mark.parametrize('strategy', ['cos', 'linear'])
def test_one_cycle_schedules_save_a_method_of_theirs(tmp_path, strategy):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    schedule = OneCycleLR(optimizer, eta_max=0.1, total_steps=10, anneal_strategy=strategy)
    torch.save(dict(state_dict={}, s=schedule.state_dict()), tmp_path / 'a.pth')
    loaded = load_checkpoint_file(tmp_path / 'a.pth')['s']
    assert loaded == schedule.state_dict()
    # half way of both is the mean, a quarter is not
    assert loaded['anneal_func'](1.0, 0.0, 0.25) == pytest.approx(
        {'cos': 0.853553, 'linear': 0.75}[strategy], abs=1e-6
    )


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'pickle'])
@pytest.mark.parametrize('attack', HOSTILE)
def test_hostile_file_is_refused_by_name_and_does_nothing(tmp_path, attack, legacy):
    make, name = HOSTILE[attack]
    marker, file = tmp_path / 'marker', tmp_path / 'evil.pth'
    content = {'state_dict': {}, 'extra': make(marker)}
    if legacy:
        file.write_bytes(pickle.dumps(content, 2))
    else:
        write(file, content)
    message = f'{file} was refused.*{re.escape(name)}.*{TRUST_VARIABLE}=1'
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint_file(file)
    assert not marker.exists()


@pytest.mark.parametrize('call', [b'(K\x08tR', b'(K\x08t\x81'], ids=['reduce', 'newobj'])
def test_state_only_classes_are_out_of_reach(tmp_path, call):
    """The array class may get a state; a file that names it gets a function instead."""
    for name, message in (
        (b'state of an array\n', 'was refused'),
        (b'state of a dtype f\n', 'was refused'),
        (b'numpy\nndarray', str(tmp_path)),
    ):
        file = write(tmp_path / 'x.pth', b'\x80\x02c' + name + b'\n' + call + b'.')
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint_file(file)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_pickle_newer_than_the_safe_reader_is_refused_with_the_way_out(tmp_path):
    file = write(tmp_path / 'new.pth', {'state_dict': {'a': 1}}, protocol=4)
    with pytest.raises(CheckpointError, match=r'refused.*Unsupported operand 149.*TRUST'):
        load_checkpoint_file(file)


def test_trusted_file_is_loaded_and_logged(tmp_path, monkeypatch):
    file = write(tmp_path / 'own.pth', {'state_dict': {}, 'object': np.array([None])})
    for value in ('0', '', 'true'):
        monkeypatch.setenv(TRUST_VARIABLE, value)
        with pytest.raises(CheckpointError, match='was refused'):
            load_checkpoint_file(file)
    monkeypatch.setenv(TRUST_VARIABLE, '1')
    lines = []
    monkeypatch.setattr(reader, 'print_log', lambda text, **_: lines.append(text))
    assert load_checkpoint_file(file)['object'].tolist() == [None]
    assert lines == [f"{file} uses numpy.dtype('O8'); loaded because {TRUST_VARIABLE}=1 is set"]


def test_trusted_file_whose_class_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setenv(TRUST_VARIABLE, '1')
    file = write(tmp_path / 'gone.pth', b'\x80\x02cno_such_package\nThing\n.')
    with pytest.raises(
        CheckpointError, match=r"needs code that is not here \(No module named 'no_such"
    ):
        load_checkpoint_file(file)


# --- what is wrong with the file --------------------------------------------------------------


@pytest.mark.parametrize(
    ('names', 'path', 'error', 'message'),
    [
        (
            ['epoch_11.pth', 'epoch_12.pth', 'notes.txt'],
            'epoch_13.pth',
            FileNotFoundError,
            'no checkpoint {0}/epoch_13.pth; it contains epoch_12.pth, epoch_11.pth$',
        ),
        ([], 'no/a.pth', FileNotFoundError, 'no folder {0}/no either'),
        ([], 'a.pth', FileNotFoundError, 'no checkpoint in that folder'),
        (['latest.pth'], '.', IsADirectoryError, r'is a folder; it contains latest\.pth'),
    ],
)
def test_missing_files(tmp_path, names, path, error, message):
    for name in names:
        (tmp_path / name).write_text('x')
    with pytest.raises(error, match=message.format(tmp_path)):
        load_checkpoint_file(tmp_path / path)


def test_a_checkpoint_under_nearly_its_name(tmp_path):
    (tmp_path / 'runs').mkdir()
    torch.save({'w': torch.ones(2)}, tmp_path / 'runs' / 'best.pth')
    for name in ('runs/Best.pth', 'Runs/best.pth', 'runs\\best.pth'):
        with pytest.raises(FileNotFoundError, match=r'^no checkpoint .*, but there is ') as caught:
            load_checkpoint_file(tmp_path / name)
        found = str(caught.value).split("'")[1]
        assert load_checkpoint_file(found)['w'].tolist() == [1, 1]


@pytest.mark.parametrize(
    ('content', 'told'),
    [
        (b'', r'is empty \(0 bytes\)'),
        (b'hello, world', r"not a checkpoint: it begins with b'hello, world'"),
        (b'\xff\xd8\xff\xe0\x00\x10JFIF', r'not a checkpoint: it begins with .*JFIF'),
        (b'PK\x03\x04 not really', r'\(15 bytes\) cannot be read .*truncated or damaged'),
        (b'\x80\x02', r'\(2 bytes\) cannot be read .*truncated or damaged'),
        ([1, 2], 'it contains a list'),
        ({'model': {'w': 1}, 'epoch': 3}, r"it contains the keys \['model', 'epoch'\]"),
        ({}, r'it contains the keys \[\]'),
        ({'state_dict': [1]}, r"it contains the keys \['state_dict'\]"),
    ],
)
def test_file_that_is_no_checkpoint(tmp_path, content, told):
    file = tmp_path / 'a.pth'
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=f'^{file}.*{told}'):
        load_checkpoint_file(file)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_truncated_checkpoint(trained, tmp_path, suffix):
    file = tmp_path / f'cut{suffix}'
    save_file({'w': torch.ones(100)}, file)
    whole = trained.read_bytes() if suffix == '.pth' else file.read_bytes()
    for length in (4, 20, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=f'{length} bytes.* truncated or damaged'):
            load_checkpoint_file(file)


# a flipped flag of a dtype makes numpy complain when the array is freed
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_damage_anywhere_gives_one_of_our_errors_or_a_dict(trained, tmp_path):
    rng, file = random.Random(0), tmp_path / 'flipped.pth'
    raw = pickle.dumps({'state_dict': {'a': [1, 2.5]}, 'h': HistoryBuffer([1.0], [1])}, 2)
    outcomes = set()
    for _ in range(100):
        flipped = bytearray(raw)
        flipped[rng.randrange(2, len(raw))] = rng.randrange(256)
        try:
            outcomes.add(type(load_checkpoint_file(write(file, bytes(flipped)))))
        except CheckpointError:
            outcomes.add(CheckpointError)
    assert outcomes == {dict, CheckpointError}


# --- safetensors ------------------------------------------------------------------------------


def test_safetensors_with_class_names_and_other_texts(tmp_path):
    file = tmp_path / 'a.safetensors'
    texts = dict(epoch='12', cfg='model = dict()', format='pt')
    texts |= dict(classes='["cat", "d\u00f6g"]', palette='[[1, 2, 3], [4, 5, 6]]')
    weights = dict(w=torch.arange(4.0).reshape(2, 2), n=torch.tensor(3), h=torch.ones(1).half())
    save_file(weights, file, metadata=texts)
    loaded = load_checkpoint_file(file)
    found = {name: value.tolist() for name, value in loaded['state_dict'].items()}
    assert found == dict(w=[[0, 1], [2, 3]], n=3, h=[1])
    assert loaded['state_dict']['h'].dtype == torch.float16
    assert loaded['meta'] == dict(
        dataset_meta=dict(classes=('cat', 'd\u00f6g'), palette=[[1, 2, 3], [4, 5, 6]]),
        epoch=12,
        cfg='model = dict()',
        format='pt',
    )


def test_safetensors_of_other_programs(tmp_path):
    file = tmp_path / 'a.safetensors'
    for texts in ({}, dict(classes='cat, dog', epoch='last'), dict(classes='[' * 100_000)):
        save_file({'w': torch.ones(1)}, file, metadata=texts)
        assert load_checkpoint_file(file)['meta'] == texts
    for device in ('meta', torch.device('meta')):
        assert load_checkpoint_file(file, device)['state_dict']['w'].device.type == 'meta'


def header(length, **entries):
    text = json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, 'little') + text


def tensor(kind='F32', shape=(4,), end=4):
    return header(None, w=dict(dtype=kind, shape=shape, data_offsets=[0, end])) + b'1234'


HOSTILE_SAFETENSORS = {
    'empty': (b'', r'is empty \(0 bytes\)'),
    'text': (b'hello, world', r'12 bytes.*header'),
    'pickle': (pickle.dumps({'state_dict': {}}, 2), 'header'),
    'header of 2**63 bytes': (header(1 << 63), 'header: (HeaderTooLarge|header too large)'),
    'header longer than the file': (header(1000), 'header'),
    'header that is no JSON': ((2).to_bytes(8, 'little') + b'xx', 'deserializing header'),
    'deep header': ((200_000).to_bytes(8, 'little') + b'[' * 200_000, 'header'),
    'offsets beyond the file': (tensor(end=16), 'deserializing header'),
    'shape that overflows': (tensor(shape=(1 << 62, 1 << 62)), 'overflow|Overflow'),
    'unknown type': (tensor('PICKLE', (1,)), 'deserializing header'),
}


@pytest.mark.parametrize('case', HOSTILE_SAFETENSORS)
def test_hostile_safetensors(tmp_path, case):
    content, told = HOSTILE_SAFETENSORS[case]
    file = tmp_path / 'a.safetensors'
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f'(?s)^{file}.*({told})'):
        load_checkpoint_file(file)


# --- files of other programs ------------------------------------------------------------------

WEIGHTS = {'conv.weight': torch.arange(4.0).reshape(2, 2), 'conv.bias': torch.tensor([5.0, 6.0])}
OPTIMIZER = {'state': {0: {'momentum_buffer': torch.ones(2)}}, 'param_groups': [{'lr': 0.1}]}


def holds_weights(checkpoint):
    found = checkpoint['state_dict']
    return list(found) == list(WEIGHTS) and all(torch.equal(found[k], WEIGHTS[k]) for k in WEIGHTS)


@pytest.mark.parametrize(
    ('content', 'told'),
    [
        # torchvision's references/detection/train.py
        (
            dict(
                model=WEIGHTS,
                optimizer=OPTIMIZER,
                lr_scheduler={},
                args=argparse.Namespace(lr=0.02, out=PosixPath('a'), device='cuda'),
                epoch=3,
            ),
            "the weights under 'model' are used",
        ),
        # its references/classification/train.py with --model-ema
        (dict(model=WEIGHTS, model_ema={'x': torch.ones(1)}), "'model' are used, not model_ema"),
        (dict(model_state_dict=WEIGHTS, optimizer_state_dict=OPTIMIZER), "'model_state_dict' are"),
        (dict(net=OrderedDict(WEIGHTS), acc=0.9, epoch=1), "the weights under 'net' are used"),
        (dict(weights=WEIGHTS, best=torch.ones(1)), "the weights under 'weights' are used"),
        (dict(my_detector=WEIGHTS, optimizer=OPTIMIZER), "under 'my_detector' are used"),
        (dict(ema=dict(module=WEIGHTS, updates=3), date='x'), "under 'ema.module' are used"),
    ],
)
@pytest.mark.parametrize('legacy', [False, True])
def test_where_other_programs_have_the_weights(content, told, legacy, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(reader, 'print_log', lambda text, **_: logged.append(text))
    file = tmp_path / 'a.pth'
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    assert holds_weights(load_checkpoint_file(file))
    assert len(logged) == 1
    assert logged[0].startswith(f'{file}: ')
    assert told in logged[0]


def test_a_checkpoint_of_lightning(tmp_path):
    content = {
        'epoch': 3,
        'global_step': 90,
        'pytorch-lightning_version': '2.4.0',
        'state_dict': OrderedDict((f'model.{name}', value) for name, value in WEIGHTS.items()),
        'loops': {'fit_loop': {'state_dict': {}}},
        'callbacks': {"ModelCheckpoint{'monitor': 'ap'}": {'best': torch.tensor(0.5), 'dir': 'x'}},
        'optimizer_states': [OPTIMIZER],
        'lr_schedulers': [],
        'hparams_name': 'kwargs',
        'hyper_parameters': {'lr': 0.1, 'data': PosixPath('/data'), 'args': argparse.Namespace()},
    }
    torch.save(content, tmp_path / 'a.ckpt')
    found = load_checkpoint_file(tmp_path / 'a.ckpt')
    model = torch.nn.ModuleDict(dict(conv=torch.nn.Linear(2, 2)))
    fitted, report = fit_state_dict(found, model)
    assert report.fits_exactly
    assert holds_weights(dict(state_dict=fitted))


class Settings:
    """A class that a checkpoint needs."""


@pytest.mark.parametrize('module', ['pathlib', 'pathlib._local'])
@pytest.mark.parametrize('kind', ['PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath'])
@pytest.mark.parametrize('trusted', [False, True])
def test_paths_of_other_systems(module, kind, trusted, tmp_path, monkeypatch):
    path = PureWindowsPath('C:/a/b.txt')
    content = dict(model={}, args=path, other=Settings() if trusted else None)
    raw = pickle.dumps(content, 2)
    raw = raw.replace(b'cpathlib\nPureWindowsPath', f'c{module}\n{kind}'.encode())
    file = write(
        tmp_path / 'a.pth', raw.replace(b'X\x05\x00\x00\x00model', b'X\x0a\x00\x00\x00state_dict')
    )
    if trusted:
        with pytest.raises(CheckpointError, match=rf'{Settings.__qualname__}.*{TRUST_VARIABLE}=1'):
            load_checkpoint_file(file)
        monkeypatch.setenv(TRUST_VARIABLE, '1')
    found = load_checkpoint_file(file)
    pure = PureWindowsPath if 'Windows' in kind else PurePosixPath
    assert type(found['args']) is pure
    assert found['args'].parts[1:] == ('a', 'b.txt')


@pytest.mark.parametrize(
    ('payload', 'told'),
    [
        (
            b'\x80\x02cpathlib\nPosixPath\nX\x01\x00\x00\x00a\x85R}X\x05\x00\x00\x00_rootK\x01sb.',
            'Can only build',
        ),
        (b'\x80\x02cpathlib\nPath\nX\x01\x00\x00\x00a\x85R.', 'pathlib.Path'),
        (b'\x80\x02cargparse\nArgumentParser\n)R.', 'argparse.ArgumentParser'),
        (b'\x80\x02cargparse\nNamespace._get_kwargs\n)R.', 'Namespace._get_kwargs'),
    ],
)
def test_nothing_else_of_these_modules_is_allowed(payload, told, tmp_path):
    with pytest.raises(RefusedError, match=re.escape(told)):
        load_checkpoint_file(write(tmp_path / 'a.pth', payload))


@pytest.mark.parametrize('inside', [False, True])
def test_advice_for_a_whole_network(inside, tmp_path, monkeypatch):
    network = torch.nn.ModuleDict(dict(conv=torch.nn.Linear(2, 2)))
    network.load_state_dict(WEIGHTS)
    torch.save(dict(model=network, epoch=1) if inside else network, tmp_path / 'a.pth')
    with pytest.raises(RefusedError, match=f'ModuleDict.*set {TRUST_VARIABLE}=1'):
        load_checkpoint_file(tmp_path / 'a.pth')
    monkeypatch.setenv(TRUST_VARIABLE, '1')
    assert holds_weights(load_checkpoint_file(tmp_path / 'a.pth'))


def test_advice_for_weights_under_several_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "it's.pth"
    torch.save(dict(a=dict(generator=WEIGHTS), b={'x': torch.ones(1)}), file)
    with pytest.raises(CheckpointError, match=r'tensors in a\.generator, b\. Choose') as caught:
        load_checkpoint_file(file)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert len(lines) == 2
    exec('\n'.join(lines), {})
    assert holds_weights(load_checkpoint_file('weights.pth'))


@pytest.mark.parametrize(
    ('content', 'told'),
    [
        (OPTIMIZER, 'it contains the state of an optimizer$'),
        (
            dict(args=argparse.Namespace(lr=1), epoch=1),
            r"it contains the keys \['args', 'epoch'\]$",
        ),
        (argparse.Namespace(lr=1), 'it contains a Namespace$'),
        (dict(optimizer=OPTIMIZER), r"it contains the keys \['optimizer'\]$"),
        ({0: torch.ones(1)}, r'it contains the keys \[0\]$'),
    ],
)
def test_files_without_weights(content, told, tmp_path):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint_file(tmp_path / 'a.pth')


def test_advice_for_a_file_that_needs_other_code(tmp_path, monkeypatch):
    code = 'import torch\nclass Net(torch.nn.Linear): pass\n'
    (tmp_path / 'their_module.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    net = importlib.import_module('their_module').Net(2, 2)
    torch.save(net, tmp_path / 'a.pth')
    monkeypatch.setenv(TRUST_VARIABLE, '1')
    monkeypatch.delitem(sys.modules, 'their_module')
    monkeypatch.setattr(sys, 'path', [each for each in sys.path if each != str(tmp_path)])
    importlib.invalidate_caches()
    with pytest.raises(
        CheckpointError, match=r"needs code that is not here \(No module named 'the"
    ):
        load_checkpoint_file(tmp_path / 'a.pth')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # where that can be imported
    torch.save(
        dict(state_dict=torch.load(tmp_path / 'a.pth', weights_only=False).state_dict()), 'n.pth'
    )
    assert torch.equal(load_checkpoint_file('n.pth')['state_dict']['weight'], net.weight)
