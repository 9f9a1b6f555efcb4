from __future__ import annotations

from collections import Counter

import pytest
from splits import find_original, name_groups, read_shares, split_groups


@pytest.mark.follows('--split needs the shares of', 'the shares of --split must add up to 1')
@pytest.mark.parametrize(
    ('text', 'error'),
    [
        ('0.8', r'shares of train,val or train,val,test.*such as 0.8,0.2'),
        ('1,0', 'each above 0'),
        ('80,20', 'each above 0'),
        ('0.8;0.2', "got '0.8;0.2'"),
        ('nan,0.5', 'each above 0'),
        ('0.7,0.2', r'must add up to 1, got 0.7,0.2: 0.9'),
        ('0.4,0.3,0.2,0.1', 'train,val or train,val,test'),
    ],
)
def test_shares_that_are_refused(text, error):
    with pytest.raises(ValueError, match=error):
        read_shares(text)
    assert read_shares('0.8,0.2') == [0.8, 0.2]  # as advised


def test_shares():
    assert read_shares('0.7,0.2,0.1') == [0.7, 0.2, 0.1]  # 0.7 + 0.2 + 0.1 is not 1


@pytest.mark.parametrize(
    ('count', 'shares', 'sizes'),
    [
        (10, [0.8, 0.2], [8, 2]),
        (101, [0.7, 0.2, 0.1], [71, 20, 10]),
        (3, [0.98, 0.01, 0.01], [1, 1, 1]),
        (5, [0.99, 0.01], [4, 1]),
    ],
)
def test_sizes_of_the_splits(count, shares, sizes):
    names = [f'{number}.jpg' for number in range(count)]
    numbers = split_groups(names, [()] * count, shares, 0, False)
    found = Counter(numbers)
    assert [found[number] for number in range(len(shares))] == sizes
    assert split_groups(names, [()] * count, shares, 0, False) == numbers
    reordered = split_groups(names[::-1], [()] * count, shares, 0, False)
    assert reordered[::-1] == numbers


def test_the_seed_changes_the_split():
    names = [f'{number}.jpg' for number in range(30)]
    splits = {tuple(split_groups(names, [()] * 30, [0.5, 0.5], seed, False)) for seed in range(5)}
    assert len(splits) == 5


def test_groups_are_not_divided():
    names = [f'{video}_{frame}.jpg' for video in 'abcde' for frame in range(4)]
    groups = name_groups(names, r'^(\w)_')
    numbers = split_groups(groups, [()] * 20, [0.8, 0.2], 1, False)
    assert sorted(Counter(zip(groups, numbers)).values()) == [4] * 5
    assert Counter(numbers) == {0: 16, 1: 4}


def test_each_split_has_its_share_of_a_rare_class():
    """Of 100 images 10 have the only boxes of a rare class."""
    labels = [['common', *(['rare'] if number % 10 == 3 else [])] for number in range(100)]
    names = [f'{number:03}.jpg' for number in range(100)]
    for seed in range(5):
        numbers = split_groups(names, labels, [0.8, 0.2], seed, True)
        assert Counter(numbers) == {0: 80, 1: 20}
        assert Counter(n for n, of_image in zip(numbers, labels) if 'rare' in of_image) == {
            0: 8,
            1: 2,
        }


def test_names_of_groups():
    names = ['cam1_001.jpg', 'cam1_002.jpg', 'cam2_001.jpg', 'other.jpg', 'cam.jpg']
    expected = ['group cam1', 'group cam1', 'group cam2', 'image other.jpg', 'image cam.jpg']
    assert name_groups(names, r'cam\d') == expected
    assert name_groups(names, r'^(cam\d)_') == expected


def test_copies_of_roboflow():
    names = ['a_jpg.rf.0a1b2c.jpg', 'train/a_jpg.rf.ffff00.jpg', 'b_jpg.rf.0a1b2c.jpg', 'a.rf.jpg']
    assert [find_original(name) for name in names] == [
        'a_jpg.jpg',
        'a_jpg.jpg',
        'b_jpg.jpg',
        'a.rf.jpg',
    ]
    assert len(set(name_groups(names, None))) == 3
    assert len(set(name_groups(names, r'^\w'))) == 2  # not of the hash, not of the folder


@pytest.mark.parametrize(
    ('pattern', 'error'),
    [('(', 'is no regular expression'), (r'video\d', "is in no file name, such as 'a.jpg'")],
)
def test_patterns_that_are_refused(pattern, error):
    with pytest.raises(ValueError, match=error):
        name_groups(['a.jpg', 'b.jpg'], pattern)


@pytest.mark.follows('groups cannot fill')
def test_fewer_groups_than_splits():
    with pytest.raises(ValueError, match='3 images in 1 groups cannot fill 2 splits: leave out'):
        split_groups(['a', 'a', 'a'], [()] * 3, [0.5, 0.5], 0, False)
    groups = name_groups(['a1.jpg', 'a2.jpg'], None)  # as advised
    assert sorted(split_groups(groups, [()] * 2, [0.5, 0.5], 0, False)) == [0, 1]
