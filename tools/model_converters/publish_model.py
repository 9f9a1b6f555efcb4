"""Publish a checkpoint: weights, class names and config text, without the optimizer.

python tools/model_converters/publish_model.py IN OUT.pth
python tools/model_converters/publish_model.py IN OUT.safetensors

IN is a checkpoint of ghmdet, MMDetection 3.x or 2.x. The file written is called OUT-01234567.pth,
with the first 8 digits of its SHA-256, and `torch.load(weights_only=True)` can read it. It contains
the config text, including paths of this machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn
from uuid import uuid4

import numpy as np

from ghmdet import __version__, engine
from ghmdet.config.cli import LazyModule, add_debug_argument, run, user_path
from ghmdet.files import publish

torch = LazyModule('torch')
safetensors = LazyModule('safetensors.torch')
download = LazyModule('ghmdet.checkpoint.download')
SAFETENSORS = '.safetensors'
KEPT_META = ('epoch', 'iter', 'mmengine_version', 'mmdet_version', 'mmcv_version')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Publish a checkpoint without the optimizer.')
    parser.add_argument('checkpoint', metavar='IN', type=user_path, help='checkpoint to publish')
    parser.add_argument(
        'out',
        metavar='OUT',
        type=user_path,
        help='file to write, .pth or .safetensors; its hash is added',
    )
    parser.add_argument(
        '--save-keys',
        nargs='+',
        default=['meta'],
        help='keys of the checkpoint to keep besides state_dict (default: meta); for .pth only',
    )
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    if args.out.suffix not in ('.pth', SAFETENSORS):
        fail(f'expected OUT to end in .pth or {SAFETENSORS}, got {args.out}')
    checkpoint = engine.load_checkpoint_file(args.checkpoint)
    published = strip(checkpoint, args.save_keys)
    try:
        final = write(published, args.out)
    except OSError as error:
        fail(f'cannot write there: {error}')
    report(checkpoint, published, args.checkpoint, final)


def fail(message: str) -> NoReturn:
    raise ValueError(message)


def strip(checkpoint: Mapping[str, Any], save_keys: Sequence[str]) -> dict[str, Any]:
    """Return the parts of a checkpoint, or of a plain state dict, that are published.

    Args:
        checkpoint: as returned by `load_checkpoint_file`.
        save_keys: keys to keep besides `state_dict`. Of `meta` only what inference needs is kept,
            with the key names of MMDetection 3.x; other keys are not changed.

    Returns:
        A dict with `state_dict`, of CPU tensors with a storage each, and the given keys.
    """
    if 'state_dict' not in checkpoint:
        checkpoint = dict(state_dict=checkpoint)
    weights = checkpoint['state_dict']
    # MMDetection 2.x keeps a second copy of averaged weights in the state dict.
    copies = {'ema_' + name.replace('.', '_') for name in weights}
    published: dict[str, Any] = dict(
        state_dict={name: detached(v) for name, v in weights.items() if name not in copies}
    )
    for key in dict.fromkeys(save_keys):
        if key == 'meta':
            meta = checkpoint.get('meta')
            published['meta'] = inference_meta(meta if isinstance(meta, Mapping) else {})
        elif key not in checkpoint:
            fail(f'the checkpoint has no {key} to keep; it has {", ".join(checkpoint)}')
        elif key != 'state_dict':
            published[key] = checkpoint[key]
    return published


def detached(value: Any) -> Any:
    """A copy of a tensor with a storage of its own size; other values unchanged."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def inference_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Class names, config text and versions, from a `meta` of MMDetection 2.x, 3.x or ghmdet."""
    kept: dict[str, Any] = {key: plain(meta[key]) for key in KEPT_META if key in meta}
    kept['ghmdet_version'] = __version__
    if isinstance(text := meta.get('cfg') or meta.get('config'), str):
        kept['cfg'] = text
    # MMDetection 2.x writes meta.CLASSES, the first 3.x dataset_meta.CLASSES
    found = {str(key).lower(): value for key, value in (meta.get('dataset_meta') or meta).items()}
    classes, palette = found.get('classes'), found.get('palette')
    dataset_meta: dict[str, Any] = {}
    if classes:
        dataset_meta['classes'] = (classes,) if isinstance(classes, str) else tuple(plain(classes))
    if isinstance(palette, Sequence | np.ndarray) and not isinstance(palette, str):
        dataset_meta['palette'] = plain(palette)
    if dataset_meta:
        kept['dataset_meta'] = dataset_meta
    return kept


def plain(value: Any) -> Any:
    """Numpy values as values of Python."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def write(published: dict[str, Any], out: Path) -> Path:
    """Write the file, completely or not at all, and return its path, with digits in the name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f'{out.stem}.{uuid4().hex}.part')
    try:
        if out.suffix == SAFETENSORS:
            save_safetensors(published, draft)
        else:
            save_pth(published, draft)
        digits = download.file_sha256(draft)
        final = out.with_name(f'{out.stem}-{digits[:8]}{out.suffix}')
        if final.exists() and (not final.is_file() or download.file_sha256(final) != digits):
            fail(f'{final} exists and has another content, perhaps it is damaged: move it away')
        publish(draft, final)
    finally:
        draft.unlink(missing_ok=True)
    return final


def save_pth(published: dict[str, Any], draft: Path) -> None:
    with draft.open('wb') as stream:  # a path would become part of the file and of its hash
        torch.save(published, stream)
    try:
        torch.load(draft, map_location='cpu', weights_only=True)
    except UnpicklingError as error:
        fail(f'torch.load(weights_only=True) cannot read the keys in --save-keys: {error}')


def save_safetensors(published: dict[str, Any], draft: Path) -> None:
    weights = published['state_dict']
    others = [key for key in published if key not in ('state_dict', 'meta')]
    others += [name for name, value in weights.items() if not isinstance(value, torch.Tensor)]
    if others:
        fail(f'a {SAFETENSORS} file cannot contain {", ".join(others)}; use .pth')
    meta = dict(published.get('meta', {}))
    texts = {key: json.dumps(value) for key, value in meta.pop('dataset_meta', {}).items()}
    texts |= {key: str(value) for key, value in meta.items()}
    raw = safetensors.save(weights, metadata={'format': 'pt', **texts})
    # safetensors writes the texts in any order; sorted, the hash is always the same.
    length = int.from_bytes(raw[:8], 'little')
    header = json.loads(raw[8 : 8 + length])
    header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
    sorted_header = json.dumps(header, ensure_ascii=False, separators=(',', ':')).encode()
    padding = b' ' * (-len(sorted_header) % 8)
    with draft.open('wb') as stream:
        stream.write((len(sorted_header) + len(padding)).to_bytes(8, 'little'))
        stream.writelines((sorted_header, padding, memoryview(raw)[8 + length :]))


def report(
    checkpoint: Mapping[str, Any], published: Mapping[str, Any], source: Path, final: Path
) -> None:
    before, after = (file.stat().st_size / 1e6 for file in (source.expanduser(), final))
    bare = 'state_dict' not in checkpoint
    left_out = [] if bare else [key for key in checkpoint if key not in published]
    classes = published.get('meta', {}).get('dataset_meta', {}).get('classes', ())
    names = f'{len(classes)} class names' if classes else 'no class names, as IN has none'
    print(
        f'wrote {final}: {after:.1f} MB ({source}: {before:.1f} MB); '
        f'{len(published["state_dict"])} tensors, {names if "meta" in published else "no meta"}; '
        f'left out: {", ".join(left_out) or "nothing"}'
    )


if __name__ == '__main__':
    run(main)
