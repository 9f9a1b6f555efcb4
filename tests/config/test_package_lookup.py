"""Packages are found wherever they are, and mmengine's own look-up is replaced only if it fails."""

import sys
import types
from importlib import import_module
from pathlib import Path

import mmcv
import mmengine
import mmengine.hub.hub
import pytest
import yaml
from mmengine.config import config as config_module
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import package_utils

import ghmdet
from ghmdet.config import package_lookup

OWN = Path(ghmdet.__file__).parent
PATH_HOLDERS = (mmengine.utils, package_utils, config_module, mmengine.hub.hub)
CHECK_HOLDERS = (mmengine.utils, package_utils, config_module)


@pytest.fixture
def released(monkeypatch):
    """mmengine's functions as in 0.10.7, which ask pkg_resources."""

    def get_installed_path(package):
        return import_module('pkg_resources').folder_of(package)

    def is_installed(package):
        return import_module('pkg_resources').folder_of(package) is not None

    for module in PATH_HOLDERS:
        monkeypatch.setattr(module, 'get_installed_path', get_installed_path)
    for module in CHECK_HOLDERS:
        monkeypatch.setattr(module, 'is_installed', is_installed)
    return monkeypatch


def check_cured():
    for module in PATH_HOLDERS:
        assert module.get_installed_path is package_lookup.get_installed_path, module
    for module in CHECK_HOLDERS:
        assert module.is_installed is package_lookup.is_installed, module


def test_without_pkg_resources(released):
    released.delitem(sys.modules, 'pkg_resources', raising=False)
    package_lookup.patch_installed_path()
    check_cured()
    assert 'pkg_resources' not in sys.modules


def test_an_old_pkg_resources_is_not_asked_and_stays(released):
    old = types.ModuleType('pkg_resources')
    old.folder_of = lambda package: pytest.fail('slow, and wrong for editable installs')
    released.setitem(sys.modules, 'pkg_resources', old)
    package_lookup.patch_installed_path()
    check_cured()
    assert sys.modules['pkg_resources'] is old


def test_a_wrong_answer_is_replaced(released):
    def get_installed_path(package):
        return str(OWN.parent)  # a folder too high, as in mmengine's main branch

    for module in PATH_HOLDERS:
        released.setattr(module, 'get_installed_path', get_installed_path)
    package_lookup.patch_installed_path()
    assert mmengine.utils.get_installed_path('ghmdet') == str(OWN)


def test_a_healthy_mmengine_is_left(monkeypatch):
    def get_installed_path(package):
        return str(OWN)

    def is_installed(package):
        return True

    for name, function in (
        ('get_installed_path', get_installed_path),
        ('is_installed', is_installed),
    ):
        monkeypatch.setattr(package_utils, name, function)
    package_lookup.patch_installed_path()
    assert package_utils.get_installed_path is get_installed_path
    assert package_utils.is_installed is is_installed


def test_module_names(monkeypatch):
    monkeypatch.delitem(MODULE2PACKAGE, 'ghmdet')
    package_lookup.patch_module_names()
    assert MODULE2PACKAGE['ghmdet'] == 'ghmdet'
    assert MODULE2PACKAGE['mmseg'] == 'mmsegmentation'


@pytest.mark.parametrize(
    ('name', 'module'),
    [
        ('ghmdet', ghmdet),
        ('mmengine', mmengine),
        ('mmcv', mmcv),
        ('mmcv-lite', mmcv),  # a distribution
        ('PyYAML', yaml),
    ],
)
def test_folders_by_module_and_by_distribution(name, module):
    assert package_lookup.get_installed_path(name) == str(Path(module.__file__).parent)
    assert package_lookup.is_installed(name)


def add_distribution(folder, name, top_level):
    info = folder / f'{name.replace("-", "_")}-1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
    if top_level is not None:
        (info / 'top_level.txt').write_text(top_level)


def test_a_distribution_that_lists_its_module_or_lists_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for module in ('seglib', 'plain_dist'):
        (tmp_path / module).mkdir()
        (tmp_path / module / '__init__.py').touch()
    add_distribution(tmp_path, 'seglibrary', 'seglib\n')
    add_distribution(tmp_path, 'plain-dist', None)
    add_distribution(tmp_path, 'empty', 'nothing_here\n')
    assert package_lookup.get_installed_path('seglibrary') == str(tmp_path / 'seglib')
    assert package_lookup.get_installed_path('plain-dist') == str(tmp_path / 'plain_dist')
    with pytest.raises(ModuleNotFoundError, match='empty has metadata, but no module'):
        package_lookup.get_installed_path('empty')


def test_what_has_no_folder(tmp_path, monkeypatch):
    with pytest.raises(
        ModuleNotFoundError, match="neither a module nor a distribution 'nopackage'"
    ):
        package_lookup.get_installed_path('nopackage')
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'spacious').mkdir()
    for name in ('spacious', 'sys'):
        with pytest.raises(RuntimeError, match=f'{name} is a namespace package or built in'):
            package_lookup.get_installed_path(name)
    assert [package_lookup.is_installed(n) for n in ('nopackage', 'spacious')] == [False, False]
