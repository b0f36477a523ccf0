"""One tool: a function with what the model is told about it, made from its signature or from a schema."""

import copy
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from chatglm.chat.message import INTERPRETER, check_encodable, check_metadata, tools_json
from chatglm.errors import PromptError, ToolError
from chatglm.tools.checking import Checker
from chatglm.tools.function import Signature, read_function
from chatglm.tools.tool_forms import plain_form, to_composite
from chatglm.tools.wording import listed

_NAME = re.compile(r"[\w.-]{1,64}")


@dataclass(frozen=True, eq=False)
class Tool:
    """A function with what the model is told about it. Made by `tool` or `Tool.from_schema`.

    Attributes:
        name: what the model calls it by.
        description: what it does.
        parameters: JSON schema of its arguments, an object.
        function: what is called; None for a tool that somebody else carries out.
        timeout: seconds one call may take; unless given, what the tool box says.
        dangerous: whether the user should be asked first.
        max_result: characters of a result the model is shown; unless given, what the tool box says.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    function: Callable[..., Any] | None = None
    timeout: float | None = None
    dangerous: bool = False
    max_result: int | None = None
    _form: dict[str, Any] = field(default_factory=dict, repr=False)
    _signature: Signature | None = field(default=None, repr=False)
    _checker: Checker = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not isinstance(self.description, str):
            raise ToolError(f"the description of the tool {self.name} is {self.description!r}; it must be a text")
        if self.function is not None and not callable(self.function):
            raise ToolError(f"the function of the tool {self.name} is {self.function!r}; it must be callable")
        where = f"the parameters of the tool {self.name}"
        checker = Checker(self.parameters, where, strict=True, formats=self._signature is not None)
        object.__setattr__(self, "_checker", checker)
        if self.parameters.get("type", "object") != "object":
            raise ToolError(f"the parameters of the tool {self.name} are {self.parameters['type']!r}; not an object")
        check_limits(self.timeout, self.max_result, f"the tool {self.name}")
        if not self._form:
            form = {"name": self.name, "description": self.description, "parameters": self.parameters}
            object.__setattr__(self, "_form", form)
        try:
            check_encodable(tools_json(self._form), f"the schema of the tool {self.name}")
        except PromptError as error:
            raise ToolError(str(error)) from None

    @classmethod
    def from_schema(
        cls,
        schema: Mapping[str, Any],
        function: Callable[..., Any] | None = None,
        *,
        timeout: float | None = None,
        dangerous: bool = False,
        max_result: int | None = None,
    ) -> "Tool":
        """A tool out of a schema that others wrote.

        Args:
            schema: OpenAI's `{"type": "function", "function": {...}}`, the official `{"name", "description",
                "parameters"}`, or the official composite demo's form with a list `params`.
            function: what carries a call out, called with the arguments by name as JSON values.

        Raises:
            ToolError: the schema is none; names the place and what must stand there.
        """
        form = plain_form(schema)
        return cls(
            form["name"],
            form.get("description", ""),
            form.get("parameters") or {"type": "object", "properties": {}},
            function,
            timeout,
            dangerous,
            max_result,
            form,
        )

    def schema(self, form: Literal["official", "composite"] = "official") -> dict[str, Any]:
        """What stands in the system message, to the character as the model was trained to read it.

        Args:
            form: "official" as in the official README; "composite" as in the official composite demo, whose tools are
                a dict of these by name.
        """
        if form == "composite":
            return to_composite(self._form)
        if form != "official":
            raise ToolError(f"unknown form {form!r}; it must be 'official' or 'composite'")
        return copy.deepcopy(self._form)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Calls the function as if it were no tool."""
        if self.function is None:
            raise ToolError(f"the tool {self.name} has no function to call")
        return self.function(*arguments, **named)

    def check(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The arguments as the schema wants them, and what is wrong with them; see `checking` for what is accepted.

        No code of the tool's is run; `build` makes the values the function takes.
        """
        return self._checker.check(dict(arguments))

    def build(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments that were checked as the function takes them. Runs code of their types: a part of the call.

        Raises:
            ToolError: a type does not accept its value.
        """
        return arguments if self._signature is None else self._signature.build(arguments)

    def usage(self) -> str:
        """How a right call looks, in words."""
        words = listed(self.parameters, self.parameters)
        return f"{self.name} takes: {words}." if words else f"{self.name} takes no arguments."


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ToolError(f"a tool's name is {name!r}; it must be 1 to 64 letters, digits, '_', '-' or '.'")
    try:
        check_metadata(name, "a tool's name")
    except PromptError as error:
        raise ToolError(str(error)) from None
    if name == INTERPRETER:
        raise ToolError(f"a tool's name is {name!r}, which means code to run; give it another name")


def check_limits(timeout: float | None, max_result: int | None, where: str) -> None:
    if timeout is not None and (isinstance(timeout, bool) or not 0 < timeout < math.inf):
        raise ToolError(f"the timeout of {where} is {timeout!r}; it must be a number of seconds above 0")
    if max_result is not None and (not isinstance(max_result, int) or isinstance(max_result, bool) or max_result < 1):
        raise ToolError(f"max_result of {where} is {max_result!r}; it must be a number of characters above 0")


@overload
def tool(
    function: None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    dangerous: bool = False,
    max_result: int | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...
@overload
def tool(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    dangerous: bool = False,
    max_result: int | None = None,
) -> Tool: ...
def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    dangerous: bool = False,
    max_result: int | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Makes a function a tool, as `@tool`, `@tool(timeout=5)` or `tool(function)`.

    Parameters are described from the signature: types with `Annotated` texts, and the docstring's section about them
    (Google, NumPy or reST). Arguments reach the function as the types it names: dataclasses, enums, dates and pydantic
    models are built from JSON.

    Args:
        function: a plain or async function, a bound method, or an object that can be called.
        name: unless given, the function's own.
        description: unless given, the docstring without its sections.
        timeout: seconds one call may take.
        dangerous: whether the user should be asked first.
        max_result: characters of a result the model is shown.

    Raises:
        ToolError: the function cannot be described; says which parameter and what would be right.
    """
    if function is None:
        return lambda function: tool(
            function,
            name=name,
            description=description,
            timeout=timeout,
            dangerous=dangerous,
            max_result=max_result,
        )
    _check_function(function)
    named = name if name is not None else getattr(function, "__name__", type(function).__name__)
    _check_name(named)
    found = read_function(function, named)
    if not (found.description if description is None else str(description)).strip():
        raise ToolError(f"the tool {named} has no description; write a docstring or give description=")
    return Tool(
        named,
        found.description if description is None else description,
        found.parameters,
        function,
        timeout,
        dangerous,
        max_result,
        {},
        found,
    )


def _check_function(function: Any) -> None:
    if isinstance(function, Tool):
        raise ToolError(f"{function.name} is a tool already; use it as it is")
    if not callable(function) or inspect.isclass(function):
        raise ToolError(f"a tool is made of {function!r}; it must be a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ToolError(f"the tool {function.__name__} yields its results; it must return one")
