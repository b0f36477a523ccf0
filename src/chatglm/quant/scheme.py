"""QuantScheme: how weights are made smaller, as one value that a file can hold. No tensors here."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from chatglm.errors import ConfigError

GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class QuantScheme:
    """How the weights of a model are quantized.

    Args:
        bits: 4 or 8, of the four linear layers of every decoder layer.
        group_size: columns that share a scale: 32, 64 or 128; None: one scale for each row, as the official format.
        symmetric: numbers lie around zero; False (4 bits in groups): every group has a zero point of its own.
        head_bits: of the output layer: 4, 8 or None (left as it is). 4 bits follow `group_size`, 8 bits have a scale
            for each row.
        embedding_bits: of the input embedding: 8 or None.
        skip: names of layers to leave as they are, with `*` as in file names.

    Raises:
        ConfigError: values that do not go together.
    """

    bits: int = 4
    group_size: int | None = 32
    symmetric: bool = True
    head_bits: int | None = 8
    embedding_bits: int | None = 8
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given: object = self.skip
        if isinstance(given, str):
            raise ConfigError(f"skip is {given!r}; it must be a list of names, such as [{given!r}]")
        object.__setattr__(self, "skip", tuple(self.skip))
        for name, allowed in (("bits", (4, 8)), ("head_bits", (None, 4, 8)), ("embedding_bits", (None, 8))):
            value = getattr(self, name)
            if value not in allowed or isinstance(value, bool):
                raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(map(str, allowed))}")
        if self.group_size is not None and self.group_size not in GROUP_SIZES:
            sizes = ", ".join(map(str, GROUP_SIZES))
            raise ConfigError(f"group_size is {self.group_size!r}; it must be {sizes}, or None for one scale a row")
        if not self.symmetric and (self.bits != 4 or self.group_size is None):
            raise ConfigError(
                f"symmetric=False with bits={self.bits}, group_size={self.group_size}; "
                "zero points exist for 4 bits in groups"
            )

    @classmethod
    def parse(cls, text: "QuantScheme | str | int") -> "QuantScheme":
        """A scheme from its name.

        "int4" (or 4) is 4 bits in groups of 32; "int4-g64" and "int4-g128" have larger groups; "-asym" adds zero
        points; "int8" (or 8) is 8 bits with one scale a row; "int4-rowwise" and "int8-rowwise" are the official format,
        which leaves output layer and embedding alone.

        Raises:
            ConfigError: no such name.
        """
        if isinstance(text, QuantScheme):
            return text
        match = re.fullmatch(r"(?:int)?([48])(?:-(rowwise|g\d+))?(-asym)?", str(text).lower())
        if match is None or isinstance(text, bool):
            raise ConfigError(
                f"quantize is {text!r}; it must be int4, int4-g64, int4-g128 (also with -asym), int8, int8-g32, "
                "or the official int4-rowwise or int8-rowwise"
            )
        bits, layout, asymmetric = int(match[1]), match[2], match[3] is not None
        if layout == "rowwise":
            return replace(OFFICIAL[bits], symmetric=not asymmetric)
        size = int(layout[1:]) if layout else 32 if bits == 4 else None
        return cls(bits=bits, group_size=size, symmetric=not asymmetric)

    @property
    def name(self) -> str:
        """The name `parse` understands, of the part about the linear layers."""
        layout = "-rowwise" if self.group_size is None else f"-g{self.group_size}"
        return f"int{self.bits}{layout}{'' if self.symmetric else '-asym'}"

    @property
    def is_official(self) -> bool:
        """Whether official INT8 / INT4 files can hold it."""
        return self == OFFICIAL[self.bits]

    def skips(self, name: str) -> bool:
        """Whether the layer of this name is to be left as it is."""
        return any(fnmatchcase(name, pattern) for pattern in self.skip)

    def without_ends(self) -> "QuantScheme":
        """For models whose head and embedding are one tensor, which must stay one: both are left as they are."""
        return replace(self, head_bits=None, embedding_bits=None)

    def for_head(self) -> "QuantScheme":
        """The scheme of the output layer alone; `head_bits` must be given."""
        assert self.head_bits is not None
        size = (self.group_size or 32) if self.head_bits == 4 else None
        return QuantScheme(self.head_bits, size, self.symmetric or self.head_bits == 8, None, None)

    def to_dict(self) -> dict[str, Any]:
        """For `config.json`; `from_dict` reads it."""
        return {**asdict(self), "skip": list(self.skip)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QuantScheme":
        """Raises ConfigError for unknown entries: a newer version may have written what this one cannot read."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"the quantization scheme has unknown entries {unknown}; known are {sorted(known)}")
        return cls(**values)


OFFICIAL = {bits: QuantScheme(bits, None, True, None, None) for bits in (4, 8)}
