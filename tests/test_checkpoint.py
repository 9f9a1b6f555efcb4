"""The reader of checkpoint files: what it lets in, what it refuses, and what it then says."""

from __future__ import annotations

import builtins
import http.server
import io
import os
import pickle
import random
import threading
import zipfile
from collections import OrderedDict
from hashlib import sha256

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch.utils.data import Dataset

from ghmdet.engine import CheckpointError, load_checkpoint_file
from ghmdet.engine import checkpoint as module
from ghmdet.engine.checkpoint import TRUST_VARIABLE


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
    settings = {
        'model': Line(),
        'work_dir': str(work_dir),
        'train_dataloader': {
            'dataset': Points(),
            'batch_size': 1,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        },
        'train_cfg': {'by_epoch': True, 'max_epochs': 1},
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        'param_scheduler': {'type': 'LinearLR', 'end': 2, 'by_epoch': False},
        'custom_hooks': [{'type': 'EMAHook'}],
        'log_level': 'ERROR',
    }
    return Runner(**{**settings, **options})


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    make_runner(folder).train()
    return folder / 'epoch_1.pth'


def write(path, payload, protocol=2):
    """A zip checkpoint whose pickle is the payload, without torch.save's help."""
    raw = payload if isinstance(payload, bytes) else pickle.dumps(payload, protocol)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', raw)
        archive.writestr('archive/version', '3\n')
        archive.writestr('archive/byteorder', 'little')
    return path


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


# --- what is let in ---------------------------------------------------------------------------


def test_mmengine_checkpoint_has_the_values_that_the_full_reader_finds(trained):
    asked = torch.serialization.get_unsafe_globals_in_checkpoint(trained)
    assert 'builtins.getattr' in asked
    assert 'mmengine.logging.history_buffer.HistoryBuffer' in asked
    safe = load_checkpoint_file(trained)
    full = torch.load(trained, weights_only=False)
    assert list(safe) == list(full)
    assert torch.equal(safe['state_dict']['layer.weight'], full['state_dict']['layer.weight'])
    ours = safe['message_hub']['log_scalars']['train/loss']
    theirs = full['message_hub']['log_scalars']['train/loss']
    for mine, other in zip(ours.data, theirs.data, strict=True):
        assert mine.tolist() == other.tolist()
        assert mine.dtype == other.dtype
    assert len(ours.data[0]) == 2
    assert ours.statistics('mean', window_size=2) == np.mean(theirs.data[0])
    info, other = safe['message_hub']['runtime_info'], full['message_hub']['runtime_info']
    assert info == other
    assert safe['optimizer']['param_groups'] == full['optimizer']['param_groups']


def test_mmengine_resumes_through_the_reader(trained, tmp_path):
    runner = make_runner(
        tmp_path,
        train_cfg={'by_epoch': True, 'max_epochs': 2},
        load_from=str(trained),
        resume=True,
    )
    runner.train()
    assert (runner.epoch, runner.iter) == (2, 4)
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 4


@pytest.mark.parametrize('legacy', [False, True])
def test_both_formats_of_torch_and_bare_state_dicts(tmp_path, legacy):
    weights = OrderedDict(weight=torch.arange(3.0))
    file = tmp_path / 'bare.pth'
    torch.save(weights, file, _use_new_zipfile_serialization=not legacy)
    assert load_checkpoint_file(file)['weight'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('code', ['?', 'b', 'u8', 'f2', 'f4', '>f8', 'c16'])
def test_numeric_arrays_and_scalars_of_old_and_new_numpy(tmp_path, code):
    array = np.array([[1, 0], [1, 1]], code)
    content = {'state_dict': {}, 'array': array, 'scalar': array[0, 0]}
    new = pickle.dumps(content, 2)
    assert b'numpy._core' in new
    for name, raw in (('new', new), ('old', new.replace(b'numpy._core', b'numpy.core'))):
        loaded = load_checkpoint_file(write(tmp_path / f'{name}.pth', raw))
        assert loaded['array'].tolist() == array.tolist()
        full = pickle.loads(new)
        assert loaded['array'].dtype == full['array'].dtype
        assert loaded['scalar'] == array[0, 0]
        assert loaded['scalar'].dtype == full['scalar'].dtype
    assert np.dtype('f8').byteorder == '='


def test_user_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save({'state_dict': {}}, tmp_path / 'a.pth')
    assert load_checkpoint_file('~/a.pth') == {'state_dict': {}}


# --- what is refused --------------------------------------------------------------------------


def escape(*names):
    """`HistoryBuffer.__init__.__globals__`, as a chain of getattr."""
    target = HistoryBuffer
    for name in names:
        target = Call(getattr, target, name)
    return target


HOSTILE = {
    'os.system': (lambda m: Call(os.system, f'touch {m}'), 'posix.system'),
    'eval': (lambda m: Call(eval, f'open({str(m)!r}, "w")'), 'eval'),
    'exec': (lambda m: Call(exec, f'open({str(m)!r}, "w")'), 'exec'),
    'open': (lambda m: Call(open, str(m), 'w'), 'io.open'),
    'import': (lambda m: Call(builtins.__import__, 'this'), '__import__'),
    'getattr escape': (lambda m: escape('__init__', '__globals__'), 'HistoryBuffer, '),
    'getattr of tensor': (lambda m: Call(getattr, torch.Tensor, 'tofile'), 'Tensor, '),
    'numpy.load': (lambda m: Call(np.load, str(m)), 'numpy.load'),
    'numpy.memmap': (lambda m: Call(np.memmap, str(m), 'u1', 'w+', 0, (4,)), 'memmap'),
    'numpy.save': (lambda m: Call(np.save, str(m), 1), 'numpy.save'),
    'torch.hub.load': (lambda m: Call(torch.hub.load, str(m), 'x'), 'torch.hub.load'),
    'torch.load': (lambda m: Call(torch.load, str(m)), 'torch.serialization.load'),
    'own class': (lambda m: Points(), 'Points'),
    'object dtype': (lambda m: np.dtype('O'), "numpy.dtype('O8')"),
    'object array': (lambda m: np.array([None]), "numpy.dtype('O8')"),
    'record dtype': (lambda m: np.dtype([('a', 'O')]), "numpy.dtype('V8')"),
    'dtype by comma': (lambda m: Call(np.dtype, 'f8,O'), "numpy.dtype('f8,O')"),
    'dtype class': (lambda m: Call(np.dtypes.ObjectDType), 'ObjectDType'),
}


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
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint_file(file)
    message = str(caught.value)
    assert str(file) in message
    assert 'was refused' in message
    assert name in message
    assert f'{TRUST_VARIABLE}=1' in message
    assert not marker.exists()


@pytest.mark.parametrize('call', [b'(K\x08tR', b'(K\x08t\x81'], ids=['reduce', 'newobj'])
def test_state_only_classes_are_out_of_reach(tmp_path, call):
    """The array class may get a state; a file that names it gets a stand-in."""
    for name in (b'state of an array', b'state of a dtype f'):
        module_name = b'\x80\x02c' + name + b'\n\n' + call + b'.'
        with pytest.raises(CheckpointError, match='was refused'):
            load_checkpoint_file(write(tmp_path / 'x.pth', module_name))
    forged = b'\x80\x02cnumpy\nndarray\n' + call + b'.'
    with pytest.raises(CheckpointError):
        load_checkpoint_file(write(tmp_path / 'y.pth', forged))


def test_only_four_methods_pass_the_getattr():
    for name in ('min', 'max', 'current', 'mean'):
        assert module._statistics_method(HistoryBuffer, name) is getattr(HistoryBuffer, name)
    with pytest.raises(module._Refused, match=r"getattr\(HistoryBuffer, '_set_default_stat"):
        module._statistics_method(HistoryBuffer, '_set_default_statistics')


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_pickle_newer_than_the_safe_reader_is_refused_with_the_way_out(tmp_path):
    file = write(tmp_path / 'new.pth', {'state_dict': {'a': 1}}, protocol=4)
    with pytest.raises(CheckpointError, match=r'refused.*Unsupported operand 149.*TRUST'):
        load_checkpoint_file(file)


def test_trusted_file_is_loaded_and_logged(tmp_path, monkeypatch):
    file = write(tmp_path / 'own.pth', {'state_dict': {}, 'object': np.array([None])})
    monkeypatch.setenv(TRUST_VARIABLE, '1')
    logger, stream = MMLogger.get_instance('trust'), io.StringIO()
    monkeypatch.setattr(logger.handlers[0], 'stream', stream)
    assert load_checkpoint_file(file)['object'].tolist() == [None]
    assert f"{file} uses numpy.dtype('O8'); loaded in full because {TRUST_VARIABLE}=1" in (
        stream.getvalue()
    )


@pytest.mark.parametrize('value', ['0', '', 'true'])
def test_trust_needs_exactly_one(tmp_path, monkeypatch, value):
    file = write(tmp_path / 'own.pth', {'state_dict': {}, 'object': np.array([None])})
    monkeypatch.setenv(TRUST_VARIABLE, value)
    with pytest.raises(CheckpointError, match='was refused'):
        load_checkpoint_file(file)


def test_trusted_file_whose_class_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setenv(TRUST_VARIABLE, '1')
    file = write(tmp_path / 'gone.pth', b'\x80\x02cno_such_package\nThing\n.')
    with pytest.raises(CheckpointError, match=r"cannot be read \(No module named 'no_such"):
        load_checkpoint_file(file)


# --- what is wrong with the file --------------------------------------------------------------


def test_missing_file_names_the_nearest(tmp_path):
    for name in ('epoch_11.pth', 'epoch_12.pth', 'notes.txt'):
        (tmp_path / name).write_text('x')
    with pytest.raises(FileNotFoundError) as caught:
        load_checkpoint_file(tmp_path / 'epoch_13.pth')
    assert f'no checkpoint {tmp_path}/epoch_13.pth' in str(caught.value)
    assert 'epoch_12.pth, epoch_11.pth' in str(caught.value)
    assert 'notes' not in str(caught.value)


def test_missing_folder_and_folder_without_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match=f'no folder {tmp_path}/no either'):
        load_checkpoint_file(tmp_path / 'no' / 'a.pth')
    with pytest.raises(FileNotFoundError, match='no checkpoint in that folder'):
        load_checkpoint_file(tmp_path / 'a.pth')


def test_folder_instead_of_file(tmp_path):
    (tmp_path / 'latest.pth').write_text('x')
    with pytest.raises(IsADirectoryError, match=r'is a folder; it holds latest\.pth'):
        load_checkpoint_file(tmp_path)


@pytest.mark.parametrize(
    ('content', 'told'),
    [
        (b'', r'is empty \(0 bytes\)'),
        (b'hello, world', r"not a checkpoint: it begins with b'hello, world'"),
        (b'\xff\xd8\xff\xe0\x00\x10JFIF', r'not a checkpoint: it begins with .*JFIF'),
        (b'PK\x03\x04 not really', r'\(15 bytes\) cannot be read .*truncated or damaged'),
        (b'\x80\x02', r'\(2 bytes\) cannot be read .*truncated or damaged'),
    ],
)
def test_file_that_is_no_checkpoint(tmp_path, content, told):
    file = tmp_path / 'a.pth'
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as caught:
        load_checkpoint_file(file)
    assert str(file) in str(caught.value)


def test_truncated_checkpoint(trained, tmp_path):
    whole = trained.read_bytes()
    for part in (0.1, 0.5, 0.99):
        file = tmp_path / 'cut.pth'
        file.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(CheckpointError, match='truncated or damaged'):
            load_checkpoint_file(file)


# a flipped flag of a dtype makes numpy complain when the array is freed
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_damage_anywhere_gives_one_of_our_errors_or_a_dict(trained, tmp_path):
    rng, file = random.Random(0), tmp_path / 'flipped.pth'
    raw = pickle.dumps({'state_dict': {'a': [1, 2.5]}, 'h': HistoryBuffer([1.0], [1])}, 2)
    outcomes = set()
    for _ in range(300):
        flipped = bytearray(raw)
        flipped[rng.randrange(2, len(raw))] = rng.randrange(256)
        try:
            outcomes.add(type(load_checkpoint_file(write(file, bytes(flipped)))))
        except CheckpointError:
            outcomes.add(CheckpointError)
    assert outcomes == {dict, CheckpointError}


@pytest.mark.parametrize(
    ('content', 'told'),
    [
        ([1, 2], 'it holds a list'),
        ({'model': {'w': torch.ones(1)}, 'epoch': 3}, r"it holds the keys \['model', 'epoch'\]"),
        ({}, r'it holds the keys \[\]'),
        ({'state_dict': [1]}, 'it holds a list under state_dict'),
    ],
)
def test_content_that_is_no_checkpoint(tmp_path, content, told):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint_file(tmp_path / 'a.pth')


# --- mmengine's prefixes ----------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local web server; yields its folder and address. Downloads go to an empty cache."""
    folder = tmp_path / 'www'
    folder.mkdir()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield folder, f'http://127.0.0.1:{running.server_port}'
        running.shutdown()


def publish(folder, content, right=True):
    """Save under a name that carries the hash (or another one); return the name."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digits = sha256(buffer.getvalue()).hexdigest()[:8] if right else '0123abcd'
    (folder / f'model-{digits}.pth').write_bytes(buffer.getvalue())
    return f'model-{digits}.pth'


def test_http_is_downloaded_once_checked_and_read(server):
    folder, address = server
    name = publish(folder, {'state_dict': {'w': torch.ones(2)}})
    url = f'{address}/{name}'
    for _ in range(2):
        loaded = CheckpointLoader.load_checkpoint(url, map_location='cpu', logger='silent')
        assert loaded['state_dict']['w'].tolist() == [1, 1]
        (folder / name).unlink(missing_ok=True)


def test_http_with_wrong_hash_or_without_file(server):
    folder, address = server
    name = publish(folder, {'state_dict': {}}, right=False)
    with pytest.raises(CheckpointError, match=r'cannot download .*invalid hash value.*0123abcd'):
        module.load_from_http(f'{address}/{name}')
    assert not list(module.Path(torch.hub.get_dir()).rglob('*.pth'))
    with pytest.raises(CheckpointError, match=r'404.*give its path'):
        module.load_from_http(f'{address}/absent.pth')


def test_http_hostile_file_is_refused(server, tmp_path):
    folder, address = server
    marker = tmp_path / 'marker'
    write(folder / 'evil.pth', Call(os.system, f'touch {marker}'))
    with pytest.raises(CheckpointError, match=r'posix\.system'):
        module.load_from_http(f'{address}/evil.pth')
    assert not marker.exists()


def test_other_processes_wait_for_the_download(server, monkeypatch):
    folder, address = server
    name, waited = publish(folder, {'state_dict': {'w': torch.ones(1)}}), []
    monkeypatch.setattr(module, 'barrier', lambda: waited.append(True))
    for rank in (0, 1):
        monkeypatch.setattr(module, 'get_dist_info', lambda rank=rank: (rank, 2))
        assert module.load_from_http(f'{address}/{name}')['state_dict']['w'].item() == 1
    assert waited == [True, True]


def test_named_models(server, monkeypatch):
    folder, address = server
    tables = mmengine_checkpoint
    weights = {'backbone.w': torch.ones(2), 'head.w': torch.zeros(1)}
    table = {'net50': f'{address}/{publish(folder, weights)}', 'local': 'mine.pth'}
    monkeypatch.setattr(tables, 'get_torchvision_models', lambda: table)
    monkeypatch.setattr(tables, 'get_external_models', lambda: table)
    monkeypatch.setattr(tables, 'get_mmcls_models', lambda: table)
    monkeypatch.setattr(tables, 'get_deprecated_model_names', lambda: {'old50': 'net50'})

    def load(name):
        return CheckpointLoader.load_checkpoint(name, logger='silent')

    for name in ('torchvision://net50', 'modelzoo://net50', 'openmmlab://old50'):
        assert list(load(name)) == ['backbone.w', 'head.w']
    assert load('open-mmlab://net50')['backbone.w'].tolist() == [1, 1]
    assert list(load('mmcls://net50')['state_dict']) == ['w']
    home = module.Path(os.environ['MMENGINE_HOME'])
    home.mkdir(exist_ok=True)
    torch.save({'state_dict': {'m': torch.ones(1)}}, home / 'mine.pth')
    assert list(load('open-mmlab://local')['state_dict']) == ['m']
    with pytest.raises(CheckpointError, match=r"no model 'net5' for torchvision://.*net50"):
        load('torchvision://net5')
    with pytest.raises(CheckpointError, match='nearest are: none'):
        load('mmcls://xyz')


def test_torchvision_table_of_mmengine_knows_resnet50():
    urls = mmengine_checkpoint.get_torchvision_models()
    assert module._resolve('torchvision://resnet50', urls).endswith('resnet50-0676ba61.pth')
