"""The losses again, as slow loops over pairs in float64: what the fast ones are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence

Matrix = list[list[float]]


def unit(rows: Sequence[Sequence[float]]) -> Matrix:
    return [[value / math.sqrt(sum(other * other for other in row)) for value in row] for row in rows]


def products(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], scale: float = 1.0) -> Matrix:
    return [[scale * sum(a * b for a, b in zip(one, two, strict=True)) for two in second] for one in first]


def log_softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    whole = top + math.log(sum(math.exp(value - top) for value in row))
    return [value - whole for value in row]


def cross_entropy(rows: Sequence[Sequence[float]], wanted: Sequence[int]) -> float:
    return -sum(log_softmax(row)[want] for row, want in zip(rows, wanted, strict=True)) / len(wanted)


def transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def divergence(score: Matrix, target: Matrix, epsilon: float = 1e-8) -> float:
    whole = 0.0
    for row, wanted in zip(score, target, strict=True):
        logs = log_softmax(row)
        for log_p, q in zip(logs, wanted, strict=True):
            whole += math.exp(log_p) * (log_p - math.log(q + epsilon))
    return whole / len(score)


def sdm(
    image: Matrix, text: Matrix, person: Sequence[int], temperature: float, picture: Sequence[int] | None = None
) -> float:
    size = range(len(person))
    match = [[0.0 for _ in size] for _ in size]
    for i in size:
        for j in size:
            if person[i] == person[j]:
                match[i][j] = 1.0 if picture is None or picture[i] == picture[j] else 0.3
            elif picture is not None and picture[i] == picture[j]:
                match[i][j] = 0.7
    target = [[match[i][j] / sum(match[j]) for j in size] for i in size]
    score = products(unit(text), unit(image), 1 / temperature)
    return divergence(score, target) + divergence(transposed(score), target)


def itc(image: Matrix, text: Matrix, temperature: float) -> float:
    score, own = products(unit(image), unit(text), 1 / temperature), range(len(image))
    return (cross_entropy(score, own) + cross_entropy(transposed(score), own)) / 2


def cmpm(image: Matrix, text: Matrix, person: Sequence[int]) -> float:
    size = range(len(person))
    target = [[0.0 for _ in size] for _ in size]
    for i in size:
        for j in size:
            matches = sum(person[j] == person[k] for k in size)
            target[i][j] = (person[i] == person[j]) / math.sqrt(matches)
    return divergence(products(image, unit(text)), target) + divergence(products(text, unit(image)), target)


def masked(score: Sequence[Matrix], label: Sequence[Sequence[int]]) -> float:
    costs = [
        -log_softmax(score[row][place])[word]
        for row, words in enumerate(label)
        for place, word in enumerate(words)
        if word
    ]
    return sum(costs) / len(costs)
