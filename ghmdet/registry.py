"""The hallway: one ghmdet registry below every root registry of mmengine.

What ghmdet itself lacks (hooks, loops, optimizers, layers, image transforms) is found in the root,
where mmengine and mmcv put theirs. The `locations` are imported at the first look-up, so a bare
script needs neither a registration call nor a default scope:

    >>> from ghmdet.registry import MODELS
    >>> MODELS.get('GHMC').__name__
    'GHMC'
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine import registry as root
from mmengine.registry import DefaultScope
from mmengine.registry import Registry as _MMEngineRegistry

_SCOPE = 'ghmdet'


class Registry(_MMEngineRegistry):
    """mmengine's, in which a name without a scope means ghmdet's part before any other's.

    mmengine would ask the default scope first, which is what the last Runner of the process set,
    for whatever package it ran. Here the default scope is asked for what ghmdet and the root lack,
    so that a project of another scope can put its parts into our detector.
    """

    @contextmanager
    def switch_scope_and_registry(self, scope: str | None) -> Iterator[_MMEngineRegistry]:
        """Yield the registry of `scope`, this one for None."""
        if scope is None:
            yield self
        else:
            with super().switch_scope_and_registry(scope) as registry:
                yield registry

    def get(self, key: str) -> Any:
        """Return the class or function registered as `key`, None if there is none."""
        found = super().get(key)
        default = DefaultScope.get_current_instance()
        if found is None and default is not None and default.scope_name != self.scope:
            with super().switch_scope_and_registry(default.scope_name) as registry:
                found = registry.get(key) if registry is not self else None
        return found


MODELS = Registry(
    'model', parent=root.MODELS, scope=_SCOPE, locations=['mmcv.cnn', 'ghmdet.models']
)
TASK_UTILS = Registry('task util', parent=root.TASK_UTILS, scope=_SCOPE, locations=['ghmdet.boxes'])
DATASETS = Registry(
    'dataset', parent=root.DATASETS, scope=_SCOPE, locations=['mmengine.dataset', 'ghmdet.datasets']
)
DATA_SAMPLERS = Registry(
    'data sampler',
    parent=root.DATA_SAMPLERS,
    scope=_SCOPE,
    locations=['mmengine.dataset', 'ghmdet.datasets'],
)
TRANSFORMS = Registry(
    'transform',
    parent=root.TRANSFORMS,
    scope=_SCOPE,
    locations=['mmcv.transforms', 'ghmdet.datasets'],
)
METRICS = Registry(
    'metric',
    parent=root.METRICS,
    scope=_SCOPE,
    locations=['mmengine.evaluator', 'ghmdet.evaluation'],
)
HOOKS = Registry(
    'hook',
    parent=root.HOOKS,
    scope=_SCOPE,
    locations=['mmengine.hooks', 'ghmdet.engine.runtime', 'ghmdet.visualization'],
)
VISUALIZERS = Registry(
    'visualizer', parent=root.VISUALIZERS, scope=_SCOPE, locations=['ghmdet.visualization']
)

# Nothing of ours yet, but a scope that lacks a registry makes mmengine warn at every build.
RUNNERS = Registry('runner', parent=root.RUNNERS, scope=_SCOPE)
RUNNER_CONSTRUCTORS = Registry('runner constructor', parent=root.RUNNER_CONSTRUCTORS, scope=_SCOPE)
LOOPS = Registry('loop', parent=root.LOOPS, scope=_SCOPE, locations=['mmengine.runner'])
STRATEGIES = Registry('strategy', parent=root.STRATEGIES, scope=_SCOPE)
MODEL_WRAPPERS = Registry(
    'model_wrapper', parent=root.MODEL_WRAPPERS, scope=_SCOPE, locations=['mmengine.model']
)
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=root.WEIGHT_INITIALIZERS,
    scope=_SCOPE,
    locations=['mmengine.model'],
)
OPTIMIZERS = Registry(
    'optimizer', parent=root.OPTIMIZERS, scope=_SCOPE, locations=['mmengine.optim']
)
OPTIM_WRAPPERS = Registry(
    'optim_wrapper',
    parent=root.OPTIM_WRAPPERS,
    scope=_SCOPE,
    locations=['mmengine.optim', 'ghmdet.engine.runtime'],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope=_SCOPE,
    locations=['mmengine.optim'],
)
PARAM_SCHEDULERS = Registry(
    'parameter scheduler',
    parent=root.PARAM_SCHEDULERS,
    scope=_SCOPE,
    locations=['mmengine.optim'],
)
EVALUATOR = Registry(
    'evaluator', parent=root.EVALUATOR, scope=_SCOPE, locations=['mmengine.evaluator']
)
VISBACKENDS = Registry(
    'vis_backend', parent=root.VISBACKENDS, scope=_SCOPE, locations=['mmengine.visualization']
)
LOG_PROCESSORS = Registry(
    'log_processor', parent=root.LOG_PROCESSORS, scope=_SCOPE, locations=['mmengine.runner']
)
INFERENCERS = Registry('inferencer', parent=root.INFERENCERS, scope=_SCOPE)
FUNCTIONS = Registry(
    'function', parent=root.FUNCTIONS, scope=_SCOPE, locations=['mmengine.dataset']
)
