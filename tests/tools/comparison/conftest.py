import pytest


@pytest.fixture
def cells(tmp_path):
    """A folder of data with one image's worth of files; the trainer does not read them."""
    (tmp_path / 'cells/annotations').mkdir(parents=True)
    (tmp_path / 'cells/images').mkdir()
    for split in ('train', 'val'):
        (tmp_path / f'cells/annotations/{split}.json').write_text('{}')
    return 'cells=cells'
