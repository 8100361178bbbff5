"""Files of kinds that are known, made by the standard library and Pillow."""

from __future__ import annotations

import gzip
import inspect
import io
import json
import sqlite3
import string
import tarfile
import wave
import zipfile

import numpy as np

import drawn_pictures as pictures
import drawn_sounds as sounds

Random = np.random.Generator

PICTURES = ("png", "jpeg", "gif", "bmp", "pdf")
ARCHIVES = ("zip", "gzip", "tar")
MODULES = (json, string, tarfile, wave, zipfile, inspect)
RATE = 16000


def file_content(kind: str, random: Random) -> bytes:
    """The bytes of a file: a picture, an archive of text, a sound, a database, or text."""
    if kind in PICTURES:
        file = io.BytesIO()
        pictures.draw_page(random, (200, 260)).save(file, kind.upper())
        return file.getvalue()
    if kind in ARCHIVES:
        return _archive(kind, _text("txt", random) * 20)
    if kind == "wav":
        return _sound(random)
    if kind == "sqlite":
        return _database(random)
    return _text(kind, random).encode()


def _archive(kind: str, text: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("notes.txt", text)
    elif kind == "gzip":
        file.write(gzip.compress(text.encode()))
    else:
        with tarfile.open(fileobj=file, mode="w") as folder:
            entry = tarfile.TarInfo("notes.txt")
            entry.size = len(text)
            folder.addfile(entry, io.BytesIO(text.encode()))
    return file.getvalue()


def _sound(random: Random) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        samples = 32767 * sounds.speech(random, 0.5, RATE)
        sound.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def _database(random: Random) -> bytes:
    database = sqlite3.connect(":memory:")
    database.execute("create table orders (id integer primary key, customer text, total real)")
    for _ in range(40):
        row = (pictures.text_line(random), float(random.random()))
        database.execute("insert into orders (customer, total) values (?, ?)", row)
    database.commit()
    content = database.serialize()
    database.close()
    return content


def _text(kind: str, random: Random) -> str:
    rows = [pictures.text_line(random, 4).split() for _ in range(int(random.integers(12, 40)))]
    if kind == "python":
        source = inspect.getsource(MODULES[int(random.integers(len(MODULES)))])
        start = int(random.integers(len(source) // 2))
        return source[source.index("\n", start) :]
    if kind == "json":
        return json.dumps([dict(zip(row[:2], row[2:], strict=True)) for row in rows], indent=2)
    lines = [_LINES[kind](row) for row in rows]
    return "\n".join([_STARTS.get(kind, ""), *lines, _ENDS.get(kind, "")])


def _function_in_c(row: list[str]) -> str:
    return (
        f"static int {row[0]}_{row[1]}(const char *{row[2]}, int count)\n{{\n"
        f'    if (count > {len(row[3])}) {{\n        printf("%d\\n", count);\n    }}\n'
        f"    return count * {len(row[0])};\n}}\n"
    )


_LINES = {
    "txt": " ".join,
    "csv": ",".join,
    "ini": lambda row: f"[{row[0]}]\n{row[1]} = {row[2]}\n{row[3]} = {len(row[0])}",
    "html": lambda row: f"  <p class='{row[0]}'>{' '.join(row)}</p>",
    "c": _function_in_c,
}
_STARTS = {
    "c": "#include <stdio.h>\n#include <stdlib.h>\n",
    "csv": "customer,order,amount,total",
    "html": "<!DOCTYPE html>\n<html>\n<head><title>orders</title></head>\n<body>",
}
_ENDS = {"html": "</body>\n</html>\n"}
