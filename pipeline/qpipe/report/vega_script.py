"""The JavaScript of Vega and Vega-Lite, which travels in every report with charts."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version

from qpipe.user_cache import replace_text, user_cache_file


def vega_script() -> str:
    """Return the script that defines `vegaEmbed`.

    To put it together takes seconds: it is kept in the user's cache folder, for each version.
    """
    file = user_cache_file(f"vega-{version('vl-convert-python')}.js")
    if file is not None:
        with suppress(OSError, UnicodeDecodeError):
            return file.read_text(encoding="utf-8")
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # nothing in it may end the element that it becomes a part of
    script = script.replace("</script", "<\\/script")
    if file is not None:
        with suppress(OSError):  # no room: the next report puts it together again
            replace_text(file, script)
    return script
