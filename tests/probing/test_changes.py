"""Which captions are changed and how: one thing becomes false, and nothing that may be true is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tbps_cli.data.types import Caption, Dataset, ImageRecord, Split, Truth
from tbps_cli.probing import wording
from tbps_cli.probing.changes import KINDS, Pair, pairs


def split_of(*images: list[str] | str) -> Split:
    """A split with one person an image, who has these captions."""
    said = [[captions] if isinstance(captions, str) else captions for captions in images]
    records = [ImageRecord(f"{number}.png", number, "test") for number in range(len(said))]
    captions = [Caption(text, number) for number, texts in enumerate(said) for text in texts]
    return Dataset("own", Path(), records, captions).split("test")


def changed(kind: str, *images: list[str] | str, truths: list[Truth] | None = None, seed: int = 0) -> list[Pair]:
    return [pair for pair in pairs(split_of(*images), truths, seed=seed) if pair.kind == kind]


def false_of(kind: str, *images: list[str] | str, **options) -> list[str]:
    return [pair.false for pair in changed(kind, *images, **options)]


def test_two_garments_exchange_their_colours_with_their_shades_and_articles() -> None:
    assert false_of("colour", "A man in a dark green coat and white trousers.") == [
        "A man in a white coat and dark green trousers."
    ]
    assert false_of("colour", "Red shirt, he wears a black cap.") == ["Black shirt, he wears a red cap."]
    assert false_of("colour", "A brown, short-sleeved shirt, blue jeans.") == [
        "A blue, short-sleeved shirt, brown jeans."
    ]
    found = false_of("colour", "She has an orange bag and a green coat.")
    assert found == ["She has a green bag and an orange coat."]


@pytest.mark.parametrize(
    "caption",
    [
        "A man in a black shirt and black trousers.",  # the same colour
        "A man in a navy coat and blue jeans.",  # two words for one colour
        "A man in a beige coat and brown trousers.",  # people take one for the other
        "A man in a black and white shirt and white trousers.",  # of several colours
        "A man in a black shirt with white stripes and white trousers.",
        "A red jacket over a white shirt.",  # both on the upper body
        "A man in an orange shirt and black trousers.",  # the article would be another word
        "A man in a red shirt and trousers.",  # one colour alone
        "A man whose shirt is red, with black trousers.",  # said in a way that the rules do not know
        "A man with a red dress shirt pocket and black hair.",
    ],
)
def test_colours_that_might_still_be_true_are_not_exchanged(caption: str) -> None:
    assert false_of("colour", caption) == []


def test_what_another_caption_of_the_image_says_is_not_exchanged_for() -> None:
    plain = "A man in a red coat and black trousers."
    assert false_of("colour", plain)
    assert false_of("colour", [plain, "Somebody in a black and grey coat."]) == []
    assert false_of("colour", [plain, "His coat is rather dark, the coat is black."]) == []


def test_what_is_known_of_the_person_is_not_exchanged_for() -> None:
    caption = "A man in a red coat and black trousers."
    assert false_of("colour", caption, truths=[Truth({"upper colour": "red", "lower colour": "black"}, ())])
    assert false_of("colour", caption, truths=[Truth({"upper colour": "red", "accent": "black"}, ())]) == []
    assert false_of("colour", caption, truths=[Truth({"upper colour": "red", "inner": "black"}, ())]) == []


def test_a_negation_denies_either_the_right_colour_or_a_wrong_one() -> None:
    (pair,) = changed("negation", "A man in a red coat.")
    wrong = pair.true.removeprefix("A man in a red, not ").removesuffix(", coat.")
    assert pair.true == f"A man in a red, not {wrong}, coat." and pair.false == f"A man in a {wrong}, not red, coat."
    assert pair.same_words
    drawn = {changed("negation", "A man in a red coat.", seed=seed)[0].true for seed in range(60)}
    hues = {text.removeprefix("A man in a red, not ").removesuffix(", coat.") for text in drawn}
    assert hues == {"black", "white", "grey", "blue", "green", "yellow", "purple", "beige"}  # none is close to red


def test_garments_of_two_persons_are_exchanged_with_their_articles() -> None:
    found = changed("garment", "A woman in a black skirt.", "A man in grey shorts.")
    assert sorted((pair.true, pair.false) for pair in found) == [
        ("A man in grey shorts.", "A man in a grey skirt."),
        ("A woman in a black skirt.", "A woman in black shorts."),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Blue jeans.", "Black trousers."),  # jeans are trousers
        ("A blue hoodie.", "A black jacket."),  # some call it one, some the other
        ("A blue coat.", "A black jacket."),
        ("A red bag.", "A blue backpack."),  # a backpack is a bag
        ("A blue skirt.", "A blue skirt."),
        ("A pair of blue jeans.", "A black skirt."),  # "a pair of blue skirt"
    ],
)
def test_garments_that_might_be_the_same_are_not_exchanged(one: str, other: str) -> None:
    assert false_of("garment", one, other) == []


def test_a_garment_that_the_person_has_too_is_not_exchanged_for() -> None:
    assert false_of("garment", "A red shirt.", "A green jacket.")
    assert false_of("garment", ["A red shirt.", "A shirt below a jacket."], "A green jacket.") == []
    known = [Truth({"upper": "jacket"}, ()), Truth({"upper": "jacket"}, ())]
    assert false_of("garment", "A red shirt.", "A green jacket.", truths=known) == []


def test_sides_are_exchanged_between_persons_and_only_where_one_is_named() -> None:
    assert sorted(false_of("side", "A bag in his left hand.", "A phone in her right hand.")) == [
        "A bag in his right hand.",
        "A phone in her left hand.",
    ]
    assert false_of("side", "A bag in his left hand, a cup in his right hand.", "A phone in her right hand.") == []
    assert false_of("side", "A bag in his left hand.", "He stands right behind a car.") == []
    assert false_of("side", "He has something in his left hand.", "A phone in her right hand.") == []
    two = ["A bag in his left hand.", "The right hand has a phone."]
    assert sorted(false_of("side", two, "A phone in her right hand.", "A cup in his left hand.")) == [
        "A cup in his right hand.",
        "A phone in her left hand.",
    ]


def test_numbers_are_exchanged_with_the_endings_of_their_nouns() -> None:
    assert sorted(false_of("count", "She carries one bag.", "He carries two red bags.")) == [
        "He carries one red bag.",
        "She carries two bags.",
    ]
    assert false_of("count", "She has one hand free.", "He has two-tone shoes.") == []
    assert false_of("count", "She carries two bags.", "He carries two bags.") == []


def test_one_person_exchanges_nothing_with_himself() -> None:
    dataset = Dataset(
        "own",
        Path(),
        [ImageRecord("a.png", 1, "test"), ImageRecord("b.png", 1, "test")],
        [Caption("A bag in his left hand.", 0), Caption("A bag in his right hand.", 1)],
    )
    assert pairs(dataset.split("test")) == []


def test_between_persons_every_word_stands_as_often_in_true_captions_as_in_false_ones() -> None:
    nouns = ("trousers", "shorts", "jeans", "leggings")
    captions = [f"A person in {colour} {noun}." for colour in ("red", "blue", "grey") for noun in nouns]
    found = changed("garment", *captions)
    assert len(found) >= 6
    true = Counter(word for pair in found for word in wording.words(pair.true))
    false = Counter(word for pair in found for word in wording.words(pair.false))
    assert true == false


def test_the_same_seed_makes_the_same_pairs_and_another_one_others() -> None:
    captions = [f"A man in a {hue} coat, {other} trousers and a green cap." for hue, other in HUES]
    made = [pairs(split_of(*captions), seed=seed) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    assert {pair.kind for pair in made[0]} <= set(KINDS)


HUES = [("red", "blue"), ("yellow", "purple"), ("white", "pink"), ("black", "yellow")]


def test_words_that_hold_a_garments_name_are_no_garment() -> None:
    assert [thing.slot for thing in wording.things("A dress shirt, dress shoes and his shirt pocket.")] == [
        "upper",
        "shoes",
    ]
    assert [thing.family for thing in wording.things("a white tee shirt, black short pants, a red knit hat")] == [
        "shirt",
        "shorts",
        "beanie",
    ]
    assert wording.things("A well-dressed man, topless, with a handshake.") == ()
