"""DeepSeek V3.2: as V3.1, with calls of tools in DSML, whose arguments say whether they are strings.

The release brings no template but a Python encoder (`encoding_dsv32.py`); the template below writes what that
does. Thoughts stay in the history across calls of tools and are dropped at the user's next message.
"""

from __future__ import annotations

import functools
import json
import re

from mohist.chat.calls import CallSyntax, Schemas, tool_call_from_json
from mohist.chat.format import EARLY_STOP, ChatFormat
from mohist.chat.formats.deepseek import DEEPSEEK_TURN_MARKUP
from mohist.types import ToolCall

__all__ = ["DSML_CALLS", "FORMAT", "Dsml", "dsml_syntax"]

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

_TEMPLATE = (
    DSML_CALLS
    + """\
{%- macro write_tools() %}
{{- "## Tools\\n\\nYou have access to a set of tools you can use to answer the user's " }}
{{- "question.\\nYou can " }}
{{- 'invoke functions by writing a "<｜DSML｜function_calls>" block like the following as part ' }}
{{- 'of your reply ' }}
{{- 'to the user:\\n' + write_example('function_calls', 'FUNCTION') }}
{{- 'String and scalar parameters should be specified as is without any escaping or quotes, ' }}
{{- 'while lists and ' }}
{{- 'objects should use JSON format. The "string" attribute should be set to "true" for string type ' }}
{{- 'parameters and "false" for other types (numbers, booleans, arrays, objects).\\n\\nIf the ' }}
{{- 'thinking_mode ' }}
{{- 'is enabled, then after function results you should strongly consider outputting a ' }}
{{- 'thinking block. Here ' }}
{{- 'is an example:\\n\\n<｜DSML｜function_calls>\\n...\\n</｜DSML｜function_calls>\\n\\n' }}
{{- '<function_results>\\n...' }}
{{- '\\n</function_results>\\n\\n<think>...thinking about results</think>\\n\\nHere are the ' }}
{{- 'functions available ' }}
{{- 'in JSONSchema format:\\n<functions>\\n' }}
{%- for tool in tools %}
{{- (tool['function'] | tojson) + '\\n' }}
{%- endfor %}
{{- '</functions>\\n' }}
{%- endmacro %}
{%- set thinks = thinking is defined and thinking %}
{%- set last = namespace(user=-1) %}
{%- for message in messages if message['role'] == 'user' %}
{%- set last.user = loop.index0 %}
{%- endfor %}
{%- set seen = namespace(users=-1, calls=0, results=0) %}
{{- bos_token }}
{%- for message in messages if message['role'] == 'system' %}
{{- ('\\n\\n' if not loop.first else '') + message['content'] }}
{%- endfor %}
{%- if tools %}
{{- ('\\n\\n' if messages[0]['role'] == 'system' else '') + write_tools() }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{%- set seen.users = seen.users + 1 %}
{{- '<｜User｜>' + message['content'] + '<｜Assistant｜>' }}
{{- '<think>' if thinks and seen.users == last.user else '</think>' }}
{%- elif message['role'] == 'tool' %}
{%- set seen.results = seen.results + 1 %}
{{- ('\\n\\n<function_results>' if seen.results == 1 else '') + '\\n<result>' }}
{{- message['content'] + '</result>' }}
{%- if seen.results == seen.calls %}
{{- '\\n</function_results>\\n\\n' + ('<think>' if thinks and seen.users == last.user else '</think>') }}
{%- endif %}
{%- elif message['role'] == 'assistant' %}
{%- if thinks and seen.users == last.user %}
{{- (message['reasoning_content'] or '') + '</think>' }}
{%- endif %}
{{- message['content'] or '' }}
{%- if message['tool_calls'] %}
{%- set seen.calls = message['tool_calls'] | length %}
{%- set seen.results = 0 %}
{{- write_calls(message['tool_calls'], 'function_calls') }}
{%- endif %}
{{- eos_token }}
{%- endif %}
{%- endfor %}"""
)


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
        calls = list(invoke.finditer(section))
        if not calls or invoke.sub("", section).strip():
            raise ValueError("a section of tool calls must hold invoke elements, and nothing else")
        return tuple(self._call(call["name"], call["body"]) for call in calls)

    def _call(self, name: str, body: str) -> ToolCall:
        _, parameter = _patterns(self.mark)
        if parameter.sub("", body).strip():
            raise ValueError("a tool call holds more than its parameters")
        found = list(parameter.finditer(body))
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


FORMAT = Dsml(
    name="deepseek_v32",
    signs=("<｜Assistant｜>", "｜DSML｜", "function_calls"),
    thought=("<think>", "</think>"),
    tool_sections=(("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),),
    inner_markup=("｜DSML｜",),
    turn_markup=(*DEEPSEEK_TURN_MARKUP, "<function_results>", "</function_results>"),
    stop_texts=("<｜end▁of▁sentence｜>",),
    calls=dsml_syntax("function_calls"),
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
