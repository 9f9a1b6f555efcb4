"""Runs the file of `python -m ghmdet.export` in place of a model."""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ghmdet.argument_checks import is_number
from ghmdet.config.cli import LazyModule
from ghmdet.config.parts import log_on_first
from ghmdet.files import explain_look_alike
from ghmdet.inference.model import find_test_pipeline
from ghmdet.messages import list_items, type_name
from ghmdet.models.data_preprocessor import DetDataPreprocessor
from ghmdet.models.retina_head import scale_factor_of
from ghmdet.models.retinanet import RetinaNet
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData
from ghmdet.version import __version__

onnxruntime = LazyModule('onnxruntime')
openvino = LazyModule('openvino')

FORMAT_VERSION = 1
INPUTS = ('images', 'sizes', 'scale_factors')
OUTPUTS = ('boxes', 'scores', 'labels', 'num')
METADATA_FILE = 'ghmdet.json'  # in a .pt2
_BACKENDS = {'.onnx': ('onnxruntime', 'openvino'), '.pt2': ('torch',)}


@MODELS.register_module()
class ExportedDetector(RetinaNet):
    """Runs an exported file on the CPU, with as many threads as torch, in place of a RetinaNet.

    `cfg` has the test pipeline of the file. The parameters are not those of the network, but have
    the shape of a head, by which a test compares the classes with those of its data.

    Args:
        file: `.onnx`, or `.pt2`, which can run any code, as a pickle can.
        backend: 'onnxruntime' (default) or 'openvino' for .onnx, 'torch' for .pt2.

    Raises:
        FileNotFoundError, ModuleNotFoundError: there is no such file, or no such backend.
        ValueError: the file is damaged, of another format or program, or not for this backend.
    """

    def __init__(self, file: str | os.PathLike[str], backend: str | None = None) -> None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f'there is no file {str(path)!r}{explain_look_alike(path)}')
        known = _BACKENDS[path.suffix.lower()]
        backend = backend or known[0]
        if backend not in known:
            listed = ' or '.join(map(repr, known))
            raise ValueError(f'backend={backend!r} does not run {path}: choose {listed}')
        try:
            texts, names, run = _OPEN[backend](str(path))
        except ModuleNotFoundError as error:
            text = f'{path} needs {error.name}, which is not installed: pip install {error.name}'
            raise ModuleNotFoundError(text) from None
        except Exception as error:
            raise ValueError(
                f'{path} cannot be read by {backend} ({" ".join(str(error).split())}): export it '
                f'again; if it is newer than {backend}, install that in a newer version'
            ) from error
        metadata = _read_metadata(path, texts, names)
        preprocessor: Any = DetDataPreprocessor(pad_size_divisor=metadata['pad_size_divisor'])
        super(RetinaNet, self).__init__(data_preprocessor=preprocessor)  # without parts to build
        if metadata['static']:
            preprocessor.padded_size = partial(_pad_to, tuple(metadata['static']))
        self._run, self.backend = run, backend
        self.dataset_meta = dict(classes=tuple(metadata['classes']))
        rows = dict(retina_cls=len(metadata['classes']), retina_reg=4)
        self.bbox_head = nn.ModuleDict({key: nn.Conv2d(1, n, 1) for key, n in rows.items()})
        self.cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=metadata['pipeline']))))

    def __deepcopy__(self, memo: dict) -> ExportedDetector:
        return self  # for EMAHook

    @torch.no_grad()
    def predict(
        self, inputs: Tensor, data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Return the samples, each with its `pred_instances`; see `RetinaHead.predict`."""
        sizes = torch.tensor([sample.img_shape[:2] for sample in data_samples])
        factors = [scale_factor_of(sample) if rescale else (1, 1) for sample in data_samples]
        tensors = inputs.cpu().contiguous(), sizes, torch.tensor(factors, dtype=torch.float32)
        arrays = {key: each.numpy() for key, each in zip(INPUTS, tensors, strict=True)}
        for sample, *found, n in zip(data_samples, *self._run(arrays), strict=True):
            bboxes, scores, labels = (torch.as_tensor(each)[:n] for each in found)
            sample.pred_instances = InstanceData(bboxes=bboxes, scores=scores, labels=labels)
        return data_samples


def use_exported_file(cfg: Config, file: str, backend: str | None, given: Sequence[str]) -> None:
    """Let a test run a file; its classes are those of a checkpoint. No option may be `given`."""
    if given:
        raise ValueError(f'{file} is run as it was exported: leave {list_items(given)} out')
    network = ExportedDetector(file, backend)
    content = dict(state_dict=network.state_dict(), meta=dict(dataset_meta=network.dataset_meta))
    CheckpointLoader.register_scheme(f'{re.escape(file)}$', lambda *_, **__: content, force=True)
    cfg.load_from = file
    cfg.model = dict(type='ExportedDetector', file=file, backend=network.backend)
    here, there = _describe_resize(cfg), _describe_resize(network.cfg)
    if here != there:
        text = f'the config resizes with {here}, but {file} was exported with {there}'
        log_on_first(f'{text}: give the config of the export for its results', logging.WARNING)


def _describe_resize(cfg: Config) -> str:
    keys = dict(scale=None, scale_factor=None, keep_ratio=False)
    steps = [step for step in find_test_pipeline(cfg) if type_name(step).endswith('Resize')]
    return json.dumps([{key: step.get(key, keys[key]) for key in keys} for step in steps])


def _pad_to(static_hw: tuple[int, int], image: Tensor) -> tuple[int, int]:
    size = tuple(image.shape[-2:])
    if size != tuple(map(min, size, static_hw)):
        raise ValueError(
            f'an image has (height, width) {size} after the resize, but the file takes {static_hw} '
            'at most: export it with a larger --static, or without'
        )
    return static_hw


def _read_metadata(path: Path, texts: Mapping[str, str], names: list[str]) -> dict[str, Any]:
    own, writer = str(FORMAT_VERSION), texts.get('ghmdet_version')
    if (version := texts.get('format_version', own)) != own:
        raise ValueError(
            f'{path} has format {version}, of ghmdet {writer}; this ghmdet {__version__} reads '
            f'format {own}: export it again, or install the former'
        )
    with suppress(KeyError, ValueError):
        if names == [*INPUTS, *OUTPUTS]:
            keys = ('format_version', 'classes', 'pad_size_divisor', 'static', 'pipeline')
            return {key: json.loads(texts[key], object_hook=_with_tuples) for key in keys}
    text = f'{path} was not written by `python -m ghmdet.export`, or has been damaged or changed'
    raise ValueError(f'{text}: export the model again')


def _with_tuples(step: dict[str, Any]) -> dict[str, Any]:
    """Turn lists of numbers into tuples, which transforms expect and JSON has not."""
    lists = {k: v for k, v in step.items() if isinstance(v, list) and all(map(is_number, v))}
    return step | {key: tuple(value) for key, value in lists.items()}


def _open_onnxruntime(path: str) -> tuple[Mapping[str, str], list[str], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin slow each other down where other processes run.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    session = onnxruntime.InferenceSession(path, options, ['CPUExecutionProvider'])
    names = [each.name for each in (*session.get_inputs(), *session.get_outputs())]
    return session.get_modelmeta().custom_metadata_map, names, partial(session.run, OUTPUTS)


def _open_openvino(path: str) -> tuple[Mapping[str, str], list[str], Any]:
    model = openvino.Core().read_model(path)
    for each in model.get_ops():
        if each.get_type_name() == 'TopK':
            each.set_attribute('stable', True)  # equal scores in order, as everywhere else
    # By default it computes in bfloat16, where the CPU has it, and keeps to cores that may be busy.
    hints = dict(INFERENCE_PRECISION_HINT='f32', ENABLE_CPU_PINNING=False)
    threads = dict(INFERENCE_NUM_THREADS=torch.get_num_threads())
    network = openvino.compile_model(model, 'CPU', hints | threads)
    names = [each.any_name for each in (*network.inputs, *network.outputs)]
    texts = model.get_rt_info('framework').value if model.has_rt_info('framework') else {}
    return texts, names, lambda arrays: network(arrays).values()


def _open_torch(path: str) -> tuple[Mapping[str, str], list[str], Any]:
    with zipfile.ZipFile(path) as archive:  # before anything of another format is loaded
        found = [each for each in archive.namelist() if each.endswith(f'extra/{METADATA_FILE}')]
        metadata = json.loads(archive.read(found[0])) if found else {}
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    if metadata.get('format_version') != FORMAT_VERSION:
        return texts, [], None
    # Its guards refuse images of 32 pixels and less.
    network = torch.export.load(path).module(check_guards=False)
    run = lambda arrays: network(*map(torch.as_tensor, arrays.values()))  # noqa: E731
    return texts, [*INPUTS, *OUTPUTS], run


_OPEN = dict(onnxruntime=_open_onnxruntime, openvino=_open_openvino, torch=_open_torch)
