"""Make the network faster before a test."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ghmdet.models.speedup import (
    cast_convolutions,
    compile_network,
    fuse_conv_bn,
    low_precision,
    set_inductor_freezing,
)
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS


@HOOKS.register_module()
class TestSpeedupHook(Hook):
    """Prepare the network once its weights are loaded and a test begins.

    Batch norms are fused into convolutions, so do not train or save the model afterwards.

    Args:
        cast: keep the weights of convolutions in low precision; needs `test_cfg.fp16`.
        compile: compile backbone, neck and head.
    """

    def __init__(self, cast: bool = False, compile: bool = False) -> None:
        self.cast, self.compile = cast, compile

    def before_test(self, runner: Runner) -> None:
        """Fuse, cast and compile."""
        model = unwrap(runner.model).eval()
        fuse_conv_bn(model)
        if self.cast:
            cast_convolutions(model, low_precision(next(model.parameters()).device.type))
        if self.compile:
            set_inductor_freezing(True)
            compile_network(model)

    def after_test(self, runner: Runner) -> None:
        """Restore the setting of torch for the next compilation in the process."""
        if self.compile:
            set_inductor_freezing(False)
