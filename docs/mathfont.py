"""Makes `docs/fonts/math.woff2`, the characters of this site's formulas out of Latin Modern Math.

`python docs/mathfont.py latinmodern-math.otf`, with fonttools and brotli. Browsers set MathML well only with
such a font, which not every system has. Latin Modern Math is by B. Jackowski, P. Strzelczyk and
P. Pianowski, under the GUST Font License; what is made here has another name, as that asks for.
"""

import argparse
import pathlib

from fontTools import subset

# Latin, Greek, operators, arrows, and the letters of formulas.
CHARACTERS = """
20-7E A0 A7 AC AF B1 B7 D7 2C6 2DC 300-308 370-3FF 2016 2026 2032-2034 203E 2061-2064 210B 210E 2112 2115
2119 211D 2130 2131 2190-2194 21A6 21D2 21D4 2200-220D 2211-221A 221D-2223 2225-222B 223C 2245 2248
2260 2261 2264 2265 226A 226B 2282 2286 22A4 22C5 22EF 2308-230B 27E8 27E9 1D434-1D467 1D49C-1D4B5
1D538-1D56B 1D6A4-1D6E1 1D6FC-1D71B
"""
NAME = "kacjax math"


def main():
    """Writes the font."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="latinmodern-math.otf")
    source = parser.parse_args().source
    options = subset.Options(flavor="woff2", layout_features=["*"], name_IDs=[0, 1, 2, 4, 6, 13])
    font = subset.load_font(source, options)
    maker = subset.Subsetter(options)
    maker.populate(unicodes=subset.parse_unicodes(",".join(CHARACTERS.split())))
    maker.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 4, 6):
            record.string = NAME.replace(" ", "-") if record.nameID == 6 else NAME
    folder = pathlib.Path(__file__).parent / "fonts"
    folder.mkdir(exist_ok=True)
    subset.save_font(font, str(folder / "math.woff2"), options)


if __name__ == "__main__":
    main()
