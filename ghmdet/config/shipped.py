"""The configs that ghmdet ships: their files, values and published weights by name.

Names of one config: `retinanet_ghm_r50_fpn_1x_coco`, also with its folder, `.py` or mmengine's
prefix, `ghmdet::ghm/retinanet_ghm_r50_fpn_1x_coco.py`, and the alias in the metafile, its name in
MMDetection: `retinanet_r50_fpn_ghm-1x_coco`. Needs no torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.fileio import load

from ghmdet.config import package_lookup
from ghmdet.config.from_mmdet import convert_mmdet_config
from ghmdet.config.parts import make_plain
from ghmdet.files import explain_look_alike
from ghmdet.messages import did_you_mean, nearest

MIM_ROOT = Path(__file__).parents[1] / '.mim'
CONFIG_ROOT = MIM_ROOT / 'configs'

_PREFIX = 'ghmdet::'
_THEIR_PREFIX = 'mmdet::'
_original_package_and_path = config_utils._get_package_and_cfg_path


def config_path(name: str | os.PathLike[str]) -> str:
    """Return the file of a shipped config, for `Config.fromfile` or a `_base_` of your own.

    `name` is a path below `configs/`, with or without `.py` and a leading `ghmdet::`.

    Raises:
        FileNotFoundError: there is no such config; the message gives the nearest names.
    """
    return str((CONFIG_ROOT / f'{_shipped_name(name)}.py').resolve())


def get_config(name: str | os.PathLike[str]) -> Config:
    """Read a config: a file of yours, or one that ghmdet ships.

    `name` is the path of an existing file, which goes first, or a name as for `config_path`. A file
    written for MMDetection is converted (see `convert_mmdet_config`).

    Raises:
        FileNotFoundError: it is neither.
        ValueError: the file has keys of MMDetection 2.x.
    """
    cfg = Config.fromfile(_existing_file(name) or config_path(name))
    make_plain(cfg._cfg_dict)
    convert_mmdet_config(cfg)
    return cfg


def published_weights(config: str | os.PathLike[str] | Config) -> str:
    """Return the URL of the weights that were published for a shipped config.

    Raises:
        FileNotFoundError: neither a file nor a name, see `get_config`.
        LookupError: there are none; the message lists the configs that have some.
    """
    name = config.filename if isinstance(config, Config) else config
    path = None if name is None else Path(_existing_file(name) or config_path(name)).resolve()
    urls = {model['Name']: model['Weights'] for model in _published_models()}
    if path is None or CONFIG_ROOT.resolve() not in path.parents or path.stem not in urls:
        raise LookupError(
            f'no weights are published for {path or "a config without a file"}, only for: '
            f'{", ".join(urls)}; use your own checkpoint'
        )
    return urls[path.stem]


def shipped_values(name: str) -> dict[str, Any]:
    """Values of a shipped config, for its lazy twin in `ghmdet/configs`."""
    return Config.fromfile(config_path(name)).to_dict()


def patch_flat_names() -> None:
    """Accept the names of `config_path` after `ghmdet::`, and suggest near names.

    mmengine needs the folder and `.py`, and says of a typing error only that a file is missing
    (requested in https://github.com/open-mmlab/mim/issues/86).
    """
    package_lookup.rebind(config_utils._get_package_and_cfg_path, _get_package_and_cfg_path)


def _get_package_and_cfg_path(cfg_path: str) -> tuple[str, str]:
    """Package and path of a `package::name`; without MMDetection, `mmdet::` means our configs."""
    theirs = cfg_path.startswith(_THEIR_PREFIX) and not package_lookup.is_installed('mmdet')
    if not (theirs or cfg_path.startswith(_PREFIX)):
        return _original_package_and_path(cfg_path)
    name = _shipped_name(cfg_path.removeprefix(_THEIR_PREFIX))
    in_folder = [other for other in _shipped_names() if other.split('/')[1:] == [name]]
    return 'ghmdet', f'{(in_folder or [name])[0]}.py'


def _existing_file(name: str | os.PathLike[str]) -> str | None:
    file = os.path.expanduser(name)
    return file if os.path.isfile(file) else None


def _shipped_name(name: str | os.PathLike[str]) -> str:
    """Path below `configs/` without `.py`."""
    wanted = Path(os.fspath(name).removeprefix(_PREFIX)).as_posix().removesuffix('.py')
    names = _shipped_names()
    if wanted in names:
        return wanted
    for model in _published_models():
        published = model['Config'].removeprefix('configs/').removesuffix('.py')
        aliases = model.get('Alias', [])
        if wanted in (*aliases, *(f'{published.split("/")[0]}/{alias}' for alias in aliases)):
            return published
    recipes = [other for other in names if '/' not in other]
    last = wanted.split('/')[-1]
    near = [last] if last in recipes else nearest(last, recipes, count=3, cutoff=0.6)
    raise FileNotFoundError(
        f'no config {os.fspath(name)!r} in ghmdet, and no such file{explain_look_alike(name)}'
        f'{did_you_mean(near) or "."} '
        f'ghmdet has: {", ".join(recipes)}'
    )


def _published_models() -> list[dict[str, Any]]:
    metafiles = load(MIM_ROOT / 'model-index.yml')['Import']
    return [model for metafile in metafiles for model in load(MIM_ROOT / metafile)['Models']]


def _shipped_names() -> list[str]:
    """Paths below `configs/` without `.py`, recipes first."""
    files = [file.relative_to(CONFIG_ROOT) for file in CONFIG_ROOT.rglob('*.py')]
    names = [file.with_suffix('').as_posix() for file in files]
    return sorted(names, key=lambda name: (name.count('/'), name))
