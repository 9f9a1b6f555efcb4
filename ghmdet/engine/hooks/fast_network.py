"""Make the network faster before a test."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ghmdet.models import speedup
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS


@HOOKS.register_module()
class TestSpeedupHook(Hook):
    """Prepare the network once its weights are loaded; do not train or save the model afterwards.

    Batch norms are fused into convolutions. `cast` keeps the weights of convolutions in low
    precision, which needs `test_cfg.fp16`.
    """

    def __init__(self, cast: bool = False, compile: bool = False) -> None:
        self.cast, self.compile = cast, compile

    def before_test(self, runner: Runner) -> None:
        """Fuse, cast and compile."""
        model = unwrap(runner.model).eval()
        speedup.fuse_conv_bn(model)
        if self.cast:
            device = next(model.parameters()).device.type
            speedup.cast_convolutions(model, speedup.low_precision(device))
        if self.compile:
            speedup.set_inductor_freezing(True)
            speedup.compile_network(model)

    def after_test(self, runner: Runner) -> None:
        """Restore the setting of torch for the next compilation in the process."""
        if self.compile:
            speedup.set_inductor_freezing(False)
