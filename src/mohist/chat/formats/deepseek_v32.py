"""DeepSeek V3.2: as V3.1, with calls of tools in DSML, whose arguments say whether they are strings.

The release brings no template but a Python encoder (`encoding_dsv32.py`); the template below writes what that
does. Thoughts stay in the history across calls of tools and are dropped at the user's next message.
"""

from __future__ import annotations

from mohist.chat.dsml import DSML_CALLS, DSML_SYSTEM, Dsml, dsml_markup, dsml_syntax
from mohist.chat.format import EARLY_STOP
from mohist.chat.formats.deepseek import DEEPSEEK_TURN_MARKUP

__all__ = ["FORMAT"]

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
"""
    + DSML_SYSTEM
    + """\
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


FORMAT = Dsml(
    name="deepseek_v32",
    signs=("<｜Assistant｜>", "｜DSML｜", "function_calls"),
    thought=("<think>", "</think>"),
    tool_sections=(("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),),
    inner_markup=("｜DSML｜",),
    turn_markup=(*DEEPSEEK_TURN_MARKUP, "<function_results>", "</function_results>"),
    stop_texts=("<｜end▁of▁sentence｜>",),
    call_markup=dsml_markup(),
    calls=dsml_syntax("function_calls"),
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
