"""Who may import whom: house rules, read off the syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / 'ghmdet').glob('**/*.py'))
FILES = [file for file in FILES if '.mim' not in file.parts]

# What of ghmdet each room may import, besides itself.
ALLOWED = {
    'boxes': {'registry'},
    'losses': {'registry'},
    'structures': set(),
    'registry': {'mmdet_names'},
    'package_lookup': set(),
    'env': set(),
    'compat': {'package_lookup'},
    'mmdet_names': set(),
    'old_configs': {'mmdet_names'},
    'foreign_configs': {'old_configs'},
    'config_files': {'package_lookup', 'foreign_configs'},
    '__init__': {'package_lookup', 'config_files', 'engine'},
    'configs': set(),
    'datasets': {'registry', 'structures'},
    'evaluation': {'registry', 'datasets.coco_records'},
    'models': {'registry', 'structures', 'boxes.postprocess', 'losses'},
    'visualization': {'registry', 'structures'},
    'engine': {
        'boxes.anchor_fit',
        'datasets.elastic',
        'registry',
        'structures',
        'compat',
        'config_files',
        'foreign_configs',
        'old_configs',
        '',
    },
    'train': {'engine'},
    'test': {'engine', 'registry'},
    'utils': {'boxes', 'datasets', 'engine', 'evaluation', 'losses', 'models', 'visualization'},
}
FORBIDDEN = ('mmcv.ops', 'mmcv._ext', 'pkg_resources')


def room_of(file):
    first = file.relative_to(ROOT / 'ghmdet').parts[0]
    return first.removesuffix('.py')


def imports_of(file):
    """Absolute names of the modules that a file imports, with the nodes."""
    package = ['ghmdet', *file.relative_to(ROOT / 'ghmdet').parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = '.'.join([*base, node.module] if node.module else base)
            yield module, node
            if module == 'ghmdet':
                for alias in node.names:
                    yield f'ghmdet.{alias.name}', node


def names_a_module(dotted):
    path = ROOT / dotted.replace('.', '/')
    return path.with_suffix('.py').exists() or path.is_dir()


@pytest.mark.parametrize('file', FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(file):
    room = room_of(file)
    for module, _ in imports_of(file):
        assert not module.startswith(FORBIDDEN), module
        if not module.startswith('ghmdet') or not names_a_module(module):
            continue
        inner = module.removeprefix('ghmdet').removeprefix('.')
        if inner == '' and module == 'ghmdet':
            continue
        allowed = ALLOWED[room] | {room}
        assert any(inner == a or inner.startswith(f'{a}.') for a in allowed), (
            f'{file.name} imports {module}; {room} may import {sorted(allowed)}'
        )


def test_the_package_itself_imports_only_itself_and_the_standard_library():
    modules = {module.split('.')[0] for module, _ in imports_of(ROOT / 'ghmdet' / '__init__.py')}
    assert modules <= {*sys.stdlib_module_names, 'ghmdet'}


def test_importing_the_package_needs_no_torch():
    script = 'import ghmdet, sys; print([m for m in ("torch", "mmcv", "cv2") if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ('[]', '')


@pytest.mark.parametrize(
    'file',
    [*FILES, *sorted((ROOT / 'tools').glob('**/*.py'))],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_imports_stand_at_the_top(file):
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, ast.FunctionDef):
            inside = [n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inside, f'{function.name}, line {inside[0].lineno}'
    if file != ROOT / 'ghmdet' / 'utils.py':  # mmengine's hub asks for ghmdet.utils by name
        assert file.stem not in ('utils', 'misc', 'common')


def test_the_rules_notice_a_breach(tmp_path, monkeypatch):
    breach = tmp_path / 'ghmdet' / 'boxes' / 'x.py'
    breach.parent.mkdir(parents=True)
    breach.write_text('from ..losses import GHMC\nimport mmcv.ops.nms\n')
    monkeypatch.setattr(sys.modules[__name__], 'ROOT', tmp_path)
    assert [module for module, _ in imports_of(breach)] == ['ghmdet.losses', 'mmcv.ops.nms']
    assert room_of(breach) == 'boxes'
