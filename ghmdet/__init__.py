"""ghmdet: RetinaNet with the GHM losses, config-driven.

Importing the package is cheap: no torch, no registration. Everything that can be named in a
config is registered when a registry of `ghmdet.registry` first needs it.
"""

from pathlib import Path

__version__ = '0.1.0'

CONFIG_ROOT = Path(__file__).parent / '.mim' / 'configs'


def config_path(name: str) -> str:
    """Return the file of a shipped config, for `Config.fromfile` or a `_base_` of your own.

    Args:
        name: path below `configs/`, with or without `.py`, e.g. `retinanet_ghm_r50_fpn_1x_coco`.

    Raises:
        FileNotFoundError: there is no such config; the message lists those there are.

    Example:
        >>> from ghmdet import config_path
        >>> Path(config_path('retinanet_ghm_r50_fpn_1x_coco')).name
        'retinanet_ghm_r50_fpn_1x_coco.py'
    """
    path = CONFIG_ROOT / (name if name.endswith('.py') else f'{name}.py')
    if not path.is_file():
        shipped = ', '.join(sorted(file.stem for file in CONFIG_ROOT.glob('*.py')))
        raise FileNotFoundError(f'no config {name!r} in ghmdet; shipped are: {shipped}')
    return str(path.resolve())
