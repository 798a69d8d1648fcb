"""A function of LLVM text, written line by line from Python.

Loop-carried values are variables (stack slots): LLVM's first pass turns them into registers, so
emitters need no phi nodes and read like the loops that they are.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

DECLARATIONS = {
    "fma": "declare {t} @llvm.fma.{s}({t}, {t}, {t})",
    "fabs": "declare {t} @llvm.fabs.{s}({t})",
    "sqrt": "declare {t} @llvm.sqrt.{s}({t})",
}


@dataclass
class Builder:
    """Collects the lines of one function; values are names such as ``%v12``.

    Args:
        name: the function's symbol.
        parameters: pairs of LLVM type and name, ``("ptr", "%x")``.
        internal: whether only the same module calls it; such functions are not inlined.

    Example:
        >>> f = Builder("double", [("ptr", "%x")])
        >>> x = f.load("i64", "%x")
        >>> f.store("i64", f.add(x, x), "%x")
        >>> print(f.text())
        define void @double(ptr %x) {
          %v1 = load i64, ptr %x, align 8
          %v2 = add i64 %v1, %v1
          store i64 %v2, ptr %x, align 8
          ret void
        }
    """

    name: str
    parameters: Sequence[tuple[str, str]]
    internal: bool = False
    _lines: list[str] = field(default_factory=list)
    _slots: list[str] = field(default_factory=list)
    _count: int = 0
    _needs: set[str] = field(default_factory=set)

    def text(self) -> str:
        """The whole function."""
        parameters = ", ".join(f"{kind} {name}" for kind, name in self.parameters)
        head = (
            f"define internal void @{self.name}({parameters}) noinline {{"
            if self.internal
            else f"define void @{self.name}({parameters}) {{"
        )
        body = self._slots + (["  br label %body", "body:"] if self._slots else []) + self._lines
        return "\n".join([head, *body, "  ret void", "}"])

    @property
    def declarations(self) -> set[str]:
        """Declarations of the intrinsics that the function calls."""
        return self._needs

    # Lines

    def do(self, line: str) -> None:
        """Append an instruction without a value."""
        self._lines.append(f"  {line}")

    def value(self, line: str) -> str:
        """Append an instruction and return the name of its value."""
        name = self._fresh()
        self._lines.append(f"  {name} = {line}")
        return name

    def declare(self, declaration: str) -> None:
        """Note a function outside that this one calls."""
        self._needs.add(declaration)

    def _fresh(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def _label(self) -> str:
        self._count += 1
        return f"l{self._count}"

    # Integers and pointers

    def add(self, a: str, b: str | int) -> str:
        """``a + b`` of i64."""
        return self.value(f"add i64 {a}, {b}")

    def sub(self, a: str, b: str | int) -> str:
        """``a − b`` of i64."""
        return self.value(f"sub i64 {a}, {b}")

    def mul(self, a: str, b: str | int) -> str:
        """``a · b`` of i64."""
        return self.value(f"mul i64 {a}, {b}")

    def div(self, a: str, b: str | int) -> str:
        """Whole part of ``a / b`` of i64 that are not negative."""
        return self.value(f"udiv i64 {a}, {b}")

    def rem(self, a: str, b: str | int) -> str:
        """Remainder of ``a / b`` of i64 that are not negative."""
        return self.value(f"urem i64 {a}, {b}")

    def compare(self, how: str, a: str | int, b: str | int) -> str:
        """``icmp how`` of i64, an i1."""
        return self.value(f"icmp {how} i64 {a}, {b}")

    def minimum(self, a: str | int, b: str | int) -> str:
        """The smaller of two signed i64."""
        less = self.compare("slt", a, b)
        return self.value(f"select i1 {less}, i64 {a}, i64 {b}")

    def offset(self, pointer: str, count: str | int, kind: str = "i8") -> str:
        """The pointer ``count`` elements (bytes by default) further."""
        return self.value(f"getelementptr {kind}, ptr {pointer}, i64 {count}")

    def load(self, kind: str, pointer: str, align: int | None = None) -> str:
        """Load a value."""
        return self.value(f"load {kind}, ptr {pointer}, align {align or _natural(kind)}")

    def store(self, kind: str, value: str, pointer: str, align: int | None = None) -> None:
        """Store a value."""
        self.do(f"store {kind} {value}, ptr {pointer}, align {align or _natural(kind)}")

    def masked_load(self, kind: str, pointer: str, keep: str) -> str:
        """Load the lanes of a vector of floats whose bit is set; the others are 0 and are not read."""
        lanes = lanes_of(kind)
        name = f"@llvm.masked.load.v{lanes}f32.p0"
        self.declare(f"declare {kind} {name}(ptr, i32, <{lanes} x i1>, {kind})")
        kept = f"<{lanes} x i1> {keep}, {kind} zeroinitializer"
        return self.value(f"call {kind} {name}(ptr {pointer}, i32 4, {kept})")

    def masked_store(self, kind: str, value: str, pointer: str, keep: str) -> None:
        """Store the lanes of a vector of floats whose bit is set; the others stay as they are."""
        lanes = lanes_of(kind)
        name = f"@llvm.masked.store.v{lanes}f32.p0"
        self.declare(f"declare void {name}({kind}, ptr, i32, <{lanes} x i1>)")
        self.do(f"call void {name}({kind} {value}, ptr {pointer}, i32 4, <{lanes} x i1> {keep})")

    def prefetch(self, pointer: str) -> None:
        """Fetch the line of an address that will be written; any address is harmless."""
        self._needs.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.do(f"call void @llvm.prefetch.p0(ptr {pointer}, i32 1, i32 3, i32 1)")

    def load_unsigned(self, kind: str, pointer: str, index: str | int = 0) -> str:
        """Load element ``index`` of narrow integers as an i64, zero-extended."""
        narrow = self.load(kind, self.offset(pointer, index, kind))
        return self.value(f"zext {kind} {narrow} to i64")

    def load_signed(self, kind: str, pointer: str, index: str | int = 0) -> str:
        """Load element ``index`` of narrow integers as an i64, sign-extended."""
        narrow = self.load(kind, self.offset(pointer, index, kind))
        return self.value(f"sext {kind} {narrow} to i64")

    # Variables and control

    def variable(self, kind: str, initial: str | int | None = None) -> str:
        """A stack slot that later becomes registers."""
        self._count += 1
        name = f"%s{self._count}"
        self._slots.append(f"  {name} = alloca {kind}, align {_natural(kind)}")
        if initial is not None:
            self.store(kind, str(initial), name)
        return name

    @contextmanager
    def loop(self, start: str | int, stop: str | int, step: int = 1) -> Iterator[str]:
        """Run the block for each i64 from ``start`` while below ``stop``."""
        index = self.variable("i64", start)
        first, body, done = self._label(), self._label(), self._label()
        self.do(f"br label %{first}")
        self._lines.append(f"{first}:")
        i = self.load("i64", index)
        more = self.compare("slt", i, stop)
        self.do(f"br i1 {more}, label %{body}, label %{done}")
        self._lines.append(f"{body}:")
        yield i
        self.store("i64", self.add(i, step), index)
        self.do(f"br label %{first}")
        self._lines.append(f"{done}:")

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Run the block if the i1 is true."""
        yes, done = self._label(), self._label()
        self.do(f"br i1 {condition}, label %{yes}, label %{done}")
        self._lines.append(f"{yes}:")
        yield
        self.do(f"br label %{done}")
        self._lines.append(f"{done}:")

    @contextmanager
    def otherwise(self, condition: str) -> Iterator[None]:
        """Run the block if the i1 is false."""
        yes, done = self._label(), self._label()
        self.do(f"br i1 {condition}, label %{done}, label %{yes}")
        self._lines.append(f"{yes}:")
        yield
        self.do(f"br label %{done}")
        self._lines.append(f"{done}:")

    def call(self, function: str, arguments: Sequence[tuple[str, str | int]]) -> None:
        """Call a void function."""
        self.do(f"call void @{function}({', '.join(f'{kind} {name}' for kind, name in arguments)})")

    # Floats, scalar or vector: ``kind`` is "float" or "<8 x float>"

    def splat(self, kind: str, scalar: str) -> str:
        """The scalar in every lane."""
        if kind == "float":
            return scalar
        first = self.value(f"insertelement {kind} poison, float {scalar}, i32 0")
        lanes = lanes_of(kind)
        return self.value(
            f"shufflevector {kind} {first}, {kind} poison, <{lanes} x i32> zeroinitializer"
        )

    def binary(self, operation: str, kind: str, a: str, b: str) -> str:
        """``fadd``, ``fsub``, ``fmul`` or ``fdiv``."""
        return self.value(f"{operation} {kind} {a}, {b}")

    def fma(self, kind: str, a: str, b: str, c: str) -> str:
        """``a · b + c``, rounded once."""
        return self.intrinsic("fma", kind, a, b, c)

    def intrinsic(self, name: str, kind: str, *values: str) -> str:
        """Call one of LLVM's float functions that become a single instruction."""
        suffix = "f32" if kind == "float" else f"v{lanes_of(kind)}f32"
        self._needs.add(DECLARATIONS[name].format(t=kind, s=suffix))
        listed = ", ".join(f"{kind} {value}" for value in values)
        return self.value(f"call {kind} @llvm.{name}.{suffix}({listed})")

    def intrinsic_of(
        self, name: str, kind: str, kinds: Sequence[str], values: Sequence[str]
    ) -> str:
        """Call one of a processor family's own intrinsics.

        Args:
            name: after ``llvm.``.
            kind: type of the result.
            kinds: types of the arguments.
            values: the arguments.
        """
        self._needs.add(f"declare {kind} @llvm.{name}({', '.join(kinds)})")
        listed = ", ".join(f"{of} {value}" for of, value in zip(kinds, values, strict=True))
        return self.value(f"call {kind} @llvm.{name}({listed})")

    def select(self, condition: str, kind: str, a: str, b: str) -> str:
        """``a`` where the condition holds, else ``b``, lane by lane."""
        flag = "i1" if lanes_of(kind) == 1 else f"<{lanes_of(kind)} x i1>"
        return self.value(f"select {flag} {condition}, {kind} {a}, {kind} {b}")


def constant(kind: str, number: float) -> str:
    """A float32 constant in every lane, exactly.

    Example:
        >>> constant("float", 0.5)
        '0x3FE0000000000000'
    """
    single = struct.unpack("<f", struct.pack("<f", number))[0]
    text = f"0x{struct.unpack('<Q', struct.pack('<d', single))[0]:016X}"
    if kind == "float":
        return text
    return "<" + ", ".join(f"float {text}" for _ in range(lanes_of(kind))) + ">"


def lanes_of(kind: str) -> int:
    """Lanes of a type: 8 for ``<8 x float>``, 1 for a scalar.

    Example:
        >>> lanes_of("<8 x float>"), lanes_of("float")
        (8, 1)
    """
    return int(kind[1:].split(" ", 1)[0]) if kind.startswith("<") else 1


def module(functions: Sequence[Builder]) -> str:
    """The text of functions with the declarations that they need."""
    needs = sorted(set().union(*(function.declarations for function in functions)))
    return "\n".join([*needs, *(function.text() for function in functions)]) + "\n"


def _natural(kind: str) -> int:
    match kind:
        case "ptr" | "i64":
            return 8
        case "i8":
            return 1
        case "i16":
            return 2
        case "i32" | "float":
            return 4
    return 4
