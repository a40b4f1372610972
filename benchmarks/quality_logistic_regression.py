"""A hashed logistic regression on Criteo rows: the linear model that DLRM has to beat.

Every category becomes the hashed indicator of "column=value", blanks included; every integer
comes twice, as a standardised `log(1 + max(x, 0))` and as a hashed indicator. The L2 strength and
whether the indicator is of the integer itself or of its bucket are chosen on the last seventh of
the training rows, and only then is the model fitted to all training rows and scored, once, on the
evaluation rows:

    python benchmarks/quality_logistic_regression.py --input=train.txt

Needs NumPy, SciPy and scikit-learn. The last line on standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from criteo_rows import DENSE_COLUMNS, CriteoRows, load_rows, report, score, split_last_day
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression

HASH_BITS = 20
INTEGER_FORMS = ("bucket", "value")
INVERSE_STRENGTHS = (0.02, 0.03, 0.05, 0.07, 0.1)
MAX_ITERATIONS = 500


def hashed_indicators(rows: CriteoRows, integer_form: str) -> sparse.csr_matrix:
    """Hashes "column=value" of all 39 columns.

    Args:
        rows: The rows.
        integer_form: "value" takes an integer as it is; "bucket" takes `floor(log(x) ** 2)`
            above 2, as the winners of the Criteo Kaggle contest did, and the integer below.

    Returns:
        `[rows, 2 ** HASH_BITS]`, 39 ones in a row but for collisions.
    """
    if integer_form == "bucket":
        above_two = rows.dense > 2
        logs = np.log(rows.dense, where=above_two, out=np.zeros_like(rows.dense))
        integers = np.where(above_two, np.floor(logs**2), rows.dense)
        kinds = np.where(above_two, "B", "I")
    else:
        integers = rows.dense
        kinds = np.full(rows.dense.shape, "I")

    def features() -> Iterator[list[str]]:
        for values, prefixes, categories in zip(integers, kinds, rows.categories, strict=True):
            row = [f"{prefixes[i]}{i}={values[i]:.0f}" for i in range(DENSE_COLUMNS)]
            row += [f"C{i}={value}" for i, value in enumerate(categories.tolist())]
            yield row

    hasher = FeatureHasher(2**HASH_BITS, input_type="string", alternate_sign=False)
    return hasher.transform(features())


def log_integers(rows: CriteoRows) -> np.ndarray:
    """Returns `log(1 + max(x, 0))` of the integers, `[rows, 13]`, blanks 0."""
    return np.log1p(np.maximum(np.nan_to_num(rows.dense, nan=0.0), 0.0))


def fit_and_predict(
    indicators: sparse.csr_matrix,
    logs: np.ndarray,
    labels: np.ndarray,
    fit_rows: int,
    inverse_strength: float,
) -> np.ndarray:
    """Fits the first rows and predicts the rest.

    Args:
        indicators: `[rows, 2 ** HASH_BITS]`.
        logs: `[rows, 13]`; standardised here, by the rows that are fitted.
        labels: `[rows]`.
        fit_rows: How many rows, from the first, are fitted.
        inverse_strength: scikit-learn's `C`.

    Returns:
        Click probabilities of the other rows.

    Raises:
        ValueError: The solver stopped before it converged.
    """
    mean, deviation = logs[:fit_rows].mean(axis=0), logs[:fit_rows].std(axis=0)
    numeric = sparse.csr_matrix((logs - mean) / np.where(deviation > 0, deviation, 1.0))
    features = sparse.hstack([indicators, numeric], format="csr")
    model = LogisticRegression(C=inverse_strength, max_iter=MAX_ITERATIONS)
    model.fit(features[:fit_rows], labels[:fit_rows])
    if model.n_iter_.max() >= MAX_ITERATIONS:
        raise ValueError(
            f"The fit with C={inverse_strength} had not converged after {MAX_ITERATIONS} "
            "iterations; its figures would not be those of the model."
        )
    return model.predict_proba(features[fit_rows:])[:, 1]


def main() -> None:
    """Reads the flags, chooses, evaluates and prints the result as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="Criteo Kaggle TSV")
    flags = parser.parse_args()
    try:
        rows = load_rows(flags.input)
        train, evaluation = split_last_day(rows)
        fit, holdout = split_last_day(train)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    started = time.perf_counter()

    train_indicators = {form: hashed_indicators(train, form) for form in INTEGER_FORMS}
    trials: list[dict[str, Any]] = []
    for form, strength in itertools.product(INTEGER_FORMS, INVERSE_STRENGTHS):
        predictions = fit_and_predict(
            train_indicators[form], log_integers(train), train.labels, len(fit), strength
        )
        holdout_score = score(holdout.labels, predictions)
        trials.append({"integer_form": form, "inverse_strength": strength, **holdout_score})
        report(f"{time.perf_counter() - started:.0f} s: {trials[-1]}")
    best = max(trials, key=lambda trial: trial["auc"])

    predictions = fit_and_predict(
        sparse.vstack(
            [
                train_indicators[best["integer_form"]],
                hashed_indicators(evaluation, best["integer_form"]),
            ],
            format="csr",
        ),
        log_integers(rows),
        rows.labels,
        len(train),
        best["inverse_strength"],
    )
    result = {
        "train_rows": len(train),
        "evaluation_rows": len(evaluation),
        "hash_bits": HASH_BITS,
        "chosen_on_holdout": best,
        **score(evaluation.labels, predictions),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
