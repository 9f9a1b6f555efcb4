"""Print what a bug report needs: `python -m ghmdet.env`.

Versions, hardware, variables of the environment, what is missing, too old, broken or in conflict.
Exit code 0 if all that ghmdet requires is there and can be imported, else 1.

Uses the standard library only and imports each package by name when its turn comes, so that it has
something to say where torch, or anything else, is missing or broken.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import ghmdet

# Distributions that bring the same module; the first of each is what ghmdet asks for.
_SAME_MODULE = {
    'mmcv-lite': ('mmcv-lite', 'mmcv', 'onedl-mmcv'),
    'mmengine': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'opencv-python': (
        'opencv-python',
        'opencv-python-headless',
        'opencv-contrib-python',
        'opencv-contrib-python-headless',
    ),
}
_MODULES = {
    'mmcv-lite': 'mmcv.cnn',
    'opencv-python': 'cv2',
    'pillow': 'PIL.Image',
    'pycocotools': 'pycocotools.mask',
    'faster-coco-eval': 'faster_coco_eval',
}
# Not required, but they have a part in known faults.
_ALSO_TOLD = ('setuptools', 'packaging', 'yapf', 'matplotlib', 'transformers', 'mmdet')
_VARIABLES = (
    *('GHMDET_DATA_ROOT', 'GHMDET_DOWNLOAD_TIMEOUT', 'GHMDET_TRUST_CHECKPOINT'),
    *('MMENGINE_HOME', 'TORCH_HOME', 'PYTHONPATH', 'CXX', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS'),
    *('CUDA_VISIBLE_DEVICES', 'PYTORCH_CUDA_ALLOC_CONF', 'OPENCV_IO_MAX_IMAGE_PIXELS'),
    *('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    *('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS', 'SLURM_NNODES', 'SLURM_NODELIST'),
    *('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
    'OMPI_COMM_WORLD_LOCAL_SIZE',
)
_CPU_FLAGS = ('avx2', 'f16c', 'avx512f', 'avx512_bf16', 'amx_bf16', 'asimd', 'sve', 'bf16')
_BFLOAT16_FLAGS = {'avx512_bf16', 'amx_bf16', 'bf16'}


def main() -> int:
    """Print the report and return the exit code."""
    faults: list[str] = []
    remarks: list[str] = []
    _tell('ghmdet', f'{ghmdet.__version__} from {Path(ghmdet.__file__).parent}{_describe_commit()}')
    _tell('Python', f'{platform.python_version()} ({sys.executable})')
    _tell('system', platform.platform())
    cpu, flags = _read_cpu()
    _tell('CPU', f'{cpu}, {os.cpu_count()} cores, {", ".join(flags) or "instructions unknown"}')
    if flags and not _BFLOAT16_FLAGS & set(flags):
        remarks.append('this CPU has no bfloat16 instructions: --amp on it saves no time')
    if Path('/dev/shm').is_dir():  # loader workers hand images over through it
        _tell('shared memory', f'{shutil.disk_usage("/dev/shm").total / 2**30:.1f} GiB')

    requirements = _read_requirements(faults)
    print()
    for name, least in requirements:
        _describe_package(name, least, faults, remarks)
    for name in _ALSO_TOLD:
        _tell(name, _version(name) or 'none')

    print()
    for name in _VARIABLES:
        if name in os.environ or name.startswith('GHMDET_'):
            _tell(name, repr(os.environ[name]) if name in os.environ else 'not set')

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

    for title, told in (('remark', remarks), ('FAULT', faults)):
        for text in told:
            print(f'{title}: {text}')
    print(
        f'ghmdet will not work as it should: {len(faults)} of the above'
        if faults
        else 'all that ghmdet requires is there'
    )
    return 1 if faults else 0


def _tell(name: str, value: object) -> None:
    print(f'{name + ":":27} {value}', flush=True)


def _describe_commit() -> str:
    """The commit, if the package lies in a git checkout of its own."""
    root = Path(ghmdet.__file__).resolve().parents[1]
    if not (root / '.git').exists():
        return ''
    try:
        commit, changes = (
            subprocess.run(
                ['git', '-C', str(root), *command], capture_output=True, text=True, timeout=20
            ).stdout.strip()
            for command in (
                ('rev-parse', '--short=10', 'HEAD'),
                ('status', '--porcelain', '--untracked-files=no'),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return ', a checkout'
    return f', commit {commit or "unknown"}{" with changes" if changes else ""}'


def _read_cpu() -> tuple[str, list[str]]:
    """The CPU's name, and those of its instructions that matter for speed."""
    name = platform.processor() or platform.machine()
    if sys.platform == 'darwin':
        command = ['sysctl', '-n', 'machdep.cpu.brand_string']
        try:
            return subprocess.run(command, capture_output=True, text=True).stdout.strip(), []
        except OSError:
            return name, []
    try:
        text = Path('/proc/cpuinfo').read_text()
    except OSError:
        return name, []
    model = re.search(r'^model name\s*: (.+)$', text, re.MULTILINE)
    found = re.search(r'^(?:flags|Features)\s*: (.+)$', text, re.MULTILINE)
    has = set(found[1].split()) if found else set()
    return model[1] if model else name, [flag for flag in _CPU_FLAGS if flag in has]


def _read_requirements(faults: list[str]) -> list[tuple[str, str]]:
    """Names and least versions, from the metadata or, in a checkout, from its file."""
    needed: list[str] | None = None
    try:
        needed, python = metadata.requires('ghmdet'), metadata.metadata('ghmdet')['Requires-Python']
        if _older(platform.python_version(), (python or '').removeprefix('>=')):
            faults.append(f'Python {platform.python_version()} is older than {python}')
    except metadata.PackageNotFoundError:
        _tell('installed', 'no metadata of ghmdet')
    root = Path(ghmdet.__file__).resolve().parents[1]
    file = root / 'requirements.txt'
    if file.is_file() and (root / 'pyproject.toml').is_file():  # newer than an editable install
        needed = file.read_text().split()
    if not needed:
        faults.append('what ghmdet requires is not known: there is no metadata of it')
    parts = [re.match(r'([\w.-]+)\s*(?:>=\s*([\d.]+))?', text) for text in needed or ()]
    optional = ['extra ==' in text for text in needed or ()]
    return [(p[1], p[2] or '') for p, no in zip(parts, optional, strict=True) if p and not no]


def _describe_package(name: str, least: str, faults: list[str], remarks: list[str]) -> None:
    found = [(each, _version(each)) for each in _SAME_MODULE.get(name, (name,))]
    there = [(each, version) for each, version in found if version]
    known = ', '.join(v if n == name else f'{n} {v}' for n, v in there)
    module = _MODULES.get(name, name).partition('.')[0]
    _tell(name, known or (f'no metadata, but {module} is there' if _has(module) else 'MISSING'))
    if not there and not _has(module):
        faults.append(f'{name} is missing: pip install "{name}{">=" if least else ""}{least}"')
    for each, version in there:
        if _older(version, least):
            faults.append(
                f'{each} {version} is older than {least}: pip install -U "{each}>={least}"'
            )
    if len(there) > 1:
        names = ' and '.join(each for each, _ in there)
        remarks.append(
            f'{names} are both installed and write the same files: pip uninstall both, then '
            'install one'
        )


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
    """Compare the numbers that two versions begin with."""

    def numbers(text: str) -> list[int]:
        found = re.match(r'\d+(?:[.]\d+)*', text)
        return [int(part) for part in found[0].split('.')] if found else []

    ours, theirs = numbers(version), numbers(least)
    length = max(len(ours), len(theirs))
    return ours + [0] * (length - len(ours)) < theirs + [0] * (length - len(theirs))


def _import(module: str, faults: list[str]) -> ModuleType | None:
    try:
        return import_module(module)
    except Exception as error:  # whatever a broken package raises
        told = (str(error).strip().splitlines() or [''])[0]
        faults.append(f'{module} cannot be imported: {type(error).__name__}: {told}')
        return None


def _describe_torch(
    torch: ModuleType, loaded: dict[str, ModuleType | None], faults: list[str], remarks: list[str]
) -> None:
    _tell('torch threads', torch.get_num_threads())
    _tell('torch built for', f'CUDA {torch.version.cuda}' if torch.version.cuda else 'no CUDA')
    for text in _describe_gpus(torch, remarks):
        _tell('GPU', text)
    if loaded.get('numpy'):
        try:
            torch.from_numpy(loaded['numpy'].zeros(1))  # type: ignore[union-attr]
        except Exception as error:
            faults.append(f'torch and numpy do not fit together: {error}')
    if torchvision := loaded.get('torchvision'):
        try:
            torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        except Exception as error:
            faults.append(f'torch and torchvision do not fit together: {error}')


def _describe_gpus(torch: ModuleType, remarks: list[str]) -> Iterator[str]:
    if not torch.cuda.is_available():
        mps = getattr(torch.backends, 'mps', None)
        yield 'Apple (mps)' if mps is not None and mps.is_available() else 'none'
        if torch.version.cuda and shutil.which('nvidia-smi'):
            remarks.append('nvidia-smi is there but torch finds no GPU: is the driver too old?')
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield f'{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB'
        majors = {name.split('_')[1][:-1] for name in torch.cuda.get_arch_list() if '_' in name}
        if majors and str(gpu.major) not in majors:
            remarks.append(f'this torch was not built for {gpu.name} (sm_{gpu.major}{gpu.minor})')


if __name__ == '__main__':
    sys.exit(main())
