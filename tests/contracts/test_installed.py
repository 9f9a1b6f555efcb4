"""ghmdet as others install it: built wheel and editable tree, with setuptools and without.

Each environment is a new one that sees the packages of the running one, but none of its `.pth`
files, hence not its ghmdet. `tools/dev/check_install.py` has the list of what must work.
"""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
CHECK = ROOT / 'tools' / 'dev' / 'check_install.py'
FILES = ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'requirements.txt', 'README.md', 'LICENSE')
FILES += ('model-index.yml', 'ghmdet_command.py')
ENV = {**os.environ, 'PIP_DISABLE_PIP_VERSION_CHECK': '1'}
LEFT_OUT = ('ghmdet', '__editable__', '_ghmdet')


def run(*command, cwd=None):
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, cwd=cwd, timeout=280)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def link_packages(folder, without=()):
    """A site-packages folder with what the running environment has, but for some names."""
    folder.mkdir()
    sites = [Path(p) for p in sys.path if Path(p).name in ('site-packages', 'dist-packages')]
    for entry in (entry for site in sites for entry in site.iterdir()):
        link = folder / entry.name
        if not entry.name.startswith((*LEFT_OUT, *without)) and not link.exists():
            link.symlink_to(entry)
    return folder


@pytest.fixture(scope='session')
def tree(tmp_path_factory):
    """A copy of the source tree: building one leaves files behind."""
    copy = tmp_path_factory.mktemp('tree') / 'ghmdet'
    copy.mkdir()
    ignore = shutil.ignore_patterns('__pycache__', '*.egg-info')
    for file in FILES:
        shutil.copy(ROOT / file, copy)
    for folder in ('ghmdet', 'configs', 'tools'):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignore)
    return copy


@pytest.fixture(scope='session')
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp('packages')
    without = ('setuptools', 'pkg_resources', '_distutils_hack', 'distutils-precedence')
    return {
        'setuptools': link_packages(folder / 'with'),
        'no setuptools': link_packages(folder / 'without', without),
    }


@pytest.fixture(scope='session')
def wheel(tree, tmp_path_factory):
    """Built from the tree as it is."""
    out = tmp_path_factory.mktemp('wheel')
    pip = (sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation')
    run(*pip, '--wheel-dir', out, tree)
    (built,) = out.glob('ghmdet-*.whl')
    return built


@pytest.fixture(scope='session')
def environments(tree, wheel, packages, tmp_path_factory):
    """(python, site-packages) of a wheel and an editable install."""
    made = {}
    for kind, source in (('wheel', [wheel]), ('editable', ['-e', tree])):
        folder = tmp_path_factory.mktemp(kind)
        venv.create(folder / 'env', with_pip=False)
        python = folder / 'env' / 'bin' / 'python'
        purelib = run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))')
        site = Path(purelib.strip())
        (site / 'packages.pth').write_text(f'{packages["setuptools"]}\n')
        pip = (sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps')
        run(*pip, '--no-build-isolation', '--no-index', *source, cwd=folder)
        made[kind] = (python, site)
    return made


def test_the_wheel_holds_files_where_the_tree_has_links(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {info.filename: archive.read(info) for info in archive.infolist()}
    for folder in ('configs', 'tools'):
        for file in (ROOT / folder).rglob('*'):
            if file.suffix in ('.py', '.yml', '.md', '.sh'):
                name = f'ghmdet/.mim/{file.relative_to(ROOT).as_posix()}'
                assert held[name] == file.read_bytes(), name
    assert held['ghmdet/.mim/model-index.yml'] == (ROOT / 'model-index.yml').read_bytes()
    twins = {f'ghmdet/{f.relative_to(ROOT).as_posix()}' for f in (ROOT / 'configs').rglob('*.py')}
    assert twins <= set(held)
    tops = {name.split('/')[0].partition('-')[0] for name in held}
    assert tops == {'ghmdet', 'ghmdet_command.py'}
    assert not [name for name in held if name.endswith('.pyc')]


@pytest.mark.parametrize(
    ('kind', 'forms', 'count'),
    [
        ('wheel', '^(?!ghmdet )', 13),
        ('wheel', '^ghmdet ', 3),
        ('editable', '^(?!ghmdet )', 13),
        ('editable', '^ghmdet COMMAND', 1),
    ],
)
def test_every_form_works(environments, packages, tree, tmp_path, kind, forms, count):
    python, site = environments[kind]
    if kind == 'editable':
        (site / 'packages.pth').write_text(f'{packages["no setuptools"]}\n')
    report = run(python, CHECK, '--jobs', '2', '--only', forms, cwd=tmp_path)
    assert ('setuptools none' in report) == (kind == 'editable')
    assert f'{tree if kind == "editable" else site}/ghmdet/__init__.py' in report
    assert f'{count} of {count} forms work' in report
