"""Filters on metadata: ``family = RNase & (length >= 30 | reviewed = true)``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from onevec.errors import InputError
from onevec.use.formats import reason

COMPARISONS = {  # the signs and Arrow's functions
    "=": "equal",
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_TOKEN = re.compile(
    r"\s*(?:(?P<sign>==|!=|<=|>=|[=<>&|()!,])"
    r"|'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<word>[^\s=<>&|()!,'\"]+))"
)
_RULE = (
    "write such as  family = RNase & length >= 30 , with = != < <= > >= in (a, b), & | ! ( ) and "
    "'quotes' around values with spaces"
)


def matching(table: pa.Table, where: str | pc.Expression) -> Bool[np.ndarray, " rows"]:
    """Tell which rows of a table a filter lets through; missing values match nothing.

    Parameters
    ----------
    table : pyarrow.Table
        The columns that the filter may name.
    where : str or pyarrow.compute.Expression
        The text compares columns with values: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``,
        ``in (a, b)``; joined by ``&``, ``|``, ``!`` and parentheses, ``&`` before ``|``. Values
        are read as the column's type.

    Raises
    ------
    InputError
        If the text is no filter, names no column, or a value is not of the column's type.
    """
    if isinstance(where, str):
        try:
            mask = _Reader(table, where).whole()
        except RecursionError as error:
            raise InputError("the filter has too many parentheses: write fewer") from error
        return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    try:
        numbered = table.append_column("", pa.array(np.arange(table.num_rows)))
        rows = numbered.filter(where)[""].to_numpy()
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise InputError(
            f"the filter cannot be applied ({reason(error)}): check its columns"
        ) from error
    mask = np.zeros(table.num_rows, bool)
    mask[rows] = True
    return mask


class _Reader:
    """Reads a filter by recursive descent: or, and, not, comparison."""

    def __init__(self, table: pa.Table, text: str):
        self.table, self.text = table, text
        self.tokens: list[tuple[str, str]] = []
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None:
                raise self.broken(f"nothing can be read from {text[place:].strip()!r} on")
            kind = str(found.lastgroup)
            self.tokens.append((kind, found[kind]))
            place = found.end()
        self.place = 0

    def broken(self, why: str) -> InputError:
        return InputError(f"cannot read the filter {self.text!r}: {why}; {_RULE}")

    def sign(self, *wanted: str) -> str | None:
        """Take the next token if it is one of these signs."""
        if self.place < len(self.tokens) and self.tokens[self.place] in [
            ("sign", sign) for sign in wanted
        ]:
            self.place += 1
            return self.tokens[self.place - 1][1]
        return None

    def value(self, what: str) -> str:
        if self.place == len(self.tokens) or self.tokens[self.place][0] == "sign":
            came = "the end" if self.place == len(self.tokens) else self.tokens[self.place][1]
            raise self.broken(f"it has {came} where {what} is needed")
        self.place += 1
        return self.tokens[self.place - 1][1]

    def whole(self) -> pa.ChunkedArray:
        mask = self.either()
        if self.place < len(self.tokens):
            raise self.broken(f"{self.tokens[self.place][1]!r} stands where & or | is needed")
        return mask

    def either(self) -> pa.ChunkedArray:
        mask = self.both()
        while self.sign("|"):
            mask = pc.call_function("or_kleene", [mask, self.both()])
        return mask

    def both(self) -> pa.ChunkedArray:
        mask = self.one()
        while self.sign("&"):
            mask = pc.call_function("and_kleene", [mask, self.one()])
        return mask

    def one(self) -> pa.ChunkedArray:
        if self.sign("!"):
            return pc.call_function("invert", [self.one()])
        if self.sign("("):
            mask = self.either()
            if not self.sign(")"):
                raise self.broken("a ) is missing")
            return mask
        return self.comparison()

    def comparison(self) -> pa.ChunkedArray:
        name = self.value("a column")
        if name not in self.table.column_names:
            raise InputError(
                f"the filter {self.text!r} names a column {name!r}: there are "
                f"{', '.join(self.table.column_names)}"
            )
        column = self.table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        sign = self.sign(*COMPARISONS)
        if sign:
            return self.compared(name, column, sign, self.value("a value"))
        if self.tokens[self.place : self.place + 1] != [("word", "in")]:
            raise self.broken(f"a comparison is needed after {name!r}")
        self.place += 1
        if not self.sign("("):
            raise self.broken("a ( is needed after 'in'")
        mask = self.compared(name, column, "=", self.value("a value"))
        while self.sign(","):
            found = self.compared(name, column, "=", self.value("a value"))
            mask = pc.call_function("or_kleene", [mask, found])
        if not self.sign(")"):
            raise self.broken("a ) is missing after 'in (…'")
        return mask

    def compared(self, name: str, column: pa.ChunkedArray, sign: str, value: str) -> Any:
        kind = column.type
        try:
            if pa.types.is_integer(kind) and not re.fullmatch(r"[+-]?\d+", value):
                kind = pa.float64()  # 30.5 may be compared with whole numbers
            return pc.call_function(COMPARISONS[sign], [column, pa.scalar(value).cast(kind)])
        except (pa.ArrowException, TypeError) as error:
            raise InputError(
                f"the filter {self.text!r} compares {name!r}, which holds {column.type}, with "
                f"{value!r}: give a value of that type"
            ) from error
