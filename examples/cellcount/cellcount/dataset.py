"""The dataset: ghmdet's CocoDataset with another annotation format."""

from __future__ import annotations

import os

from cellcount.table import read_table
from ghmdet.datasets import CocoDataset
from ghmdet.registry import DATASETS


@DATASETS.register_module()
class CellDataset(CocoDataset):
    """The images of a table, see `cellcount.table`; filters and checks are CocoDataset's."""

    METAINFO = dict(classes=('red', 'white'), palette=[(220, 60, 60), (120, 120, 255)])

    def load_data_list(self) -> list[dict]:
        """Read `ann_file`, a CSV table."""
        images = read_table(self.ann_file, self.metainfo['classes'])
        for image in images:
            image['img_path'] = os.path.join(self.data_prefix['img'], image['img_id'])
        return images
