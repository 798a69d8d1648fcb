"""The page of commands, from the command line itself: what is on it is what ``--help`` says."""

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from boxwood._internal.cli.main import app

MARK = "<!-- generated: commands -->"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the commands where the page says so."""
    return markdown.replace(MARK, commands()) if MARK in markdown else markdown


def commands() -> str:
    """Return every command: what it does, an example, its arguments and options."""
    return "\n".join(each for name, command in walked() for each in _command(name, command))


def walked() -> Iterator[tuple[str, Any]]:
    """Yield every command that can be run, with its whole name."""
    for name, command in sorted(get_command(app).commands.items()):  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            for inner, each in sorted(command.commands.items()):
                yield f"boxwood {name} {inner}", each
        else:
            yield f"boxwood {name}", command


def examples(command: Any) -> list[str]:
    """Return the examples of a command's help, one line each."""
    paragraphs = re.split(r"\n\s*\n", command.help or "")
    return [" ".join(p.split()).removeprefix("Example: ") for p in paragraphs if _is_example(p)]


def _is_example(paragraph: str) -> bool:
    return paragraph.startswith("Example: ")


def _command(name: str, command: Any) -> Iterator[str]:
    paragraphs = re.split(r"\n\s*\n", command.help or "")
    yield f"## {name}\n"
    yield from (f"{_text(p)}\n" for p in paragraphs if not _is_example(p))
    shown = [p for p in command.params if not p.hidden]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name != "argument"]
    usage = " ".join([name, *(_place(each) for each in arguments), *["[OPTIONS]"] * bool(options)])
    yield "\n".join(["```text", usage, "", *examples(command), "```\n"])
    for heading, rows in (("Argument", arguments), ("Option", options)):
        if rows:
            yield f"| {heading} | What it is | Default |\n|---|---|---|"
            yield from (_row(each) for each in rows)
            yield ""


def _place(argument: Any) -> str:
    many = "..." if argument.nargs == -1 else ""
    name = f"{argument.name.upper()}{many}"
    return name if argument.required else f"[{name}]"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{each}`" for each in (*parameter.opts, *parameter.secondary_opts))
        if not parameter.is_flag:
            name += f" {_kind(parameter)}"
        if parameter.multiple:
            name += ", several times"
    help_ = _text(parameter.help or "").replace("|", "\\|")
    return f"| {name} | {help_} | {_default(parameter)} |"


def _kind(parameter: Any) -> str:
    return {"Path": "path", "str": "text", "int": "whole number", "float": "number"}.get(
        getattr(parameter.type_descriptor.annotation, "__name__", ""), ""
    )


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default in (None, False, True, "", (), []) or not parameter.show_default:
        return ""
    return f"`{parameter.default}`"


def _text(text: str) -> str:
    """Return a text of the terminal as Markdown: one line, its symbols as they are."""
    text = " ".join(text.split())
    text = re.sub(r"(?<![\w`])(--[a-z][\w-]*(?: [A-Z]+\b)?)", r"`\1`", text)
    return re.sub(r"(?<![`\w])([*<_\[])", r"\\\1", text)
