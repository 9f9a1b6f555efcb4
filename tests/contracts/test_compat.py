"""Each workaround acts where its fault is, and only there."""

from __future__ import annotations

import io
import logging
import pkgutil
import warnings

import mmengine.model.utils
import mmengine.optim.optimizer.default_constructor
import mmengine.runner.runner
import pytest
from mmengine.config import Config
from mmengine.config import config as config_module
from mmengine.fileio import FileClient, file_client
from mmengine.fileio.file_client import HardDiskBackend
from mmengine.logging import MMLogger
from mmengine.utils import dl_utils
from mmengine.utils.dl_utils import misc

from ghmdet import compat
from ghmdet.config import sources


def faulty_available():
    return pkgutil.find_loader('mmcv._ext') is not None


faulty_available.__name__ = 'mmcv_full_available'
HOLDERS = (dl_utils, misc, mmengine.model.utils, mmengine.optim.optimizer.default_constructor)


@pytest.fixture
def faulty(monkeypatch):
    """mmengine's function as released, on a Python without (or with a deprecated) find_loader."""
    for module in HOLDERS:
        monkeypatch.setattr(module, 'mmcv_full_available', faulty_available)
    return monkeypatch


def deprecated(name):
    warnings.warn('slated for removal', DeprecationWarning)


@pytest.mark.parametrize('find_loader', [None, deprecated, lambda name: None])
def test_find_loader_is_replaced_where_removed_or_deprecated(find_loader, faulty):
    if find_loader is None:
        faulty.delattr(pkgutil, 'find_loader', raising=False)
    else:
        faulty.setattr(pkgutil, 'find_loader', find_loader, raising=False)
    compat.patch_find_loader()
    works = find_loader not in (None, deprecated)
    for module in HOLDERS:
        assert (module.mmcv_full_available is faulty_available) == works
    assert dl_utils.mmcv_full_available() is False  # mmcv-lite has no compiled operators


@pytest.mark.parametrize('has_distutils', [False, True])
def test_environment_without_distutils(has_distutils, monkeypatch):
    original = dl_utils.collect_env
    for module in (dl_utils, mmengine.runner.runner):
        monkeypatch.setattr(module, 'collect_env', original)
    monkeypatch.setattr(compat, 'find_spec', lambda name: object() if has_distutils else None)
    compat.patch_distutils()
    assert (mmengine.runner.runner.collect_env is original) == has_distutils
    assert dl_utils.collect_env is mmengine.runner.runner.collect_env
    if not has_distutils:
        report = mmengine.runner.runner.collect_env()
        assert report['MMEngine'] == mmengine.__version__
        assert {'Python', 'PyTorch', 'GPUs', 'CUDA available'} <= set(report)


def test_file_client_messages_are_demoted_and_others_kept(monkeypatch):
    logger, stream = MMLogger.get_instance('demote', log_level='DEBUG'), io.StringIO()
    monkeypatch.setattr(logger.handlers[0], 'stream', stream)
    FileClient.infer_client({'backend': 'disk'})
    HardDiskBackend()
    file_client.print_log('another matter', logger='current', level=logging.WARNING)
    lines = stream.getvalue().splitlines()
    levels = {'"FileClient" will be': 'DEBUG', '"HardDiskBackend" is': 'DEBUG', 'other': 'WARNING'}
    for text, level in levels.items():
        assert {f' {level} ' in line for line in lines if text in line} == {True}
    # Once only, and not where mmengine has no such messages.
    wrapped = file_client.print_log
    compat.patch_file_client_warnings()
    assert file_client.print_log is wrapped
    monkeypatch.delattr(file_client, 'print_log')
    compat.patch_file_client_warnings()
    assert not hasattr(file_client, 'print_log')


CONFIG = {'model': {'type': 'RetinaNet', 'depths': [3, 4]}, 'lr': 0.01}


def test_config_text_when_yapf_raises(monkeypatch, tmp_path):
    def changed(text, style_config):
        raise TypeError('unexpected keyword')

    assert Config(CONFIG, format_python_code=False).pretty_text.startswith('lr=0.01')
    assert Config(CONFIG).pretty_text.startswith('lr = 0.01')  # formatted by yapf
    patched = Config.pretty_text
    sources.patch_config_formatter()
    assert Config.pretty_text is patched
    monkeypatch.setattr(config_module, 'FormatCode', changed)
    Config(CONFIG).dump(tmp_path / 'a.py')
    assert Config.fromfile(tmp_path / 'a.py').to_dict() == CONFIG
