"""The folders are the architecture: arrows point down only, and nothing is a circle."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
# From top to bottom: a room may import those below it, and itself. Rooms on one line know nothing
# of each other.
_ROOMS = [
    ["(entry points)"],
    ["comparing"],
    ["launching"],
    ["training"],
    ["serving"],
    ["models"],
    ["layers"],
    ["planner", "tpu"],
    ["embeddings"],
    ["kernels"],
    ["keras_internals"],
    ["keras_api", "entry_point", "options"],
    ["internals"],
    ["errors"],
]
# Files beside the rooms that are not of the top floor.
_BELOW = {"keras_api", "keras_internals", "entry_point", "options", "internals", "errors"}


def _modules(package):
    """Each module's name, with its path."""
    found = {}
    for path in sorted((_ROOT / package).rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(path, modules):
    """The modules of ours that a file imports, anywhere in it, also for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name in modules)


def _room(module):
    parts = module.split(".")
    if len(parts) == 1:
        return "(entry points)"
    if len(parts) == 2 and not (_ROOT / "tf_dlrm" / parts[1]).is_dir() and parts[1] not in _BELOW:
        return "(entry points)"
    return parts[1]


_OURS = _modules("tf_dlrm")
_DATA = _modules("tfrecords")
_ARROWS = {
    module: sorted(set(_imports(path, _OURS | _DATA)) - {module})
    for module, path in (_OURS | _DATA).items()
}


def test_every_room_has_its_floor():
    rooms = {_room(module) for module in _OURS}
    assert rooms == {room for floor in _ROOMS for room in floor}


@pytest.mark.parametrize("floor", range(len(_ROOMS)), ids=["+".join(rooms) for rooms in _ROOMS])
def test_arrows_point_down(floor):
    below = {room for rooms in _ROOMS[floor + 1 :] for room in rooms}
    up = [
        f"{module} imports {other}"
        for module in _OURS
        if (room := _room(module)) in _ROOMS[floor]
        for other in _ARROWS[module]
        if other in _OURS and _room(other) != room and _room(other) not in below
        # The package itself is nothing but its version.
        if other != "tf_dlrm"
    ]
    assert not up


def test_the_data_know_nothing_of_models():
    assert not [
        f"{module} imports {other}"
        for module in _DATA
        for other in _ARROWS[module]
        if other in _OURS
    ]


def test_embeddings_know_nothing_of_files():
    assert not [
        f"{module} imports {other}"
        for module in _OURS
        if _room(module) == "embeddings"
        for other in _ARROWS[module]
        if other in _DATA
    ]


@pytest.mark.parametrize("modules", [_OURS, _DATA], ids=["tf_dlrm", "tfrecords"])
def test_no_circle_of_modules(modules):
    done: set[str] = set()

    def circle(module, path):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for other in _ARROWS[module]:
            # A package imports its modules, to hand on what they have, and they import it by name.
            if other in modules and not module.startswith(other + "."):
                found = circle(other, [*path, module])
                if found:
                    return found
        done.add(module)
        return None

    for module in modules:
        assert circle(module, []) is None
