"""Names by which a reader finds what is meant."""

import ast
import collections
import pathlib

_ROOM = pathlib.Path(__file__).parents[1] / "tf_dlrm"


def test_no_two_classes_have_one_name():
    places = collections.defaultdict(list)
    for path in sorted(_ROOM.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                name = node.name.lstrip("_")
                places[name].append(f"{path.relative_to(_ROOM.parent)}:{node.lineno}")
    assert "DLRM" in places
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice, f"Classes that share a name, also but for a first underscore: {twice}"
