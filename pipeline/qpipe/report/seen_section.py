"""What the network saw, as a part of a page: the prediction of float beside that of a scheme."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from qpipe.report.both_predictions import SeenSample
from qpipe.report.box_drawing import draw_boxes
from qpipe.report.page_template import escape, paragraphs
from qpipe.report.predictions import Description, describe_prediction
from qpipe.report.samples_report import FedSample
from qpipe.report.seen_samples import SeenSamples
from qpipe.report.tensor_pictures import Sound, TensorView, view_tensor
from qpipe.types import Preprocessing

HOW_TO_READ = (
    "A few samples as the network is fed them: those first whose answers were not those of float "
    "on the device, then those whose outputs differ most. The predictions are computed on this "
    "machine, from the files that were deployed."
)
LARGEST_PNG = 128 * 128  # pixels; larger pictures are embedded as JPEG, which is smaller and faster
JPEG_QUALITY = 85
LONGEST_SOUND = 160_000  # values; a longer one would make the page large
NO_PREPROCESSING = Preprocessing()


def seen_section(models: Sequence[SeenSamples]) -> str:
    """Return the samples of each model; why there are none where that is so."""
    parts = ['<h2 id="seen">What the network saw</h2>']
    if not models:
        parts.append(
            paragraphs(
                [
                    "There is nothing to show: the cache does not have the samples and files of "
                    "this run, or ONNX Runtime does not run them."
                ]
            )
        )
        return "\n".join(parts)
    parts.append(paragraphs([HOW_TO_READ]))
    for model in models:
        figures = "\n".join(_figure(model, sample) for sample in model.samples)
        parts.append(f"<h3>{escape(model.title)}: float and {escape(model.scheme)}</h3>")
        parts.append(f'<div class="small-multiples">\n{figures}\n</div>')
    return "\n".join(parts)


def _figure(model: SeenSamples, sample: SeenSample) -> str:
    """Return a sample: its first input with what each network predicts for it."""
    sides = "\n".join(
        _side(name, model, fed)
        for name, fed in (("float", sample.by_float), (model.scheme, sample.by_scheme))
    )
    caption = f"<figcaption><b>{escape(sample.by_float.id)}</b></figcaption>"
    return f'<figure>\n{caption}\n<div class="sides">\n{sides}\n</div>\n</figure>'


def _side(name: str, model: SeenSamples, fed: FedSample) -> str:
    described = describe_prediction(fed.prediction, fed.target, model.class_names)
    input_name, tensor = next(iter(fed.inputs.items()))
    preprocessing = model.preprocessing.get(input_name, NO_PREPROCESSING)
    view = view_tensor(tensor, preprocessing, model.sample_rate)
    lines = escape("\n".join(described.lines))
    return f"<div><b>{escape(name)}</b>{_view_element(view, described)}<pre>{lines}</pre></div>"


def _view_element(view: TensorView, described: Description) -> str:
    if view.image is not None:
        image = draw_boxes(view.image, described.boxes) if described.boxes else view.image
        return f'<img src="{_image_link(image)}" alt="the input">'
    if view.sound is not None and len(view.sound.values) <= LONGEST_SOUND:
        return f'<audio controls src="{_sound_link(view.sound)}"></audio>'
    return f"<pre>{escape(view.text)}</pre>" if view.text else ""


def _image_link(image: Image.Image) -> str:
    """Return a picture as a link that holds it."""
    file = io.BytesIO()
    if image.width * image.height <= LARGEST_PNG:
        image.save(file, "png")
        return _data_link("image/png", file.getvalue())
    image.convert("RGB").save(file, "jpeg", quality=JPEG_QUALITY)
    return _data_link("image/jpeg", file.getvalue())


def _sound_link(sound: Sound) -> str:
    file = io.BytesIO()
    sound.write(file)
    return _data_link("audio/wav", file.getvalue())


def _data_link(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
