"""Bounded reading of YAML, and the text of its unquoted values.

YAML turns unquoted text into something else: 1:30:00 into 5400, 010 into 8, 3.10 into 3.1 and `on` into True. What was
written cannot be told from these values afterwards, so it is taken from the nodes of the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hptransfer.core.errors import ConfigError

MOST_BYTES = 200_000
MOST_NODES = 5_000
"""Largest number of keys and values, with every alias written out."""
DEEPEST = 50
"""Largest number of levels of lists and mappings inside each other."""
Place = tuple[str, ...]
"""Keys from the top of a file down to a value; the items of a list are counted from "0"."""

# libyaml's, where PyYAML was built with it, takes a tenth of the time.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OCTAL = re.compile(r"[-+]?0[0-7_]+")
NOT_A_KEY = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
MERGE = "tag:yaml.org,2002:merge"


def read_bounded(path: Path, room: int = 1) -> str:
    """Return the text of a YAML file of limited size.

    Args:
        room: factor on the limits of bytes and values.

    Raises:
        ConfigError: it is larger than MOST_BYTES, has more than MOST_NODES values or more than DEEPEST levels, or a
            value contains itself.
        OSError: it cannot be read.
        ValueError: it is not UTF-8.
        yaml.YAMLError: it is not YAML.
    """
    with path.open("rb") as file:
        content = file.read(room * MOST_BYTES + 1)
    if len(content) > room * MOST_BYTES:
        raise ConfigError(f"it is longer than {room * MOST_BYTES:,} bytes; leave out what a sweep does not need")
    text = content.decode("utf-8")
    _check_bounds(text, room * MOST_NODES)
    return text


def _check_bounds(text: str, most_nodes: int) -> None:
    """Raise ConfigError if the values of a text would fill the memory.

    Only events are read, so that nothing is built before its size is known.
    """
    sizes: dict[str | None, int] = {}
    anchors: list[str | None] = []
    counts = [0]
    for event in yaml.parse(text, Loader=LOADER):
        line = f"line {event.start_mark.line + 1}" if event.start_mark else "it"
        if isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
            counts.append(1)
            if len(anchors) > DEEPEST:
                raise ConfigError(f"{line} is nested more than {DEEPEST} levels deep; take brackets away")
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise ConfigError(f"{line}: *{event.anchor} is inside its own value; write the value out")
            size = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = counts.pop(), anchors.pop()
            sizes[anchor] = size
        else:
            continue
        counts[-1] += size
        if counts[-1] > most_nodes:
            raise ConfigError(f"{line}: there are more than {most_nodes:,} values, with aliases written out; use fewer")


def plain_texts(text: str, place: Place = ()) -> dict[Place, str]:
    """Return what is written for each unquoted value, by its place.

    Args:
        place: of the whole text, within a larger tree.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    texts: dict[Place, str] = {}
    node = yaml.compose(text, Loader=LOADER)
    if node is not None:
        _collect(node, place, texts)
    return texts


def _collect(node: yaml.Node, place: Place, texts: dict[Place, str]) -> None:
    if isinstance(node, yaml.ScalarNode):
        if not node.style:
            texts.setdefault(place, node.value)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _collect(item, (*place, str(index)), texts)
    else:
        for key, value in node.value:
            if key.tag != MERGE:
                _collect(value, (*place, str(key.value)), texts)
        for key, value in node.value:  # its own keys come before those that it merges
            if key.tag == MERGE:
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    _collect(merged, place, texts)


def refuse_misread(text: str) -> None:
    """Raise ConfigError for an unquoted value that YAML reads unexpectedly.

    These are numbers in base 60, such as 1:30:00, or base 8, such as 010, and keys such as `on`.
    """
    node = yaml.compose(text, Loader=LOADER)
    if node is not None:
        _refuse_misread(node)


def _refuse_misread(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag in NOT_A_KEY:
                _refuse(key, "as the key", f'quote it as "{key.value}"')
            _refuse_misread(key)
            _refuse_misread(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_misread(item)
    elif isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS:
        _refuse_number(node)


def _refuse_number(node: yaml.ScalarNode) -> None:
    if ":" in node.value:
        _refuse(node, "in base 60 as", f'quote it as "{node.value}"')
    elif OCTAL.fullmatch(node.value):
        decimal = int(node.value.replace("_", ""))
        _refuse(node, "in base 8 as", f'write {decimal}, or "{node.value}" if it is text')


def _refuse(node: yaml.ScalarNode, how: str, way_out: str) -> None:
    read = yaml.load(node.value, Loader=LOADER)
    raise ConfigError(f"line {node.start_mark.line + 1}: YAML reads {node.value} {how} {read}; {way_out}")
