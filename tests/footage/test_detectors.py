"""What finds persons: torchvision's detectors, ONNX graphs by the layout of their outputs, HOG; and which is chosen."""

from __future__ import annotations

import hashlib
import http.server
import logging
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from support.onnx_detector import graph

from tbps_cli.errors import UsageError, WeightsError
from tbps_cli.footage import known_detectors
from tbps_cli.footage.boxes import Detection, merged, whole_boxes
from tbps_cli.footage.detector import open_detector
from tbps_cli.footage.hog import enlargement
from tbps_cli.footage.known_detectors import KNOWN
from tbps_cli.footage.operators import nms, roi_align
from tbps_cli.footage.operators import torchvision as torchvision_package
from tbps_cli.weights.weights_file import write_state

SIZE = 320, 240
torchvision = torchvision_package()


@pytest.fixture(autouse=True)
def places(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TBPS_CACHE_DIR", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return folder


def frame(size=SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8))


# Boxes ----------------------------------------------------------------------------------------


def test_boxes_are_cut_to_the_frame_and_unsound_ones_go():
    corners = np.array(
        [[-5, 10.4, 30, 90], [0, 0, np.nan, 50], [300, 200, 900, 900], [10, 10, 14, 60], [50, 50, 40, 40]]
    )
    scores = np.array([0.5, 0.9, 0.7, 0.9, 0.9])
    assert whole_boxes(corners, scores, SIZE) == [Detection((300, 200, 20, 40), 0.7), Detection((0, 10, 30, 80), 0.5)]


def test_the_surest_of_overlapping_boxes_stays():
    corners = np.array([[0, 0, 10, 20], [1, 0, 11, 20], [50, 0, 60, 20], [2, 5, 8, 15]], float)
    scores = np.array([0.5, 0.9, 0.3, 0.6])
    assert merged(corners, scores, overlap=0.5).tolist() == [1, 3, 2]
    assert merged(corners, scores, overlap=0.5, inside=0.6).tolist() == [1, 2]


# ONNX -----------------------------------------------------------------------------------------


def cell_count(size):
    return sum((size // stride) ** 2 for stride in (8, 16, 32))


def yolox(*, raw: bool, size=320):
    """Two persons, one of them found twice, a bicycle and a doubtful person, in the network's pixels."""
    found = np.zeros((1, cell_count(size), 5 + 3), np.float32)
    entries = [  # cell (a place in the grid of stride 8), centre, size, object, classes
        (405, (44, 84), (40, 80), 0.9, (1.0, 0, 0)),
        (406, (46, 84), (40, 80), 0.8, (1.0, 0, 0)),
        (0, (160, 100), (20, 60), 0.5, (0.8, 0.1, 0)),
        (1, (200, 100), (60, 60), 0.9, (0.1, 0.9, 0)),
        (2, (260, 100), (20, 60), 0.2, (0.9, 0.1, 0)),
    ]
    for cell, centre, extent, sure, classes in entries:
        column, row = cell % (size // 8), cell // (size // 8)
        if raw:
            box = [centre[0] / 8 - column, centre[1] / 8 - row, *np.log(np.divide(extent, 8))]
        else:
            box = [*centre, *extent]
        found[0, cell] = [*box, sure, *classes]
    return found


@pytest.mark.parametrize("raw", [True, False])
def test_yolox_is_recognised_decoded_or_not(tmp_path, raw):
    detector = open_detector(graph(tmp_path / "yolox.onnx", {"output": yolox(raw=raw)}))
    # a frame of 640 x 480 stands in the input at half its size
    assert detector(frame((640, 480))) == [
        Detection((48, 88, 80, 160), pytest.approx(0.9)),
        Detection((300, 140, 40, 120), pytest.approx(0.4)),
    ]


def test_rt_detr_of_transformers_is_recognised(tmp_path):
    logits = np.full((1, 5, 80), -9, np.float32)
    logits[0, 0, 0], logits[0, 1, 0], logits[0, 2, 1], logits[0, 3, 0] = 2, 1, 3, -1
    boxes = np.tile(np.array([0.5, 0.5, 0.1, 0.4], np.float32), (1, 5, 1))
    boxes[0, 1] = [0.25, 0.5, 0.2, 0.5]
    detector = open_detector(graph(tmp_path / "rtdetr.onnx", {"logits": logits, "pred_boxes": boxes}))
    assert detector(frame()) == [
        Detection((144, 72, 32, 96), pytest.approx(0.8808, abs=1e-3)),
        Detection((48, 60, 64, 120), pytest.approx(0.7311, abs=1e-3)),
    ]


def test_rt_detr_of_its_authors_gives_pixels_of_the_frame(tmp_path):
    outputs = {
        "labels": np.array([[0, 0, 2]], np.int64),
        "boxes": np.array([[[10, 20, 50, 120], [60, 20, 90, 120], [0, 0, 99, 99]]], np.float32),
        "scores": np.array([[0.9, 0.3, 0.9]], np.float32),
    }
    detector = open_detector(graph(tmp_path / "rtdetr.onnx", outputs, extra="orig_target_sizes"))
    assert detector(frame()) == [Detection((10, 20, 40, 100), pytest.approx(0.9))]


def test_rt_detr_of_ultralytics_names_its_classes(tmp_path):
    found = np.zeros((1, 300, 4 + 3), np.float32)
    found[0, 7] = [0.5, 0.5, 0.1, 0.4, 0.1, 0.2, 0.8]
    found[0, 8] = [0.5, 0.5, 0.1, 0.4, 0.9, 0.2, 0.0]
    path = graph(tmp_path / "rtdetr.onnx", {"output0": found}, metadata={"names": "{0: 'car', 1: 'dog', 2: 'person'}"})
    assert open_detector(path)(frame()) == [Detection((144, 72, 32, 96), pytest.approx(0.8))]


def test_boxes_and_scores_of_ones_own_are_in_pixels_of_the_input(tmp_path):
    outputs = {"boxes": np.array([[32, 32, 64, 160]], np.float32), "scores": np.array([0.75], np.float32)}
    detector = open_detector(graph(tmp_path / "own.onnx", outputs))
    assert detector(frame((640, 160))) == [Detection((64, 16, 64, 64), 0.75)]


def test_a_graph_that_finds_nobody_gives_nothing(tmp_path):
    outputs = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32)}
    assert open_detector(graph(tmp_path / "own.onnx", outputs))(frame()) == []
    empty = {"output": np.zeros((1, cell_count(320), 85), np.float32)}
    assert open_detector(graph(tmp_path / "yolox.onnx", empty))(frame()) == []


def test_other_graphs_are_refused_with_what_they_have(tmp_path):
    def refused(path):
        with pytest.raises(WeightsError) as caught:
            open_detector(path)
        return caught.value.message

    classifier = graph(tmp_path / "classifier.onnx", {"classes": np.zeros((1, 1000), np.float32)})
    assert refused(classifier).endswith("its outputs (classes [1, 1000]) are not those of a detector that is known.")
    boxes = {"boxes": np.zeros((1, 4), np.float32), "scores": np.zeros(1, np.float32)}
    dog = graph(tmp_path / "dog.onnx", boxes, metadata={"names": "{0: 'dog'}"})
    assert "its metadata names no class person ({0: 'dog'})" in refused(dog)
    code = graph(tmp_path / "code.onnx", boxes, metadata={"names": "__import__('os').abort()"})
    assert "its metadata names no class person" in refused(code)
    (tmp_path / "text.onnx").write_text("no graph")
    assert "onnxruntime cannot open it" in refused(tmp_path / "text.onnx")
    assert "there is no such file" in refused(tmp_path / "none.onnx")


def test_equal_graphs_have_one_fingerprint_and_others_another(tmp_path):
    boxes = {"boxes": np.zeros((1, 4), np.float32), "scores": np.zeros(1, np.float32)}
    one, two = (open_detector(graph(tmp_path / name, boxes)) for name in ("a.onnx", "b.onnx"))
    three = open_detector(graph(tmp_path / "c.onnx", {**boxes, "scores": np.ones(1, np.float32)}))
    assert one.fingerprint == two.fingerprint != three.fingerprint


# Torchvision ----------------------------------------------------------------------------------

NAME = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The bytes of a file such as torchvision publishes, of drawn weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "drawn.pth"
    write_state(path, torchvision.models.get_model(NAME, weights=None, weights_backbone=None).state_dict())
    return path.read_bytes()


class Server:
    def __init__(self, content: bytes) -> None:
        self.asked = 0
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server(weights, monkeypatch):
    served = Server(weights)

    class Here(known_detectors.KnownDetector):
        @property
        def url(self) -> str:
            return f"http://127.0.0.1:{served.http.server_address[1]}/{self.file}"

    digest = hashlib.sha256(weights).hexdigest()[:8]
    monkeypatch.setitem(known_detectors.KNOWN, NAME, Here(f"{NAME}_coco-{digest}.pth", 13, "the smallest"))
    yield served
    served.http.shutdown()
    served.http.server_close()


def test_the_table_has_torchvisions_own_names_and_files():
    for name, known in KNOWN.items():
        (enum,) = [entry for entry in torchvision.models.get_model_weights(name) if entry.name == "COCO_V1"]
        assert enum.url == known.url
        assert len(known.sha256) == 8 and int(known.sha256, 16)
        assert enum.meta["categories"][1] == "person"


def test_weights_are_fetched_once_and_only_when_asked(server, places):
    with pytest.raises(WeightsError) as caught:
        open_detector(NAME)
    assert "are not on this machine" in caught.value.message and "--download" in caught.value.hint
    assert server.asked == 0
    first = open_detector(NAME, download=True)
    assert server.asked == 1
    again = open_detector(NAME, download=True)
    assert server.asked == 1
    assert [path.name for path in (places / "weights").glob("*.pth")] == [KNOWN[NAME].file]
    assert first.fingerprint == again.fingerprint and first.name == NAME
    assert isinstance(first(frame()), list)


def test_a_file_with_another_hash_is_not_kept(server, places, monkeypatch):
    wrong = replace(known_detectors.KNOWN[NAME], file=f"{NAME}_coco-00000000.pth")
    monkeypatch.setitem(known_detectors.KNOWN, NAME, wrong)
    with pytest.raises(WeightsError, match="SHA-256 begins with"):
        open_detector(NAME, download=True)
    assert not list((places / "weights").glob("*.pth"))


def test_weights_that_torchvision_keeps_are_used_when_their_hash_is_right(server, places, weights):
    folder = places / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / KNOWN[NAME].file).write_bytes(weights)
    assert open_detector(NAME).name == NAME
    (folder / KNOWN[NAME].file).write_bytes(weights[:-1] + b"x")
    with pytest.raises(WeightsError, match="are not on this machine"):
        open_detector(NAME)


def test_the_boxes_are_torchvisions(tmp_path, weights):
    path = tmp_path / "own.pth"
    path.write_bytes(weights)
    ours = open_detector(path)
    assert ours.fingerprint.startswith(NAME)
    theirs = torchvision.models.get_model(NAME, weights=None, weights_backbone=None).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    with torch.inference_mode():
        (expected,) = theirs([torch.from_numpy(np.array(frame())).permute(2, 0, 1) / 255])
        (found,) = ours._model([torch.from_numpy(np.array(frame())).permute(2, 0, 1) / 255])
    assert len(expected["scores"]) > 0
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("kind", ["fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn_v2"])
def test_files_of_ones_own_are_told_by_their_tensors(tmp_path, kind):
    torch.manual_seed(0)
    model = torchvision.models.get_model(kind, weights=None, weights_backbone=None, num_classes=2)
    path = tmp_path / f"{kind}-trained.pth"
    write_state(path, {"model": model.state_dict(), "epoch": 3})
    assert open_detector(path).fingerprint.startswith(kind)


def test_a_file_without_a_detector_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    write_state(path, {"conv.weight": torch.zeros(3, 3)})
    with pytest.raises(WeightsError, match="holds no detector that is known here"):
        open_detector(path)


def test_operators_are_torchvisions_by_their_definitions():
    """Slow loops as the oracle: the compiled ones need not be on this machine."""
    draw = np.random.default_rng(0)
    corner = draw.uniform(0, 60, (40, 2))
    boxes = np.concatenate([corner, corner + draw.uniform(5, 30, (40, 2))], axis=1).astype(np.float32)
    scores = draw.permutation(40).astype(np.float32)
    kept = []
    for place in np.argsort(-scores):
        if all(_overlap(boxes[place], boxes[other]) <= 0.3 for other in kept):
            kept.append(place)
    assert nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.3).tolist() == kept

    features = draw.normal(size=(2, 3, 11, 17))
    rois = np.concatenate([draw.integers(0, 2, (40, 1)), boxes], axis=1)
    rois[:3, 1:] = [[-30, -30, -20, -20], [60, 40, 300, 300], [5, 5, 5, 5]]
    for aligned in (False, True):
        found = roi_align(torch.from_numpy(features), torch.from_numpy(rois), 0.25, 3, 2, 2, aligned)
        expected = np.array([_roi_align(features, roi, aligned) for roi in rois])
        assert np.abs(found.numpy() - expected).max() < 1e-5


def _overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(0, width) * max(0, height)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _roi_align(features, roi, aligned, rows=3, columns=2, points=2, scale=0.25):
    x1, y1, x2, y2 = roi[1:] * scale - (0.5 if aligned else 0)
    width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
    found = np.zeros((features.shape[1], rows, columns))
    for row in range(rows):
        for column in range(columns):
            for i in range(points):
                for j in range(points):
                    y = y1 + (row + (i + 0.5) / points) * height / rows
                    x = x1 + (column + (j + 0.5) / points) * width / columns
                    found[:, row, column] += _between(features[int(roi[0])], y, x) / points**2
    return found


def _between(feature, y, x):
    height, width = feature.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(len(feature))
    y, x = max(y, 0), max(x, 0)
    low_y, low_x = min(int(y), height - 1), min(int(x), width - 1)
    high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
    y = low_y if low_y == height - 1 else y
    x = low_x if low_x == width - 1 else x
    upper = feature[:, low_y, low_x] * (low_x + 1 - x) + feature[:, low_y, high_x] * (x - low_x)
    lower = feature[:, high_y, low_x] * (low_x + 1 - x) + feature[:, high_y, high_x] * (x - low_x)
    return upper * (low_y + 1 - y) + lower * (y - low_y)


# Which one ------------------------------------------------------------------------------------


def test_without_a_name_the_best_at_hand_is_taken_and_said(server, caplog):
    caplog.set_level(logging.INFO, "tbps")
    assert open_detector(None).name == "hog"
    (line,) = caplog.messages
    assert "HOG" in line and "misses" in line and "--detector fasterrcnn_mobilenet_v3_large_fpn --download" in line
    open_detector(NAME, download=True)
    caplog.clear()
    assert open_detector(None).name == NAME
    (line,) = caplog.messages
    assert line.startswith(f"detector: {NAME} on ")


def test_damaged_weights_that_nobody_asked_for_are_said_and_hog_is_taken(server, places, caplog):
    KNOWN[NAME].path.parent.mkdir(parents=True)
    KNOWN[NAME].path.write_bytes(b"not weights")
    assert open_detector(None).name == "hog"
    assert [line for line in caplog.messages if line.startswith(f"detector: {NAME} cannot be used: ")]
    with pytest.raises(WeightsError):
        open_detector(NAME)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError) as caught:
        open_detector("yolo9000")
    assert "hog, fasterrcnn_mobilenet_v3_large_fpn" in caught.value.hint


# HOG ------------------------------------------------------------------------------------------


def test_small_frames_are_enlarged_and_large_ones_made_smaller():
    assert enlargement((320, 240)) == 2
    assert enlargement((768, 576)) == 2
    assert 1.5 < enlargement((1280, 720)) < 1.6
    assert enlargement((1920, 1080)) == pytest.approx(1.03, abs=0.01)
    assert enlargement((3840, 2160)) == pytest.approx(0.515, abs=0.01)
    assert enlargement((7680, 4320)) == 0.5


def test_hog_gives_boxes_inside_the_frame_for_frames_of_any_size():
    detector = open_detector("hog")
    for size in ((1, 1), (8, 200), (64, 128), (500, 20), (321, 243)):
        for box, score in detector(frame(size)):
            assert box[0] >= 0 and box[1] >= 0 and box[0] + box[2] <= size[0] and box[1] + box[3] <= size[1]
            assert 0 <= score <= 1


def test_hog_gives_the_same_boxes_whatever_the_order_in_which_threads_find_windows(monkeypatch):
    detector = open_detector("hog")
    windows = np.array([[x, 60, 64, 128] for x in (100, 92, 116)])  # equally sure: the first two; one hides the third
    margin = np.array([0.9, 0.8, 1.4])
    drawn, answers = np.random.default_rng(0), set()

    class Shuffled:
        def detectMultiScale(self, *_, **__):
            order = drawn.permutation(len(windows))
            return windows[order], margin[order]

    monkeypatch.setattr(detector, "_hog", Shuffled())
    for _ in range(30):
        answers.add(tuple(detector(frame((640, 480)))))
    assert len(answers) == 1


def test_hog_finds_a_drawn_person_of_half_its_window_and_the_box_is_close():
    image = Image.new("RGB", (400, 300), (190, 190, 185))
    draw = ImageDraw.Draw(image)
    left, top, dark = 180, 100, (25, 25, 40)  # 26 x 64 pixels: head, shoulders, legs apart
    draw.ellipse((left + 8, top, left + 18, top + 12), fill=(60, 40, 30))
    for shape in (
        [(4, 13), (22, 13), (20, 36), (6, 36)],
        [(6, 34), (13, 34), (8, 64), (2, 64)],
        [(13, 34), (20, 34), (25, 64), (18, 64)],
    ):
        draw.polygon([(left + x, top + y) for x, y in shape], fill=dark)
    found = open_detector("hog")(image)
    assert found, "nobody"
    x, y, width, height = found[0].box
    right, bottom = min(x + width, left + 26), min(y + height, top + 64)
    common = max(0, right - max(x, left)) * max(0, bottom - max(y, top))
    assert common / (width * height + 26 * 64 - common) > 0.5, found
