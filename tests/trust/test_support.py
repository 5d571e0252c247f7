"""Which words find support: how a sentence is taken apart, and what an encoder that sees colours says of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.encoder import COLOURS, FakeEncoder

from tbps_cli.trust.support import MOST, Explainer, content_words, replaced


def words(sentence):
    return [word.text for word in content_words(sentence)]


def others(sentence, text):
    return next(word.others for word in content_words(sentence) if word.text == text)


def test_the_words_that_say_how_somebody_looks_are_kept_in_order():
    assert words("A man wearing a red T-shirt, blue short pants and sports shoes; he is holding an umbrella.") == [
        *("man", "red", "T-shirt", "blue", "short pants", "sports shoes", "he", "umbrella")
    ]
    assert words("the person is walking") == [] and words("") == [] and words("?! 123") == []


def test_a_word_is_compared_with_others_of_its_kind():
    sentence = "a woman in a navy coat, black trousers and a cap"
    assert others(sentence, "woman") == ("man",)
    assert "blue" not in others(sentence, "navy") and {"red", "black", "white"} <= set(others(sentence, "navy"))
    assert {"shirt", "hoodie", "dress"} <= set(others(sentence, "coat")) and "jacket" not in others(sentence, "coat")
    assert set(others(sentence, "trousers")) == {"shorts"}, "a skirt would need an article"
    assert "cap" not in others(sentence, "cap") and "beanie" in others(sentence, "cap")
    assert others("a striped bag", "striped") == () and others("a striped bag", "bag") == ()


@pytest.mark.parametrize(
    ("sentence", "text", "other", "made"),
    [
        ("a red coat", "red", "orange", "an orange coat"),
        ("An orange coat", "orange", "red", "A red coat"),
        ("Red trousers", "Red", "blue", "Blue trousers"),
        ("a man with a striped shirt", "striped", "", "a man with a shirt"),
        ("a striped umbrella", "striped", "", "an umbrella"),
        ("holding a phone, a bottle", "phone", "", "holding , a bottle"),
    ],
)
def test_a_word_is_replaced_and_the_article_follows(sentence, text, other, made):
    word = next(word for word in content_words(sentence) if word.text == text)
    assert replaced(sentence, word, other) == made


def image_in(colour):
    return Image.new("RGB", (16, 32), COLOURS[colour])


def explained(sentence, colour, gallery=("red", "green", "blue")):
    model = FakeEncoder()
    vector_SE = model.encode_images([image_in(one) for one in gallery])
    explainer = Explainer.of(model, sentence, vector_SE)
    image_E = model.encode_images([image_in(colour)])[0]
    return dict(zip([word.text for word in explainer.words], explainer.supports(image_E), strict=True)), model


def test_a_colour_that_shows_is_supported_and_another_names_what_fits_better():
    found, _ = explained("red", "red")
    assert found["red"].support > 0.1 and found["red"].instead is None
    found, _ = explained("red", "green")
    assert found["red"].support < -0.1 and found["red"].instead == "green"


def test_what_a_word_means_to_every_image_of_the_gallery_does_not_count():
    found, _ = explained("something striped", "red", gallery=("red", "red"))
    assert found["striped"].support == pytest.approx(0, abs=1e-6)


def test_a_sentence_is_embedded_once_whatever_number_of_images_is_explained():
    _, model = explained("a red coat", "red")
    asked = len(model.texts)
    explainer = Explainer.of(model, "a red coat", model.encode_images([image_in("red")]))
    made = len(model.texts) - asked
    for colour in COLOURS:
        explainer.supports(model.encode_images([image_in(colour)])[0])
    assert len(model.texts) - asked == made


def test_a_garment_and_its_colour_are_one_thing_to_point_at():
    model = FakeEncoder()
    explainer = Explainer.of(model, "a man in a red coat and a blue cap", model.encode_images([image_in("red")]))
    together = dict(zip([word.text for word in explainer.words], explainer.together, strict=True))
    assert together == {"man": [0], "red": [1, 2], "coat": [1, 2], "blue": [3, 4], "cap": [3, 4]}
    direction_WE = explainer.direction_WE
    assert np.array_equal(direction_WE[1], direction_WE[2]) and not np.array_equal(direction_WE[1], direction_WE[3])


def test_a_sentence_without_words_and_one_of_ten_thousand_are_explained():
    model = FakeEncoder()
    vector_SE = model.encode_images([image_in("red")])
    assert Explainer.of(model, "\U0001f600 !", vector_SE).supports(vector_SE[0]) == []
    assert Explainer.of(model, "\U0001f600 !", vector_SE).direction_WE.shape == (0, model.embed)
    assert len(Explainer.of(model, "red coat " * 5000, vector_SE).supports(vector_SE[0])) == MOST
    assert len(Explainer.of(model, "red", vector_SE).supports(vector_SE[0])) == 1
