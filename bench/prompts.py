"""Twenty questions in English and Chinese, about words, numbers and code."""

from __future__ import annotations

__all__ = ["QUESTIONS"]

QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue? Answer in two sentences.",
    "Write a short poem about autumn leaves.",
    "Explain photosynthesis to a child.",
    "List three uses of copper.",
    "What is 17 + 25? Show how you get there.",
    "A train covers 60 miles in 1.5 hours. What is its average speed?",
    "Summarise the plot of Romeo and Juliet in one paragraph.",
    "Give me a recipe for pancakes.",
    "What is the difference between a virus and a bacterium?",
    "Translate into French: The cat sleeps on the chair.",
    "Write a polite email that asks for a day off.",
    "Write a Python function that reverses a string.",
    "What does this print?\n```python\nprint([x * x for x in range(4)])\n```",
    "Write an SQL query that counts the orders of every customer.",
    "Fix this C code: `for (int i = 0; i <= n; i++) sum += a[i];` where `a` has n entries.",
    "你好，请介绍一下你自己。",
    "中国的首都是哪里？",
    "用一句话解释什么是人工智能。",
    "请把这句话翻译成英文：今天天气很好。",
)
