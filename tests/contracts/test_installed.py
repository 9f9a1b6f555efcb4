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
SHIPPED = (
    *('pyproject.toml', 'setup.py', 'MANIFEST.in', 'requirements.txt', 'README.md', 'LICENSE'),
    *('model-index.yml', 'ghmdet', 'configs', 'tools'),
)
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


def make_environment(folder, packages):
    venv.create(folder, with_pip=False)
    python = folder / 'bin' / 'python'
    site = run(python, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])').strip()
    Path(site, 'packages.pth').write_text(f'{packages}\n')
    return python, Path(site)


@pytest.fixture(scope='session')
def tree(tmp_path_factory):
    """A copy of the source tree: building one leaves files behind."""
    copy = tmp_path_factory.mktemp('tree') / 'ghmdet'
    copy.mkdir()
    ignore = shutil.ignore_patterns('__pycache__', '*.egg-info')
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, copy / name)
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
        python, site = make_environment(folder / 'env', packages['setuptools'])
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
    assert {name.split('/')[0].partition('-')[0] for name in held} == {'ghmdet'}
    assert not [name for name in held if name.endswith('.pyc')]


@pytest.mark.parametrize(
    ('kind', 'beside'), [('wheel', 'setuptools'), ('editable', 'no setuptools')]
)
def test_every_form_works(environments, packages, tree, tmp_path, kind, beside):
    python, site = environments[kind]
    (site / 'packages.pth').write_text(f'{packages[beside]}\n')
    report = run(python, CHECK, '--jobs', '2', cwd=tmp_path)
    assert ('setuptools none' in report) == (beside == 'no setuptools')
    place = tree / 'ghmdet' if kind == 'editable' else site / 'ghmdet'
    assert f'{place}/__init__.py' in report
    assert 'FAILED' not in report
    assert '13 of 13 forms work' in report


def test_a_tool_of_another_tree_says_that_it_runs_the_installed_package(environments, tmp_path):
    python, site = environments['wheel']
    other = tmp_path / 'ghmdet'
    other.mkdir()
    (other / '__init__.py').touch()
    (tmp_path / 'tools').mkdir()
    tool = tmp_path / 'tools' / 'train.py'
    tool.write_text('from ghmdet.checks.start_report import log_package_path as f\nf()\n')
    said = run(python, tool)
    assert f'{tool} is in the source tree of {other}, but the imported package is {site}/' in said
    inner = site / 'ghmdet' / '.mim' / 'tools' / 'log.py'
    inner.write_text(tool.read_text())
    assert 'source tree' not in run(python, inner)
