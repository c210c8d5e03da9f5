"""TF-IDF and logistic regression: what a text classifier without a language model makes of the same rows.

The same model as scikit-learn's `TfidfVectorizer` and `LogisticRegression` with their defaults. Why it is written here:
`docs/decisions/0060-reference-scores.md`. Import it in a worker alone, where it is used: it loads SciPy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, sparse, special

MOST_WORDS = 50_000
MOST_WEIGHTS = 2_500_000
"""Words times labels: the optimiser holds some twenty copies of them."""
_WORD = re.compile(r"\b\w\w+\b")
_ITERATIONS = 200


@dataclass(frozen=True)
class TextClassifier:
    """A fitted model: `predict` gives the label of each text."""

    labels: tuple[str, ...]
    words: dict[str, int]
    idf: Any
    weights: Any
    bias: Any

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[str]) -> TextClassifier:
        """Fit on texts and their labels, of which there are at least two kinds. Equal input gives an equal model."""
        counted = [_words(text) for text in texts]
        known = tuple(sorted(set(labels)))
        words = _vocabulary(counted, min(MOST_WORDS, MOST_WEIGHTS // len(known)))
        counts = _matrix(counted, words)
        idf = np.log((1 + len(texts)) / (1 + np.bincount(counts.indices, minlength=len(words)))) + 1
        place = {label: at for at, label in enumerate(known)}
        weights, bias = _regression(_weighted(counts, idf), np.array([place[label] for label in labels]), len(known))
        return cls(known, words, idf, weights, bias)

    def predict(self, texts: Sequence[str]) -> list[str]:
        rows = _weighted(_matrix([_words(text) for text in texts], self.words), self.idf)
        return [self.labels[at] for at in np.argmax(rows @ self.weights + self.bias, axis=1)]


def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.lower()))


def _vocabulary(counted: Sequence[Counter[str]], most: int) -> dict[str, int]:
    """The words of most texts, each with its column."""
    texts = Counter(word for words in counted for word in words)
    chosen = sorted(texts, key=lambda word: (-texts[word], word))[:most]
    return {word: at for at, word in enumerate(sorted(chosen))}


def _matrix(counted: Sequence[Counter[str]], words: dict[str, int]) -> Any:
    rows = [[(words[word], count) for word, count in found.items() if word in words] for found in counted]
    ends = np.cumsum([0, *(len(row) for row in rows)])
    columns = np.array([column for row in rows for column, _ in row], dtype=np.int64)
    values = np.array([count for row in rows for _, count in row], dtype=np.float64)
    return sparse.csr_matrix((values, columns, ends), shape=(len(rows), len(words)))


def _weighted(counts: Any, idf: Any) -> Any:
    """Counts times rarity, each text of length 1; one without a known word stays empty."""
    rows = counts.multiply(idf).tocsr()
    lengths = np.sqrt(rows.multiply(rows).sum(axis=1)).A1
    return sparse.diags(1 / np.where(lengths == 0, 1, lengths)) @ rows


def _regression(rows: Any, classes: Any, kinds: int) -> tuple[Any, Any]:
    """Weights and bias of the multinomial logistic regression with an L2 penalty of 1; the bias is not penalised."""
    size = rows.shape[1]
    is_of = np.zeros((rows.shape[0], kinds))
    is_of[np.arange(rows.shape[0]), classes] = 1

    def loss(flat: Any) -> tuple[float, Any]:
        weights, bias = flat[: size * kinds].reshape(size, kinds), flat[size * kinds :]
        likely = special.log_softmax(rows @ weights + bias, axis=1)
        off = np.exp(likely) - is_of
        value = -np.sum(likely * is_of) + 0.5 * np.sum(weights * weights)
        return float(value), np.concatenate([(rows.T @ off + weights).ravel(), off.sum(axis=0)])

    found = optimize.minimize(loss, np.zeros((size + 1) * kinds), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS})
    return found.x[: size * kinds].reshape(size, kinds), found.x[size * kinds :]
