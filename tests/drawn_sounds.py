"""Sounds for public networks: something like speech, and notes."""

from __future__ import annotations

import numpy as np

Random = np.random.Generator

# the first three formants of vowels, in Hz: Peterson and Barney 1952
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
    (640, 1190, 2390),
)
SYLLABLE = 0.22  # seconds
BANDWIDTHS = (80, 110, 160)  # of formants, in Hz
MIDI_A4 = 69


def speech(random: Random, seconds: float, rate: int) -> np.ndarray:
    """Syllables of a voice: pulses of the glottis through the resonances of vowels, and hisses."""
    pitch = float(random.uniform(95, 220))
    parts: list[np.ndarray] = []
    count = round(seconds / SYLLABLE)
    for _ in range(count):
        length = int(SYLLABLE * rate)
        parts.append(_syllable(random, length, rate, pitch * float(random.uniform(0.85, 1.2))))
    sound = np.concatenate(parts)
    loudest = np.abs(sound).max()
    return (0.4 * sound / loudest).astype(np.float32)


def noise(random: Random, length: int, loudness: float) -> np.ndarray:
    """Pink noise."""
    spectrum = np.fft.rfft(random.normal(size=length))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), length)
    return (loudness * pink / pink.std()).astype(np.float32)


def speech_and_pauses(random: Random, seconds: float, rate: int) -> np.ndarray:
    """Speech and pauses in turn over faint noise."""
    parts: list[np.ndarray] = []
    total = int(seconds * rate)
    while sum(map(len, parts)) < total:
        parts.append(np.zeros(int(float(random.uniform(0.4, 1.0)) * rate), np.float32))
        parts.append(speech(random, float(random.uniform(0.7, 1.6)), rate))
    sound = np.concatenate(parts)[:total]
    return sound + noise(random, total, float(random.uniform(0.001, 0.01)))


def notes(random: Random, seconds: float, rate: int) -> np.ndarray:
    """Up to three notes at a time, each with overtones that die away."""
    total = int(seconds * rate)
    sound = np.zeros(total)
    for _ in range(int(random.integers(4, 10))):
        start = int(random.uniform(0, 0.8) * total)
        length = min(int(random.uniform(0.2, 0.8) * rate), total - start)
        sound[start : start + length] += _note(random, length, rate)
    return (0.3 * sound).astype(np.float32)


def _note(random: Random, length: int, rate: int) -> np.ndarray:
    time = np.arange(length) / rate
    frequency = 440 * 2 ** ((int(random.integers(45, 80)) - MIDI_A4) / 12)
    overtones = [
        np.sin(2 * np.pi * frequency * number * time) / number**1.5 for number in range(1, 8)
    ]
    decay = np.exp(-3 * time) * np.minimum(1, time / 0.01)
    return np.asarray(decay * np.sum(overtones, axis=0))


def _syllable(random: Random, length: int, rate: int, pitch: float) -> np.ndarray:
    """A hiss, then a vowel whose pitch falls."""
    hiss_length = int(length * random.uniform(0.1, 0.3))
    hiss = np.diff(random.normal(0, 0.02, hiss_length + 1))
    vowel_length = length - hiss_length
    time = np.arange(vowel_length) / rate
    falling = pitch * (1 - 0.6 * time)
    phase = np.cumsum(falling * (1 + 0.01 * random.normal(size=vowel_length).cumsum() / 30)) / rate
    pulses = np.diff(np.floor(phase), prepend=0.0)
    vowel = pulses + 0.01 * random.normal(size=vowel_length)
    for formant, bandwidth in zip(random.choice(VOWELS), BANDWIDTHS, strict=True):
        vowel = _resonance(vowel, float(formant), bandwidth, rate)
    envelope = np.sin(np.pi * np.linspace(0, 1, vowel_length)) ** 0.5
    return np.concatenate([hiss, envelope * vowel / (np.abs(vowel).max() + 1e-9)])


def _resonance(sound: np.ndarray, frequency: float, bandwidth: float, rate: int) -> np.ndarray:
    """Sound through a resonator, as its response to an impulse."""
    time = np.arange(int(0.05 * rate)) / rate
    response = np.exp(-np.pi * bandwidth * time) * np.sin(2 * np.pi * frequency * time)
    return np.convolve(sound, response)[: len(sound)]
