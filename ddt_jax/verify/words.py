"""Words that the verifier knows: units, numerals. A word that is not here is no unit."""

from fractions import Fraction
import functools
import re

# The (name, power) of each factor: of a unit such as m/s, or of its dimension.
Unit = tuple[tuple[str, int], ...]

# Of each dimension: names of a unit = how many of the first unit it is. Names are in
# the singular. "5 hours" against "5 hrs" is abstained from: the question may ask for one.
_MEASURES = {
    'm': """m meter metre = 1; km kilometer kilometre = 1000; dm decimeter = 1/10
        cm centimeter centimetre = 1/100; mm millimeter millimetre = 1/1000
        μm micrometer micron = 1/1000000; nm nanometer = 1/1000000000
        in inch = 0.0254; ft foot feet = 0.3048; yd yard = 0.9144
        mi mile = 1609.344""",
    'kg': """kg kilogram kilo = 1; g gram gm = 1/1000; mg milligram = 1/1000000
        tonne ton = 1000; lb pound = 0.45359237; oz ounce = 0.028349523125""",
    's': """s second sec = 1; ms millisecond = 1/1000; min minute = 60
        h hour hr = 3600; day = 86400; week wk = 604800; month; year yr
        decade; century""",
    'm^3': """L liter litre l = 1/1000; mL ml milliliter millilitre = 1/1000000
        cL cl centiliter = 1/100000; gallon gal; quart qt; pint; cup
        tablespoon tbsp; teaspoon tsp; cc = 1/1000000""",
    'm^2': 'ha hectare = 10000; acre = 4046.8564224',
    'm s^-1': """mph = 0.44704; kph kmh kmph = 5/18; knot = 463/900""",
    'kg m s^-2': 'N newton = 1; kN kilonewton = 1000',
    'kg m^2 s^-2': """J joule = 1; kJ kilojoule = 1000; kWh = 3600000
        cal calorie = 4.184; kcal kilocalorie = 4184; eV""",
    'kg m^2 s^-3': 'W watt = 1; kW kilowatt = 1000; MW megawatt = 1000000',
    'kg m^-1 s^-2': 'Pa pascal = 1; kPa kilopascal = 1000; atm = 101325',
    's^-1': 'Hz hertz = 1; kHz kilohertz = 1000; MHz megahertz = 1000000; rpm = 1/60',
    'mol': 'mol mole = 1; mmol = 1/1000',
    'V': 'V volt = 1; kV kilovolt = 1000', 'A': 'ampere amp = 1; mA = 1/1000',
    'ohm': 'ohm = 1', 'coulomb': 'coulomb = 1',
    'degree': 'degree deg = 1; arcminute = 1/60', 'radian': 'radian rad = 1',
    'celsius': 'celsius = 1', 'fahrenheit': 'fahrenheit = 1', 'kelvin': 'kelvin = 1',
    'dollar': 'dollar buck = 1; cent = 1/100', 'euro': 'euro = 1',
    'sterling': '£ = 1', 'rupee': 'rupee INR = 1',
    'yen': 'yen yuan JPY RMB ¥ = 1', 'won': 'won ₩ = 1', 'byte': 'byte = 1; bit = 1/8',
    '': 'percent % pct = 1/100; permille = 1/1000; ppm = 1/1000000; k; K; M',
}
# Things that are counted; nothing converts one into another.
_COUNTED = """
    unit apple orange banana cookie cake candy egg pie pizza slice piece sandwich muffin
    cupcake donut doughnut lemon peach pear grape cherry strawberry berry mango carrot
    potato tomato onion nut peanut bean seed lollipop chocolate bar book page word
    letter pencil pen crayon marker eraser notebook sheet card stamp sticker photo
    picture poster ticket coin bill marble bead ball balloon block toy doll brick tile
    stone rock shell stick button box bag basket jar bottle can carton crate bucket
    barrel package pack tray shelf table chair desk room house apartment building floor
    door window wall fence step stair car bus truck train plane boat bike bicycle wheel
    tire trip ride lap flight mile person people man men woman women child children kid
    boy girl student pupil teacher worker employee customer guest player member friend
    adult passenger team class group family row column seat dog cat cow horse sheep pig
    goat chicken hen duck bird fish rabbit mouse mice frog ant bee spider insect animal
    tree flower rose tulip plant leaf leaves branch acre shirt sock shoe hat coat dress
    glove game point goal win loss match vote problem question answer test exam quiz
    lesson song movie show minute time way path solution root integer number digit term
    factor divisor prime element subset function triangle square rectangle circle cube
    side edge vertex vertices face diagonal angle line segment region arrangement
    permutation combination outcome possibility choice handshake item object thing part
    share job task meal serving glass spoon fork plate bowl pot left remaining each
    total altogether more""".split()
# Signs of money are the words for them.
_MONEY = {'$': 'dollar', 'USD': 'dollar', '€': 'euro', 'EUR': 'euro', '₹': 'rupee',
          'Rs': 'rupee', 'GBP': '£'}
# From the ending of a plural to that of the name.
_PLURALS = (('', ''), ('s', ''), ('ies', 'y'), ('es', ''), ('ves', 'f'), ('zes', ''))

_UNITS, _TENS = (
    text.split() for text in (
        'zero one two three four five six seven eight nine ten eleven twelve '
        'thirteen fourteen fifteen sixteen seventeen eighteen nineteen',
        'twenty thirty forty fifty sixty seventy eighty ninety'))
# zero to ninety-nine, with a space in place of the hyphen.
NUMERALS = {word: n for n, word in enumerate(_UNITS)} | {
    tens + rest: 20 + 10 * i + n for i, tens in enumerate(_TENS)
    for n, rest in enumerate([''] + [f' {x}' for x in _UNITS[1:10]])}
# 3 quarters, 5 hundredths
PARTS = {name: Fraction(1, n) for n, name in enumerate(
    'half third fourth fifth sixth seventh eighth ninth tenth'.split(), 2)} | {
        'halve': Fraction(1, 2), 'quarter': Fraction(1, 4),
        'hundredth': Fraction(1, 100), 'thousandth': Fraction(1, 1000)}
COMPOUNDS = {'degrees celsius': 'celsius', 'degrees fahrenheit': 'fahrenheit',
             'degree celsius': 'celsius', 'degree fahrenheit': 'fahrenheit',
             'per cent': 'percent', 'per mille': 'permille'}
POWERS = {'square': 2, 'sq': 2, 'squared': 2, 'cubic': 3, 'cu': 3, 'cubed': 3}


@functools.cache
def _table() -> dict[str, tuple[Unit, Fraction | None]]:
  """From name to (dimension, factor); no factor where it is not exact."""
  # Each counted thing is a dimension of its own. Measures come after and win:
  # "minute" is 60 s.
  table = {name: (((name, 1),), Fraction(1)) for name in _COUNTED}
  for dimension, measures in _MEASURES.items():
    base = tuple((x, int(power or 1)) for x, power in re.findall(
        r'([^ ^]+)(?:\^(\S+))?', dimension))
    for measure in measures.replace('\n', ';').split(';'):
      names, _, factor = measure.partition('=')
      for name in names.split():
        table[name] = base, Fraction(factor.strip()) if factor else None
  return table


def lookup(word: str) -> str | None:
  """The name of a unit: a symbol as it is written, a word in any case and number."""
  word = _MONEY.get(word, word)
  if word in _table():
    return word
  word = word.lower()
  # Symbols keep their case: "M" is no "m".
  for ending, name in _PLURALS:
    name = word.removesuffix(ending) + name
    if len(word) > 2 and word.endswith(ending) and len(name) > 1 and name in _table():
      return name
  return None


@functools.cache
def measure(unit: Unit) -> tuple[Unit, Fraction | None]:
  """(dimension, factor to the dimension's base unit)."""
  powers, factor = {}, Fraction(1)
  for name, power in unit:
    base, scale = _table()[name]
    for x, p in base:
      powers[x] = powers.get(x, 0) + p * power
    factor = None if None in (factor, scale) else factor * scale**power
  return tuple(sorted((x, p) for x, p in powers.items() if p)), factor


@functools.cache
def scales(unit: Unit) -> set[Fraction]:
  """By how much the number changes if one factor is written in another unit."""
  table = _table()
  # Units without an exact factor (month, gallon) convert into nothing.
  return {(table[name][1] / other)**power
          for name, power in unit for base, other in table.values()
          if base == table[name][0] and None not in (table[name][1], other)} - {1}
