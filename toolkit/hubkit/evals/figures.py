"""How a measured number is written. Half is rounded away from zero, as a person does who checks a table by hand.

Binary floats would write the published average of AGIEval, 3.5364 / 8 = 0.44205, as 0.4420.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal


def decimals(value: float, places: int) -> str:
    """``value`` with ``places`` decimals, rounded from its shortest decimal form: decimals(0.44205, 4) == '0.4421'."""
    room = Context(prec=400 + places)  # a float has at most 309 digits before the point
    return str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, room))


def four(value: float) -> str:
    """Four decimals: the classic tables' form."""
    return decimals(value, 4)
