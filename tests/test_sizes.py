"""Files and functions stay short enough to read in one go."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60
FOLDERS = ("app", "inference", "models", "worker", "tools", "benchmarks")


def test_no_file_and_no_function_is_long() -> None:
    files = {file: file.read_text() for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))}
    assert len(files) > 200
    assert [file for file, source in files.items() if len(source.splitlines()) > MOST_LINES] == []
    assert [
        f"{file}: {node.name}"
        for file, source in files.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MOST_LINES_OF_A_FUNCTION
    ] == []
