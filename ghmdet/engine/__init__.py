"""The run of a config: training, test, prediction.

A name is imported when it is first asked for, so that a tool can read its command line before
torch is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULE_OF = {
    'CheckpointError': 'checkpoint.reader',
    'LoadReport': 'checkpoint.weights',
    'StopHook': 'engine.hooks.stop',
    'TestSpeedupHook': 'engine.hooks.fast_network',
    'add_common_arguments': 'config.arguments',
    'add_tracker': 'visualization.trackers',
    'apply_amp': 'engine.amp',
    'apply_amp_to_test': 'engine.amp',
    'apply_auto_scale_lr': 'engine.runner',
    'apply_deterministic': 'engine.runner',
    'build_runner': 'engine.runner',
    'compile_network': 'models.speedup',
    'fit_state_dict': 'checkpoint.weights',
    'get_model': 'inference.model',
    'inference_detector': 'inference.detector',
    'init_detector': 'inference.model',
    'innermost': 'engine.format_only',
    'keep_detections': 'reports.after_training',
    'leave_out_unusable': 'engine.format_only',
    'load_checkpoint_file': 'checkpoint.reader',
    'load_config': 'config.arguments',
    'report_run': 'reports.after_training',
    'report_thresholds': 'engine.format_only',
    'show_live_line': 'engine.console',
    'skip_evaluation': 'engine.format_only',
    'use_exported_file': 'inference.exported',
    'use_image_folder': 'engine.format_only',
    'write_coco_results': 'engine.format_only',
}
__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'ghmdet.{_MODULE_OF[name]}'), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
