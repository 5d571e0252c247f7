"""CUHK-PEDES (Li et al., CVPR 2017): the first benchmark; five older person sets with two captions an image."""

from __future__ import annotations

from tbps_cli.data.layouts.benchmark import Layout

LAYOUT = Layout(
    name="cuhk-pedes",
    title="CUHK-PEDES",
    aliases=("cuhk", "cuhkpedes"),
    folder="CUHK-PEDES",
    annotations=("reid_raw.json",),
    image_key="file_path",
    counts={"train": (11_003, 34_054, 68_126), "val": (1_000, 3_078, 6_158), "test": (1_000, 3_074, 6_156)},
    access="""\
Whom to ask: the authors of "Person Search with Natural Language Description" (CVPR 2017), by e-mail from
  your university address (the project page ShuangLI59/Person-Search-with-Natural-Language-Description on
  GitHub names tong.xiao.work at gmail.com). Say who you are, where you work and what it is for.
What you agree to: academic use only; no redistribution. The images come from CUHK01, CUHK03, Market-1501,
  SSM and VIPeR, whose own terms also bind you.
What arrives: an archive with the images and caption_all.json. reid_raw.json, which holds the splits, is a
  separate download from the data set's page: without it nothing can be trained or compared.""",
    tree="""\
CUHK-PEDES/
  reid_raw.json
  imgs/{cam_a,cam_b,CUHK01,CUHK03,Market,test_query,train_query}/...""",
)
