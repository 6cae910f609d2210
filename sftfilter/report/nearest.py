"""For each training prompt the evaluation prompts that are nearest to it: cosine of TF-IDF weights of character trigrams."""

from __future__ import annotations

from collections.abc import Sequence

NEAREST = 3
_READ = 2000
"""Characters of a prompt that count."""
_AT_ONCE = 1000


def nearest(prompts: Sequence[str], questions: Sequence[str]) -> list[list[tuple[int, float]]]:
    """For each prompt the places of up to `NEAREST` questions with their cosines, the nearest first.

    Trigrams serve scripts without spaces as well. A question without a trigram in common is not listed.
    """
    if not any(text.strip() for text in prompts) or not any(text.strip() for text in questions):
        return [[] for _ in prompts]
    from sklearn.feature_extraction.text import TfidfVectorizer

    weigh = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3), sublinear_tf=True)
    weights = weigh.fit_transform([text[:_READ] for text in (*prompts, *questions)])
    asked = weights[len(prompts) :].T.tocsr()
    found: list[list[tuple[int, float]]] = []
    for start in range(0, len(prompts), _AT_ONCE):
        cosines = (weights[start : min(start + _AT_ONCE, len(prompts))] @ asked).toarray()
        best = (-cosines).argsort(axis=1, kind="stable")[:, :NEAREST]
        found += [
            [(int(place), round(float(row[place]), 2)) for place in places if row[place] > 0]
            for row, places in zip(cosines, best, strict=True)
        ]
    return found
