"""A calculator: the expression is parsed, never evaluated as code, and every step of it is bounded."""

import ast
import math
import operator
import re
import statistics
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any

from chatglm.errors import ToolError
from chatglm.tools.definition import tool

_MAX_CHARACTERS = 1000
_MAX_BITS = 10_000  # of a whole number, about 3000 digits
_MAX_COUNT = 3000  # for factorials and combinations

_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**", "π": "pi", "√": "sqrt"})
# What Python's parser reads and warns about, on the screen where people chat: a number that runs into a word, and text.
_WARNED_ABOUT = re.compile(r"""['"\\]|[\da-fA-F_.jJ](?:and|else|for|if|in|is|not|or)\b""")
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COUNTING: dict[str, Callable[..., Any]] = {"factorial": math.factorial, "comb": math.comb, "perm": math.perm}
_OF_LISTS: dict[str, Callable[[list[Any]], Any]] = {
    "sum": sum,
    "min": min,
    "max": max,
    "mean": statistics.fmean,
    "median": statistics.median,
    "stdev": statistics.stdev,
    "prod": math.prod,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in "sqrt exp log log2 log10 sin cos tan asin acos atan atan2".split()},
    **{name: getattr(math, name) for name in "sinh cosh tanh degrees radians hypot floor ceil trunc gcd lcm".split()},
    "abs": abs,
    "ln": math.log,
}


class _Wrong(ToolError):
    """What is wrong with an expression."""


@tool
def calculator(
    expression: Annotated[str, "what to calculate, e.g. (3 + 4) * 2 ** 10, sqrt(2), factorial(20), mean([1, 2, 3])"],
) -> str:
    """Calculates an arithmetic expression exactly.

    Knows + - * / // % ** (also written ^), brackets, pi, e, and the usual functions.
    """
    return calculate(expression)


def calculate(expression: str) -> str:
    """The value of an arithmetic expression, as text: whole numbers in full, others to 15 digits.

    Raises:
        ToolError: it is no such expression, or its value is not a number one could write down.
    """
    if len(expression) > _MAX_CHARACTERS:
        raise _Wrong(f"the expression has {len(expression)} characters; at most {_MAX_CHARACTERS} are calculated")
    written = unicodedata.normalize("NFKC", expression).translate(_SIGNS).strip().rstrip("=").strip()
    if _WARNED_ABOUT.search(written):
        raise _Wrong(f"{expression!r} cannot be calculated; known are numbers, operators and functions")
    try:
        value = _value(ast.parse(written, mode="eval").body)
        return _written(value)
    except _Wrong:
        raise
    except ZeroDivisionError:
        raise _Wrong("a division by zero has no value") from None
    except OverflowError:
        raise _Wrong("the value is too large") from None
    except (SyntaxError, RecursionError, MemoryError):
        raise _Wrong(f"{expression!r} is no arithmetic expression") from None
    except (ValueError, TypeError, statistics.StatisticsError) as error:
        raise _Wrong(f"the value is not defined: {error}") from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _number(_value(node.operand))
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return _operation(node)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_number(_value(item)) for item in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _bounded(_function(node.func.id, [_value(item) for item in node.args]))
    raise _Wrong(f"{ast.unparse(node)[:60]!r} cannot be calculated; known are numbers, operators and functions")


def _operation(node: ast.BinOp) -> Any:
    left, right = _number(_value(node.left)), _number(_value(node.right))
    if isinstance(node.op, ast.Pow):
        return _power(left, right)
    known = _OPERATORS.get(type(node.op))
    if known is None:
        raise _Wrong(f"the operator in {ast.unparse(node)[:60]!r} is not arithmetic; known are + - * / // % **")
    return _bounded(known(left, right))


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(exponent) * base.bit_length() > _MAX_BITS:
        if abs(base) > 1:
            raise _Wrong(f"a power with the exponent {_short(exponent)} is too large to be written down")
        exponent = exponent % 2  # of 0, 1 and -1
    value = base**exponent
    if isinstance(value, complex):
        raise _Wrong("the value is no real number")
    return _bounded(value)


def _function(name: str, arguments: list[Any]) -> Any:
    if name in _OF_LISTS:
        items = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], list) else arguments
        return _product(items) if name == "prod" else _OF_LISTS[name]([_number(item) for item in items])
    numbers = [_number(argument) for argument in arguments]
    counting: Callable[..., Any] | None = _COUNTING.get(name)
    if counting is not None:
        if any(abs(number) > _MAX_COUNT for number in numbers):
            raise _Wrong(f"{name} is calculated for numbers up to {_MAX_COUNT}")
        return counting(*numbers)
    if name == "pow" and len(numbers) == 2:
        return _power(*numbers)
    if name == "round" and len(numbers) in (1, 2):
        return _rounded(*numbers)
    if name not in _FUNCTIONS:
        known = ", ".join(sorted([*_FUNCTIONS, *_COUNTING, *_OF_LISTS, "pow", "round"]))
        raise _Wrong(f"there is no function {name!r}; the functions are: {known}")
    return _FUNCTIONS[name](*numbers)


def _rounded(number: Any, digits: Any = 0) -> Any:
    if abs(digits) > 100:  # a whole number is rounded by way of a power of ten
        raise _Wrong("a number is rounded to at most 100 digits")
    return round(number, digits) if digits else round(number)


def _product(items: list[Any]) -> Any:
    value: Any = 1
    for item in items:
        value = _bounded(value * _number(item))
    return value


def _number(value: Any) -> Any:
    if isinstance(value, list):
        raise _Wrong("a list stands where a number must be")
    return value


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise _Wrong("a whole number on the way has more than 3000 digits")
    return value


def _short(number: Any) -> str:
    return str(number) if not isinstance(number, int) or number.bit_length() < 100 else "of many digits"


def _written(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_written(item) for item in value) + "]"
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OverflowError
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
    return str(value)
