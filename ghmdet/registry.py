"""The hallway: one ghmdet registry below every root registry of mmengine.

What ghmdet itself lacks (hooks, loops, optimizers, layers, image transforms) is found in the root,
where mmengine and mmcv put theirs. The `locations` are imported at the first look-up, so a bare
script needs neither a registration call nor a default scope:

    >>> from ghmdet.registry import MODELS
    >>> MODELS.get('GHMC').__name__
    'GHMC'
"""

from mmengine import registry as root
from mmengine.registry import Registry

_SCOPE = 'ghmdet'

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
    locations=['mmengine.hooks', 'ghmdet.engine', 'ghmdet.visualization'],
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
    'optim_wrapper', parent=root.OPTIM_WRAPPERS, scope=_SCOPE, locations=['mmengine.optim']
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
