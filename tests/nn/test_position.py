"""Position tables on other grids, and the image size that a table tells."""

import pytest
import torch

from tbps_cli.errors import WeightsError
from tbps_cli.nn.position import grid_of, image_size_of, resize_context, resize_grid


def slow_resize(square: list[list[float]], rows: int, columns: int) -> list[list[float]]:
    """Bilinear between cell centres, edges repeated, one cell at a time."""

    def between(place: float, count: int) -> tuple[int, int, float]:
        place = min(max(place, 0.0), count - 1.0)
        low = int(place)
        return low, min(low + 1, count - 1), place - low

    side, out = len(square), []
    for row in range(rows):
        top, below, down = between((row + 0.5) * side / rows - 0.5, side)
        line = []
        for column in range(columns):
            left, right, across = between((column + 0.5) * side / columns - 0.5, side)
            upper = square[top][left] * (1 - across) + square[top][right] * across
            lower = square[below][left] * (1 - across) + square[below][right] * across
            line.append(upper * (1 - down) + lower * down)
        out.append(line)
    return out


def test_a_square_table_is_resized_bilinearly_row_by_row():
    table = torch.rand(1 + 16, 1, generator=torch.Generator().manual_seed(0))
    resized = resize_grid(table, (6, 2))
    expected = torch.tensor(slow_resize(table[1:, 0].reshape(4, 4).tolist(), 6, 2)).flatten()
    assert torch.equal(resized[0], table[0])
    assert (resized[1:, 0] - expected).abs().max() < 1e-6


def test_a_table_of_the_right_length_is_left_alone():
    table = torch.rand(1 + 12, 3)
    assert resize_grid(table, (6, 2)) is table
    assert resize_context(table, 13) is table


def test_a_text_table_keeps_its_first_and_last_row():
    table = torch.rand(77, 3)
    resized = resize_context(table, 50)
    assert resized.shape == (50, 3)
    assert torch.equal(resized[[0, -1]], table[[0, -1]])


@pytest.mark.parametrize(
    ("size", "patch", "stride"),
    [((384, 128), 16, 16), ((384, 128), 16, 12), ((384, 128), 14, 14), ((224, 224), 16, 16), ((96, 32), 16, 16)],
)
def test_the_image_size_is_read_off_a_position_table(size, patch, stride):
    rows, columns = grid_of(size, patch, stride)
    assert image_size_of(1 + rows * columns, patch, stride) == size


def test_a_table_of_no_usual_shape_asks_for_the_options():
    with pytest.raises(WeightsError, match="11 rows") as caught:
        image_size_of(11, 16, 16)
    assert "configs.yaml" in (caught.value.hint or "")
