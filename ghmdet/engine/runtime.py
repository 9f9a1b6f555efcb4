"""All of the engine, ready to run: importing it installs the loaders and the cures of compat."""

from ghmdet import compat
from ghmdet.checkpoint.download import register_loaders
from ghmdet.checkpoint.load_hook import LoadWeightsHook
from ghmdet.checkpoint.pretrained import Pretrained
from ghmdet.checkpoint.reader import CheckpointError, load_checkpoint_file
from ghmdet.checkpoint.save_hook import CheckpointHook
from ghmdet.checkpoint.weights import LoadReport, fit_state_dict
from ghmdet.checks.start_check import StartCheckHook
from ghmdet.checks.start_report import StartReportHook
from ghmdet.config.arguments import add_common_arguments, load_config
from ghmdet.engine.amp import AmpOptimWrapper, apply_amp, apply_amp_to_test
from ghmdet.engine.format_only import skip_evaluation, use_image_folder, write_coco_results
from ghmdet.engine.hooks.fast_network import TestSpeedupHook
from ghmdet.engine.hooks.ghm_stats import GHMStatsHook
from ghmdet.engine.hooks.log_values import LogHistoryHook, MeanLossesHook
from ghmdet.engine.hooks.memory import PeakMemoryHook
from ghmdet.engine.hooks.non_finite_steps import SkipNonFiniteStepsHook
from ghmdet.engine.hooks.non_finite_weights import NonFiniteWeightsHook
from ghmdet.engine.hooks.reserve_memory_hook import ReserveMemoryHook
from ghmdet.engine.hooks.skipped_images import SkippedImagesHook
from ghmdet.engine.hooks.stop import StopHook
from ghmdet.engine.inference import get_model, inference_detector, init_detector
from ghmdet.engine.launcher import set_up_launcher
from ghmdet.engine.loops import EpochBasedTrainLoop, IterBasedTrainLoop
from ghmdet.engine.runner import apply_auto_scale_lr, apply_deterministic, build_runner
from ghmdet.engine.val_loop import ValLoop
from ghmdet.models.speedup import compile_network, fuse_conv_bn

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

compat.apply()
register_loaders()
