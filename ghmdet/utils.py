"""`register_all_modules`, which mmengine imports from the `utils` of a package.

`mmengine.hub.get_model` calls it, and so do registries without locations. Only for this is there a
file named utils; nothing else goes in here.
"""

import time
import warnings

from mmengine.registry import DefaultScope

# Importing them registers all parts, and the loaders of checkpoints.
from ghmdet import boxes, datasets, evaluation, losses, models, visualization  # noqa: F401
from ghmdet.engine import amp, loops, runner, val_loop  # noqa: F401


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register every part of ghmdet.

    Args:
        init_default_scope: make ghmdet the default scope, in which mmengine's own registries look
            up names; the scope of another package is replaced with a warning, as in MMDetection.
    """
    current = DefaultScope.get_current_instance()
    if not init_default_scope or (current is not None and current.scope_name == 'ghmdet'):
        return
    if current is not None:
        warnings.warn(
            f'the default scope was {current.scope_name!r} and is now ghmdet; to keep it, call '
            'register_all_modules(init_default_scope=False)'
        )
    # The newest instance is the current one, whatever its name.
    DefaultScope.get_instance(f'ghmdet {time.time()}', scope_name='ghmdet')
