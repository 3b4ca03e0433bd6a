"""Writes the page that `dvc plots show` fills in, with its scripts inside: it draws without a network.

    pip install vl-convert-python==1.9.0.post1
    python .dvc/plots/make_page.py src/litmeter/cli/templates/plots.html

DVC's own page loads Vega from a CDN. `plots.html_template` in .dvc/config names this one; `litmeter init`
copies it.
"""

from __future__ import annotations

import sys
from pathlib import Path

VEGA_LITE = "5.20"  # of the schema that DVC's plot templates declare, v5
PLACEHOLDERS = ("{plot_divs}", "{refresh_tag}", "{scripts}")  # DVC replaces these, wherever they stand
LARGEST_BYTES = 2**20

NOTICE = """\
The script in this page is a bundle, made by vl-convert, of the packages below. Their licences follow.

Vega 6.2.0 and its parts, Vega-Lite 5.20.1, Vega-Embed 7.0.2, Vega-Themes 3.0.0, Vega-Tooltip 1.0.0:
BSD 3-Clause. Copyright (c) 2015-2023, University of Washington Interactive Data Lab, and contributors.
All rights reserved.

D3's modules, internmap, topojson-client: ISC. Copyright 2010-2024 Mike Bostock.
d3-delaunay: ISC. Copyright 2018-2021 Observable, Inc.; copyright 2021 Mapbox.
delaunator: ISC. Copyright (c) 2017, Mapbox.
semver: ISC. Copyright (c) Isaac Z. Schlueter and Contributors.
d3-geo, the parts from GeographicLib: MIT. Copyright 2008-2012 Charles Karney.
d3-geo-projection, the parts from integrate-adaptive-simpson: MIT. Copyright 2015 Ricky Reusser.
fast-json-patch: MIT. Copyright (c) 2013, 2014, 2020 Joachim Wester.
json-stringify-pretty-compact: MIT. Copyright (c) 2014, 2016, 2017, 2019, 2021, 2022 Simon Lydell.
robust-predicates: the Unlicense, public domain.
Colour schemes from ColorBrewer: Apache License 2.0, http://www.apache.org/licenses/LICENSE-2.0.
Copyright 2002 Cynthia Brewer, Mark Harrower, and The Pennsylvania State University.

BSD 3-Clause License

Redistribution and use in source and binary forms, with or without modification, are permitted provided
that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions and the
   following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions and
   the following disclaimer in the documentation and/or other materials provided with the distribution.

3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or
   promote products derived from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED
WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY
DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO,
PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE
OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH
DAMAGE.

ISC License

Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is
hereby granted, provided that the above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE
INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR
ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE,
DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN
CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.

MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions
of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED
TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
DEALINGS IN THE SOFTWARE.
"""

HEAD = """\
<!DOCTYPE html>
<!--
Made by make_page.py; `dvc plots show` fills it in.

NOTICE
-->
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>litmeter: plots</title>
<style>
body { margin: 24px; background: #fff; font-family: system-ui, sans-serif; }
main { display: flex; flex-wrap: wrap; gap: 32px; align-items: flex-start; }
</style>
<script>
"""

TAIL = """
</script>
</head>
<body>
<main>
{plot_divs}
</main>
</body>
</html>
"""


def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script that leaves one name in the page, ``vegaEmbed``."""
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    for ender in ("</script", "<!--", *PLACEHOLDERS):
        if ender in script.lower():
            raise ValueError(f"the script holds {ender!r}, which would break the page")
    # A function keeps the bundle's short names apart from those that DVC's own scripts declare.
    return f"(() => {{{script}\n}})();"


def page() -> str:
    """The whole template. DVC replaces its placeholders as plain text: braces need no escape."""
    return HEAD.replace("NOTICE\n", NOTICE) + bundle() + TAIL


def main() -> None:
    """Write the page to the path given."""
    content = page().encode()
    if len(content) >= LARGEST_BYTES:
        raise ValueError(f"the page has {len(content)} bytes")
    Path(sys.argv[1]).write_bytes(content)


if __name__ == "__main__":
    main()
