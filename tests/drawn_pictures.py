"""Pictures drawn for public networks: words, lines, captchas, pages of a document, faces."""

from __future__ import annotations

import string

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Random = np.random.Generator
Color = tuple[int, int, int]

WORDS = [
    "invoice",
    "total",
    "amount",
    "number",
    "street",
    "garden",
    "window",
    "river",
    "market",
    "summer",
    "winter",
    "paper",
    "order",
    "customer",
    "delivery",
    "address",
    "signature",
    "balance",
    "account",
    "receipt",
    "quantity",
    "discount",
    "shipping",
    "travel",
    "ticket",
    "station",
    "airport",
    "platform",
    "departure",
    "arrival",
    "return",
    "gate",
    "seat",
    "passenger",
]
CAPTCHA_CHARACTERS = string.ascii_lowercase + string.digits
LARGE_PICTURE = (416, 416)
PAGE = (608, 800)


def text_line(random: Random, words: int = 3) -> str:
    """Some words, of which one may be a number."""
    chosen = [str(word) for word in random.choice(WORDS, words)]
    if random.random() < 0.5:
        chosen[-1] = str(random.integers(10, 100000))
    return " ".join(chosen).capitalize() if random.random() < 0.5 else " ".join(chosen)


def draw_line(random: Random, text: str, height: int, width: int) -> Image.Image:
    """One line of text, dark on light or light on dark, a little blurred, with noise."""
    font = ImageFont.load_default(int(height * random.uniform(0.55, 0.7)))
    left, top, right, bottom = font.getbbox(text)
    light = _color(random, 190, 256)
    dark = _color(random, 0, 80)
    paper, ink = (light, dark) if random.random() < 0.7 else (dark, light)
    line = Image.new("RGB", (int(right - left) + 16, height), paper)
    drawing = ImageDraw.Draw(line)
    drawing.text((8 - left, (height - bottom + top) / 2 - top), text, fill=ink, font=font)
    scaled = line.resize((min(width, line.width), height))
    picture = Image.new("RGB", (width, height), paper)
    picture.paste(scaled, (0, 0))
    return _worn(random, picture, blur=0.8, noise=6.0)


def draw_captcha(random: Random, text: str) -> Image.Image:
    """Letters and digits, each turned and shifted, under two lines."""
    picture = Image.new("RGB", (160, 64), _color(random, 200, 256))
    for index, character in enumerate(text):
        letter = Image.new("RGBA", (44, 56))
        font = ImageFont.load_default(int(random.integers(34, 44)))
        ink = (*_color(random, 0, 120), 255)
        ImageDraw.Draw(letter).text((10, 2), character, fill=ink, font=font)
        turned = letter.rotate(float(random.uniform(-20, 20)))
        place = (4 + index * 148 // len(text), int(random.integers(2, 12)))
        picture.paste(turned, place, turned)
    drawing = ImageDraw.Draw(picture)
    for _ in range(2):
        heights = random.integers(8, 56, 2)
        points = (0, int(heights[0]), 160, int(heights[1]))
        drawing.line(points, fill=_color(random, 60, 160), width=1)
    return _worn(random, picture, blur=0.5, noise=8.0)


def draw_scattered(random: Random, size: tuple[int, int], pieces: int) -> Image.Image:
    """Single characters, or short words, scattered over a coloured ground."""
    width, height = size
    picture = _ground(random, size)
    drawing = ImageDraw.Draw(picture)
    for number in range(pieces):
        text = str(random.choice(WORDS)) if width <= height // 2 else str(random.choice(WORDS))[:2]
        font = ImageFont.load_default(int(random.integers(24, 56)))
        place = (
            float(random.uniform(0, width * 0.7)),
            (number + float(random.uniform(0, 0.4))) * height / pieces,
        )
        drawing.text(place, text, fill=_color(random, 0, 256), font=font)
    return _worn(random, picture, blur=0.5, noise=4.0)


def draw_page(random: Random, size: tuple[int, int] = PAGE) -> Image.Image:
    """A page with a title, paragraphs, a table or a figure."""
    width, height = size
    picture = Image.new("RGB", size, _color(random, 240, 256))
    drawing = ImageDraw.Draw(picture)
    margin = width // 10
    title = text_line(random, 3).title()
    drawing.text((margin, height // 20), title, fill="black", font=ImageFont.load_default(30))
    top = height // 20 + 50
    while top < height - 70:
        block = random.choice(["text", "text", "table", "figure"])
        block_height = int(random.integers(90, 200))
        box = (margin, top, width - margin, min(top + block_height, height - 40))
        _BLOCKS[str(block)](random, drawing, box)
        top += block_height + 30
    return picture


def draw_face(random: Random, size: int) -> Image.Image:
    """A face as a child draws it, not quite in the middle; or, half of the time, none."""
    picture = _ground(random, (96, 96))
    if random.random() < 0.6:
        drawing = ImageDraw.Draw(picture)
        shift = random.uniform(-6, 6, 2)
        skin = (int(random.integers(150, 240)), int(random.integers(110, 180)), 110)
        _ellipse(drawing, np.add(shift, (48, 34)), (36, 34), _color(random, 20, 90))
        _ellipse(drawing, np.add(shift, (48, 50)), (30, 40), skin)
        for side in (-1, 1):
            _ellipse(drawing, np.add(shift, (48 + 13 * side, 42)), (6, 3), (250, 250, 250))
            _ellipse(drawing, np.add(shift, (48 + 13 * side, 42)), (3, 3), (30, 30, 30))
            _ellipse(drawing, np.add(shift, (48 + 13 * side, 34)), (8, 2), (60, 40, 30))
        _ellipse(drawing, np.add(shift, (48, 56)), (4, 7), tuple(int(part * 0.85) for part in skin))
        _ellipse(drawing, np.add(shift, (48, 72)), (11, 3), (170, 60, 60))
    return _worn(random, picture, blur=1.2, noise=5.0).resize((size, size))


def _paragraph(random: Random, drawing: ImageDraw.ImageDraw, box: tuple[int, ...]) -> None:
    left, top, right, bottom = box
    font = ImageFont.load_default(13)
    for line_top in range(top, bottom - 14, 18):
        text = text_line(random, 14)
        while font.getlength(text) > right - left:
            text = text[:-1]
        drawing.text((left, line_top), text, fill=(20, 20, 20), font=font)


def _table(random: Random, drawing: ImageDraw.ImageDraw, box: tuple[int, ...]) -> None:
    left, top, right, bottom = box
    font = ImageFont.load_default(12)
    columns = [left + (right - left) * index // 4 for index in range(5)]
    rows = list(range(top, bottom, 24))
    for row in rows:
        drawing.line((left, row, right, row), fill="black")
    for column in columns:
        drawing.line((column, top, column, rows[-1]), fill="black")
    for row in rows[:-1]:
        for column in columns[:-1]:
            cell = str(random.integers(1, 10000))
            drawing.text((column + 8, row + 5), cell, fill="black", font=font)


def _figure(random: Random, drawing: ImageDraw.ImageDraw, box: tuple[int, ...]) -> None:
    left, top, right, bottom = box
    drawing.rectangle(box, fill=_color(random, 120, 220))
    for _ in range(12):
        across = np.sort(random.integers(left, right, 2))
        down = np.sort(random.integers(top, bottom, 2))
        corners = (int(across[0]), int(down[0]), int(across[1]), int(down[1]))
        drawing.ellipse(corners, fill=_color(random, 0, 256))


_BLOCKS = {"text": _paragraph, "table": _table, "figure": _figure}


def _ellipse(
    drawing: ImageDraw.ImageDraw, center: np.ndarray, radii: tuple[int, int], fill: Color
) -> None:
    low = center - radii
    high = center + radii
    drawing.ellipse((float(low[0]), float(low[1]), float(high[0]), float(high[1])), fill=fill)


def _color(random: Random, low: int, high: int) -> Color:
    red, green, blue = (int(part) for part in random.integers(low, high, 3))
    return red, green, blue


def _ground(random: Random, size: tuple[int, int]) -> Image.Image:
    """Colours that flow into each other."""
    pixels = random.integers(60, 230, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _worn(random: Random, picture: Image.Image, *, blur: float, noise: float) -> Image.Image:
    blurred = picture.filter(ImageFilter.GaussianBlur(float(random.uniform(0, blur))))
    pixels = np.asarray(blurred, np.float32)
    noisy = pixels + random.normal(0, noise, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
