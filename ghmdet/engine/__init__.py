"""What plugs into mmengine's Runner; importing it installs the loaders and the cures of compat."""

from ghmdet import compat
from ghmdet.engine.arguments import add_common_arguments, load_config
from ghmdet.engine.checkpoint import CheckpointError, load_checkpoint_file, register_loaders
from ghmdet.engine.hooks import DoorCheckHook
from ghmdet.engine.inference import inference_detector, init_detector
from ghmdet.engine.launch import apply_amp, apply_auto_scale_lr, build_runner, set_up_launcher

__all__ = [
    'CheckpointError',
    'DoorCheckHook',
    'add_common_arguments',
    'apply_amp',
    'apply_auto_scale_lr',
    'build_runner',
    'inference_detector',
    'init_detector',
    'load_checkpoint_file',
    'load_config',
    'register_loaders',
    'set_up_launcher',
]

compat.apply()
register_loaders()
