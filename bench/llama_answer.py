"""`python -m bench.llama_answer FILE PROMPT TOKENS`: llama-cpp-python answers a prompt, and nothing else."""

from __future__ import annotations

import sys
from typing import Any

import llama_cpp


def main() -> None:
    """Print the answer."""
    path, prompt, tokens = sys.argv[1:]
    llama: Any = llama_cpp.Llama(path, verbose=False)
    reply = llama.create_chat_completion(
        [{"role": "user", "content": prompt}], max_tokens=int(tokens), temperature=0
    )
    print(reply["choices"][0]["message"]["content"])


if __name__ == "__main__":
    main()
