"""What `__all__` and the command line show is documented whole; what is internal needs no sections."""

import inspect
import re

import pytest
import typer.main

import bench
import jacobians as jac

CALLABLES = {name: getattr(jac, name) for name in jac.__all__ if inspect.isfunction(getattr(jac, name))}
CLASSES = {name: getattr(jac, name) for name in jac.__all__ if inspect.isclass(getattr(jac, name))}
METHODS = {
    f"{name}.{member}": getattr(kind, member)
    for name, kind in CLASSES.items()
    for member, value in vars(kind).items()
    if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, classmethod))
}


def lacking(function, text):
    """The sections that a signature asks for and a docstring does not have."""
    signature = inspect.signature(function)
    for name, parameter in signature.parameters.items():
        shown = f"{'*' * {'VAR_POSITIONAL': 1, 'VAR_KEYWORD': 2}.get(parameter.kind.name, 0)}{name}"
        if name not in {"self", "cls"} and not re.search(rf"^\s+{re.escape(shown)}: \S", text, re.MULTILINE):
            yield f"Args: {shown}"
    if signature.return_annotation not in {None, "None", inspect.Signature.empty} and not re.search(
        r"^\s*(Returns|Yields):", text, re.MULTILINE
    ):
        yield "Returns"
    if re.search(r"^\s+raise \w+Error", inspect.getsource(function), re.MULTILINE) and "Raises:" not in text:
        yield "Raises"


@pytest.mark.parametrize("name", [*CALLABLES, *METHODS])
def test_functions(name):
    function = inspect.unwrap((CALLABLES | METHODS)[name])
    text = inspect.getdoc(function) or ""
    summary = text.split("\n")[0]
    assert summary.endswith("."), f"{name}: one sentence first"
    if "\n" in text or name in CALLABLES:
        assert not list(lacking(function, text)), name


@pytest.mark.parametrize("name", CALLABLES)
def test_functions_have_an_example(name):
    assert ">>>" in (inspect.getdoc(CALLABLES[name]) or ""), name


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name):
    assert (inspect.getdoc(CLASSES[name]) or "").split("\n")[0].endswith("."), name


@pytest.mark.parametrize(("name", "command"), typer.main.get_command(bench.app).commands.items())
def test_commands(name, command):
    assert command.help, name
    assert f"python bench.py {name}" in command.epilog
    assert all(getattr(parameter, "help", None) for parameter in command.params if parameter.name != "help"), name


def test_renamed_names_say_the_new_one():
    with pytest.raises(AttributeError, match=r"it is jacobians\.open_stored since"):
        _ = jac.open
