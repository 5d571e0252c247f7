"""The pre-training sets by name: where each lies, what its annotation is called, and whom to ask for it.

Three of them circulate without a description of their annotation (HAM-PEDES, LUPerson-T, IIITD-20K): any annotation
in the folder is read if it has one of the known shapes. Captions that a set makes from a template of attributes
(SYNTH-PEDES' `prompt_caption`) are left out, as the published readers do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tbps_cli.data.layouts.pretraining import PretrainingLayout

_ANY = ("captions.json", "*.json", "*.jsonl", "*.parquet", "annotation/*.json", "annotations/*.json")
_PART = re.compile(r"(?:^|/)Part\d+/([^/]+)/[^/]+$")
_SLASH_N = re.compile(r"\s*/n(?![a-z])\s*")


def _stated(path: str, record: Mapping[str, object]) -> object:
    return record.get("id")


def _of_synth_pedes(path: str, record: Mapping[str, object]) -> object:
    """The person that a record states, or whose folder of SYNTH-PEDES an image lies in."""
    folder = _PART.search(path)
    return record.get("id", folder and folder[1])


def _without_slash_n(text: str) -> str:
    """WebPerson's captions hold "/n" where a line should break; in "black/navy" it belongs to the words."""
    return _SLASH_N.sub(" ", text).strip()


_SYNTH_TREE = "Part1/<person>/<number>.jpg ... Part11/..."
_LUPERSON = """\
The images are those of LUPerson, by request from its authors (DengpanFu/LUPerson on GitHub): research use only."""

LAYOUTS = (
    PretrainingLayout(
        name="synth-pedes",
        title="SYNTH-PEDES",
        aliases=("synthpedes",),
        folder="SYNTH-PEDES",
        annotations=("synthpedes_dataset.json",),
        image_key="file_path",
        person=_stated,
        access="""\
Whom to ask: the authors of "PLIP: Language-Image Pre-training for Person Representation Learning" (NeurIPS 2024);
  the links stand in the README of Zplusdragon/PLIP on GitHub (a Baidu drive; issue 7 there speaks of other ways).
What you agree to: research only, no commercial use. The images are those of LUPerson-NL.
What arrives: 46.7 GB in eleven parts, 4,791,711 images of 312,321 pseudo-persons with 12,138,157 captions.""",
        tree=f"SYNTH-PEDES/\n  synthpedes_dataset.json\n  {_SYNTH_TREE}",
    ),
    PretrainingLayout(
        name="mals",
        title="MALS",
        aliases=(),
        folder="MALS",
        annotations=("gene_attrs/g_*_attrs.json",),
        image_key="image",
        other_roots=("gene_crop",),
        access="""\
Whom to ask: the authors of "Towards Unified Text-based Person Retrieval" (APTM, ACM MM 2023); the links (OneDrive,
  Baidu) stand in the README of Shuyu-XJTU/APTM on GitHub.
What you agree to: research only. The images are generated.
What arrives: gene_crop/ and gene_attrs/, 1,510,330 images with a caption and 27 attributes each.""",
        tree="MALS/\n  gene_attrs/g_*_attrs.json\n  gene_crop/{4x,c_g_a,i_g_a_43,...}/...",
    ),
    PretrainingLayout(
        name="luperson-mllm",
        title="LUPerson-MLLM",
        aliases=("lupersonmllm",),
        folder="LUPerson-MLLM",
        annotations=("Ts-qwen.json", "Td-qwen.json", "Ts-shikra.json", "Td-shikra.json"),
        image_key="image",
        other_roots=("../LUPerson", "../LUPerson/images"),
        access=f"""\
Whom to ask: nobody for the captions: they lie in the data set repository TwT-6/MLLM4Text-ReID on Hugging Face
  ("Harnessing the Power of MLLMs for Transferable Text-to-Image Person ReID", CVPR 2024).
  {_LUPERSON}
What you agree to: LUPerson's terms; the captions come without a licence, so ask their authors.
What arrives: four files of 1.0 M captions each, one caption an image and file.""",
        tree="""\
LUPerson-MLLM/
  Ts-qwen.json  Td-qwen.json  Ts-shikra.json  Td-shikra.json   (those you have)
  imgs/...""",
    ),
    PretrainingLayout(
        name="ham-pedes",
        title="HAM-PEDES",
        aliases=("hampedes",),
        folder="HAM-PEDES",
        annotations=_ANY,
        image_key="file_path",
        telling=False,
        person=_of_synth_pedes,
        other_roots=("../SYNTH-PEDES",),
        access="""\
Whom to ask: the authors of "Modeling Thousands of Human Annotators for Generalizable Text-to-Image Person
  Re-identification" (HAM, CVPR 2025); the link (Baidu) stands in the README of sssaury/HAM on GitHub.
What you agree to: SYNTH-PEDES' terms, whose images these are (tbps prepare-data synth-pedes).
What arrives: 1.0 M images with two captions each. How its annotation is written is not published: it is read when it
  is a list, a table or lines of image and captions.""",
        tree=f"""\
HAM-PEDES/
  captions.json   (any JSON, JSONL or Parquet file)
  {_SYNTH_TREE}   (or in SYNTH-PEDES/ beside it)""",
    ),
    PretrainingLayout(
        name="luperson-t",
        title="LUPerson-T",
        aliases=("lupersont",),
        folder="LUPerson-T",
        annotations=_ANY,
        image_key="file_path",
        telling=False,
        other_roots=("../LUPerson", "../LUPerson/images"),
        access=f"""\
Whom to ask: the authors of "Unified Pre-training with Pseudo Texts for Text-To-Image Person Re-identification"
  (UniPT, ICCV 2023); the link (Baidu) stands in the README of ZhiyinShao-H/UniPT on GitHub.
  {_LUPERSON}
What you agree to: LUPerson's terms.
What arrives: 1.3 M images with pseudo captions made of attributes. How the annotation is written is not published:
  it is read when it is a list, a table or lines of image and captions.""",
        tree="LUPerson-T/\n  captions.json   (any JSON, JSONL or Parquet file)\n  imgs/...",
    ),
    PretrainingLayout(
        name="webperson",
        title="WebPerson",
        aliases=("webperson-1m", "webperson-5m"),
        folder="WebPerson",
        annotations=("captions.jsonl", "*.json", "*.parquet", "data/*.parquet"),
        image_key="image_path",
        telling=False,
        mend=_without_slash_n,
        access="""\
Whom to ask: nobody: it lies on Hugging Face (Kaichengalex/WebPerson-5M and -1M; "Gradient-Attention Guided
  Dual-Masking Synergetic Framework for Robust Text-based Person Retrieval", EMNLP 2025).
What you agree to: the images are crops of COYO-700M, pages of the web; read COYO's terms. They show people who were
  not asked.
What arrives: Parquet files with the columns image, image_path, caption1 and caption2; 5,002,723 images. Their
  images are written out by: tbps prepare-data webperson --source FOLDER-OF-PARQUET-FILES""",
        tree="WebPerson/\n  captions.jsonl   (or a JSON list, or *.parquet)\n  images/...",
    ),
    PretrainingLayout(
        name="ufine6926",
        title="UFine6926",
        aliases=("ufine",),
        folder="UFine6926",
        annotations=("captions.json", "*.json"),
        image_key="file_path",
        telling=False,
        person=_stated,
        access="""\
Whom to ask: the authors of "UFineBench: Towards Text-based Person Retrieval with Ultra-fine Granularity" (CVPR
  2024), with the signed form of Zplusdragon/UFineBench on GitHub (a student's supervisor signs).
What you agree to: no redistribution, commercial use or modification without their approval; you must protect the
  privacy of the people shown.
What arrives: 26,206 images of 6,926 persons with 52,412 captions of 81 words on average, longer than CLIP's 77
  tokens; train and test, no val.""",
        tree="""\
UFine6926/
  captions.json   (under any name: records of split, id, file_path, captions)
  images/1.jpg ...""",
    ),
    PretrainingLayout(
        name="iiitd-20k",
        title="IIITD-20K",
        aliases=("iiitd", "iiitd20k"),
        folder="IIITD-20K",
        annotations=_ANY,
        image_key="file_path",
        telling=False,
        person=_stated,
        access="""\
Whom to ask: the authors of "IIITD-20K: Dense captioning for Text-Image ReID" (2023), with the request form of the
  Image Analysis and Biometrics lab at IIIT Delhi.
What you agree to: what the form says.
What arrives: 20,000 persons in the wild with captions of 26 words and more. How the annotation is written is not
  published: it is read when it is a list, a table or lines of image and captions.""",
        tree="""\
IIITD-20K/
  captions.json   (any JSON, JSONL or Parquet file; train.json and test.json are splits)
  imgs/...""",
    ),
    PretrainingLayout(
        name="pab",
        title="PAB",
        aliases=(),
        folder="PAB",
        annotations=("annotation/train/attr_*.json", "annotation/test/attr.json"),
        image_key="image",
        access="""\
Whom to ask: the authors of "Beyond Walking: A Large-Scale Image-Text Benchmark for Text-based Person Anomaly Search"
  (CMP, ICCV 2025); the links (OneDrive, Baidu) stand in the README of Shuyu-XJTU/CMP on GitHub.
What you agree to: research only.
What arrives: 1,013,605 generated images for training and 1,978 real ones for test, with a caption each; no val. The
  second test set (UCC) is read by its path: --data PAB/annotation/test/ucc.json""",
        tree="""\
PAB/
  annotation/train/attr_*.json
  annotation/test/{attr,ucc}.json
  imgs_*/{goal,wentrong,full}/...""",
    ),
)

OWN = PretrainingLayout(
    name="own",
    title="own Parquet",
    aliases=(),
    folder="",
    annotations=(),
    image_key="image_path",
    access="",
    tree="",
    person=lambda path, record: record.get("person", record.get("id")),
)
"""Parquet files of one's own, with columns of the usual names."""
