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
    image: Matrix, text: Matrix, person: Sequence[int], temperature: float, number: Sequence[int] | None = None
) -> float:
    size = range(len(person))
    match = [[0.0 for _ in size] for _ in size]
    for i in size:
        for j in size:
            if person[i] == person[j]:
                match[i][j] = 1.0 if number is None or number[i] == number[j] else 0.3
            elif number is not None and number[i] == number[j]:
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


def softmax(row: Sequence[float]) -> list[float]:
    return [math.exp(value) for value in log_softmax(row)]


def even(person: Sequence[int]) -> Matrix:
    return [[(one == other) / person.count(one) for other in person] for one in person]


def nitc(image: Matrix, text: Matrix, person: list[int], scale: float, softness: float, again: Matrix) -> float:
    """`again`: the captions that the soft targets see."""
    whole = 0.0
    for first, second, soft in ((image, text, again), (text, image, image)):
        score = products(unit(first), unit(second), scale)
        taught = products(unit(first if first is image else again), unit(soft), scale)
        for row, hard, soft_row in zip(score, even(person), taught, strict=True):
            target = [softness * s + (1 - softness) * h for s, h in zip(softmax(soft_row), hard, strict=True)]
            whole -= sum(t * log for t, log in zip(target, log_softmax(row), strict=True))
    return whole / len(person) / 2


def ritc(image: Matrix, text: Matrix, person: list[int], scale: float, epsilon: float) -> float:
    score, target = products(unit(image), unit(text), scale), even(person)
    return (divergence(score, target, epsilon) + divergence(transposed(score), target, epsilon)) / 2


def citc(image: Matrix, text: Matrix, within: float, across: float) -> float:
    image, text = unit(image), unit(text)
    inner, other, score = products(image, image), products(text, text), products(image, text)
    whole, size = 0.0, range(len(image))
    for i in size:
        for j in size:
            whole += within * (inner[i][j] - other[i][j]) ** 2 + across * (score[i][j] - score[j][i]) ** 2
    return whole / len(image) ** 2


def simclr(first: Matrix, second: Matrix, temperature: float) -> float:
    first, second, whole = unit(first), unit(second), 0.0
    for own, other in ((first, second), (second, first)):
        for i, row in enumerate(own):
            rest = [value for j, value in enumerate(own) if j != i]
            scores = [score / temperature for score in products([row], other + rest)[0]]
            whole -= log_softmax(scores)[i]
    return whole / len(first) / 2
