"""Sums of products that the code writes as letters."""

from string import ascii_letters

from boxwood._internal.graph.labels import Ids
from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.propagate import Cost, Flow, Rule
from boxwood._internal.graph.recording import Call, refs
from boxwood._internal.graph.rules.linear import whole


def _einsum(flow: Flow, call: Call) -> Layout:
    """Tie the axes of each letter; letters that are summed over must sum zeros."""
    operands = call.args["operands"]
    operands = operands[0] if len(operands) == 1 and isinstance(operands[0], tuple) else operands
    equation = call.args["equation"]
    if not isinstance(equation, str):  # axes are given by number
        for ref in refs((equation, operands)):
            layout = flow.of(ref)
            flow.kept_whole(layout, range(len(layout.shape)))
        return Layout(flow.shape(call.outputs))
    given = [flow.of(each) for each in operands]
    inputs, result = _terms(equation.replace(" ", ""), [len(each.shape) for each in given])
    letters: dict[str, Ids | None] = {}
    for place, term in enumerate(inputs):
        layout = given[place]
        for axis, letter in enumerate(term):
            if term.count(letter) > 1:  # a diagonal
                layout = flow.kept_whole(layout, [axis])
        # What is summed over decides last, and of what is left the axes in front: heads before
        # their features.
        order = sorted(range(len(term)), key=lambda axis: (term[axis] in result, -axis))
        layout = flow.kept_joint(layout, order)
        for axis, letter in enumerate(term):
            ids = layout.ids(axis)
            if layout.shape[axis] > 1:
                letters[letter] = flow.tied(letters[letter], ids) if letter in letters else ids
        given[place] = layout

    def vanishes(letter: str) -> bool:
        return any(each.zero for each, term in zip(given, inputs, strict=True) if letter in term)

    for letter, ids in letters.items():
        if letter not in result and ids is not None and not vanishes(letter):
            flow.labels.freeze(ids)
    labelled = [letter for letter in result if letters.get(letter) is not None]
    zero = all(map(vanishes, labelled)) if labelled else all(each.zero for each in given)
    out = Layout(flow.shape(call.outputs), zero=zero)
    for axis, letter in enumerate(result):
        ids = letters.get(letter)
        if ids is not None:
            out = out.with_ids(axis, ids)
    sizes = {
        letter: size
        for each, term in zip(given, inputs, strict=True)
        for letter, size in sorted(zip(term, each.shape, strict=True), key=lambda pair: pair[1])
    }
    factors = tuple(whole(letters.get(letter), sizes[letter]) for letter in sorted(sizes))
    flow.costs.append(Cost(1, factors))
    return out


def _terms(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Read the letters of each operand and of the result, with letters for the dots.

    Example:
        >>> _terms("...ij,jk->...ik", [4, 2])
        (['YZij', 'jk'], 'YZik')
    """
    terms, arrow, result = equation.partition("->")
    inputs = terms.split(",")
    free = "".join(letter for letter in ascii_letters if letter not in equation)
    counts = [rank - len(term.replace("...", "")) for rank, term in zip(ranks, inputs, strict=True)]
    most = max((n for n, term in zip(counts, inputs, strict=True) if "..." in term), default=0)
    dots = free[len(free) - most :]
    inputs = [term.replace("...", dots[most - n :]) for n, term in zip(counts, inputs, strict=True)]
    if not arrow:
        single = sorted(c for c in set(terms) - {",", "."} if terms.count(c) == 1)
        result = "..." * ("..." in terms) + "".join(single)
    return inputs, result.replace("...", dots)


RULES: dict[str, Rule] = {"einsum": _einsum}
