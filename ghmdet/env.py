"""Print what a bug report needs: `python -m ghmdet.env`.

Exit code 0 if all requirements are installed and can be imported, else 1. Uses the standard library
only and imports each package by name, so that it also works where one is missing or broken.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from ghmdet.config import cli
from ghmdet.version import __version__

# Distributions with the same module; ghmdet requires the first of each.
_SAME_MODULE = {
    'mmcv-lite': ('mmcv-lite', 'mmcv', 'onedl-mmcv'),
    'mmengine': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'opencv-python': (
        *('opencv-python', 'opencv-python-headless'),
        *('opencv-contrib-python', 'opencv-contrib-python-headless'),
    ),
}
_MODULES = {
    'mmcv-lite': 'mmcv.cnn',
    'opencv-python': 'cv2',
    'pillow': 'PIL.Image',
    'pycocotools': 'pycocotools.mask',
    'faster-coco-eval': 'faster_coco_eval',
}
# Not required, but involved in known faults.
_OPTIONAL = ('setuptools', 'packaging', 'yapf', 'matplotlib', 'transformers', 'mmdet')
_VARIABLES = (
    *('GHMDET_DATA_ROOT', 'GHMDET_DOWNLOAD_TIMEOUT', 'GHMDET_TRUST_CHECKPOINT'),
    *('MMENGINE_HOME', 'TORCH_HOME', 'PYTHONPATH', 'CXX', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS'),
    *('CUDA_VISIBLE_DEVICES', 'PYTORCH_CUDA_ALLOC_CONF', 'OPENCV_IO_MAX_IMAGE_PIXELS'),
    *('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    *('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS', 'SLURM_NNODES', 'SLURM_NODELIST'),
    *('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
    'OMPI_COMM_WORLD_LOCAL_SIZE',
)
_ROOT = Path(__file__).resolve().parents[1]  # a checkout, or site-packages
_BFLOAT16_FLAGS = {'avx512_bf16', 'amx_bf16', 'bf16'}


def main(argv: Sequence[str] = ()) -> int:
    """Print the report and return the exit code."""
    argparse.ArgumentParser(
        description='Print what a bug report needs: versions, settings, faults of the packages.',
    ).parse_args(argv)
    faults: list[str] = []
    remarks: list[str] = []
    commit = find_commit()
    commit = commit and f', commit {commit}'
    _print('ghmdet', f'{__version__} from {Path(__file__).parent}{commit}')
    _print('Python', f'{platform.python_version()} ({sys.executable})')
    _print('system', f'{platform.platform()}, {os.cpu_count()} cores')
    if Path('/dev/shm').is_dir():  # used by the workers of data loaders
        _print('shared memory', f'{shutil.disk_usage("/dev/shm").total / 2**30:.1f} GiB')

    requirements = _read_requirements(faults)
    print()
    for name, least in requirements:
        _describe_package(name, least, faults, remarks)
    for name in _OPTIONAL:
        _print(name, _version(name) or 'none')

    print()
    for name in _VARIABLES:
        if name in os.environ or name.startswith('GHMDET_'):
            _print(name, repr(os.environ[name]) if name in os.environ else 'not set')

    print(flush=True)  # an import may end the process
    loaded = {}
    for name, _ in requirements:
        module = _MODULES.get(name, name)
        if _has(module.partition('.')[0]):
            loaded[name] = _import(module, faults)
        elif any(map(_version, _SAME_MODULE.get(name, (name,)))):
            faults.append(f'{name} has metadata, but there is no module {module}: install it again')
    if torch := loaded.get('torch'):
        _describe_torch(torch, loaded, faults, remarks)

    for remark in remarks:
        print(f'remark: {remark}')
    for fault in faults:
        print(f'FAULT: {fault}')
    if faults:
        print(f'ghmdet will not work properly: {len(faults)} of the above')
        return 1
    print('all requirements of ghmdet are met')
    return 0


def _print(name: str, value: object) -> None:
    print(f'{name + ":":27} {value}', flush=True)


def find_commit() -> str:
    """Return the commit, if the package is in a git checkout of its own, else ''."""
    if not (_ROOT / '.git').exists():
        return ''
    command = ['git', '-C', str(_ROOT), 'describe', '--always', '--abbrev=10', '--dirty']
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return 'unknown'
    return done.stdout.strip() or 'unknown'


def _read_requirements(faults: list[str]) -> list[tuple[str, str]]:
    """Names and minimum versions, from the metadata or, in a checkout, from its file."""
    needed: list[str] | None = None
    try:
        needed, python = metadata.requires('ghmdet'), metadata.metadata('ghmdet')['Requires-Python']
        if _older(platform.python_version(), (python or '').removeprefix('>=')):
            faults.append(f'Python {platform.python_version()} is older than {python}')
    except metadata.PackageNotFoundError:
        _print('installed', 'no metadata of ghmdet')
    file = _ROOT / 'requirements.txt'
    if file.is_file() and (_ROOT / 'pyproject.toml').is_file():  # newer than an editable install
        needed = file.read_text().split()
    if not needed:
        faults.append('the requirements of ghmdet are unknown: it has no metadata')
    required = '\n'.join(text for text in needed or () if 'extra ==' not in text)
    return re.findall(r'^([\w.-]+)\s*(?:>=\s*([\d.]+))?', required, re.MULTILINE)


def _describe_package(name: str, least: str, faults: list[str], remarks: list[str]) -> None:
    found = [(each, _version(each)) for each in _SAME_MODULE.get(name, (name,))]
    there = [(each, version) for each, version in found if version]
    known = ', '.join(v if n == name else f'{n} {v}' for n, v in there)
    module = _MODULES.get(name, name).partition('.')[0]
    _print(name, known or (f'no metadata, but {module} is there' if _has(module) else 'MISSING'))
    if not there and not _has(module):
        faults.append(f'{name} is missing: pip install "{name}{">=" if least else ""}{least}"')
    for each, version in there:
        if _older(version, least):
            advice = f'pip install -U "{each}>={least}"'
            faults.append(f'{each} {version} is older than {least}: {advice}')
    if len(there) > 1:
        names, advice = ' and '.join(dict(there)), 'pip uninstall both, then install one'
        remarks.append(f'{names} are both installed and write the same files: {advice}')


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a finder refuses it; in sys.modules, but no module
        return False


def _older(version: str, least: str) -> bool:
    """Compare the numbers that two versions begin with; 2.2 equals 2.2.0."""
    starts = [re.sub(r'(\.0)+$', '', re.split(r'[^\d.]', text)[0]) for text in (version, least)]
    ours, theirs = ([int(number) for number in start.split('.') if number] for start in starts)
    return ours < theirs


def _import(module: str, faults: list[str]) -> ModuleType | None:
    try:
        return import_module(module)
    except Exception as error:  # whatever a broken package raises
        first = (str(error).strip().splitlines() or [''])[0]
        faults.append(f'{module} cannot be imported: {type(error).__name__}: {first}')
        return None


def _describe_torch(
    torch: ModuleType, loaded: dict[str, ModuleType | None], faults: list[str], remarks: list[str]
) -> None:
    _print('torch threads', torch.get_num_threads())
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        _print('GPU', f'{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB')
    numpy, torchvision = loaded.get('numpy'), loaded.get('torchvision')
    try:
        numpy and torch.from_numpy(numpy.zeros(1))
    except Exception as error:
        faults.append(f'torch and numpy do not work together: {error}')
    try:
        torchvision and torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        faults.append(f'torch and torchvision do not work together: {error}')
    try:
        report = import_module('torch.utils.collect_env').get_pretty_env_info()
    except Exception as error:  # it starts other programs
        remarks.append(f'torch.utils.collect_env failed: {error}')
        return
    print(f'\n{report}\n')
    flags = re.search(r'^Flags:(.+)$', report, re.MULTILINE)
    if flags and not _BFLOAT16_FLAGS & set(flags[1].split()):
        remarks.append('this CPU has no bfloat16 instructions: --amp is not faster on it')


if __name__ == '__main__':
    cli.run(lambda: sys.exit(main(sys.argv[1:])))
