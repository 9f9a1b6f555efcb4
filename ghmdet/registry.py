"""Registries: one of ghmdet below each of mmengine's, asked first for a name without a scope."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine import registry as root
from mmengine.registry import DefaultScope
from mmengine.registry import Registry as _MMEngineRegistry

from ghmdet.messages import did_you_mean, nearest

_GROUPED = 'DefaultSampler with batch_sampler=dict(type="AspectRatioBatchSampler")'
REPLACED_PARTS = {
    'Collect': 'PackDetInputs',
    'DefaultFormatBundle': 'PackDetInputs',
    'ImageToTensor': 'PackDetInputs',
    'Normalize': 'mean, std and bgr_to_rgb of model.data_preprocessor',
    'Pad': 'pad_size_divisor of model.data_preprocessor',
    'MultiScaleFlipAug': 'a plain test pipeline; TestTimeAug in tta_pipeline for several views',
    'Albu': 'TorchvisionTransform',
    'YOLOXHSVRandomAug': 'PhotoMetricDistortion',
    'RandomShift': 'RandomAffine',
    'BatchSyncRandomResize': 'RandomResize or RandomChoiceResize in the pipeline',
    'GroupSampler': _GROUPED,
    'DistributedGroupSampler': _GROUPED,
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
    'XMLDataset': 'VOCDataset',
}
"""Part of MMDetection 2.x or 3.x -> its replacement; `docs/from_mmdet.md` has the same table."""


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
        near: list[str] = []
        for names in (registry.module_dict for registry in chain):
            near += [name] if name in names else nearest(name, names, count=3, cutoff=0.65)
        message = f'{key} is not in the {self.scope}::{self.name} registry'
        if name in REPLACED_PARTS:
            message += f'; it is a part of MMDetection, replaced here by {REPLACED_PARTS[name]}'
        if not near and self.module_dict:
            message += f'; {self.scope} has {", ".join(sorted(self.module_dict))}'
        return (
            f'{message}{did_you_mean(dict.fromkeys(near)) or "."} Searched: {searched}. A part of '
            "your own needs custom_imports=dict(imports=['mypackage.mymodule']), the module that "
            'registers it; without a config import it yourself. docs/from_mmdet.md lists the parts '
            'of MMDetection that ghmdet has'
        )


def _child_of(parent: _MMEngineRegistry, *locations: str) -> Registry:
    """The modules at `locations` are imported when the registry is first used."""
    return Registry(parent.name, parent=parent, scope='ghmdet', locations=list(locations))


MODELS = _child_of(root.MODELS, 'mmcv.cnn', 'ghmdet.models')
TASK_UTILS = _child_of(root.TASK_UTILS, 'ghmdet.boxes')
DATASETS = _child_of(root.DATASETS, 'mmengine.dataset', 'ghmdet.datasets')
DATA_SAMPLERS = _child_of(root.DATA_SAMPLERS, 'mmengine.dataset', 'ghmdet.datasets')
TRANSFORMS = _child_of(root.TRANSFORMS, 'mmcv.transforms', 'ghmdet.datasets')
METRICS = _child_of(root.METRICS, 'mmengine.evaluator', 'ghmdet.evaluation')
HOOKS = _child_of(root.HOOKS, 'mmengine.hooks', 'ghmdet.engine.runner', 'ghmdet.visualization')
VISUALIZERS = _child_of(root.VISUALIZERS, 'ghmdet.visualization')
LOOPS = _child_of(root.LOOPS, 'mmengine.runner', 'ghmdet.engine.loops', 'ghmdet.engine.val_loop')
WEIGHT_INITIALIZERS = _child_of(root.WEIGHT_INITIALIZERS, 'mmengine.model', 'ghmdet.checkpoint')
OPTIM_WRAPPERS = _child_of(root.OPTIM_WRAPPERS, 'mmengine.optim', 'ghmdet.engine.amp')

# Without parts of ghmdet, but a scope that lacks a registry makes mmengine warn at every build.
RUNNERS = _child_of(root.RUNNERS)
RUNNER_CONSTRUCTORS = _child_of(root.RUNNER_CONSTRUCTORS)
STRATEGIES = _child_of(root.STRATEGIES)
MODEL_WRAPPERS = _child_of(root.MODEL_WRAPPERS, 'mmengine.model')
OPTIMIZERS = _child_of(root.OPTIMIZERS, 'mmengine.optim')
OPTIM_WRAPPER_CONSTRUCTORS = _child_of(root.OPTIM_WRAPPER_CONSTRUCTORS, 'mmengine.optim')
PARAM_SCHEDULERS = _child_of(root.PARAM_SCHEDULERS, 'mmengine.optim')
EVALUATOR = _child_of(root.EVALUATOR, 'mmengine.evaluator')
VISBACKENDS = _child_of(root.VISBACKENDS, 'mmengine.visualization')
LOG_PROCESSORS = _child_of(root.LOG_PROCESSORS, 'mmengine.runner')
INFERENCERS = _child_of(root.INFERENCERS)
FUNCTIONS = _child_of(root.FUNCTIONS, 'mmengine.dataset')
