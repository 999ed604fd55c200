"""Where the steps of a saga stand when it is drawn: layers downward, and lines between them; pure.

The usual way of Sugiyama et al. (1981): a step stands a layer below the last of those that it
needs, a line over several layers has a place in each, and each layer is ordered by the middle of
its neighbours'. A line that others imply is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 176
HEIGHT: Final = 46
GAP_X: Final = 20
GAP_Y: Final = 34
MARGIN: Final = 8
LANE: Final = 12
"""The width of a line that passes a layer."""
SWEEPS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A step's place: its upper left corner, in pixels."""

    id: str
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Boxes, the lines between them as SVG path data, and the size of it all in pixels."""

    boxes: list[Box]
    lines: list[str]
    width: float
    height: float
    box_width: int = WIDTH
    box_height: int = HEIGHT


Point = tuple[str, str, int]
"""A line's place in a layer: from whom, to whom, at which layer."""
Item = str | Point


def draw(needs: Mapping[str, Sequence[str]]) -> Drawing:
    """Place each step; `needs` has for each those that it waits for, without a circle."""
    direct = _reduced(_in_order(needs))
    depth: dict[str, int] = {}
    for step, before in direct.items():
        depth[step] = 1 + max((depth[one] for one in before), default=-1)
    layers: list[list[Item]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    above: dict[Item, list[Item]] = {}
    for step, before in direct.items():
        above[step] = []
        for one in before:
            last: Item = one
            for layer in range(depth[one] + 1, depth[step]):
                point: Point = (one, step, layer)
                layers[layer].append(point)
                above[point] = [last]
                last = point
            above[step].append(last)
        layers[depth[step]].append(step)
    _order(layers, above)
    return _placed(layers, above)


def _in_order(needs: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """The steps as they are, but each behind those that it needs: a plan may name them before."""
    found: dict[str, Sequence[str]] = {}
    left = dict(needs)
    while left:
        ready = [step for step, before in left.items() if all(one in found for one in before)]
        assert ready, "a definition is checked for circles"
        found |= {step: left.pop(step) for step in ready}
    return found


def _reduced(needs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Of what each step needs, what no other of its needs waits for already."""
    behind: dict[str, set[str]] = {}
    direct: dict[str, list[str]] = {}
    for step, before in needs.items():
        implied = set[str]().union(*(behind[one] for one in before))
        direct[step] = [one for one in dict.fromkeys(before) if one not in implied]
        behind[step] = implied | set(before)
    return direct


def _order(layers: list[list[Item]], above: Mapping[Item, list[Item]]) -> None:
    """Bring neighbours of neighbouring layers near each other, so that few lines cross."""
    below: dict[Item, list[Item]] = {}
    for item, before in above.items():
        for one in before:
            below.setdefault(one, []).append(item)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        beside = above if down else below
        for layer in layers if down else reversed(layers):
            place = {
                one: index / max(1, len(each) - 1)
                for each in layers
                for index, one in enumerate(each)
            }

            def middle(
                item: Item,
                place: Mapping[Item, float] = place,
                beside: Mapping[Item, list[Item]] = beside,
            ) -> float:
                found = beside.get(item) or [item]
                return sum(place[one] for one in found) / len(found)

            layer.sort(key=middle)


def _placed(layers: list[list[Item]], above: Mapping[Item, list[Item]]) -> Drawing:
    wide = [
        sum(_wide(item) for item in layer) + GAP_X * (len(layer) - 1) for layer in layers if layer
    ]
    width = max(wide, default=0) + 2 * MARGIN
    centre: dict[Item, float] = {}
    top: dict[Item, float] = {}
    for number, layer in enumerate(layers):
        x = (width - wide[number]) / 2
        for item in layer:
            centre[item] = x + _wide(item) / 2
            top[item] = MARGIN + number * (HEIGHT + GAP_Y)
            x += _wide(item) + GAP_X
    boxes = [
        Box(id=item, x=centre[item] - WIDTH / 2, y=top[item])
        for layer in layers
        for item in layer
        if isinstance(item, str)
    ]
    lines = [
        _line(item, above, centre, top)
        for layer in layers
        for step in layer
        if isinstance(step, str)
        for item in [(step, one) for one in above[step]]
    ]
    height = 2 * MARGIN + len(layers) * (HEIGHT + GAP_Y) - GAP_Y
    return Drawing(boxes=boxes, lines=lines, width=width, height=max(0, height))


def _wide(item: Item) -> int:
    return WIDTH if isinstance(item, str) else LANE


def _line(
    end: tuple[str, Item],
    above: Mapping[Item, list[Item]],
    centre: Mapping[Item, float],
    top: Mapping[Item, float],
) -> str:
    """From the lower edge of one box, past its places in the layers between, to the upper edge."""
    to, at = end
    bend = GAP_Y / 2
    x, y = centre[to], top[to] - 5  # the arrow's head
    said = list[str]()
    while True:
        low = top[at] + HEIGHT
        said.append(f"C{centre[at]:g} {low + bend:g} {x:g} {y - bend:g} {x:g} {y:g}")
        if isinstance(at, str):
            return f"M{centre[at]:g} {low:g}" + "".join(reversed(said))
        said.append(f"L{centre[at]:g} {low:g}")
        x, y = centre[at], top[at]
        [at] = above[at]
