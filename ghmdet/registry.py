"""What does the work of MMDetection's parts here; `docs/from_mmdet.md` shows the same table."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine import registry as root
from mmengine.registry import DefaultScope
from mmengine.registry import Registry as _MMEngineRegistry

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
    'NumClassCheckHook': 'StartCheckHook, which runs by itself',
    'CheckInvalidLossHook': 'SkipNonFiniteStepsHook, which runs by itself',
    'MemoryProfilerHook': 'PeakMemoryHook, which runs by itself',
    'CustomDataset': 'CocoDataset, with the annotations in COCO format',
    'XMLDataset': 'CocoDataset, after tools/dataset_converters/pascal_voc.py',
    'VOCDataset': 'CocoDataset, after tools/dataset_converters/pascal_voc.py',
    'VOCMetric': 'CocoMetric',
}
"""Part of MMDetection 2.x or 3.x -> what does its work here."""


_SCOPE = 'ghmdet'


class UnknownPartError(KeyError):
    """A name stands in no registry; its text is shown as it is, which KeyError's is not."""

    def __str__(self) -> str:
        return str(self.args[0])


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
        """Return the class or function registered as `key`, which may begin with a scope.

        Raises:
            UnknownPartError: there is none. mmengine's own would return None, and the caller would
                report no more than that.
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
        nearest = [near for registry in chain for near in _nearest(name, registry.module_dict)]
        told = [f'{key} is not in the {self.scope}::{self.name} registry']
        if name in REPLACED_PARTS:
            told.append(f"it is MMDetection's; here its work is done by {REPLACED_PARTS[name]}")
        if nearest:
            told.append(f'nearest: {", ".join(dict.fromkeys(nearest))}')
        elif self.module_dict:
            told.append(f'{self.scope} has {", ".join(sorted(self.module_dict))}')
        return (
            f'{"; ".join(told)}. Searched: {searched}. A part of your own needs '
            "custom_imports=dict(imports=['mypackage.mymodule']), the module that registers it; "
            "what ghmdet has of MMDetection's parts stands in docs/from_mmdet.md"
        )


def _nearest(name: str, names: Iterable[str]) -> list[str]:
    """The names most like `name`, upper and lower case being alike."""
    by_lower = {each.lower(): each for each in names}
    found = difflib.get_close_matches(name.lower(), by_lower, cutoff=0.65)
    return [by_lower[near] for near in found]


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

# Nothing of ours yet, but a scope that lacks a registry makes mmengine warn at every build.
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
