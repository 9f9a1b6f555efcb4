"""ImageFolder: the images of a folder, without annotations."""

from __future__ import annotations

from pathlib import Path

from ghmdet.datasets.coco import CocoDataset
from ghmdet.datasets.image_file import read_image_sizes
from ghmdet.registry import DATASETS

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


@DATASETS.register_module()
class ImageFolder(CocoDataset):
    """All images in a folder and its subfolders, sorted by name; for `tools/test.py --images`.

    The path of an image relative to the folder is its `img_id`. There is no annotation file, so
    this is for tests that only write detections.

    Args:
        data_prefix: `img` is the folder.
        **kwargs: of `CocoDataset`; `test_mode` must be True.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: there is no image in it.
        ImageError: a file is no image.
    """

    def load_data_list(self) -> list[dict]:
        """List the images with their sizes, which are read from their headers."""
        root = Path(self.data_prefix['img'])
        if not root.is_dir():
            raise NotADirectoryError(f'expected a folder of images, but {str(root)!r} is none')
        # Names that begin with a dot are not images but files that macOS adds.
        files = [file for file in root.rglob('[!.]*') if file.suffix.lower() in SUFFIXES]
        if not files:
            raise ValueError(
                f'{root}: no image in this folder; looked for {", ".join(SUFFIXES)} there and in '
                'its subfolders'
            )
        names = sorted(file.relative_to(root).as_posix() for file in files)
        as_shown = not self.image_loader.color_type.endswith('orientation')
        sizes_wh = [read_image_sizes(root / name)[as_shown] for name in names]
        return [
            dict(img_id=name, img_path=f'{root}/{name}', width=width, height=height, instances=[])
            for name, (width, height) in zip(names, sizes_wh, strict=True)
        ]
