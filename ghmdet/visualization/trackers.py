"""Trackers beside the local log (TensorBoard, MLflow, W&B ...), whose faults cost a run nothing."""

from __future__ import annotations

import atexit
import copy
import inspect
import io
import os
import sys
import threading
import time
from concurrent.futures import Future
from functools import partial
from importlib import import_module
from queue import SimpleQueue
from typing import Any, TextIO, cast

import numpy as np
from mmengine.config import Config
from mmengine.logging import MMLogger

from ghmdet.config import cli
from ghmdet.messages import type_name
from ghmdet.registry import VISBACKENDS

_PATIENCE_S, _START_S, _EXIT_S = 8.0, 3.0, 1.0
_MAX_CALLS, _MAX_IMAGES = 1000, 50  # an image takes MB
_THREAD = 'tracker'
_MODULES = {  # and their packages
    'TensorboardVisBackend': ('torch.utils.tensorboard', 'tensorboard'),
    'MLflowVisBackend': ('mlflow', 'mlflow-skinny'),
    'WandbVisBackend': ('wandb', 'wandb'),
}


def add_tracker(cfg: Config, kind: str, **arguments: Any) -> None:
    """Add a back end of mmengine to those of the config, or arguments to the one it has.

    The local one, which writes `scalars.json`, is added too where the config has none.
    """
    visualizer = cfg.get('visualizer') or dict(type='DetLocalVisualizer')
    backends = list(visualizer.get('vis_backends') or [])
    for name in ('LocalVisBackend', kind):
        if name not in map(type_name, backends):
            backends.append(dict(type=name))
    next(each for each in backends if type_name(each) == kind).update(arguments)
    cfg.visualizer = {**visualizer, 'vis_backends': backends}


def protect_trackers(cfg: Config) -> None:
    """Let every back end but the local one run in a `TrackerVisBackend`.

    Raises:
        ModuleNotFoundError: the package of a tracker is not installed.
        ValueError: a back end has no such arguments.
    """
    visualizer = cfg.get('visualizer') or {}
    backends = list(visualizer.get('vis_backends') or [])
    for number, backend in enumerate(backends):
        name, key = type_name(backend).rpartition('.')[2], f'visualizer.vis_backends.{number}'
        kind = backend['type']
        kind = VISBACKENDS.get(kind) if isinstance(kind, str) else kind
        if name in ('LocalVisBackend', 'TrackerVisBackend') or kind is None:
            continue
        module, package = _MODULES.get(name, (__name__, ''))
        try:
            import_module(module)  # not in the thread, since loader workers are forked meanwhile
        except ImportError as error:
            text = f'{key}: {name} cannot be imported ({error}): pip install {package}'
            raise ModuleNotFoundError(text) from error
        inner = {part: value for part, value in backend.items() if part != 'name'}
        given = {part: value for part, value in inner.items() if part != 'type'}
        try:
            inspect.signature(kind).bind(**{'save_dir': '', **given})
        except TypeError as error:
            raise ValueError(f'{key}: {name}: {error}') from None
        outer = dict(type='ghmdet.TrackerVisBackend', name=backend.get('name', name))
        backends[number] = dict(outer, backend=inner)
    if backends:
        visualizer['vis_backends'] = backends


@VISBACKENDS.register_module()
class TrackerVisBackend:
    """Runs another back end in a thread, so that no failure or delay of it reaches the run.

    It has all methods of that back end; they return nothing. The first failure is one warning;
    later ones are silent, and if it could not begin, nothing more is tried. Scalars never wait.
    The start, images (while 50 are not yet written) and `close` wait for 8 s in all; then images
    are left out, and a process that ends is not held up for more than 1 s.

    Args:
        backend: config of the back end.
        save_dir: its folder, where `backend` has none.
    """

    def __init__(self, backend: dict, save_dir: str) -> None:
        self._save_dir = save_dir  # mmengine's Visualizer looks at it
        self._cfg = {'save_dir': save_dir, **backend}
        self._kind = type_name(backend).rpartition('.')[2]
        self._real: Any = None
        self._calls: SimpleQueue = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._patience = _PATIENCE_S
        self._has_failed = self._is_told = self._is_open = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return partial(self._put, name)

    @property
    def experiment(self) -> Any:
        """The object of the back end, e.g. a SummaryWriter, once it is there.

        Where it fails or is not there in 8 s, an object of which every call does nothing. Calls of
        the object itself are not protected.
        """
        found = self._wait(self._put('_experiment'), _PATIENCE_S)
        return _Nothing() if found is None else found

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config, which lets the back end begin; forks should come after that."""
        self._wait(self._put('add_config', config, **kwargs), _START_S)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Record an image, (h, w, 3) RGB uint8."""
        while self._calls.qsize() >= _MAX_IMAGES:
            if self._patience <= 0:
                return self._warn('is too slow, images are left out')
            time.sleep(0.05)
            self._patience -= 0.05
        if self._kind == 'MLflowVisBackend':  # else Pillow finds no format, and steps overwrite
            name = f'{name}_{step}.png'
        self._put('add_image', name, image, step, **kwargs)

    def add_scalars(self, scalar_dict: dict, step: int = 0, *args: Any, **kwargs: Any) -> None:
        """Record numbers."""
        # wandb counts its calls, not the iterations.
        more = dict(iter=step) if self._kind == 'WandbVisBackend' else {}
        self._put('add_scalars', {**more, **scalar_dict}, step, *args, **kwargs)

    def add_histogram(self, name: str, counts: list[float], step: int) -> None:
        """Record counts of equal bins of [0, 1], in TensorBoard and wandb."""
        self._put('_add_histogram', name, counts, step)

    def close(self) -> None:
        """Wait until all is written, but not longer than the patience."""
        if not self._is_open:
            return
        closed = self._put('close')
        self._is_open = False
        self._wait(closed, _PATIENCE_S)
        if not closed.done():
            self._warn(f'did not answer in {_PATIENCE_S:g} s, what it has not written is lost')
            ended = threading.Event()
            atexit.register(ended.set)
            threading.Thread(target=_limit_exit, args=(ended,), daemon=True).start()

    def _put(self, name: str, *args: Any, **kwargs: Any) -> Future:
        result: Future = Future()
        if name != 'close' and (self._has_failed or self._calls.qsize() >= _MAX_CALLS):
            result.set_result(None)
            return result
        self._is_open = True
        if self._thread is None:
            if not isinstance(sys.stdin, _Stdin):
                sys.stdin = cast('TextIO', _Stdin(sys.stdin))
            self._thread = threading.Thread(target=self._work, name=_THREAD, daemon=True)
            self._thread.start()
        self._calls.put((result, name, copy.deepcopy(args), copy.deepcopy(kwargs)))
        return result

    def _wait(self, result: Future, limit: float) -> Any:
        limit = max(0.0, min(limit, self._patience))
        try:
            return result.result(limit)
        except TimeoutError:
            self._patience -= limit

    def _work(self) -> None:
        """Make the calls, in the thread."""
        while True:
            result, name, args, kwargs = self._calls.get()
            value = None
            try:
                if self._real is None and not self._has_failed:
                    if self._kind == 'MLflowVisBackend':  # mlflow 3 refuses folders otherwise
                        os.environ.setdefault('MLFLOW_ALLOW_FILE_STORE', 'true')
                    self._real = VISBACKENDS.build(dict(self._cfg))
                if self._real is not None:
                    owner = self if name.startswith('_') else self._real
                    value = getattr(owner, name)(*args, **kwargs)
            except BaseException as error:  # wandb raises SystemExit too
                begun = self._real is not None and getattr(self._real, '_env_initialized', True)
                self._has_failed = self._has_failed or not begun
                self._warn(
                    f'failed in {name}: {type(error).__name__}: {str(error).strip(". ")[:300]}'
                )
            result.set_result(value)

    def _experiment(self) -> Any:
        return self._real.experiment

    def _add_histogram(self, name: str, counts: list[float], step: int) -> None:
        edges, numbers = np.linspace(0, 1, len(counts) + 1), np.asarray(counts)
        centres = (edges[:-1] + edges[1:]) / 2
        if self._kind == 'WandbVisBackend':
            wandb = self._real.experiment
            wandb.log({name: wandb.Histogram(np_histogram=(counts, edges)), 'iter': step})
        elif self._kind == 'TensorboardVisBackend':
            sums = [float(numbers @ centres**power) for power in range(3)]
            add = self._real.experiment.add_histogram_raw
            add(name, 0.0, 1.0, *sums, edges[1:].tolist(), counts, step)

    def _warn(self, text: str) -> None:
        if not self._is_told:
            self._is_told = True
            MMLogger.get_current_instance().warning(
                f'{self._kind} {text}. The run goes on; its log folder has all values, in '
                'vis_data/scalars.json'
            )


class _Stdin:
    """Stdin, empty for trackers: a question to the user in a thread would block forked workers."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._empty = stream, io.StringIO()

    def __getattr__(self, name: str) -> Any:
        in_tracker = threading.current_thread().name == _THREAD
        return getattr(self._empty if in_tracker else self._stream, name)

    def __iter__(self) -> Any:
        return iter(self.readline, '')


class _Nothing:
    """Stands for an object that is not there: every call does nothing."""

    def __getattr__(self, name: str) -> _Nothing:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        return self


def _limit_exit(ended: threading.Event) -> None:
    """End the process soon after its program, as wandb and mlflow wait for a server at exit."""
    while threading.main_thread().is_alive() and not ended.wait(0.1):
        pass
    time.sleep(_EXIT_S)
    sys.stdout.flush()
    os._exit(cli.exit_code or int(hasattr(sys, 'last_value')))
