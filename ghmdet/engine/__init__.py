"""What plugs into mmengine's Runner.

Nothing here is imported before it is asked for, so that a tool has read its command line before
torch is loaded. The first name asked for installs the checkpoint loaders and the cures of compat.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghmdet.engine.runtime import (
        AmpOptimWrapper,
        CheckpointError,
        CheckpointHook,
        EpochBasedTrainLoop,
        GHMStatsHook,
        IterBasedTrainLoop,
        LoadReport,
        LoadWeightsHook,
        LogHistoryHook,
        MeanLossesHook,
        NonFiniteWeightsHook,
        PeakMemoryHook,
        Pretrained,
        ReserveMemoryHook,
        SkipNonFiniteStepsHook,
        SkippedImagesHook,
        StartCheckHook,
        StartReportHook,
        StopHook,
        TestSpeedupHook,
        ValLoop,
        add_common_arguments,
        apply_amp,
        apply_amp_to_test,
        apply_auto_scale_lr,
        apply_deterministic,
        build_runner,
        compile_network,
        fit_state_dict,
        fuse_conv_bn,
        get_model,
        inference_detector,
        init_detector,
        load_checkpoint_file,
        load_config,
        register_loaders,
        set_up_launcher,
        skip_evaluation,
        use_image_folder,
        write_coco_results,
    )

__all__ = [
    'AmpOptimWrapper',
    'CheckpointError',
    'CheckpointHook',
    'EpochBasedTrainLoop',
    'GHMStatsHook',
    'IterBasedTrainLoop',
    'LoadReport',
    'LoadWeightsHook',
    'LogHistoryHook',
    'MeanLossesHook',
    'NonFiniteWeightsHook',
    'PeakMemoryHook',
    'Pretrained',
    'ReserveMemoryHook',
    'SkipNonFiniteStepsHook',
    'SkippedImagesHook',
    'StartCheckHook',
    'StartReportHook',
    'StopHook',
    'TestSpeedupHook',
    'ValLoop',
    'add_common_arguments',
    'apply_amp',
    'apply_amp_to_test',
    'apply_auto_scale_lr',
    'apply_deterministic',
    'build_runner',
    'compile_network',
    'fit_state_dict',
    'fuse_conv_bn',
    'get_model',
    'inference_detector',
    'init_detector',
    'load_checkpoint_file',
    'load_config',
    'register_loaders',
    'set_up_launcher',
    'skip_evaluation',
    'use_image_folder',
    'write_coco_results',
]


def __getattr__(name: str) -> Any:
    """Load what needs torch when one of its names is first asked for."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module('ghmdet.engine.runtime'), name)


def __dir__() -> list[str]:
    """The names that can be asked for."""
    return sorted([*globals(), *__all__])
