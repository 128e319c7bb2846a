"""Every error that this code can raise is provoked by a test that matches its text.

Of each `raise` (and `parser.error`), the literal parts of its message are known; of each test, the
literal parts of the patterns that it matches messages with. An error is covered if a pattern shares with
its message some letters that no other message has: the test passes only if that very error was raised.
"""

import ast
import collections
import pathlib
import re

import pytest

LETTERS = 16
ROOT = pathlib.Path(__file__).parent.parent
SOURCES = [
    path for folder in ("keras_sg", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
]
TESTS = [path for path in (ROOT / "tests").rglob("test_*.py") if path != pathlib.Path(__file__)]


def literals(node):
    """The literal strings in an expression; those between the fields of an f-string are several."""
    docstrings = {id(n.value) for n in ast.walk(node) if isinstance(n, ast.Expr)}
    constants = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and id(n) not in docstrings]
    return [n.value for n in constants if isinstance(n.value, str)]


def errors(tree):
    """(line, literal parts of the message) of every error that is made in a module.

    One that only hands on the message of another, `raise B(str(error)) from error`, says nothing itself.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            if node.cause is None or runs_of_letters(literals(node.exc)):
                yield node.lineno, literals(node.exc)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "parser.error":
            yield node.lineno, literals(node)


def parts(pattern):
    """The literal parts of a regular expression: `r"no \\(a\\).*b"` has `no (a)` and `b`."""
    pieces = re.split(r"\\[dws]|(?<!\\)[.*+?()|\[\]{}^$]", pattern)
    return [re.sub(r"\\(.)", r"\1", piece) for piece in pieces]


def runs_of_letters(texts):
    """All runs of so many letters in some texts, but for names of things."""
    runs = {text[i : i + LETTERS] for text in texts for i in range(len(text) - LETTERS + 1)}
    return {run for run in runs if " " in run}


def uncovered(messages, patterns):
    """The keys of `messages`, {key: literal parts}, that no pattern tells from the others."""
    matched = runs_of_letters([part for pattern in patterns for part in parts(pattern)])
    said = {key: runs_of_letters(texts) for key, texts in messages.items()}
    times = collections.Counter(run for runs in said.values() for run in runs)
    return sorted(key for key, runs in said.items() if not any(times[run] == 1 for run in runs & matched))


def test_every_error_is_matched_by_a_test():
    messages = {
        f"{path.relative_to(ROOT)}:{line}": texts
        for path in SOURCES
        for line, texts in errors(ast.parse(path.read_text()))
    }
    assert len(messages) > 60
    patterns = [text for path in TESTS for text in literals(ast.parse(path.read_text()))]
    assert uncovered(messages, patterns) == []


@pytest.mark.parametrize(
    "pattern, missed",
    [
        (r"\(a number\) was expected.*b", ["two"]),
        (r"was expected\. Received: 3", ["one", "two"]),  # said by both
        ("something else altogether", ["one", "two"]),
        (r"(?s)\(a number\) was expected.*is not what was expected.*", []),
    ],
)
def test_the_guard_itself(pattern, missed):
    first = 'raise A(f"A (a number) was expected. Received: {x}")'
    second = 'raise B("That is not what was expected. Received: ")'
    tree = ast.parse(f"{first}\n{second}")
    messages = dict(zip(("one", "two"), (texts for _, texts in errors(tree))))
    assert uncovered(messages, [pattern]) == missed


def test_what_is_an_error_to_the_guard():
    code = "raise A\nraise B(str(error)) from error\nraise C('a message of its own') from error\nraise"
    assert [line for line, _ in errors(ast.parse(code))] == [1, 3]
