"""ghmdet: RetinaNet with the GHM losses, config-driven.

Importing the package needs no torch and registers nothing. It lets mmengine find `ghmdet::` names
and `read_base` imports of our configs. Everything that a config can name is registered when a
registry of `ghmdet.registry` first needs it.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ghmdet.version import __version__

try:
    from ghmdet.config import package_lookup, shipped, sources
    from ghmdet.config.shipped import CONFIG_ROOT, config_path, get_config
except Exception:  # mmengine is missing or broken
    if {'ghmdet.env', 'env'}.isdisjoint(sys.orig_argv):  # which reports it
        raise
else:
    package_lookup.apply()
    shipped.patch_flat_names()
    sources.patch_reading()
    sources.patch_config_formatter()

if TYPE_CHECKING:
    from ghmdet.engine import get_model
    from ghmdet.inference import Detector, DetInferencer, as_torchvision

_LAZY = {
    **dict.fromkeys(('DetInferencer', 'Detector', 'as_torchvision'), 'ghmdet.inference'),
    'get_model': 'ghmdet.inference.model',
}
__all__ = ['CONFIG_ROOT', 'DetInferencer', 'Detector', '__version__', 'as_torchvision']
__all__ += ['config_path', 'get_config', 'get_model']


def __getattr__(name: str) -> Any:
    """Import what needs torch at its first use."""
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_LAZY[name]), name)
