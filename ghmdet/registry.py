"""Registries: one of ghmdet below each of mmengine's, asked first for a name without a scope."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine import registry as root
from mmengine.registry import DefaultScope
from mmengine.registry import Registry as _MMEngineRegistry

from ghmdet.messages import did_you_mean, nearest

REPLACED_PARTS = {
    'Collect': 'PackDetInputs',
    'DefaultFormatBundle': 'PackDetInputs',
    'ImageToTensor': 'PackDetInputs',
    'Normalize': 'mean, std and bgr_to_rgb of model.data_preprocessor',
    'Pad': 'pad_size_divisor of model.data_preprocessor',
    'MultiScaleFlipAug': 'a plain test pipeline; TestTimeAug in tta_pipeline for several views',
    'GroupSampler': 'DefaultSampler with batch_sampler=dict(type="AspectRatioBatchSampler")',
    'DistributedGroupSampler': 'DefaultSampler with '
    'batch_sampler=dict(type="AspectRatioBatchSampler")',
    'DistributedSampler': 'DefaultSampler',
    'EpochBasedRunner': 'EpochBasedTrainLoop in train_cfg',
    'IterBasedRunner': 'IterBasedTrainLoop in train_cfg',
    'EvalHook': 'val_cfg, val_dataloader and val_evaluator',
    'DistEvalHook': 'val_cfg, val_dataloader and val_evaluator',
    'OptimizerHook': 'OptimWrapper in optim_wrapper',
    'Fp16OptimizerHook': 'AmpOptimWrapper in optim_wrapper, or --amp',
    'GradientCumulativeOptimizerHook': 'optim_wrapper.accumulative_counts',
    'TextLoggerHook': 'LoggerHook',
    'TensorboardLoggerHook': 'TensorboardVisBackend in visualizer.vis_backends',
    'WandbLoggerHook': 'WandbVisBackend in visualizer.vis_backends',
    'MMDetWandbHook': 'WandbVisBackend in visualizer.vis_backends',
    'ExpMomentumEMAHook': 'EMAHook with ema_type="ExponentialMovingAverage"',
    'ExpMomentumEMA': 'ExponentialMovingAverage',
    'LinearMomentumEMAHook': 'EMAHook',
    'NumClassCheckHook': 'StartCheckHook, which is always registered',
    'CheckInvalidLossHook': 'SkipNonFiniteStepsHook, which is always registered',
    'MemoryProfilerHook': 'PeakMemoryHook, which is always registered',
    'CustomDataset': 'CocoDataset, with the annotations in COCO format',
    'XMLDataset': 'CocoDataset, after tools/dataset_converters/pascal_voc.py',
    'VOCDataset': 'CocoDataset, after tools/dataset_converters/pascal_voc.py',
    'VOCMetric': 'CocoMetric',
}
"""Part of MMDetection 2.x or 3.x -> its replacement; `docs/from_mmdet.md` has the same table."""

_SCOPE = 'ghmdet'


class UnknownPartError(KeyError):
    """A name is in no registry; unlike KeyError's, its message is shown without quotes."""

    def __str__(self) -> str:
        return str(self.args[0])


class Registry(_MMEngineRegistry):
    """mmengine's registry, in which a name without a scope means ghmdet's part first.

    mmengine would look in the default scope first, which the last Runner of the process has set,
    for whatever package it ran. Here the default scope is searched last, so that a project of
    another scope can use its parts in our detector.
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
        """Return the class or function registered as `key`, which may begin with a scope.

        Raises:
            UnknownPartError: there is none, where mmengine returns None.
        """
        found = self._find(key)
        if found is None:
            raise UnknownPartError(self._describe_missing(key))
        return found

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def _find(self, key: str) -> Any:
        found = super().get(key)
        own_prefix = f'{self.scope}.'
        if found is None and key.startswith(own_prefix):  # mmengine would not ask the root
            found = super().get(key.removeprefix(own_prefix))
        other = self._default_scope()
        if found is None and other is not None:
            with super().switch_scope_and_registry(other) as registry:
                if registry is not self and key in registry:
                    found = registry.get(key)
        return found

    def _default_scope(self) -> str | None:
        """The default scope where it is not this one."""
        default = DefaultScope.get_current_instance()
        return None if default is None or default.scope_name == self.scope else default.scope_name

    def _describe_missing(self, key: str) -> str:
        scope, name = self.split_scope_key(key)
        name = name.rpartition('.')[2]
        chain: list[_MMEngineRegistry] = [self]
        while chain[-1].parent is not None:
            chain.append(chain[-1].parent)
        scopes = [registry.scope for registry in chain]
        if scope is not None and scope not in [*scopes, *chain[-1].children]:
            searched = f'{scope}, but no module {scope}.registry can be imported'
        else:
            other = self._default_scope()
            searched = ', '.join(dict.fromkeys([*scopes, *filter(None, (scope, other))]))
        near = [each for registry in chain for each in _near(name, registry.module_dict)]
        message = f'{key} is not in the {self.scope}::{self.name} registry'
        if name in REPLACED_PARTS:
            message += f'; it is a part of MMDetection, replaced here by {REPLACED_PARTS[name]}'
        if not near and self.module_dict:
            message += f'; {self.scope} has {", ".join(sorted(self.module_dict))}'
        return (
            f'{message}{did_you_mean(dict.fromkeys(near)) or "."} Searched: {searched}. A part of '
            "your own needs custom_imports=dict(imports=['mypackage.mymodule']), the module that "
            'registers it; docs/from_mmdet.md lists the parts of MMDetection that ghmdet has'
        )


def _near(name: str, names: dict[str, Any]) -> list[str]:
    return [name] if name in names else nearest(name, names, count=3, cutoff=0.65)


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
    locations=['mmengine.hooks', 'ghmdet.engine.runner', 'ghmdet.visualization'],
)
VISUALIZERS = Registry(
    'visualizer', parent=root.VISUALIZERS, scope=_SCOPE, locations=['ghmdet.visualization']
)
LOOPS = Registry(
    'loop',
    parent=root.LOOPS,
    scope=_SCOPE,
    locations=['mmengine.runner', 'ghmdet.engine.loops', 'ghmdet.engine.val_loop'],
)

# Empty, but a scope that lacks a registry makes mmengine warn at every build.
RUNNERS = Registry('runner', parent=root.RUNNERS, scope=_SCOPE)
RUNNER_CONSTRUCTORS = Registry('runner constructor', parent=root.RUNNER_CONSTRUCTORS, scope=_SCOPE)
STRATEGIES = Registry('strategy', parent=root.STRATEGIES, scope=_SCOPE)
MODEL_WRAPPERS = Registry(
    'model_wrapper', parent=root.MODEL_WRAPPERS, scope=_SCOPE, locations=['mmengine.model']
)
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=root.WEIGHT_INITIALIZERS,
    scope=_SCOPE,
    locations=['mmengine.model', 'ghmdet.checkpoint'],
)
OPTIMIZERS = Registry(
    'optimizer', parent=root.OPTIMIZERS, scope=_SCOPE, locations=['mmengine.optim']
)
OPTIM_WRAPPERS = Registry(
    'optim_wrapper',
    parent=root.OPTIM_WRAPPERS,
    scope=_SCOPE,
    locations=['mmengine.optim', 'ghmdet.engine.amp'],
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
