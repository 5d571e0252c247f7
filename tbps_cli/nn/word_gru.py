"""TextReID's text tower: a bidirectional GRU over word vectors, the largest value over the words.

Han et al., BMVC 2021. Parameter names are those of the released code. Its maximum runs over a batch
padded with zeros, so every caption but the batch's longest is floored at zero and a feature depends on
the rest of its batch. `floor = "always"` floors them all, as training did for nearly every caption;
`"batch"` does as released. The vectors are constants from outside, or a table of the tower's own that is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tbps_cli.nn.draw import draw_linear_uniform

Floor = Literal["always", "batch"]


class WordGRU(nn.Module):
    """[B, T, W] word vectors, or [B, T] ids, of [B] captions' lengths -> [B, 2 * hidden], float32.

    width: of the vectors (W). inside: what the GRU takes; a trained linear layer stands between when
    the two differ. hidden: units of each direction. rows: of a table of trained vectors that it holds itself,
    row 0 for padding; it then takes ids, and `width` is not used.
    """

    def __init__(
        self, *, width: int, inside: int, hidden: int, floor: Floor = "always", rows: int | None = None
    ) -> None:
        super().__init__()
        self.floor = floor
        self.embed: nn.Embedding | nn.Linear | None = None
        if rows is not None:
            self.embed = nn.Embedding(rows, inside, padding_idx=0)
        elif width != inside:
            self.embed = nn.Linear(width, inside)
        self.gru = nn.GRU(inside, hidden, bias=False, bidirectional=True, batch_first=True)

    @property
    def out(self) -> int:
        """Length of a caption's vector."""
        return 2 * self.gru.hidden_size

    def forward(self, words: Tensor, length_B: Tensor) -> Tensor:
        largest_BD = self.sequence(words, length_B).amax(1)
        return largest_BD.clamp(min=0) if self.floor == "always" else largest_BD

    def sequence(self, words: Tensor, length_B: Tensor) -> Tensor:
        """Outputs at each word, forward units first, zeros after a caption's end; T is the longest caption.

        The backward direction begins at each caption's own last word. A caption without words reads one
        place of padding.
        """
        with torch.autocast(words.device.type, enabled=False):
            given = words if isinstance(self.embed, nn.Embedding) else words.float()
            x_BTW = given if self.embed is None else self.embed(given).float()
            if torch.compiler.is_exporting():
                return self._as_operation(x_BTW, length_B)
            packed = pack_padded_sequence(x_BTW, length_B.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]

    def initialise(self, generator: torch.Generator) -> None:
        """As PyTorch draws them: a GRU and a linear layer uniform, vectors of words normal."""
        for weight in self.gru.parameters():
            bound = self.gru.hidden_size**-0.5
            nn.init.uniform_(weight, -bound, bound, generator=generator)
        if isinstance(self.embed, nn.Linear):
            draw_linear_uniform([self.embed], generator)
        elif self.embed is not None:
            with torch.no_grad():
                self.embed.weight.normal_(generator=generator)[0] = 0

    def _as_operation(self, x_BTW: Tensor, length_B: Tensor) -> Tensor:
        """The same as ONNX's own GRU, which knows lengths: packing has no counterpart in a graph."""
        input_2GW, hidden_2GH = (
            torch.stack([_onnx_order(getattr(self.gru, f"weight_{kind}_l0{way}")) for way in ("", "_reverse")])
            for kind in ("ih", "hh")
        )
        batch, words, _ = x_BTW.shape
        state_T2BH = torch.onnx.ops.symbolic(
            "GRU",
            (x_BTW.transpose(0, 1), input_2GW, hidden_2GH, None, length_B.clamp(min=1).to(torch.int32)),
            attrs={"direction": "bidirectional", "hidden_size": self.gru.hidden_size, "linear_before_reset": 1},
            dtype=torch.float32,
            shape=(words, 2, batch, self.gru.hidden_size),
            version=20,
        )
        return state_T2BH.permute(2, 0, 1, 3).flatten(2)


def read_gru(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """What the shapes of a WordGRU below `prefix` say, under the names of the recipes' keys.

    A table of vectors and a linear layer have one name; only the layer has a bias.
    """
    inside, embed = tensors[f"{prefix}gru.weight_ih_l0"].shape[1], tensors.get(f"{prefix}embed.weight")
    sizes = {"word_width": inside, "gru_input": inside, "hidden": tensors[f"{prefix}gru.weight_hh_l0"].shape[1]}
    if embed is None:
        return sizes
    if f"{prefix}embed.bias" in tensors:
        return sizes | {"word_width": embed.shape[1]}
    return sizes | {"word_vectors": "trained", "vocabulary": len(embed) - 1}


def _onnx_order(weight_GW: Tensor) -> Tensor:
    """PyTorch's gates stand as reset, update, new; ONNX wants update, reset, new."""
    reset, update, new = weight_GW.chunk(3)
    return torch.cat([update, reset, new])
