"""What public networks are for: samples of their kind, drawn here, and the answers that outputs mean.

An answer is a set of things that the network says of a sample: a text, a class, the boxes that it
finds, the notes that sound. Answers of a scheme are compared with those of float; where it is known
what was drawn, those of float also with that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

import drawn_pictures as pictures
import drawn_sounds as sounds
import public_networks
from drawn_files import file_content
from public_networks import Feeds

Random = np.random.Generator
Outputs = Mapping[str, np.ndarray]
Answer = frozenset[object]
Answers = Callable[[Sequence[Outputs]], list[Answer]]
# how many things of two answers are the same
Matches = Callable[[Answer, Answer], int]


@dataclass(frozen=True)
class Drawn:
    """A sample, and what the answer to it should be, where that is known."""

    feeds: Feeds
    truth: Answer | None = None


@dataclass(frozen=True)
class Task:
    """What is asked of a network; counts are of samples to calibrate with, and to answer."""

    question: str
    draw: Callable[[Random], Drawn]
    answers: Answers
    matches: Matches = lambda one, other: len(one & other)
    calibrated: int = 24
    evaluated: int = 60


def agreement(task: Task, reference: Sequence[Answer], answers: Sequence[Answer]) -> float:
    """The share, in %, of what both say of all samples; 100 where both say nothing of any."""
    same = sum(map(task.matches, reference, answers))
    total = sum(map(len, reference)) + sum(map(len, answers))
    return 100 * 2 * same / total if total else 100.0


# ---- answers


def each(answer: Callable[[Outputs], Answer]) -> Answers:
    """Answers that are read from the outputs for one sample at a time."""
    return lambda outputs: [answer(sample) for sample in outputs]


def first(outputs: Outputs) -> np.ndarray:
    return next(iter(outputs.values()))


def largest(outputs: Outputs) -> Answer:
    """The class with the largest score."""
    return frozenset([int(first(outputs).argmax())])


def spelled(outputs: Outputs) -> Answer:
    """The symbols that are left of the best of each step: no repetitions, no blanks."""
    best = first(outputs)
    if best.dtype.kind == "f":
        best = best.argmax(axis=-1)
    symbols = best.ravel().astype(int)
    is_new = np.diff(symbols, prepend=-1) != 0
    return frozenset([tuple(symbols[is_new & (symbols > 0)].tolist())])


def above(threshold: float) -> Callable[[Outputs], Answer]:
    """The places where the first output is above a threshold."""
    return lambda outputs: frozenset(map(tuple, np.argwhere(first(outputs) > threshold).tolist()))


def nearest(vectors: Sequence[np.ndarray]) -> list[Answer]:
    """The sample that is most similar to each, and the second, by the cosine of their vectors."""
    rows = np.stack([np.ravel(vector) for vector in vectors]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = rows @ rows.T - 2 * np.eye(len(rows))
    return [frozenset(order[-2:].tolist()) for order in similarity.argsort(axis=1)]


# ---- boxes

BOX_OVERLAP = 0.5


def same_boxes(one: Answer, other: Answer) -> int:
    """How many boxes, each (class, left, top, right, bottom), overlap by half with one there."""
    left = [box for box in other if isinstance(box, tuple)]
    count = 0
    for box in one:
        partner = next((candidate for candidate in left if _is_same_box(box, candidate)), None)
        if partner is not None:
            left.remove(partner)
            count += 1
    return count


def _is_same_box(one: object, other: tuple[float, ...]) -> bool:
    assert isinstance(one, tuple)
    if one[0] != other[0]:
        return False
    return bool(overlaps(np.array(one[1:]), np.array([other[1:]]))[0] >= BOX_OVERLAP)


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with each of some."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    total = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(shared / np.maximum(total - shared, 1e-9))


def best_boxes(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> Answer:
    """The best of boxes [N, 4] by scores [N, classes] that overlap, in each class."""
    kept: list[tuple[float, ...]] = []
    for label in range(scores.shape[1]):
        order = [
            index for index in scores[:, label].argsort()[::-1] if scores[index, label] > threshold
        ]
        while order:
            box = boxes[order[0]]
            kept.append((label, *map(float, box)))
            rest = np.array(order[1:], int)
            order = rest[overlaps(box, boxes[rest]) < BOX_OVERLAP].tolist() if len(rest) else []
    return frozenset(kept)


def captcha_boxes(outputs: Outputs) -> Answer:
    """YOLOX: centres in cells, sizes as logarithms, confidence and the score of the only class."""
    rows = first(outputs)[0]
    cells, strides = grid(416, (8, 16, 32))
    centers = (rows[:, :2] + cells) * strides
    halves = np.exp(rows[:, 2:4]) * strides / 2
    boxes = np.concatenate([centers - halves, centers + halves], axis=1)
    return best_boxes(boxes, rows[:, 4:5] * rows[:, 5:], 0.3)


def layout_boxes(outputs: Outputs) -> Answer:
    """PicoDet: scores of ten classes, and the distribution of each side's distance in strides."""
    arrays = [array[0] for array in outputs.values()]
    boxes = []
    for stride, distances in zip((8, 16, 32, 64), arrays[4:], strict=True):
        weights = np.exp(distances.reshape(len(distances), 4, 8))
        sides = (weights / weights.sum(axis=2, keepdims=True)) @ np.arange(8) * stride
        width = -(-608 // stride)
        places = np.arange(len(distances))
        centers = (np.stack([places % width, places // width], axis=1) + 0.5) * stride
        boxes.append(np.concatenate([centers - sides[:, :2], centers + sides[:, 2:]], axis=1))
    return best_boxes(np.concatenate(boxes), np.concatenate(arrays[:4]), 0.4)


def grid(side: int, strides: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The cells of square maps, [N, 2], and the stride of each, [N, 1]."""
    cells = []
    steps = []
    for stride in strides:
        count = side // stride
        rows, columns = np.divmod(np.arange(count * count), count)
        cells.append(np.stack([columns, rows], axis=1))
        steps.append(np.full((count * count, 1), stride))
    return np.concatenate(cells), np.concatenate(steps)


# ---- pictures

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def channels_first(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0).astype(np.float32))


def text_for_recognition(random: Random) -> Drawn:
    text = pictures.text_line(random)
    pixels = np.asarray(pictures.draw_line(random, text, 48, 320), np.float32)
    return Drawn({"x": channels_first(pixels / 127.5 - 1)})


def text_to_turn(random: Random) -> Drawn:
    picture = pictures.draw_line(random, pictures.text_line(random), 48, 192)
    is_turned = random.random() < 0.5
    pixels = np.asarray(picture.rotate(180) if is_turned else picture, np.float32)
    return Drawn({"x": channels_first(pixels / 127.5 - 1)}, frozenset([int(is_turned)]))


def text_to_detect(random: Random) -> Drawn:
    picture = pictures.draw_page(random, (320, 320))
    return Drawn({"x": channels_first(normal(np.asarray(picture, np.float32)))})


def page(random: Random) -> Drawn:
    picture = pictures.draw_page(random)
    return Drawn({"image": channels_first(normal(np.asarray(picture, np.float32)))})


def normal(pixels: np.ndarray) -> np.ndarray:
    """Pixels less the mean of ImageNet's, in their deviations."""
    return np.asarray((pixels / 255 - IMAGENET_MEAN) / IMAGENET_DEVIATION)


def captcha(random: Random) -> Drawn:
    text = "".join(random.choice(list(pictures.CAPTCHA_CHARACTERS), int(random.integers(4, 7))))
    grey = np.asarray(pictures.draw_captcha(random, text).convert("L"), np.float32)
    return Drawn({"input1": grey[np.newaxis] / 255})


def captcha_to_detect(random: Random) -> Drawn:
    picture = pictures.draw_scattered(random, pictures.LARGE_PICTURE, 5)
    pixels = np.asarray(picture, np.float32)[..., ::-1]
    return Drawn({"images": channels_first(pixels)})


def face(name: str, size: int) -> Callable[[Random], Drawn]:
    def draw(random: Random) -> Drawn:
        pixels = np.asarray(pictures.draw_face(random, size), np.float32)
        on_its_side = pixels.swapaxes(0, 1)  # as these networks were trained
        return Drawn({name: (on_its_side - 127.5) / 128})

    return draw


# ---- sounds

RATE = 16000
CHUNK = 512
CONTEXT = 64  # samples before a chunk that a voice detector is given with it
MUSIC_RATE = 22050
MUSIC_LENGTH = 43844


def wake_sound(random: Random) -> Drawn:
    return Drawn({"input": 32767 * sounds.speech_and_pauses(random, 1.0, RATE)})


def mel_windows(front_end: onnxruntime.InferenceSession, random: Random) -> Drawn:
    """76 frames of a sound's spectrum, as the embedding network takes them."""
    outputs = front_end.run(None, {"input": wake_sound(random).feeds["input"][np.newaxis]})
    return Drawn({"input_1": as_windows(outputs[0])})


def as_windows(spectrum: np.ndarray) -> np.ndarray:
    frames = spectrum.reshape(-1, 32)[:76]
    return np.asarray(frames[..., np.newaxis] / 10 + 2, np.float32)


def embedded(network: onnxruntime.InferenceSession, outputs: Sequence[Outputs]) -> list[Answer]:
    """Which sounds are most similar, by the embeddings of float, of a scheme's spectra."""
    windows = [as_windows(first(sample))[np.newaxis] for sample in outputs]
    return nearest([network.run(None, {"input_1": window})[0] for window in windows])


def spoken_sequence(random: Random) -> Drawn:
    """Chunks of speech and pauses, each with the end of the one before it."""
    sound = sounds.speech_and_pauses(random, 3.0, RATE)
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    starts = range(0, len(padded) - CONTEXT - CHUNK + 1, CHUNK)
    chunks = np.stack([padded[start : start + CONTEXT + CHUNK] for start in starts])
    return Drawn({"input": chunks, "sr": np.array(RATE, np.int64)})


def notes(random: Random) -> Drawn:
    sound = sounds.notes(random, MUSIC_LENGTH / MUSIC_RATE, MUSIC_RATE)[:MUSIC_LENGTH]
    padded = np.pad(sound, (0, MUSIC_LENGTH - len(sound)))
    return Drawn({"serving_default_input_2:0": padded[:, np.newaxis]})


# ---- sentences


def sentence_variants() -> Callable[[Random], Drawn]:
    """Sentences in families: one drawn at random, then others with some of its words replaced."""
    family: list[int] = []

    def draw(random: Random) -> Drawn:
        if not family or random.random() < 0.3:
            family[:] = random.integers(1996, 12000, int(random.integers(8, 24))).tolist()
        words = list(family)
        for place in random.choice(len(words), int(random.integers(0, 1 + len(words) // 2))):
            words[int(place)] = int(random.integers(1996, 12000))
        ids = np.zeros(32, np.int64)
        ids[: len(words) + 2] = [101, *words, 102]
        return Drawn({"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)})

    return draw


# ---- files

# kinds of files, and their numbers in magika 1.0.3
KINDS = {
    "python": 143,
    "c": 17,
    "json": 87,
    "csv": 32,
    "html": 71,
    "ini": 76,
    "png": 133,
    "jpeg": 86,
    "gif": 58,
    "bmp": 15,
    "pdf": 127,
    "zip": 212,
    "gzip": 64,
    "tar": 175,
    "wav": 195,
    "sqlite": 166,
}
FEATURES = 1024  # bytes from each end of a file
PADDING = 256


def a_file(random: Random) -> Drawn:
    """The first and last bytes of a file."""
    kind = str(random.choice(list(KINDS)))
    content = file_content(kind, random)
    start = list(content[:4096].lstrip()[:FEATURES])
    end = list(content[-4096:].rstrip()[-FEATURES:])
    start += [PADDING] * (FEATURES - len(start))
    end = [PADDING] * (FEATURES - len(end)) + end
    return Drawn({"bytes": np.array(start + end, np.int32)}, frozenset([KINDS[kind]]))


# ---- the tasks


def is_face(outputs: Outputs) -> Answer:
    (name,) = [name for name in outputs if name.startswith("softmax")]
    return frozenset([bool(outputs[name][0, 1] > 0.5)])


def face_places(outputs: Outputs) -> Answer:
    return above(0.5)({"face": outputs["softmax"][..., 1]})


def sounding_notes(outputs: Outputs) -> Answer:
    return above(0.3)({"notes": outputs["StatefulPartitionedCall:1"]})


def most_similar(outputs: Sequence[Outputs]) -> list[Answer]:
    return nearest([first(sample) for sample in outputs])


TASKS = {
    "pnet": Task("places of faces", face("input_1", 96), each(face_places)),
    "rnet": Task("a face or not", face("input_2", 24), each(is_face), evaluated=200),
    "onet": Task("a face or not", face("input_3", 48), each(is_face), evaluated=200),
    "magika": Task("the kind of a file", a_file, each(largest), evaluated=200),
    "basic_pitch": Task("notes in each frame", notes, each(sounding_notes), calibrated=12, evaluated=12),
    "voice": Task("chunks with speech", spoken_sequence, each(above(0.5)), calibrated=6, evaluated=12),
    "ocr_direction": Task("upright or turned", text_to_turn, each(largest), evaluated=200),
    "ocr_recognizer": Task("the text of a line", text_for_recognition, each(spelled), evaluated=100),
    "ocr_detector": Task("pixels of text", text_to_detect, each(above(0.3)), calibrated=12, evaluated=24),
    "layout": Task("boxes of blocks", page, each(layout_boxes), same_boxes, calibrated=6, evaluated=12),
    "captcha": Task("the characters", captcha, each(spelled), evaluated=100),
    "captcha_detector": Task("boxes of characters", captcha_to_detect, each(captcha_boxes), same_boxes, calibrated=12, evaluated=24),
    "sentences": Task("the most similar sentences", sentence_variants(), most_similar, evaluated=100),
}  # fmt: skip


def task(name: str, downloads: Path) -> Task:
    """What is asked of a network; those of the wake word need each other."""
    if name not in ("melspectrogram", "embedding_model"):
        return TASKS[name]
    other = {"melspectrogram": "embedding_model", "embedding_model": "melspectrogram"}[name]
    path = public_networks.download(other, downloads)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    question = "the most similar sounds"
    if name == "melspectrogram":
        return Task(question, wake_sound, partial(embedded, session))
    return Task(question, partial(mel_windows, session), most_similar)
