"""DeepSeek V4: as V3.2, with other names for sections and results, and levels of effort.

Without thinking the prompt closes it at once. `max`, and in later releases `high`, puts an instruction before
everything else. Thoughts stay in the history of conversations with tools; in others they are dropped at the
user's next message.
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
{{- "## Tools\\n\\nYou have access to a set of tools to help answer the user's question. You " }}
{{- "can invoke tools by " }}
{{- 'writing a "<｜DSML｜tool_calls>" block like the following:\\n\\n' }}
{{- write_example('tool_calls', 'TOOL') }}
{{- 'String parameters should be specified as is and set `string="true"`. For all other types ' }}
{{- '(numbers, ' }}
{{- 'booleans, arrays, objects), pass the value in JSON format and set ' }}
{{- '`string="false"`.\\n\\nIf thinking_mode ' }}
{{- 'is enabled (triggered by <think>), you MUST output your complete reasoning inside ' }}
{{- '<think>...</think> ' }}
{{- 'BEFORE any tool calls or final response.\\n\\nOtherwise, output directly after </think> ' }}
{{- 'with tool calls or ' }}
{{- 'final response.\\n\\n### Available Tool Schemas\\n\\n' }}
{%- for tool in tools %}
{{- (tool['function'] | tojson) + '\\n' }}
{%- endfor %}
{{- '\\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke ' }}
{{- 'tool calls.\\n' }}
{%- endmacro %}
{%- set thinks = thinking is defined and thinking %}
{%- set last = namespace(user=-1, in_user=false, tools=tools) %}
{%- for message in messages %}
{%- if message['role'] in ('user', 'tool') %}
{%- set last.user = loop.index0 %}
{%- set last.tools = last.tools or message['role'] == 'tool' %}
{%- endif %}
{%- endfor %}
{{- bos_token }}
{%- if thinks and reasoning_effort == 'max' %}
{{- 'Reasoning Effort: Absolute maximum with no shortcuts permitted.\\nYou MUST be very ' }}
{{- 'thorough in your ' }}
{{- 'thinking and comprehensively decompose the problem to resolve the root cause, rigorously ' }}
{{- 'stress-testing ' }}
{{- 'your logic against all potential paths, edge cases, and adversarial ' }}
{{- 'scenarios.\\nExplicitly write out your ' }}
{{- 'entire deliberation process, documenting every intermediate step, considered alternative, ' }}
{{- 'and rejected ' }}
{{- 'hypothesis to ensure absolutely no assumption is left unchecked.\\n\\n' }}
{%- endif %}
"""
    + DSML_SYSTEM
    + """\
{%- for message in messages %}
{%- if message['role'] in ('user', 'tool') %}
{{- '\\n\\n' if last.in_user else '<｜User｜>' }}
{%- set last.in_user = true %}
{%- if message['role'] == 'user' %}
{{- message['content'] }}
{%- else %}
{{- '<tool_result>' + message['content'] + '</tool_result>' }}
{%- endif %}
{%- elif message['role'] == 'assistant' %}
{%- set last.in_user = false %}
{{- '<｜Assistant｜>' }}
{%- if thinks and (last.tools or loop.index0 > last.user) %}
{{- '<think>' + (message['reasoning_content'] or '') }}
{%- endif %}
{{- '</think>' + (message['content'] or '') }}
{%- if message['tool_calls'] %}
{{- write_calls(message['tool_calls'], 'tool_calls') }}
{%- endif %}
{{- eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<｜Assistant｜>' + ('<think>' if thinks else '</think>') }}
{%- endif %}"""
)

FORMAT = Dsml(
    name="deepseek_v4",
    signs=("<｜Assistant｜>", "｜DSML｜", "tool_result"),
    thought=("<think>", "</think>"),
    tool_sections=(("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"),),
    inner_markup=("｜DSML｜",),
    turn_markup=(*DEEPSEEK_TURN_MARKUP, "<tool_result>", "</tool_result>"),
    stop_texts=("<｜end▁of▁sentence｜>",),
    call_markup=dsml_markup(),
    calls=dsml_syntax("tool_calls"),
    efforts={
        "minimal": "low",
        "low": "low",
        "medium": "high",
        "high": "high",
        "xhigh": "high",
        "max": "max",
    },
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
