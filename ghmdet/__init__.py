"""ghmdet: RetinaNet with the GHM losses, config-driven.

Importing the package needs no torch and registers nothing. It makes mmengine understand
`ghmdet::` names and `read_base` imports of our configs. Everything that can be named in a config is
registered when a registry of `ghmdet.registry` first needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ghmdet import config_files, package_lookup
from ghmdet.config_files import CONFIG_ROOT, config_path, get_config

if TYPE_CHECKING:
    from ghmdet.engine import get_model

__all__ = ['CONFIG_ROOT', 'config_path', 'get_config', 'get_model']

__version__ = '0.1.0'

package_lookup.apply()
config_files.cure_flat_names()


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is first asked for."""
    if name != 'get_model':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return import_module('ghmdet.engine').get_model
