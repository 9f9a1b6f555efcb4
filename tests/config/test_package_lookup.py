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
def apply_to(monkeypatch):
    """Apply the workarounds to an mmengine with this function in place of its own."""

    def apply_to(get_installed_path):
        def is_installed(package):
            return get_installed_path(package) is not None

        get_installed_path.__name__ = 'get_installed_path'
        monkeypatch.delitem(MODULE2PACKAGE, 'ghmdet')
        for module in PATH_HOLDERS:
            monkeypatch.setattr(module, 'get_installed_path', get_installed_path)
        for module in CHECK_HOLDERS:
            monkeypatch.setattr(module, 'is_installed', is_installed)
        package_lookup.apply()
        assert MODULE2PACKAGE['ghmdet'] == 'ghmdet'
        assert MODULE2PACKAGE['mmseg'] == 'mmsegmentation'

    return apply_to


@pytest.mark.parametrize('there', [False, True])
def test_pkg_resources_is_not_needed_and_not_asked(there, apply_to, monkeypatch):
    old = types.ModuleType('pkg_resources')
    old.folder_of = lambda package: pytest.fail('slow, and wrong for editable installs')
    monkeypatch.delitem(sys.modules, 'pkg_resources', raising=False)
    if there:
        monkeypatch.setitem(sys.modules, 'pkg_resources', old)
    # As mmengine 0.10.7 does.
    apply_to(lambda package: import_module('pkg_resources').folder_of(package))
    for module in PATH_HOLDERS:
        assert module.get_installed_path is package_lookup.get_installed_path, module
    for module in CHECK_HOLDERS:
        assert module.is_installed is package_lookup.is_installed, module
    assert sys.modules.get('pkg_resources') is (old if there else None)


# A wrong answer is a folder too high, as in mmengine's main branch.
@pytest.mark.parametrize('found', [OWN, OWN.parent])
def test_a_wrong_answer_is_replaced_and_a_right_one_kept(found, apply_to):
    def answer(package):
        return str(found)

    apply_to(answer)
    assert mmengine.utils.get_installed_path('ghmdet') == str(OWN)
    assert (package_utils.get_installed_path is answer) == (found == OWN)


@pytest.mark.parametrize(
    ('name', 'module'),
    [('ghmdet', ghmdet), ('mmengine', mmengine), ('mmcv-lite', mmcv), ('PyYAML', yaml)],
)
def test_folders_by_module_and_by_distribution(name, module):
    assert package_lookup.get_installed_path(name) == str(Path(module.__file__).parent)
    assert package_lookup.is_installed(name)


def test_a_distribution_that_lists_its_module_or_lists_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for module in ('seglib', 'plain_dist'):
        (tmp_path / module).mkdir()
        (tmp_path / module / '__init__.py').touch()
    listed = {'seglibrary': 'seglib\n', 'plain-dist': '', 'empty': 'nothing_here\n'}
    for name, top_level in listed.items():
        info = tmp_path / f'{name.replace("-", "_")}-1.0.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
        if top_level:
            (info / 'top_level.txt').write_text(top_level)
    assert package_lookup.get_installed_path('seglibrary') == str(tmp_path / 'seglib')
    assert package_lookup.get_installed_path('plain-dist') == str(tmp_path / 'plain_dist')
    with pytest.raises(ModuleNotFoundError, match='empty has metadata, but no module'):
        package_lookup.get_installed_path('empty')


def test_what_has_no_folder(tmp_path, monkeypatch):
    with pytest.raises(ModuleNotFoundError, match="a module nor a distribution 'nopackage'"):
        package_lookup.get_installed_path('nopackage')
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'spacious').mkdir()
    for name in ('spacious', 'sys'):
        with pytest.raises(RuntimeError, match=f'{name} is a namespace package or built in'):
            package_lookup.get_installed_path(name)
    assert [package_lookup.is_installed(n) for n in ('nopackage', 'spacious')] == [False, False]
