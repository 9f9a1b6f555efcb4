"""Arguments that training and test have in common."""

import argparse

import pytest
import torch

from ghmdet import predict
from ghmdet.config import arguments


def load(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    arguments.add_common_arguments(parser)
    args = parser.parse_args(['retinanet_ghm_r18_fpn_shapes', *words])
    arguments.load_config(args)


def test_threads(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    chosen = []
    monkeypatch.setattr(torch, 'set_num_threads', chosen.append)
    load()
    assert chosen == []
    load('--threads', '3')
    assert chosen == [3]


@pytest.mark.parametrize('text', ['0', '-1', 'two', '1.5', '1025', '99999999999999999999', ''])
def test_numbers_of_threads_that_are_refused(text, capsys, monkeypatch):
    with pytest.raises(SystemExit, match='2'):
        load(f'--threads={text}')
    message = f'argument --threads: expected an integer in 1 to 1024, got {text!r}\n'
    assert capsys.readouterr().err.endswith(message)
    monkeypatch.setattr('sys.argv', ['predict', 'a.py', 'a.pth', 'a.jpg', f'--threads={text}'])
    with pytest.raises(SystemExit, match='2'):
        predict.parse_args()
    assert capsys.readouterr().err.endswith(message)
