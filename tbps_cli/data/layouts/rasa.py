"""RaSa's annotation (Bai et al., IJCAI 2023): processed_data/{train,val,test}.json, the raw records by split."""

from __future__ import annotations

from tbps_cli.data.layouts import tbps_clip
from tbps_cli.data.layouts.split_files import SplitFiles

FILES = SplitFiles(
    "RaSa", ("processed_data/{split}.json", "{split}.json", "annotations/{split}.json"), tbps_clip.add, tbps_clip.fits
)
