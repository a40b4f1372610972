import numpy as np

from tfrecords.conversion.vocabulary import Counts, merged


def test_counts_are_added_and_the_first_place_stays_whatever_their_order():
    def counts(keys, numbers, ranks):
        return Counts(*(np.array(a, t) for a, t in ((keys, "u8"), (numbers, "i8"), (ranks, "i8"))))

    # The later piece comes first.
    both = merged([counts([2, 7], [3, 1], [90, 40]), counts([2, 5], [4, 1], [10, 11])])
    assert both.keys.tolist() == [2, 5, 7]
    assert both.counts.tolist() == [7, 1, 1]
    assert both.ranks.tolist() == [10, 11, 40]
