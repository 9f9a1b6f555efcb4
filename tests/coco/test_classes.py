"""Which categories of a file are classes, and which id a class has."""

import json

import pytest

from ghmdet.coco.classes import find_classes, match_classes
from ghmdet.coco.reader import read_coco
from ghmdet.coco.records import CategoryRecord
from ghmdet.evaluation.coco_annotations import CocoAnnotations

IMAGE = dict(id=1, file_name='1.jpg', width=9, height=9)


def read(folder, categories, used=()):
    """A file with these (id, name, supercategory), and an annotation of each used id."""
    keys = ('id', 'name', 'supercategory')
    content = dict(
        images=[IMAGE],
        categories=[dict(zip(keys, category, strict=False)) for category in categories],
        annotations=[dict(image_id=1, category_id=id_, bbox=[1, 2, 3, 4]) for id_ in used],
    )
    (folder / 'a.json').write_text(json.dumps(content))
    return read_coco(str(folder / 'a.json'))


@pytest.mark.parametrize(
    ('categories', 'used', 'classes', 'roots'),
    [
        # as Roboflow writes them: the project, then its classes
        ([(0, 'pets', 'none'), (1, 'dog', 'pets'), (2, 'cat', 'pets')], [2], 'dog cat', 'pets'),
        ([(0, 'pets', 'none'), (1, 'dog', 'pets'), (2, 'cat', 'pets')], [], 'dog cat', 'pets'),
        ([(0, 'pets', 'none'), (1, 'dog', 'pets'), (2, 'cat', 'pets')], [0], 'pets dog cat', ''),
        # the project has the name of its class
        ([(0, 'dog', 'none'), (1, 'dog', 'dog')], [1], 'dog', ''),
        ([(0, 'dog', 'none'), (1, 'dog', 'dog'), (2, 'cat', 'dog')], [2], 'dog cat', ''),
        ([(0, 'dog', 'none'), (1, 'cat', 'dog'), (2, 'dog', 'dog')], [1, 2], 'cat dog', ''),
        # several roots, one below the other, in any order of the file
        ([(7, 'cat', 'pet'), (3, 'pet', 'beast'), (1, 'beast'), (2, 'fox', 'wild'), (5, 'wild')],
         [7], 'fox cat', 'beast pet wild'),
        # no roots: COCO's, without supercategory, with what is no name there
        ([(1, 'person', 'person'), (2, 'rider', 'person')], [2], 'person rider', ''),
        ([(1, 'cat', ''), (2, 'dog', None), (3, 'None', 'none'), (4, 'none', ['cat'])], [],
         'cat dog None none', ''),
        ([(1, 'cat', float('nan')), (2, 'nan', 5)], [1], 'cat nan', ''),
        ([(1, 'cat', 'dog'), (2, 'dog', 'cat')], [], 'cat dog', ''),
        # ids from 0 and as text, in their order
        ([('10', 'c'), ('9', 'b'), ('0', 'a')], ['9'], 'a b c', ''),
    ],
)  # fmt: skip
def test_a_root_is_no_class(tmp_path, categories, used, classes, roots):
    found = find_classes(read(tmp_path, categories, used))
    assert found.classes == tuple(classes.split())
    assert sorted(found.roots) == roots.split()


def test_of_two_categories_of_one_name_the_annotated_one_counts(tmp_path):
    """Class "a" has id 4 with annotations of 4, else that of the first category, 9."""
    categories = [(9, 'a'), (4, 'a'), (5, 'b')]
    for used, id_, note in (
        ([4, 5], 4, ["of the categories [4, 9] named 'a', only 4 has annotations and counts"]),
        ([9], 9, ["of the categories [4, 9] named 'a', only 9 has annotations and counts"]),
        ([5], 9, []),
    ):
        records = read(tmp_path, categories, used)
        annotated = records.annotations.category_ids
        assert match_classes(['b', 'a'], records.categories, 'a.json', annotated) == [5, id_]
        assert CocoAnnotations(records, 'a.json').find_categories(['b', 'a']) == [5, id_]
        assert find_classes(records).notes == note
    assert find_classes(read(tmp_path, categories, [4, 9])).notes == []  # an error, if it is used
    # labels are in the order of the ids that count
    assert find_classes(read(tmp_path, categories, [9])).classes == ('b', 'a')
    assert find_classes(read(tmp_path, categories, [4])).classes == ('a', 'b')


def test_two_annotated_categories_of_one_name_are_an_error_only_for_a_used_class():
    categories = [CategoryRecord(9, 'a'), CategoryRecord(4, 'a'), CategoryRecord(2, 'b')]
    assert match_classes(['b'], categories, 'ann.json', [9, 4]) == [2]
    with pytest.raises(
        ValueError, match=r"ann.json: .* ids of a name .*: \{'a': \[9, 4\]\}"
    ) as info:
        match_classes(['b', 'a'], categories, 'ann.json', [9, 4])
    assert 'the same category_id; if not, rename a category' in str(info.value)
    assert match_classes(['b', 'a'], categories, 'ann.json', [4]) == [2, 4]  # the same category_id
    categories[0].name = 'c'
    assert match_classes(['b', 'a', 'c'], categories, 'ann.json', [9, 4]) == [2, 4, 9]
