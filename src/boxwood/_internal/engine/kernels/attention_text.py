"""The text of attention kernels: a tile of queries at a time, the scores of all keys in the first cache."""

import enum
import math
from dataclasses import dataclass

from boxwood._internal.engine.kernels import activations, dense_products, frame
from boxwood._internal.engine.kernels.packing import dense_tile
from boxwood._internal.engine.llvm.build import Builder, constant, module
from boxwood._internal.engine.targets import Target


class Mask(enum.Enum):
    """What is added to the scores."""

    NONE = enum.auto()
    KEYS = enum.auto()  # a vector: one number per key; of each sequence, a vector each
    SEQUENCES = enum.auto()  # columns: one number per key of each sequence, a plane per key
    PAIRS = enum.auto()  # columns: a plane of queries per key
    HEADS = enum.auto()  # the same for each head, the heads' queries one after the other


NUMBERS = (
    "heads",
    "shared",  # heads that share keys and values
    "size",
    "tokens",
    "sequences",
    "source_image",
    "target_image",
    "plane",
    "keys",  # bytes from the first query to the first key
    "values",
    "vectors",  # of queries
    "wide",  # tiles of all registers; the rest are single vectors
    "tiles",
    "line_end",
    "scale_bits",
    "scratch_bytes",
    "mask_head",  # bytes of the mask from head to head
    "mask_key",  # and from key to key
    "mask_sequence",  # and from sequence to sequence, where each has its own
)


@dataclass(frozen=True)
class Specialisation:
    """Everything that the kernel's text depends on, other than the target."""

    causal: bool
    mask: Mask
    several: bool
    own: bool

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the kernel's integers."""
        return NUMBERS if self.own else NUMBERS[:-1]

    def entry(self, target: Target) -> str:
        """The symbol; one text serves masks of pairs with and without heads."""
        masks = {Mask.NONE: "", Mask.KEYS: "_keys", Mask.SEQUENCES: "_keys"}
        flags = f"{'_causal' if self.causal else ''}{'_several' if self.several else ''}"
        own = "_own" if self.own else ""
        return f"attention_{target.lanes}{flags}{masks.get(self.mask, '_pairs')}{own}"

    @property
    def by_keys(self) -> bool:
        """Whether a mask is the same for all queries."""
        return self.mask in (Mask.KEYS, Mask.SEQUENCES)


_PARAMETERS = (
    ("ptr", "%query"),
    ("ptr", "%key"),
    ("ptr", "%value"),
    ("ptr", "%out"),
    ("ptr", "%scores"),
    ("ptr", "%keep"),
    ("i64", "%plane"),
    ("i64", "%size"),
    ("i64", "%seen"),  # keys
    ("i64", "%first"),  # query
    ("float", "%scale"),
    ("ptr", "%mask"),
    ("i64", "%mask_key"),
)


def emit(shape: Specialisation, target: Target) -> str:
    """The text of the kernel: a range of (image, sequence, head, tile of queries) for each thread."""
    width, _ = dense_tile(target)
    entry = shape.entry(target)
    f, a = frame.begin(entry, shape.numbers, ("keep",))
    size = 4 * target.lanes
    scratch = f.offset(a["scratch"], f.mul("%thread", a["scratch_bytes"]))
    bits = f.value(f"trunc i64 {a['scale_bits']} to i32")
    scale = f.value(f"bitcast i32 {bits} to float")
    each = f.mul(a["heads"], a["tiles"])
    with frame.units(f, f.mul(f.mul(a["images"], a["sequences"]), each)) as unit:
        sequence, rest = f.div(unit, each), f.rem(unit, each)
        image, sequence = f.div(sequence, a["sequences"]), f.rem(sequence, a["sequences"])
        head, tile = f.div(rest, a["tiles"]), f.rem(rest, a["tiles"])
        # Wide tiles come first; each later one is a single vector.
        narrow = f.compare("sge", tile, a["wide"])
        later = f.sub(tile, f.minimum(tile, a["wide"]))
        vector = f.add(f.mul(f.minimum(tile, a["wide"]), width), later)
        own = f.mul(a["size"], a["plane"])
        planes, shared = f.mul(head, own), f.mul(f.div(head, a["shared"]), own)
        start = f.mul(f.mul(sequence, a["tokens"]), 4)
        x = f.offset(a["source"], f.add(f.mul(image, a["source_image"]), start))
        out = f.offset(a["target"], f.add(f.mul(image, a["target_image"]), planes))
        y = f.offset(out, start)
        position = f.mul(vector, size)
        first = f.mul(vector, target.lanes)
        mask = f.offset(a["second"], f.mul(head, a["mask_head"]))
        if shape.own:
            mask = f.offset(mask, f.mul(sequence, a["mask_sequence"]))
        for registers, condition in ((width, f.otherwise), (1, f.when)):
            with condition(narrow):
                seen = a["tokens"]
                if shape.causal:
                    seen = f.minimum(seen, f.add(first, registers * target.lanes))
                values = (
                    f.offset(x, f.add(planes, position)),
                    f.offset(x, f.add(shared, a["keys"])),
                    f.offset(x, f.add(shared, a["values"])),
                    f.offset(y, position),
                    scratch,
                    f.offset(a["keep"], f.mul(vector, max(target.lanes, 8) // 8)),
                    a["plane"],
                    a["size"],
                    seen,
                    first,
                    scale,
                    mask if shape.by_keys else f.offset(mask, position),
                    a["mask_key"],
                )
                frame.call(f, f"{entry}.tile{registers}", _PARAMETERS, values)
        number = f.add(f.mul(sequence, a["tiles"]), tile)
        last = f.compare("eq", number, f.sub(f.mul(a["sequences"], a["tiles"]), 1))
        with f.when(last), f.loop(0, a["size"]) as feature:
            base = f.offset(out, f.mul(feature, a["plane"]))
            if shape.several:
                whole = f.mul(f.mul(a["sequences"], a["tokens"]), 4)
                with f.loop(whole, a["line_end"], 4) as at:
                    f.store("float", "0.0", f.offset(base, at))
            frame.zero(f, target, base, a["line_end"], a["plane"])
    tiles = [
        _tile(f"{entry}.tile{registers}", registers, shape, target) for registers in (width, 1)
    ]
    return module([*tiles, f])


def _tile(name: str, width: int, shape: Specialisation, target: Target) -> Builder:
    """All keys that a few vectors of queries of one head see."""
    f = Builder(name, _PARAMETERS, internal=True)
    kind, size = target.vector, 4 * target.lanes
    row = width * size
    scale = f.splat(kind, "%scale")
    lowest = constant(kind, -math.inf)
    most = [f.variable(kind, lowest) for _ in range(width)]
    keeps = [
        frame.mask(f, target, f.offset("%keep", v * max(target.lanes, 8) // 8))
        for v in range(width)
    ]
    queries_of = [_numbers(f, f.add("%first", v * target.lanes), target) for v in range(width)]
    for key, lanes in dense_products.blocks(f, "%seen", target):

        def queries(d: str) -> str:
            return f.offset("%query", f.mul(d, "%plane"))

        def keys(d: str, lane: int, key: str = key) -> str:
            at = f.offset("%key", f.mul(d, "%plane"))
            return f.offset(f.offset(at, key, "float"), 4 * lane)

        align = 4 if shape.several else size
        made = dense_products.products(f, kind, lanes, width, "%size", queries, keys, align)
        for lane, sums in enumerate(made):
            number = f.add(key, lane)
            for v, sum_ in enumerate(sums):
                score = f.binary("fmul", kind, sum_, scale)
                if shape.mask is not Mask.NONE:
                    score = f.binary(
                        "fadd", kind, score, _mask(f, number, v, keeps[v], shape, target)
                    )
                if shape.causal:
                    integer = kind.replace("float", "i32")
                    here = _splat(f, f.value(f"trunc i64 {number} to i32"), target)
                    sees = f.value(f"icmp sle {integer} {here}, {queries_of[v]}")
                    score = f.select(sees, kind, score, lowest)
                to = f.offset("%scores", f.mul(number, row))
                f.store(kind, score, f.offset(to, v * size), size)
                old = f.load(kind, most[v])
                more = f.value(f"fcmp ogt {kind} {score}, {old}")
                f.store(kind, f.select(more, kind, score, old), most[v])
    totals = [f.variable(kind, "zeroinitializer") for _ in range(width)]
    # Where nothing is seen, scores are compared with 0, so that their powers are 0.
    for v in range(width):
        old = f.load(kind, most[v])
        none = f.value(f"fcmp oeq {kind} {old}, {lowest}")
        f.store(kind, f.select(none, kind, "zeroinitializer", old), most[v])
    with f.loop(0, "%seen") as key:
        at = f.offset("%scores", f.mul(key, row))
        for v in range(width):
            place = f.offset(at, v * size)
            less = f.binary("fsub", kind, f.load(kind, place, size), f.load(kind, most[v]))
            power = activations.exponential(f, kind, less)
            f.store(kind, power, place, size)
            f.store(kind, f.binary("fadd", kind, f.load(kind, totals[v]), power), totals[v])
    one = constant(kind, 1.0)
    inverse = []
    for total in totals:
        sum_ = f.load(kind, total)
        none = f.value(f"fcmp oeq {kind} {sum_}, zeroinitializer")
        inverse.append(f.binary("fdiv", kind, one, f.select(none, kind, one, sum_)))
    for feature, lanes in dense_products.blocks(f, "%size", target):

        def weights(key: str) -> str:
            return f.offset("%scores", f.mul(key, row))

        def values(key: str, lane: int, feature: str = feature) -> str:
            at = f.offset("%value", f.mul(f.add(feature, lane), "%plane"))
            return f.offset(at, key, "float")

        made = dense_products.products(f, kind, lanes, width, "%seen", weights, values, size)
        for lane, sums in enumerate(made):
            to = f.offset("%out", f.mul(f.add(feature, lane), "%plane"))
            for v, sum_ in enumerate(sums):
                y = f.binary("fmul", kind, sum_, inverse[v])
                if shape.several:  # the next sequence's results may lie there already
                    f.masked_store(kind, y, f.offset(to, v * size), keeps[v])
                else:
                    y = f.select(keeps[v], kind, y, "zeroinitializer")
                    f.store(kind, y, f.offset(to, v * size), size)
    return f


def _mask(f: Builder, key: str, v: int, keep: str, shape: Specialisation, target: Target) -> str:
    """What is added to the scores of one key and one vector of queries."""
    kind, lanes = target.vector, target.lanes
    at = f.offset("%mask", f.mul(key, "%mask_key"))
    if shape.by_keys:
        return f.splat(kind, f.load("float", at))
    # The last queries of the last head or sequence may end with the mask's memory.
    return f.masked_load(kind, f.offset(at, 4 * lanes * v), keep)


def _splat(f: Builder, number: str, target: Target) -> str:
    """An i32 in every lane."""
    kind, lanes = target.vector.replace("float", "i32"), target.lanes
    first = f.value(f"insertelement {kind} poison, i32 {number}, i32 0")
    return f.value(f"shufflevector {kind} {first}, {kind} poison, <{lanes} x i32> zeroinitializer")


def _numbers(f: Builder, first: str, target: Target) -> str:
    """The numbers of a vector's positions, as i32."""
    kind = target.vector.replace("float", "i32")
    steps = ", ".join(f"i32 {lane}" for lane in range(target.lanes))
    start = _splat(f, f.value(f"trunc i64 {first} to i32"), target)
    return f.value(f"add {kind} {start}, <{steps}>")
