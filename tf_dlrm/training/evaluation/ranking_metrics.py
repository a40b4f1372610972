"""How well a model ranks one positive among negatives: hit ratio and NDCG."""

from __future__ import annotations

import numpy as np

from tf_dlrm.errors import UserError


def ranking_metrics(
    logits: np.ndarray, labels: np.ndarray, group_size: int, cutoff: int = 10
) -> dict[str, float]:
    """Returns the mean hit ratio and NDCG at a cutoff over groups of consecutive rows.

    The positive's rank r counts from 0. The hit ratio is 1 if r < cutoff; the NDCG, with one
    relevant item, log 2 / log(r + 2) if r < cutoff; else both are 0. Where negatives have the
    positive's score, all orders of them are equally likely, and both are the expected values: a
    model that scores all alike is as good as chance.

    Args:
        logits: [rows].
        labels: [rows], one of each group 1, the others 0.
        group_size: Rows of each group.
        cutoff: Length of the list that is judged.

    Raises:
        UserError: If the rows are no whole groups, or a group has not exactly one positive.

    References:
        He et al., Neural Collaborative Filtering, arXiv 1708.05031, section 4.1.
    """
    if labels.size % group_size:
        raise UserError(
            f"--ranking_group_size={group_size} does not divide the {labels.size} rows that were "
            "evaluated."
        )
    scores, positive = logits.reshape(-1, group_size), labels.reshape(-1, group_size) > 0.5
    bad = np.flatnonzero(positive.sum(1) != 1)
    if bad.size:
        first = int(bad[0]) * group_size
        raise UserError(
            f"--ranking_group_size={group_size}: each group needs one positive row, but rows "
            f"{first} to {first + group_size - 1} have {positive[bad[0]].sum()}."
        )
    own = scores[positive][:, np.newaxis]
    better = (scores > own).sum(1)
    tied = (scores == own).sum(1) - 1
    hits, gains = np.zeros(len(scores)), np.zeros(len(scores))
    for rank in range(min(cutoff, group_size)):
        chance = ((better <= rank) & (rank <= better + tied)) / (tied + 1)
        hits += chance
        gains += chance * np.log(2.0) / np.log(rank + 2.0)
    return {
        f"hit_ratio_at_{cutoff}": float(hits.mean()),
        f"ndcg_at_{cutoff}": float(gains.mean()),
    }
