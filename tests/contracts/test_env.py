"""What `python -m ghmdet.env` prints where packages are missing, old, broken or doubled."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils import collect_env

import ghmdet
from ghmdet import env

BLOCK = """
import sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition('.')[0] in {names}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Finder)
"""


def python(folder, *words, **variables):
    """Run Python with `folder` before all other places of packages."""
    variables['PYTHONPATH'] = f'{folder}{os.pathsep}{Path(ghmdet.__file__).parents[1]}'
    command, env = [sys.executable, *words], os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)


def run(folder, **variables):
    done = python(folder, '-m', 'ghmdet.env', **variables)
    assert done.stderr == ''
    return done.returncode, done.stdout.splitlines()


def value(lines, name):
    (found,) = (line for line in lines if line.startswith(f'{name}:'))
    return found.removeprefix(f'{name}:').strip()


def faults(lines):
    return [line for line in lines if line.startswith('FAULT: ')]


def add_metadata(folder, name, version):
    info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')


def test_all_is_well(tmp_path):
    code, lines = run(tmp_path, GHMDET_TRUST_CHECKPOINT='1', RANK='3', OMP_NUM_THREADS='1')
    assert faults(lines) == []
    assert (code, lines[-1]) == (0, 'all requirements of ghmdet are met')
    folder = Path(ghmdet.__file__).parent
    assert value(lines, 'ghmdet').startswith(f'{ghmdet.__version__} from {folder}')
    assert value(lines, 'torch') == torch.__version__.partition('+')[0]
    assert value(lines, 'torch threads') == '1'
    assert value(lines, 'GHMDET_TRUST_CHECKPOINT') == "'1'"
    assert value(lines, 'GHMDET_DOWNLOAD_TIMEOUT') == 'not set'
    assert value(lines, 'RANK') == "'3'"
    assert value(lines, 'Is CUDA available') == str(torch.cuda.is_available())  # of collect_env


def test_nothing_can_be_imported(tmp_path):
    """Not even mmengine, which ghmdet itself needs to be imported."""
    names = "{'torch', 'mmengine', 'mmcv', 'cv2', 'numpy', 'msgspec'}"
    (tmp_path / 'sitecustomize.py').write_text(BLOCK.format(names=names))
    code, lines = run(tmp_path)
    assert code == 1
    for module in ('torch', 'mmengine', 'numpy', 'msgspec'):
        told = f'{module} has metadata, but there is no module {module}: install it again'
        assert f'FAULT: {told}' in lines
    assert lines[-1].startswith('ghmdet will not work properly: ')
    assert "No module named 'mmengine'" in python(tmp_path, '-c', 'import ghmdet').stderr


@pytest.mark.skipif(not hasattr(signal, 'SIGPIPE'), reason='of POSIX')
def test_a_reader_that_has_ended_ends_it_without_a_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, '-m', 'ghmdet.env']
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b'')


def test_broken_and_doubled(tmp_path):
    (tmp_path / 'torch.py').write_text("raise OSError('libcudart.so.12: cannot open\\nmore')")
    (tmp_path / 'mmengine.py').write_text('1 / 0')
    add_metadata(tmp_path, 'mmcv', '2.1.0')
    add_metadata(tmp_path, 'opencv-python-headless', '4.12.0')
    add_metadata(tmp_path, 'msgspec', '0.18.6')
    code, lines = run(tmp_path)
    assert code == 1
    assert {
        'FAULT: torch cannot be imported: OSError: libcudart.so.12: cannot open',
        'FAULT: mmengine cannot be imported: ZeroDivisionError: division by zero',
        'FAULT: mmcv 2.1.0 is older than 2.2.0: pip install -U "mmcv>=2.2.0"',
        'FAULT: msgspec 0.18.6 is older than 0.19: pip install -U "msgspec>=0.19"',
    } <= set(faults(lines))
    doubled = 'are both installed and write the same files: pip uninstall both, then install one'
    assert f'remark: mmcv-lite and mmcv {doubled}' in lines
    assert f'remark: opencv-python and opencv-python-headless {doubled}' in lines
    assert 'mmcv 2.1.0' in value(lines, 'mmcv-lite')


def test_missing_without_a_trace_on_an_old_python(monkeypatch, capsys):
    monkeypatch.setattr(env, '_version', lambda name: None)
    monkeypatch.setattr(env, '_has', lambda module: module == 'numpy')
    monkeypatch.setattr(env.platform, 'python_version', lambda: '3.10.14')
    assert env.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert value(lines, 'torch') == 'MISSING'
    assert value(lines, 'numpy') == 'no metadata, but numpy is there'
    assert 'FAULT: torch is missing: pip install "torch>=2.6"' in lines
    assert 'FAULT: mmcv-lite is missing: pip install "mmcv-lite>=2.2.0"' in lines
    assert 'FAULT: Python 3.10.14 is older than >=3.11' in lines
    assert len(faults(lines)) == 12
    assert not any('pytest' in line for line in faults(lines))  # of an extra


@pytest.mark.parametrize(
    ('version', 'least', 'older'),
    [
        ('2.6.0+cpu', '2.6', False),
        ('2.5.1', '2.6', True),
        ('2.15.0', '2.6', False),
        ('2.0.8.post1', '2.0.8', False),
        ('4.8', '4.8.1', True),
        ('2.2', '2.2.0', False),
        ('anything', '', False),
    ],
)
def test_versions(version, least, older):
    assert env._older(version, least) is older


@pytest.mark.parametrize('flags', ['fpu avx2 avx512_bf16', 'amx_bf16', 'fpu avx2', None])
def test_bfloat16_instructions_and_packages_that_do_not_work_together(flags, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError('no such operator')

    report = 'CPU:\nModel name:   Some CPU' + (f'\nFlags:   {flags}' if flags else '')
    monkeypatch.setattr(collect_env, 'get_pretty_env_info', lambda: report)
    vision = SimpleNamespace(ops=SimpleNamespace(nms=fail))
    faults, remarks = [], []
    loaded = dict(torchvision=vision, numpy=SimpleNamespace(zeros=fail)) if flags else {}
    env._describe_torch(torch, loaded, faults, remarks)
    together = 'do not work together: no such operator'
    names = ['torch and numpy', 'torch and torchvision'] if flags else []
    assert faults == [f'{name} {together}' for name in names]
    lacking = ['this CPU has no bfloat16 instructions: --amp is not faster on it']
    assert remarks == (lacking if flags == 'fpu avx2' else [])
    assert report in capsys.readouterr().out


def test_every_variable_of_ours_is_told():
    texts = [file.read_text() for file in Path(ghmdet.__file__).parent.rglob('*.py')]
    assert set(re.findall(r'GHMDET_[A-Z_]+', ''.join(texts))) == {
        name for name in env._VARIABLES if name.startswith('GHMDET_')
    }
