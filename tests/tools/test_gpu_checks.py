"""tools/dev/gpu_checks.py on the CPU: the lines that it runs on a GPU, on tiny images."""

from __future__ import annotations

import json
import shutil

import gpu_checks
import pytest

pytestmark = pytest.mark.long
CHECKS = {
    *(
        f'{name}: gradients within 0.0001 of the literal loop'
        for name in ('GHMC', 'GHMC compiled', 'GHMR', 'GHMR compiled')
    ),
    '13 steps, and the same killed and resumed, end with the same bits',
    'two processes on one card (gloo) learn what one learns',
}


def read(folder):
    return json.loads((folder / 'results.json').read_text())['results']


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a C++ compiler')
def test_its_cpu_twin(tmp_path, capsys):
    failed = gpu_checks.main(['--device', 'cpu', '--small', '--out', str(tmp_path)])
    results = read(tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(': ')[0] for line in printed] == [each['outcome'] for each in results]
    assert not failed, printed
    assert {each['what'] for each in results if each['outcome'] == 'ok'} == CHECKS
    measured = {each['what']: each for each in results if each['outcome'] == 'measured'}
    for config, published in gpu_checks.PUBLISHED_GB.items():
        for precision in ('float32', 'amp'):
            row = measured.pop(f'{config}, ghmdet {precision}')
            assert row['published GB'] == published
            assert row['img/s'] > 0
    networks = ('ghmdet float32', 'ghmdet amp', 'torchvision float32', 'torchvision amp')
    inference = {f'inference, {name}' for name in networks}
    assert {name for name in measured if name.startswith('inference, ')} == {
        *inference,
        'inference, ONNX on the CPU, reading not included',
    }
    assert len(measured) == 5 + 6  # and GHM-C and GHM-R: plain, compiled, as a literal loop


def test_what_the_time_did_not_suffice_for_is_named(tmp_path):
    arguments = ['--device', 'cpu', '--small', '--out', str(tmp_path), '--minutes', '0']
    assert not gpu_checks.main(arguments)
    results = read(tmp_path)
    assert {each['outcome'] for each in results} == {'not run'}
    assert [each['what'].partition(':')[0] for each in results] == [
        'losses',
        '13 steps, and the same killed and resumed, end with the same bits',
        'two processes on one card (gloo) learn what one learns',
        *('training_r50', 'training_r101', 'training_x101_32x4d', 'training_x101_64x4d'),
        'inference',
        'export to ONNX, exit code 124',
    ]


def test_a_program_that_fails_is_a_failed_check(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_checks.Session, 'run', lambda *_, **__: 1)
    monkeypatch.setattr(gpu_checks.Session, 'wait', lambda *_: 1)
    monkeypatch.setattr(gpu_checks.Session, 'start', lambda *_, **__: None)
    assert gpu_checks.main(['--device', 'cpu', '--small', '--out', str(tmp_path)])
    assert {each['outcome'] for each in read(tmp_path)} == {'FAILED'}
