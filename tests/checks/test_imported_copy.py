"""A run says which copy of ghmdet it uses; a tool beside another copy gets a warning."""

import sys
from pathlib import Path

import ghmdet
from ghmdet.checks import start_report as imported_copy

PACKAGE = Path(ghmdet.__file__).resolve().parent


def said(monkeypatch, script):
    lines = []
    monkeypatch.setattr(sys, 'argv', [str(script)])
    monkeypatch.setattr(
        imported_copy, 'print_log', lambda text, logger, level=20: lines.append((level, text))
    )
    imported_copy.log_package_path()
    return lines


def test_version_and_folder(monkeypatch, tmp_path):
    expected = [(20, f'ghmdet {ghmdet.__version__} from {PACKAGE}')]
    for script in (
        PACKAGE.parent / 'tools' / 'train.py',
        PACKAGE / '.mim' / 'tools' / 'train.py',
        PACKAGE / 'train.py',
        tmp_path / 'train.py',
        '-c',
        '',
    ):
        assert said(monkeypatch, script) == expected, script


def test_a_tool_of_another_tree(monkeypatch, tmp_path):
    (tmp_path / 'ghmdet').mkdir()
    (tmp_path / 'ghmdet' / '__init__.py').touch()
    tool = tmp_path / 'tools' / 'analysis_tools' / 'benchmark.py'
    _, (level, text) = said(monkeypatch, tool)
    assert level == 30
    assert text.startswith(f'{tool} stands beside {tmp_path}/ghmdet, but the package that runs is')
    assert f'pip install -e {tmp_path}' in text
