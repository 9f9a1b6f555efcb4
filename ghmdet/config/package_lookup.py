"""Where packages are installed, without pkg_resources, which setuptools 82 dropped.

mmengine finds with it the packages of `pkg::` names and `read_base` imports. Needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import package_utils

_OWN_FOLDER = Path(__file__).parents[1]
_ABSENT = object()


def apply() -> None:
    """Let mmengine accept `ghmdet::`, and find packages without pkg_resources, editable ones too.

    It accepts only the names in a table (https://github.com/open-mmlab/mmengine/issues/1410).
    New setuptools lack pkg_resources (https://github.com/open-mmlab/mmcv/issues/3325 is the same
    fault in mmcv); older ones are slow and give site-packages for an editable install.
    """
    MODULE2PACKAGE.setdefault('ghmdet', 'ghmdet')
    if not _finds_us_without_pkg_resources():
        rebind(package_utils.is_installed, is_installed)
        rebind(package_utils.get_installed_path, get_installed_path)


def get_installed_path(package: str) -> str:
    """Return the folder of a module or distribution, e.g. mmseg or mmsegmentation.

    Raises:
        ModuleNotFoundError: there is neither.
        RuntimeError: it has no folder of its own: a namespace package, or built in.
    """
    spec = find_spec(package) or find_spec(_module_of_distribution(package))
    if spec is None:
        raise ModuleNotFoundError(f'{package} has metadata, but no module', name=package)
    if not spec.has_location or spec.origin is None:
        raise RuntimeError(f'{package} is a namespace package or built in: it has no folder')
    return str(Path(spec.origin).parent)


def is_installed(package: str) -> bool:
    """Whether `get_installed_path` finds a folder."""
    try:
        get_installed_path(package)
    except (ModuleNotFoundError, RuntimeError):
        return False
    return True


def rebind(old: Callable, new: Callable) -> None:
    """Replace a function in every loaded module of mmengine that holds it by its name."""
    name = old.__name__
    for module_name, module in list(sys.modules.items()):
        if module_name.split('.')[0] == 'mmengine' and vars(module).get(name) is old:
            setattr(module, name, new)


def _module_of_distribution(name: str) -> str:
    """First public module that a distribution lists; its own name if it lists none."""
    try:
        listed = metadata.distribution(name).read_text('top_level.txt')
    except metadata.PackageNotFoundError:
        raise ModuleNotFoundError(
            f'neither a module nor a distribution {name!r} is installed', name=name
        ) from None
    public = (module for module in (listed or '').split() if not module.startswith('_'))
    return next(public, name.replace('-', '_'))


def _finds_us_without_pkg_resources() -> bool:
    """Whether mmengine finds this package while pkg_resources cannot be imported."""
    kept = sys.modules.get('pkg_resources', _ABSENT)
    sys.modules['pkg_resources'] = None  # type: ignore[assignment]
    try:
        found = package_utils.get_installed_path('ghmdet')
        return package_utils.is_installed('ghmdet') and Path(found).samefile(_OWN_FOLDER)
    except Exception:  # of any kind: it has not found it
        return False
    finally:
        del sys.modules['pkg_resources']
        if kept is not _ABSENT:
            sys.modules['pkg_resources'] = kept  # type: ignore[assignment]
