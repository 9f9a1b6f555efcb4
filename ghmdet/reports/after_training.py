"""`--report` of a training: what it keeps, and the tool that writes the report at its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from ghmdet.checks.classes import is_ours, list_metrics
from ghmdet.config.shipped import MIM_ROOT
from ghmdet.registry import METRICS


def keep_detections(cfg: Config) -> None:
    """Let each validation of a training write its detections into the work dir."""
    for metric in list_metrics(cfg, 'val'):
        if is_ours(metric, METRICS, 'CocoMetric') and not metric.get('outfile_prefix'):
            metric.outfile_prefix = os.path.join(cfg.work_dir, 'val')


def tool_environment() -> dict[str, str]:
    """Return the environment of a tool's process, which finds this ghmdet, installed or not."""
    paths = str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH')
    return os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, paths))}


def report_run(runner: Runner) -> None:
    """Write the report of a training that has ended, by `tools/report.py` in its own process.

    So whatever happens there costs a warning, not the training.
    """
    if runner.rank:
        return
    command = [sys.executable, str(MIM_ROOT / 'tools' / 'report.py'), runner.work_dir]
    try:
        done = subprocess.run(
            command, env=tool_environment(), capture_output=True, text=True, errors='replace'
        )
    except OSError as error:
        runner.logger.warning(f'no report: {error}')
        return
    if done.returncode:
        runner.logger.warning(f'no report: {done.stderr.strip()} (exit code {done.returncode})')
    else:
        runner.logger.info(done.stdout.strip())
