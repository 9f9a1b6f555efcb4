"""Who may import whom, and how large files, folders and functions may be: read off the code."""

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The configs of the package hold values and import only each other.
FILES = [
    file
    for file in sorted((ROOT / 'ghmdet').rglob('*.py'))
    if not {'.mim', 'configs'} & set(file.relative_to(ROOT / 'ghmdet').parts)
]
TOOLS = sorted((ROOT / 'tools').rglob('*.py'))

# What of ghmdet each folder or module at the top may import, besides itself.
EVERYWHERE = {'messages', 'files', 'argument_checks', 'version'}
ALLOWED = {
    **{name: set() for name in (*EVERYWHERE, 'structures', 'registry', 'coco')},
    'boxes': {'registry'},
    'losses': {'registry'},
    'config': {'registry'},
    'models': {'registry', 'structures', 'boxes', 'losses'},
    'datasets': {'registry', 'structures', 'coco'},
    'evaluation': {'registry', 'coco'},
    'visualization': {
        *('registry', 'structures', 'coco', 'datasets.image_file', 'datasets.wrappers'),
        'config.cli',
    },
    'compat': {'config.package_lookup'},
    'checkpoint': {'registry', 'compat', 'models.wrappers', 'models.buffers', 'datasets.wrappers'},
    'checks': {
        *('registry', 'coco', 'datasets', 'models.wrappers', 'boxes.anchor_fit', 'config'),
        'checkpoint',
    },
    'inference': {
        *('registry', 'structures', 'coco', 'config', 'models', 'datasets', 'visualization'),
        *('checkpoint', 'checks.classes'),
    },
    'reports': {
        *('registry', 'structures', 'coco', 'boxes', 'losses', 'config', 'models', 'datasets'),
        *('evaluation', 'visualization', 'compat', 'checkpoint', 'checks', 'inference', 'env'),
    },
    'engine': {
        *('registry', 'structures', 'coco', 'boxes', 'losses', 'config', 'models', 'datasets'),
        *('evaluation', 'visualization', 'compat', 'checkpoint', 'checks', 'inference'),
        'reports',
    },
    'export': {
        *('registry', 'structures', 'boxes', 'config', 'models', 'datasets', 'evaluation'),
        'inference',
    },
    'env': {'config'},
    'train': {'config', 'engine', 'registry'},
    'test': {'config', 'engine', 'registry'},
    'predict': {'config', 'inference'},
    '__init__': {'config', 'engine', 'inference'},
}
ALLOWED['utils'] = set(ALLOWED) - {
    '__init__',
    'train',
    'test',
    'predict',
    'export',
}  # registers all
FORBIDDEN = ('mmcv.ops', 'mmcv._ext', 'pkg_resources')


@cache
def nodes_of(file):
    return list(ast.walk(ast.parse(file.read_text())))


def is_module(dotted, root):
    path = root / dotted.replace('.', '/')
    return path.with_suffix('.py').is_file() or (path / '__init__.py').is_file()


def imports_of(file, root=ROOT):
    """Modules that a file imports, also for types alone, as (absolute name, line)."""
    package = file.relative_to(root).parts[:-1]
    for node in nodes_of(file):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join([*base, node.module] if node.module else base)
            for alias in node.names:
                inner = f'{module}.{alias.name}'
                yield (inner if is_module(inner, root) else module), node.lineno


def find_breaches(file, root=ROOT):
    top = file.relative_to(root / 'ghmdet').parts[0].removesuffix('.py')
    allowed = ALLOWED[top] | EVERYWHERE | {top}
    for module, line in imports_of(file, root):
        inner = module.removeprefix('ghmdet').removeprefix('.')
        of_ours = module == 'ghmdet' or module.startswith('ghmdet.')
        right = any(inner == name or inner.startswith(f'{name}.') for name in allowed)
        if module.startswith(FORBIDDEN) or (of_ours and not right):
            yield f'{file.relative_to(root)}:{line} imports {module}; {top}: {sorted(allowed)}'


def test_each_folder_imports_only_what_it_may():
    found = sorted({breach for file in FILES for breach in find_breaches(file)})
    assert not found, '\n'.join(found)


def test_a_breach_is_found(tmp_path):
    for name in ('boxes/x', 'losses/ghm', 'losses/__init__', 'engine/__init__', 'registry'):
        (tmp_path / f'ghmdet/{name}.py').parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f'ghmdet/{name}.py').touch()
    file = tmp_path / 'ghmdet/boxes/x.py'
    file.write_text(
        'from ghmdet.registry import MODELS\nfrom ..losses import ghm\nimport mmcv.ops.nms\n'
        'from ghmdet import engine\nfrom . import y\nimport torch\n'
    )
    found = [text.split(';')[0] for text in find_breaches(file, tmp_path)]
    assert found == [
        'ghmdet/boxes/x.py:2 imports ghmdet.losses.ghm',
        'ghmdet/boxes/x.py:3 imports mmcv.ops.nms',
        'ghmdet/boxes/x.py:4 imports ghmdet.engine',
    ]


def find_circle(files, root=ROOT):
    """Modules that import each other in a circle, or None."""
    graph = {}
    for file in files:
        name = '.'.join(file.relative_to(root).with_suffix('').parts).removesuffix('.__init__')
        graph[name] = {module for module, _ in imports_of(file, root) if module[:6] == 'ghmdet'}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_import_circle(tmp_path):
    circle = find_circle(FILES)
    assert circle is None, ' is imported by '.join(circle)
    folder = tmp_path / 'ghmdet'
    folder.mkdir()
    (folder / 'a.py').write_text('from ghmdet import b\n')
    typing = 'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import A\n'
    (folder / 'b.py').write_text(typing)
    circle = find_circle(sorted(folder.glob('*.py')), tmp_path)
    assert set(circle) == {'ghmdet.a', 'ghmdet.b'}


def test_the_table_runs_one_way_and_knows_every_folder():
    folders = {name: {other.split('.')[0] for other in others} for name, others in ALLOWED.items()}
    # Only the look-up of packages, which imports nothing, is in reach of what is below config.
    folders['compat'] = set()
    TopologicalSorter(folders).prepare()
    tops = {file.relative_to(ROOT / 'ghmdet').parts[0].removesuffix('.py') for file in FILES}
    assert tops <= set(ALLOWED)


def test_importing_the_package_needs_no_torch():
    script = 'import ghmdet, sys; print([m for m in ("torch", "mmcv", "cv2") if m in sys.modules])'
    command = [sys.executable, '-c', script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ('[]', '')


def functions_of(file):
    return [n for n in nodes_of(file) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_imports_stand_at_the_top():
    found = [
        f'{file.relative_to(ROOT)}:{node.lineno} in {function.name}'
        for file in FILES + TOOLS
        for function in functions_of(file)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not found, '\n'.join(found)


# --- sizes ----------------------------------------------------------------------------------------


def count_lines(file):
    return len(file.read_text().splitlines())


def count_function(node):
    """Lines of a function without its docstring."""
    first = node.body[0]
    has_docstring = ast.get_docstring(node, clean=False) is not None
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return node.end_lineno - node.lineno + 1 - docstring


def test_files_and_functions_are_short():
    text = 'def f(x):\n    """One.\n\n    Two.\n    """\n    y = x\n    return y\n'
    assert count_function(ast.parse(text).body[0]) == 3
    long_files = {str(f.relative_to(ROOT)): n for f in FILES if (n := count_lines(f)) > 400}
    assert long_files == {}
    long_functions = {
        f'{file.relative_to(ROOT / "ghmdet")}:{node.name}': lines
        for file in FILES
        for node in functions_of(file)
        if (lines := count_function(node)) > 50
    }
    assert long_functions == {}


def test_folders_are_small():
    files = Counter(str(f.parent.relative_to(ROOT)) for f in FILES if f.name != '__init__.py')
    del files['ghmdet']  # modules at the top, each with a line in the table above
    assert {folder: number for folder, number in files.items() if number > 12} == {}
    lines = Counter()
    for file in FILES:
        lines[file.relative_to(ROOT / 'ghmdet').parts[0]] += count_lines(file)
    name, most = lines.most_common(1)[0]
    assert most / lines.total() <= 0.18, f'{name} has {most} of {lines.total()} lines'


def test_no_file_is_named_for_nothing():
    names = {str(file.relative_to(ROOT)) for file in FILES + TOOLS}
    vague = {name for name in names if Path(name).stem in ('utils', 'misc', 'common')}
    assert vague == {'ghmdet/utils.py'}  # which mmengine's hub asks for by name
