"""For mmengine, which asks a package for `utils.register_all_modules` by this very name.

`mmengine.hub.get_model` calls it, and so do registries that name no locations. The name is the one
exception to the rule against files named utils; nothing else goes in here.
"""

import time
import warnings

from mmengine.registry import DefaultScope

from ghmdet import boxes, datasets, evaluation, losses, models, visualization
from ghmdet.engine import amp, loops, runner, val_loop

# Importing them registered what they define, and the loaders of checkpoints.
__all__ = [
    'amp',
    'boxes',
    'datasets',
    'evaluation',
    'loops',
    'losses',
    'models',
    'runner',
    'val_loop',
    'visualization',
]


def register_all_modules(init_default_scope: bool = True) -> None:
    """Make every part of ghmdet known to the registries.

    Args:
        init_default_scope: let mmengine's own registries look up a name without scope in ghmdet; a
            scope that another package had set is replaced with a warning, as in MMDetection.
    """
    current = DefaultScope.get_current_instance()
    if not init_default_scope or (current is not None and current.scope_name == 'ghmdet'):
        return
    if current is not None:
        warnings.warn(
            f'the default scope was {current.scope_name!r} and is now ghmdet; to keep it, call '
            'register_all_modules(init_default_scope=False)'
        )
    # The newest instance is in force, whatever its name.
    DefaultScope.get_instance(f'ghmdet {time.time()}', scope_name='ghmdet')
