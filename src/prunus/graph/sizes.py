"""Numbers that remember where they came from.

While a model is traced, the integers that its modules hold and those read from tensor shapes are
`SizeInt`s: plain ints that carry a polynomial over axis sizes and module attributes through Python's
arithmetic. When one arrives as an argument of `view` or `split`, the tracer knows which equation between
axis sizes and attributes the code relies on. `SizeFloat`s do the same for floats made from them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from .axes import Node, find
from .polynomials import Opaque, Poly


@dataclass
class Recorder:
    """Who hears what the integers of one trace have to tell; `leaks` are sizes handed out as plain ints."""

    leaks: dict[int, Poly] = field(default_factory=dict)
    on_equality: Callable[[Poly, Poly], None] | None = None
    on_escape: Callable[[Poly], None] | None = None
    on_order: Callable[[str, Poly, Poly, bool], None] | None = None


_recorder: list[Recorder] = []


def set_recorder(recorder: Recorder | None) -> None:
    _recorder.clear()
    if recorder is not None:
        _recorder.append(recorder)


def poly_of(value: Any) -> Poly:
    """The polynomial an integer carries; a plain int is a constant."""
    if isinstance(value, SizeInt):
        return value.poly
    return Poly.const(int(value))


def opaque(value: int, *parts: Any) -> SizeInt:
    depends: list[Any] = []
    for part in parts:
        if isinstance(part, SizeInt):
            depends.extend(part.poly.variables())
    return SizeInt.make(value, Poly.var(Opaque(value, tuple(depends))))


class SizeInt(int):
    """An int that carries a polynomial. Equal, hashable and usable as the int that it is."""

    poly: Poly

    @staticmethod
    def make(value: int, poly: Poly) -> SizeInt:
        out = SizeInt(value)
        out.poly = poly
        return out

    @staticmethod
    def of(value: int, variable: Any) -> SizeInt:
        return SizeInt.make(value, Poly.var(variable))

    def __hash__(self) -> int:
        return int.__hash__(self)

    def __reduce__(self) -> Any:
        return (int, (int.__int__(self),))

    def __deepcopy__(self, memo: Any) -> SizeInt:
        return self

    def __copy__(self) -> SizeInt:
        return self

    def _ring(self, other: Any, plain: Callable[[int, int], int], ring: Callable[[Poly, Poly], Poly]) -> Any:
        if isinstance(other, bool) or not isinstance(other, int):
            return NotImplemented
        value = plain(int.__int__(self), int.__int__(other))
        return SizeInt.make(value, ring(self.poly, poly_of(other)))

    def __add__(self, other: Any) -> Any:
        if isinstance(other, float):
            return SizeFloat.combine("add", self, other)
        return self._ring(other, lambda a, b: a + b, lambda a, b: a + b)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, float):
            return SizeFloat.combine("sub", self, other)
        return self._ring(other, lambda a, b: a - b, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> Any:
        if isinstance(other, float):
            return SizeFloat.combine("sub", other, self)
        return self._ring(other, lambda a, b: b - a, lambda a, b: b - a)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, float):
            return SizeFloat.combine("mul", self, other)
        return self._ring(other, lambda a, b: a * b, lambda a, b: a * b)

    __rmul__ = __mul__

    def __neg__(self) -> SizeInt:
        return SizeInt.make(-int.__int__(self), -self.poly)

    def __pos__(self) -> SizeInt:
        return self

    def __abs__(self) -> SizeInt:
        return self if int.__ge__(self, 0) else -self

    def __floordiv__(self, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            return SizeFloat.combine("floordiv", self, other) if isinstance(other, float) else NotImplemented
        return _floordiv(self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _floordiv(other, self) if isinstance(other, int) else NotImplemented

    def __mod__(self, other: Any) -> Any:
        return _mod(self, other) if isinstance(other, int) else NotImplemented

    def __rmod__(self, other: Any) -> Any:
        return _mod(other, self) if isinstance(other, int) else NotImplemented

    def __divmod__(self, other: Any) -> Any:
        return _floordiv(self, other), _mod(self, other)

    def __truediv__(self, other: Any) -> Any:
        return SizeFloat.combine("truediv", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return SizeFloat.combine("truediv", other, self)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        if modulo is None and type(other) is int and 0 <= other <= 8:
            poly = Poly.const(1)
            for _ in range(other):
                poly = poly * self.poly
            return SizeInt.make(int.__int__(self) ** other, poly)
        return SizeFloat.combine("pow", self, other)

    def __rpow__(self, other: Any, modulo: Any = None) -> Any:
        return SizeFloat.combine("pow", other, self)

    def __eq__(self, other: object) -> Any:
        result = int.__eq__(self, other) if isinstance(other, int) else NotImplemented
        if isinstance(result, bool) and not isinstance(other, bool) and _recorder:
            if result and _recorder[0].on_equality is not None:
                _recorder[0].on_equality(self.poly, poly_of(other))
            elif not result and _recorder[0].on_order is not None:
                _recorder[0].on_order("eq", self.poly, poly_of(other), False)
        return result

    def __ne__(self, other: object) -> Any:
        result = self.__eq__(other)
        return result if result is NotImplemented else not result

    def _ordered(self, other: Any, name: str, compare: Callable[[Any, Any], bool]) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        plain = int.__int__(other) if isinstance(other, int) else float.__float__(other)
        outcome = compare(int.__int__(self), plain)
        if _recorder and _recorder[0].on_order is not None and not isinstance(other, SizeFloat):
            right = poly_of(other) if isinstance(other, int) else Poly.const(Fraction(plain))
            _recorder[0].on_order(name, self.poly, right, outcome)
        return outcome

    def __lt__(self, other: Any) -> Any:
        return self._ordered(other, "lt", operator.lt)

    def __le__(self, other: Any) -> Any:
        return self._ordered(other, "le", operator.le)

    def __gt__(self, other: Any) -> Any:
        return self._ordered(other, "gt", operator.gt)

    def __ge__(self, other: Any) -> Any:
        return self._ordered(other, "ge", operator.ge)

    def __float__(self) -> float:
        _escape(self)
        return float(int.__int__(self))

    def __int__(self) -> int:
        """Code that asks for a plain int gets one; where it comes back as a size it is known by its value."""
        value = int.__int__(self)
        if _recorder:
            _recorder[0].leaks[value] = self.poly
            _escape(self)
        return value

    __trunc__ = __int__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _numpy_call(ufunc, method, inputs, kwargs)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        import numpy as np

        _escape(self)
        return np.asarray(int.__int__(self), dtype=dtype)

    def __round__(self, digits: Any = None) -> SizeInt:
        return self

    __floor__ = __ceil__ = lambda self: self


def _escape(value: SizeInt | SizeFloat) -> None:
    if _recorder and _recorder[0].on_escape is not None:
        for poly in [value.poly] if isinstance(value, SizeInt) else value.sources:
            _recorder[0].on_escape(poly)


def _floordiv(a: int, b: int) -> SizeInt:
    x, y = int.__int__(a), int.__int__(b)
    inverse = poly_of(b).inverse()
    if x % y == 0 and inverse is not None:
        return SizeInt.make(x // y, poly_of(a) * inverse)
    return opaque(x // y, a, b)


def _mod(a: int, b: int) -> SizeInt:
    x, y = int.__int__(a), int.__int__(b)
    return opaque(x % y, a, b)


_plain_sqrt = math.sqrt
_FLOAT_OPS: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "truediv": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "pow": lambda a, b: a**b,
    "sqrt": math.sqrt,
    "log": math.log,
}


_NUMPY_OPS = {
    "sqrt": "sqrt",
    "log": "log",
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "truediv",
    "true_divide": "truediv",
    "power": "pow",
    "float_power": "pow",
}


def _numpy_call(ufunc: Any, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A NumPy function of tracked numbers: tracked where it is one of ours, else the number escapes."""
    op = _NUMPY_OPS.get(ufunc.__name__)
    if method == "__call__" and op is not None and all(isinstance(item, int | float) for item in inputs):
        return SizeFloat.combine(op, *inputs)
    plain = []
    for item in inputs:
        if isinstance(item, SizeInt | SizeFloat):
            _escape(item)
            item = int.__int__(item) if isinstance(item, SizeInt) else float.__float__(item)
        plain.append(item)
    return getattr(ufunc, method)(*plain, **kwargs)


class SizeFloat(float):
    """A float computed from `SizeInt`s: `head_dim ** -0.5`. `at` recomputes it for other sizes."""

    at: Callable[[Callable[[Any], int]], float]
    sources: list[Poly]

    @staticmethod
    def combine(op: str, *operands: Any) -> Any:
        if not all(isinstance(operand, int | float) for operand in operands):
            return NotImplemented
        plain = [int.__int__(x) if isinstance(x, int) else float.__float__(x) for x in operands]
        result = _FLOAT_OPS[op](*plain)
        if isinstance(result, complex):
            return result
        out = SizeFloat(result)
        evaluators = [_evaluator(operand) for operand in operands]
        out.at = lambda value_of: _FLOAT_OPS[op](*(evaluate(value_of) for evaluate in evaluators))
        out.sources = [poly for operand in operands for poly in sources_of(operand)]
        return out

    def __hash__(self) -> int:
        return float.__hash__(self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _numpy_call(ufunc, method, inputs, kwargs)

    def __reduce__(self) -> Any:
        return (float, (float.__float__(self),))

    def __deepcopy__(self, memo: Any) -> SizeFloat:
        return self

    def __float__(self) -> float:
        _escape(self)
        return float.__float__(self)

    def __int__(self) -> int:
        value = int(float.__float__(self))
        if _recorder:
            exact = _as_poly(self)
            if exact is not None:
                _recorder[0].leaks[value] = exact
            else:
                _escape(self)
        return value

    __trunc__ = __int__

    def __neg__(self) -> Any:
        return SizeFloat.combine("mul", self, -1.0)

    def __add__(self, other: Any) -> Any:
        return SizeFloat.combine("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return SizeFloat.combine("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return SizeFloat.combine("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return SizeFloat.combine("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return SizeFloat.combine("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return SizeFloat.combine("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return SizeFloat.combine("truediv", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return SizeFloat.combine("truediv", other, self)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        return SizeFloat.combine("pow", self, other)

    def __rpow__(self, other: Any, modulo: Any = None) -> Any:
        return SizeFloat.combine("pow", other, self)


def _evaluator(operand: Any) -> Callable[[Callable[[Any], int]], float]:
    if isinstance(operand, SizeInt):
        return lambda value_of: float(operand.poly.evaluate(value_of))
    if isinstance(operand, SizeFloat):
        return operand.at
    return lambda value_of: operand


def _as_poly(value: SizeFloat) -> Poly | None:
    """The polynomial of `a / b` that came out whole, for `int(a / b)`."""
    if len(value.sources) not in (1, 2) or not float.is_integer(value):
        return None
    numerator = value.sources[0]
    for divisor in (*value.sources[1:], None):
        if divisor is not None:
            inverse = divisor.inverse()
            candidate = numerator * inverse if inverse is not None else None
        else:
            ratio = Fraction(int(float.__float__(value))) / (numerator.evaluate(_now) or 1)
            candidate = numerator * Poly.const(ratio)
        if candidate is not None and candidate.evaluate(_now) == int(float.__float__(value)):
            return candidate
    return None


def _now(variable: Any) -> int:
    return find(variable).size if isinstance(variable, Node) else variable.value


def sources_of(value: Any) -> Iterable[Poly]:
    """The polynomials of the sizes that a number was computed from."""
    if isinstance(value, SizeInt):
        return [value.poly]
    if isinstance(value, SizeFloat):
        return value.sources
    return []


def value_at(value: Any, value_of: Callable[[Any], int]) -> float:
    """A tracked number recomputed for other sizes; a plain number is itself."""
    return _evaluator(value)(value_of)


def sqrt(value: Any) -> Any:
    """`math.sqrt` that keeps track of sizes."""
    return SizeFloat.combine("sqrt", value) if isinstance(value, SizeInt | SizeFloat) else _plain_sqrt(value)


class _FloatType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, float)


class tracked_float(metaclass=_FloatType):
    """`float` that keeps track of sizes; still good for `isinstance`."""

    def __new__(cls, value: Any = 0.0) -> Any:
        return (
            SizeFloat.combine("mul", value, 1.0) if isinstance(value, SizeInt | SizeFloat) else float(value)
        )
