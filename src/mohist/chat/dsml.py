"""Calls of tools in tags whose arguments say whether they are strings: DeepSeek's DSML, GigaChat's GCML."""

from __future__ import annotations

import functools
import json
import re

from mohist.chat.arguments import TagArguments, TagSyntax
from mohist.chat.call_reader import CallMarkup
from mohist.chat.calls import CallSyntax, Schemas, matches_in_turn, tool_call_from_json
from mohist.chat.format import ChatFormat
from mohist.types import ToolCall

__all__ = ["DSML_CALLS", "DSML_SYSTEM", "Dsml", "dsml_markup", "dsml_syntax"]

DSML_CALLS = """\
{%- macro write_calls(calls, section) %}
{{- '\\n\\n<｜DSML｜' + section + '>\\n' }}
{%- for call in calls %}
{{- '<｜DSML｜invoke name="' + call['function']['name'] + '">\\n' }}
{%- for key, value in call['function']['arguments'].items() %}
{{- '<｜DSML｜parameter name="' + key + '" string="' + ('true' if value is string else 'false') + '">' }}
{{- value if value is string else value | tojson }}
{{- '</｜DSML｜parameter>\\n' }}
{%- endfor %}
{{- '</｜DSML｜invoke>\\n' }}
{%- endfor %}
{{- '</｜DSML｜' + section + '>' }}
{%- endmacro %}
{%- macro write_example(section, of) %}
{{- '<｜DSML｜' + section + '>\\n<｜DSML｜invoke name="$' + of + '_NAME">\\n<｜DSML｜parameter ' }}
{{- 'name="$PARAMETER_NAME" ' }}
{{- 'string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>\\n...\\n</｜DSML｜invoke>\\n' }}
{{- '<｜DSML｜invoke name="$' + of + '_NAME2">\\n...\\n</｜DSML｜invoke>\\n' }}
{{- '</｜DSML｜' + section + '>\\n\\n' }}
{%- endmacro %}
"""
"""Macros for templates: calls of tools, and the example of one that prompts give."""

DSML_SYSTEM = """\
{%- for message in messages if message['role'] == 'system' %}
{{- ('\\n\\n' if not loop.first else '') + message['content'] }}
{%- endfor %}
{%- if tools %}
{{- ('\\n\\n' if messages[0]['role'] == 'system' else '') + write_tools() }}
{%- endif %}
"""
"""How prompts begin: system messages, then tools as the template's own macro `write_tools` describes them."""


@functools.cache
def _patterns(mark: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A call, and an argument of it, where tags begin with `<` and this mark."""
    invoke = rf'\s*<{mark}invoke name="(?P<name>[^"]*)">(?P<body>.*?)</{mark}invoke>\s*'
    parameter = (
        rf'\s*<{mark}parameter name="(?P<key>[^"]*)" string="(?P<string>true|false)">'
        rf"(?P<value>.*?)</{mark}parameter>\s*"
    )
    return re.compile(invoke, re.DOTALL), re.compile(parameter, re.DOTALL)


class Dsml(ChatFormat):
    """Calls of tools in tags that begin with `mark`."""

    mark = "｜DSML｜"

    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """All calls of a section; the other arguments than strings are JSON."""
        invoke, _ = _patterns(self.mark)
        calls = matches_in_turn(invoke, section)
        if not calls:
            raise ValueError("a section of tool calls must hold invoke elements")
        return tuple(self._call(call["name"], call["body"]) for call in calls)

    def _call(self, name: str, body: str) -> ToolCall:
        _, parameter = _patterns(self.mark)
        found = matches_in_turn(parameter, body)
        values = {p["key"]: p["value"] if p["string"] == "true" else json.loads(p["value"]) for p in found}
        if len(values) < len(found):
            raise ValueError("a parameter occurs twice")
        return tool_call_from_json(name, values)


def dsml_syntax(section: str, mark: str = Dsml.mark) -> CallSyntax:
    """How calls are written in sections of this name."""
    return CallSyntax(
        opening=f"<{mark}{section}>\n",
        call=(f'<{mark}invoke name="{{name}}">\n', f"</{mark}invoke>\n"),
        closing=f"</{mark}{section}>",
        argument=(f'<{mark}parameter name="{{key}}" string="{{is_string}}">', f"</{mark}parameter>\n"),
    )


def dsml_markup(mark: str = Dsml.mark) -> CallMarkup:
    """How calls are recognised while they are written."""
    syntax = TagSyntax(
        before=re.compile(rf'\s*<{mark}parameter name="(?P<key>[^"]*)" string="(?P<kind>true|false)">'),
        end=f"</{mark}parameter>",
        after=re.compile(rf"\s*</{mark}invoke>"),
        key=str,
    )
    return CallMarkup(
        before=re.compile(rf'\s*<{mark}invoke name="(?P<name>[^"]+)">'),
        arguments=functools.partial(TagArguments, syntax),
    )
